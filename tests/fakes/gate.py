"""A small working gate in memory, with the faults that a real one cannot make at will.

`MemoryGate` holds jobs and lets the test play scheduler, session script and module.
`MemoryLink` is the portal's side of it: `lib.reconciler.interfaces.Link`. `MemoryRoutes` is the
proxy's: `lib.reconciler.interfaces.NotebookRoutes`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lib.errors import ClusterUnreachable, Conflict, NotFound, Refused, Unavailable
from lib.model import Endpoint, EndReason, Isolation, JobState, Preset, SessionId
from lib.protocol.messages import (
    STAGED_SCHEME,
    ArtifactKind,
    CancelReply,
    GateInfo,
    GetRequest,
    JobStatus,
    LogReply,
    LogRequest,
    ModuleOffer,
    PutReply,
    PutRequest,
    SubmitReply,
    SubmitRequest,
    WatchMessage,
)

KEEP_S = 3600.0
_BATCH = 3


def endpoint(session: str) -> Endpoint:
    return Endpoint(f"s-{session}", "token", "server cert", "client cert", "client key")


@dataclass
class Job:
    """One job: what was asked for, how it is, what its module said and wrote."""

    request: SubmitRequest
    status: JobStatus
    events: list[dict[str, Any]] = field(default_factory=list)
    files: dict[tuple[ArtifactKind, str, int], bytes] = field(default_factory=dict)


class MemoryGate:
    """The gate itself. Faults are its fields; the test may change them at any time."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.staged: dict[tuple[str, str, str], bytes] = {}
        self.reachable = True
        self.asked_ok = True
        self.refuse: Exception | None = None
        #: Verbs whose work is done but whose reply never arrives, and how often.
        self.lose_replies: dict[str, int] = {}
        #: Called before a verb does its work; may raise, or wait.
        self.before: dict[str, Callable[[], Any]] = {}
        self.calls: list[tuple[str, str]] = []
        self.submitted = 0
        #: Folders whose files need not be staged.
        self.data_paths = ["/data/scenes"]
        self.watchers: set[asyncio.Event] = set()

    # --- the test plays scheduler, session script and module --------------------

    def change(self, job_id: str, **values: Any) -> None:
        job = self.jobs[job_id]
        job.status = replace(job.status, **values)
        self.tell()

    def start(self, job_id: str) -> None:
        self.change(job_id, state=JobState.RUNNING, started_at=time.time(), reason="")

    def report_endpoint(self, job_id: str) -> None:
        self.change(job_id, endpoint=endpoint(job_id), endpoint_at=time.time())

    def end(self, job_id: str, why: EndReason = EndReason.FINISHED, reason: str = "") -> None:
        self.change(
            job_id,
            state=JobState.ENDED,
            end_reason=why,
            reason=reason,
            ended_at=time.time(),
            keep_until=time.time() + KEEP_S,
            endpoint=None,
        )

    def say(self, job_id: str, *events: dict[str, Any]) -> None:
        """The module's events, as the gate has validated them."""
        self.jobs[job_id].events.extend(events)
        self.change(job_id, events=len(self.jobs[job_id].events))

    def write(
        self, job_id: str, kind: ArtifactKind, scene: str, content: bytes, n: int = 0
    ) -> None:
        self.jobs[job_id].files[kind, scene, n] = content

    def go_away(self) -> None:
        """From now on nothing gets through, and streams break."""
        self.reachable = False
        self.tell()

    def come_back(self) -> None:
        self.reachable = True

    def forget(self, job_id: str) -> None:
        del self.jobs[job_id]

    def tell(self) -> None:
        for watcher in self.watchers:
            watcher.set()

    # --- the verbs --------------------------------------------------------------

    def submit(self, r: SubmitRequest) -> SubmitReply:
        if r.id in self.jobs:
            return SubmitReply(self.jobs[r.id].status, created=False)
        if self.refuse is not None:
            raise self.refuse
        if r.continue_from and self.jobs[r.continue_from].status.state is not JobState.ENDED:
            raise Conflict("The notebook to continue still runs.")
        self.submitted += 1
        status = JobStatus(
            id=r.id,
            kind=r.kind,
            job=str(100 + self.submitted),
            state=JobState.QUEUED,
            owner=r.owner,
            reason="Waits for a free place.",
            submitted_at=time.time(),
        )
        self.jobs[r.id] = Job(r, status)
        self.tell()
        return SubmitReply(status, created=True)

    def cancel(self, job_id: str) -> CancelReply:
        if job_id not in self.jobs:
            raise NotFound("There is no such job.")
        state = self.jobs[job_id].status.state
        if state is JobState.QUEUED:
            self.end(job_id, EndReason.CANCELLED)
        elif state is not JobState.ENDED:
            self.end(job_id, EndReason.STOPPED)
        return CancelReply(self.jobs[job_id].status)

    def file(self, r: GetRequest) -> bytes:
        if r.id not in self.jobs:
            raise NotFound("There is no such job.")
        content = self.jobs[r.id].files.get((r.artifact, r.scene, r.n))
        if content is None:
            raise NotFound("The module did not write this file.")
        if len(content) > r.max_bytes:
            raise Refused("The file is larger than was asked for.")
        return content

    def info(self) -> GateInfo:
        return GateInfo(
            protocol=1,
            gate_version="1",
            cluster="here",
            scheduler="local",
            runtime="process",
            isolation=Isolation.NONE,
            modules=[ModuleOffer("active-fire", "1.0.0")],
            presets=[Preset("small", "Small", 1, 1000, 0, 7200, 3600)],
            data_paths=self.data_paths,
            https_hosts=["example.org"],
            max_live=4,
            live=0,
            keep_s=int(KEEP_S),
            time=time.time(),
        )


