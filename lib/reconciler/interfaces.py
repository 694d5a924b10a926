"""The ports of the reconciler: what it needs of `lib.tunnels` and `lib.notebook_proxy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path

    from lib.model import Endpoint, SessionId
    from lib.protocol.messages import (
        CancelReply,
        GateInfo,
        GetRequest,
        LogReply,
        LogRequest,
        PutReply,
        PutRequest,
        SubmitReply,
        SubmitRequest,
        WatchMessage,
    )


class Link(Protocol):
    """One cluster's gate.

    Every method raises `ClusterUnreachable` when the gate cannot be asked: the call may
    or may not have been carried out, and repeating it is safe.
    """

    async def ensure(self) -> None: ...

    async def info(self) -> GateInfo: ...

    async def submit(self, r: SubmitRequest, /) -> SubmitReply: ...

    async def cancel(self, job_id: str, /) -> CancelReply: ...

    async def log(self, r: LogRequest, /) -> LogReply: ...

    async def get(self, r: GetRequest, /, into: Path) -> int: ...

    async def put(self, r: PutRequest, /, source: Path) -> PutReply: ...

    def watch(self, have: Mapping[str, int]) -> AsyncGenerator[WatchMessage, None]: ...

    async def open_forward(self, session: SessionId) -> Path: ...

    async def close_forward(self, session: SessionId) -> None: ...

    async def forwards(self) -> frozenset[SessionId]: ...

    async def disconnect(self) -> None: ...


class NotebookRoutes(Protocol):
    """The routes of the notebook proxy: which proved notebooks visitors are led to."""

    async def open(self, session: SessionId, socket: Path, endpoint: Endpoint) -> None:
        """Prove with an authenticated request that this notebook answers, then let
        visitors in. Idempotent. Raises `Unavailable` while it does not answer."""

    async def keep(self, session: SessionId) -> None:
        """Tell an open notebook that somebody works there. Raises `Conflict`, `Unavailable`."""

    def idle(self, session: SessionId, at: float | None) -> None:
        """When it is ended because nobody works in it, once that is near: its page says so."""

    async def close(self, session: SessionId, reason: str) -> None:
        """Let nobody in any more and cut open connections; `reason` is what visitors
        read from now on. Idempotent."""
