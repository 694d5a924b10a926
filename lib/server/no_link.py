"""The link to a cluster that is not configured any more, and still has work."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from lib.errors import ClusterUnreachable
from lib.model import Fault

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path

    from lib.model import SessionId
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


class NoLink:
    """Nothing can be asked, always for the same reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def _refuse(self) -> NoReturn:
        raise ClusterUnreachable(self._reason, fault=Fault.NOT_CONFIGURED)

    async def ensure(self) -> None:
        self._refuse()

    async def info(self) -> GateInfo:
        self._refuse()

    async def submit(self, _: SubmitRequest, /) -> SubmitReply:
        self._refuse()

    async def cancel(self, _: str, /) -> CancelReply:
        self._refuse()

    async def log(self, _: LogRequest, /) -> LogReply:
        self._refuse()

    async def get(self, _: GetRequest, /, into: Path) -> int:  # noqa: ARG002 - as of any link
        self._refuse()

    async def put(self, _: PutRequest, /, source: Path) -> PutReply:  # noqa: ARG002
        self._refuse()

    def watch(self, have: Mapping[str, int]) -> AsyncGenerator[WatchMessage, None]:  # noqa: ARG002
        self._refuse()

    async def open_forward(self, _: SessionId, /) -> Path:
        self._refuse()

    async def close_forward(self, _: SessionId, /) -> None:
        """There is none."""

    async def forwards(self) -> frozenset[SessionId]:
        return frozenset()

    async def disconnect(self) -> None:
        """It is connected to nothing."""