class MemoryLink:
    """`lib.reconciler.interfaces.Link` to a `MemoryGate`."""

    def __init__(self, gate: MemoryGate, sockets: Path) -> None:
        self.gate = gate
        self._sockets = sockets
        self.open: set[SessionId] = set()
        self.watching = 0

    async def ensure(self) -> None:
        self._reach()

    async def info(self) -> GateInfo:
        return await self._verb("info", "", self.gate.info)

    async def submit(self, r: SubmitRequest) -> SubmitReply:
        return await self._verb("submit", r.id, lambda: self.gate.submit(r))

    async def cancel(self, job_id: str) -> CancelReply:
        return await self._verb("cancel", job_id, lambda: self.gate.cancel(job_id))

    async def log(self, r: LogRequest) -> LogReply:
        def tail() -> LogReply:
            if r.id not in self.gate.jobs:
                raise NotFound("There is no such job.")
            return LogReply(f"the {r.log} log of {r.id}", truncated=False)

        return await self._verb("log", r.id, tail)

    async def get(self, r: GetRequest, into: Path) -> int:
        content = await self._verb("get", r.id, lambda: self.gate.file(r))
        part = into.with_name(f".{into.name}.part")
        part.write_bytes(content)
        part.replace(into)
        return len(content)

    async def put(self, r: PutRequest, source: Path) -> PutReply:
        def store() -> PutReply:
            if r.id in self.gate.jobs:
                raise Conflict("The job is submitted already; nothing can be added to it.")
            self.gate.staged[r.id, r.scene, r.asset] = source.read_bytes()
            return PutReply(stored=True)

        return await self._verb("put", r.id, store)

    async def watch(self, have: Mapping[str, int]) -> AsyncGenerator[WatchMessage, None]:
        self._reach()
        sent = dict(have)
        changed = asyncio.Event()
        self.gate.watchers.add(changed)
        self.watching += 1
        try:
            kind = "snapshot"
            told: dict[str, JobStatus] = {}
            while True:
                changed.clear()
                now = {job_id: job.status for job_id, job in self.gate.jobs.items()}
                news = [s for job_id, s in now.items() if told.get(job_id) != s]
                told = now
                yield self._message(kind, jobs=news)
                kind = "jobs"
                for job_id, job in list(self.gate.jobs.items()):
                    while (first := sent.get(job_id, 0)) < len(job.events):
                        some = job.events[first : first + _BATCH]
                        sent[job_id] = first + len(some)
                        yield self._message("events", id=job_id, first=first, events=some)
                await changed.wait()
                self._reach()
        finally:
            self.watching -= 1
            self.gate.watchers.discard(changed)

    async def open_forward(self, session: SessionId) -> Path:
        self._reach()
        self.open.add(session)
        return self._sockets / f"{session}.sock"

    async def close_forward(self, session: SessionId) -> None:
        self.open.discard(session)
        self._reach()

    async def forwards(self) -> frozenset[SessionId]:
        return frozenset(self.open)

    async def disconnect(self) -> None:
        self.open.clear()

    def _message(self, kind: str, **values: Any) -> WatchMessage:
        return WatchMessage(kind, time.time(), asked_ok=self.gate.asked_ok, **values)

    def _reach(self) -> None:
        if not self.gate.reachable:
            raise ClusterUnreachable("The cluster does not answer.")

    async def _verb(self, verb: str, job_id: str, work: Callable[[], Any]) -> Any:
        self._reach()
        self.gate.calls.append((verb, job_id))
        await asyncio.sleep(0)
        if verb in self.gate.before:
            waited = self.gate.before[verb]()
            if waited is not None:
                await waited
        self._reach()
        reply = work()
        if self.gate.lose_replies.get(verb, 0) > 0:
            self.gate.lose_replies[verb] -= 1
            raise ClusterUnreachable("The connection broke before the answer came.")
        return reply


class MemoryRoutes:
    """`lib.reconciler.interfaces.NotebookRoutes`; notebooks answer while `answers` is true."""

    def __init__(self) -> None:
        self.answers = True
        self.let_in: dict[SessionId, Path] = {}
        self.kept: list[SessionId] = []
        self.idle_at: dict[SessionId, float | None] = {}
        self.tries = 0

    async def open(self, session: SessionId, socket: Path, where: Endpoint) -> None:
        self.tries += 1
        await asyncio.sleep(0)
        if where.name != f"s-{session}":
            raise Refused("This is the endpoint of another notebook.")
        if not self.answers:
            raise Unavailable("The notebook does not answer.")
        self.let_in[session] = socket

    async def keep(self, session: SessionId) -> None:
        if not self.answers:
            raise Unavailable("The notebook does not answer.")
        self.kept.append(session)

    def idle(self, session: SessionId, at: float | None) -> None:
        self.idle_at[session] = at

    async def close(self, session: SessionId, reason: str) -> None:
        self.let_in.pop(session, None)


__all__ = ["STAGED_SCHEME", "MemoryGate", "MemoryLink", "MemoryRoutes", "endpoint"]
