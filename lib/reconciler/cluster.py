"""Reconciling one cluster: ask its gate, follow its stream, and say so when it is silent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lib.backoff import Backoff
from lib.errors import ClusterUnreachable, NotFound, SceneBridgeError, StorageFull, Unavailable
from lib.loops import Loops
from lib.model import (
    EndReason,
    Fault,
    JobState,
    RunId,
    RunState,
    SessionId,
    SessionState,
)
from lib.protocol.messages import JobKind
from lib.reconciler.states import BEGUN_ANEW, ending, session_change, went_back
from lib.store.changes import RunChange, SessionChange

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.model import ClusterId, Run, Session
    from lib.model.bounds import LeftOut
    from lib.protocol.messages import GateInfo, JobStatus, WatchMessage
    from lib.reconciler.connections import Connections
    from lib.reconciler.interfaces import Link
    from lib.reconciler.runs import Runs
    from lib.reconciler.submit import Submitter
    from lib.store import Store

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.3
_LONGEST_PAUSE_S = 10.0
_SUBMIT_EVERY_S = 2.0
#: What a gate says of itself (load, places taken, troubles) is asked for again so often. It
#: is also when a tunnel whose time is over is given up at the latest.
_INFO_EVERY_S = 30.0
#: Some message was left out because of a fault of what it was about: the stream is begun anew
#: after this time, in which it is told again.
_WATCH_AGAIN_S = 30.0
#: A turn that takes longer will not come to an end. The stream says something every few seconds.
_LATE_S = 180.0
#: Ended by the portal before the gate had said that it has the job.
_NEVER_BEGAN = (EndReason.CANCELLED, EndReason.REFUSED)


@dataclass(frozen=True, slots=True)
class ClusterHealth:
    """Whether a cluster can be asked. `info` is what its gate said last, if ever.

    `since` is when this became so (Unix seconds); `reason` is a plain sentence while
    it cannot be asked, or while its scheduler does not answer, and `fault` where the
    trouble lies (`lib.model.Fault`).
    """

    reachable: bool
    since: float
    reason: str
    info: GateInfo | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Submitted:
    """Live work that the gate must know."""

    sessions: tuple[Session, ...]
    runs: tuple[Run, ...]


class ClusterReconciler:
    """The reconcile loop of one cluster. It ends only by `close`."""

    def __init__(
        self,
        cluster: ClusterId,
        link: Link,
        store: Store,
        submitter: Submitter,
        connections: Connections,
        runs: Runs,
        loops: Loops,
    ) -> None:
        """
        Args:
            loops: those of this cluster alone; its parts share them.
        """
        self._cluster = cluster
        self._loops = loops
        self._following = loops.add("followed this cluster", late_after_s=_LATE_S)
        self._backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        self._left_out_at: float | None = None
        self.link = link
        self._work = store.work
        self._submitter = submitter
        self._connections = connections
        self._runs = runs
        self._wake = asyncio.Event()
        #: A run goes on of which the present stream tells no events.
        self._watch_anew = False
        #: When a notebook is ended for want of use, where that is near.
        self._idle_at: dict[SessionId, float] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._info: GateInfo | None = None
        self._health = ClusterHealth(False, time.time(), "It is being contacted.", None)
        self._still: ClusterHealth | None = None

    def start(self) -> None:
        submits = self._loops.add("looked for new work of this cluster", late_after_s=_LATE_S)
        asks = self._loops.add("asked this cluster how it is", late_after_s=_LATE_S)
        self._tasks = [
            asyncio.create_task(self._following.run(self._follow_once)),
            asyncio.create_task(submits.run(self._submit_due)),
            asyncio.create_task(asks.run(self._ask_again)),
        ]

    @property
    def health(self) -> ClusterHealth:
        """A cluster that the portal itself does not look after any more cannot be asked."""
        trouble = self._loops.trouble if self._health.reachable else ""
        if not trouble:
            self._still = None
            return self._health
        if self._still is None or self._still.reason != trouble:
            self._still = ClusterHealth(False, time.time(), trouble, self._info)
        return self._still

    def connected(self, session: SessionId) -> bool:
        """Whether this notebook was proved to answer in this process."""
        return self._connections.connected(session)

    def idle_at(self, session: SessionId) -> float | None:
        """When it is ended if nobody works in it, once that is near; Unix seconds."""
        return self._idle_at.get(session)

    async def keep(self, session: SessionId) -> None:
        """Somebody works in it. Raises `Conflict`, `Unavailable`."""
        await self._connections.keep(session)
        self._know_idle(session, None)

    def _know_idle(self, session: SessionId, at: float | None) -> None:
        if at is None:
            self._idle_at.pop(session, None)
        else:
            self._idle_at[session] = at
        self._connections.idle(session, at)

    def wake(self) -> None:
        """Something new is in the store for this cluster."""
        self._wake.set()

    async def close(self) -> None:
        """Stop following. Masters, forwards and jobs go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._submitter.close()
        await self._connections.close()
        await self._runs.close()

    async def turn_visitors_away(self, reason: str) -> None:
        """Nobody gets to its notebooks any more, although they run. After `close` alone."""
        for session in await asyncio.to_thread(self._work.live_sessions, self._cluster):
            with self._loops.item(session.id):
                await self._connections.drop(session.id, reason)

    # --- submitting ---------------------------------------------------------

    async def _submit_due(self) -> None:
        # Not wait_for: in Python 3.11 it loses a cancel that comes with the event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SUBMIT_EVERY_S):
                await self._wake.wait()
        self._wake.clear()
        await self._submitter.run(self._health.info if self._health.reachable else None)

    # --- the stream ---------------------------------------------------------

    async def _follow_once(self) -> None:
        started = time.monotonic()
        reason = fault = ""
        try:
            await self._follow()
        except StorageFull as exc:
            log.warning("cluster %s: %s", self._cluster, exc)
        except SceneBridgeError as exc:
            reason, fault = exc.message, getattr(exc, "fault", "")
        except Exception as exc:
            self._loops.note(f"following cluster {self._cluster}", exc)
            reason = "The portal failed while it followed the cluster; it tries again."
        if reason:
            self._unreachable(reason, fault)
        await asyncio.sleep(self._backoff.next_s(held_s=time.monotonic() - started))

    async def _follow(self) -> None:
        """The stream, begun anew where something was left out of it. Raises when it ends."""
        await self.link.ensure()
        self._info = await self.link.info()
        self._connections.prove_all_again()
        while True:
            self._watch_anew, self._left_out_at = False, None
            submitted = await asyncio.to_thread(self._submitted)
            have = await self._runs.have()
            async with contextlib.aclosing(self.link.watch(have)) as messages:
                async for message in messages:
                    await self._message(message, submitted)
                    self._following.turned()
                    if self._watch_anew or self._is_to_begin_anew():
                        break
                else:
                    raise ClusterUnreachable("The gate closed the connection.")

    def _is_to_begin_anew(self) -> bool:
        left_out_at = self._left_out_at
        return left_out_at is not None and time.monotonic() - left_out_at > _WATCH_AGAIN_S

    @contextlib.contextmanager
    def _item(self, ident: str) -> Iterator[None]:
        """As `Loops.item`; what concerns the store as a whole is raised on."""
        whole = False
        with self._loops.item(ident, Unavailable):
            try:
                yield
                whole = True
            finally:
                if not whole and self._left_out_at is None:
                    self._left_out_at = time.monotonic()

    def _submitted(self) -> Submitted:
        """Live work whose job the gate has accepted; what is being submitted is not in it."""
        sessions = self._work.live_sessions(self._cluster)
        being_submitted = {s.id for s in sessions if s.state is SessionState.NEW}
        runs = self._work.live_runs(self._cluster)
        being_submitted |= {
            SessionId(r.id) for r in runs if r.session is None and r.state is RunState.NEW
        }
        return Submitted(
            tuple(s for s in sessions if s.id not in being_submitted),
            tuple(r for r in runs if (r.session or r.id) not in being_submitted),
        )

    async def _message(self, message: WatchMessage, submitted: Submitted) -> None:
        unreadable = frozenset(row.id for row in message.left_out)
        # With a job that cannot even be named, the snapshot proves of none that it is gone.
        if message.kind == "snapshot" and "" not in unreadable:
            known = frozenset(j.id for j in message.jobs) | unreadable
            await self._missing(known, submitted)
        if not message.asked_ok:
            reason = message.reason or "The scheduler does not answer."
            self._unreachable(reason, Fault.SCHEDULER)
        elif message.kind == "snapshot" or not self._health.reachable:
            self._reachable()
        if message.left_out:  # one line, however many they are
            log.warning(
                "cluster %s: what is said of %d jobs cannot be right, the first (%s): %s",
                self._cluster, len(message.left_out), message.left_out[0].id,
                message.left_out[0].problem,
            )  # fmt: skip
        for row in message.left_out:
            with self._item(row.id):
                await self._say_unreadable(row)
        for status in message.jobs:
            with self._item(status.id):
                await self._status(status)
        if message.kind == "events":
            with self._item(message.id):
                await self._runs.events(message)

    async def _status(self, status: JobStatus) -> None:
        running = status.state is JobState.RUNNING
        self._know_idle(SessionId(status.id), status.idle_at if running else None)
        await self._send_back(status)
        await self._runs.status(status)
        if status.kind is JobKind.RUN:
            await self._stop_unwanted_run(status)
            return
        session_id = SessionId(status.id)
        try:
            session = await asyncio.to_thread(self._session, session_id)
        except NotFound:
            return
        if session.state is SessionState.ENDED:
            await self._after_the_end(session, status)
            return
        change = session_change(status, connected=self._connections.connected(session_id))
        if session.submitted_at is None and status.submitted_at is not None:
            change = replace(change, submitted_at=status.submitted_at)
        await asyncio.to_thread(self._work.update_session, session_id, change)
        if status.state is JobState.ENDED:
            await self._connections.drop(session_id, ending(status.end_reason, status.reason))
        elif status.endpoint is not None:
            self._connections.want(session_id, status.endpoint)

    def _session(self, job_id: str) -> Session:
        """Raises NotFound, also where it is another cluster's: no gate speaks for another."""
        session = self._work.session(SessionId(job_id))
        if session.cluster != self._cluster:
            raise NotFound("There is no such notebook session.")
        return session

    def _run(self, job_id: str) -> Run:
        """As `_session`."""
        run = self._work.run(RunId(job_id))
        if run.cluster != self._cluster:
            raise NotFound("There is no such run.")
        return run

    async def _send_back(self, status: JobStatus) -> None:
        """What the gate has after all, or from the beginning again, is not where it was."""
        if status.state in (JobState.ENDED, JobState.UNKNOWN):
            return
        with contextlib.suppress(NotFound):
            if status.kind is JobKind.RUN:
                run = (await asyncio.to_thread(self._run, status.id)).id
            else:
                session = await asyncio.to_thread(self._session, status.id)
                run = session.run
                back = went_back(session.state, status)
                if back is not None and await asyncio.to_thread(
                    self._work.send_session_back, session.id, back, status.reason
                ):
                    await self._connections.drop(session.id, BEGUN_ANEW)
            if status.module_exit_code is None and await self._runs.take_back(run):
                self._watch_anew = True

    async def _say_unreadable(self, row: LeftOut) -> None:
        """What the gate said of one job cannot be so: its card says it, the others go on.

        One that somebody has stopped ends here, since its gate can say no end of it.
        """
        reason = f"What the cluster says of this job cannot be right: {row.problem}."
        with contextlib.suppress(NotFound):
            session = await asyncio.to_thread(self._session, row.id)
            change = SessionChange(state=session.state, reason=reason)
            if session.stopping and session.state is not SessionState.NEW:
                change = SessionChange(
                    state=SessionState.ENDED,
                    end_reason=EndReason.STOPPED,
                    reason=ending(EndReason.STOPPED, reason),
                    ended_at=time.time(),
                )
            await asyncio.to_thread(self._work.update_session, session.id, change)
            if change.state is SessionState.ENDED:
                await self._connections.drop(session.id, ending(EndReason.STOPPED))
                run = await asyncio.to_thread(self._work.run, session.run)
                if run.session == session.id:
                    await self._runs.lost(run)
            return
        with contextlib.suppress(NotFound):
            run = await asyncio.to_thread(self._run, row.id)
            if run.stopping and run.state is not RunState.NEW:
                await self._runs.lost(run)
            else:
                said = RunChange(state=run.state, reason=reason)
                await asyncio.to_thread(self._work.update_run, run.id, said)

    async def _after_the_end(self, session: Session, status: JobStatus) -> None:
        if status.keep_until is not None:
            await asyncio.to_thread(
                self._work.update_session,
                session.id,
                SessionChange(files_until=status.keep_until),
            )
        if status.state is not JobState.ENDED and session.end_reason in _NEVER_BEGAN:
            self._submitter.end(session.id)

    async def _stop_unwanted_run(self, status: JobStatus) -> None:
        with contextlib.suppress(NotFound):
            run = await asyncio.to_thread(self._run, status.id)
            if run.state is RunState.CANCELLED and status.state is not JobState.ENDED:
                self._submitter.end(run.id)

    async def _missing(self, known: frozenset[str], submitted: Submitted) -> None:
        """What was submitted and is not in the gate's snapshot is lost."""
        for session in submitted.sessions:
            if session.id not in known:
                with self._item(session.id):
                    await self._lost(session.id)
        for run in submitted.runs:
            if (run.session or run.id) not in known:
                with self._item(run.id):
                    await self._runs.lost(run)
        for session in await asyncio.to_thread(self._work.sessions_with_files, self._cluster):
            if session.id not in known:
                gone = SessionChange(files_until=time.time())
                with self._item(session.id):
                    await asyncio.to_thread(self._work.update_session, session.id, gone)
        live = await asyncio.to_thread(self._work.live_sessions, self._cluster)
        await self._connections.drop_strays(frozenset(s.id for s in live))

    async def _lost(self, session: SessionId) -> None:
        reason = ending(EndReason.LOST)
        change = SessionChange(
            state=SessionState.ENDED,
            end_reason=EndReason.LOST,
            reason=reason,
            ended_at=time.time(),
        )
        await asyncio.to_thread(self._work.update_session, session, change)
        await self._connections.drop(session, reason)

    # --- health -------------------------------------------------------------

    async def _ask_again(self) -> None:
        """Keep what the gate says of itself fresh, while it can be asked."""
        await asyncio.sleep(_INFO_EVERY_S)
        if not self._health.reachable:
            return
        try:
            self._info = await self.link.info()
        except SceneBridgeError as exc:  # the stream says it too where that matters
            log.info("cluster %s: %s", self._cluster, exc)
            return
        self._health = replace(self._health, info=self._info)

    def _reachable(self) -> None:
        since = self._health.since if self._health.reachable else time.time()
        self._health = ClusterHealth(True, since, "", self._info)
        self.wake()

    def _unreachable(self, reason: str, fault: str) -> None:
        since = time.time() if self._health.reachable else self._health.since
        self._health = ClusterHealth(False, since, reason, self._info, fault)
