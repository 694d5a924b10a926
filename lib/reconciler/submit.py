"""Submission and cancellation: new work is handed to a gate, what shall stop is stopped.

Every call can be repeated: submit and cancel are idempotent by the work's own id, so a
reply that was lost costs a second call and never a second job.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lib.backoff import Backoff
from lib.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    ProtocolError,
    Refused,
    SceneBridgeError,
    Unavailable,
)
from lib.loops import Loops
from lib.model import EndReason, Run, RunState, Session, SessionState
from lib.protocol.messages import STAGED_SCHEME, JobKind, PutRequest, SubmitRequest
from lib.reconciler.asset_location import locate, needed_assets
from lib.reconciler.states import ACCEPTED, HANDING_OVER, STOPPING, ending, sending
from lib.store.changes import RunChange, SessionChange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from lib.model import ClusterId, JsonValue, Module, ModuleId, UserId
    from lib.protocol.messages import GateInfo
    from lib.reconciler.interfaces import Link
    from lib.store import Store

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 5.0
#: How often a card says how many files were sent, and how many are read at the same time.
_TELL_EVERY_S = 0.5
_FILES_AT_ONCE = 4


class Submitter:
    """Submits and cancels for one cluster. `run` goes through all that is due, once."""

    def __init__(
        self,
        cluster: ClusterId,
        link: Link,
        store: Store,
        modules: Mapping[ModuleId, Module],
        portal_origin: str,
        refusal: Callable[[UserId, ClusterId], str] = lambda _owner, _cluster: "",
        loops: Loops | None = None,
    ) -> None:
        self._loops = loops or Loops("The portal", log)
        self._cluster = cluster
        self._link = link
        self._work = store.work
        self._modules = modules
        self._origin = portal_origin
        self._refusal = refusal
        self._started = time.time()
        self._asked: set[str] = set()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._backoffs: dict[str, Backoff] = {}
        self._not_before: dict[str, float] = {}  # time.monotonic()
        self._files = asyncio.Semaphore(_FILES_AT_ONCE)

    async def run(self, info: GateInfo | None) -> None:
        """Begin what is due; `info` is None while the gate cannot be asked."""
        # What was busy before the store was read may have gone on since: the next time.
        was_busy = frozenset(self._busy)
        sessions = await asyncio.to_thread(self._work.live_sessions, self._cluster)
        runs = await asyncio.to_thread(self._work.live_runs, self._cluster)
        due: list[Session | Run] = [*sessions, *(r for r in runs if r.session is None)]
        self._forget_waits(frozenset(work.id for work in due))
        for work in due:
            if work.id in was_busy or work.id in self._busy:
                continue
            if time.monotonic() < self._not_before.get(work.id, 0.0):
                continue
            with self._loops.item(work.id):
                await self._begin_due(work, info)

    async def _begin_due(self, work: Session | Run, info: GateInfo | None) -> None:
        is_new = work.state in (SessionState.NEW, RunState.NEW)
        if work.stopping and is_new and self._never_asked(work):
            await asyncio.to_thread(self._end_unsubmitted, work, EndReason.CANCELLED, "")
        elif work.stopping and info is not None:
            self._begin(work, self._cancel(work), STOPPING)
        elif is_new and info is not None:
            self._asked.add(work.id)
            self._begin(work, self._submit(work, info), HANDING_OVER)

    def end(self, job_id: str) -> None:
        """Cancel a job that nobody wants any more (its submit overtook its cancel)."""
        if job_id not in self._busy:
            self._busy[job_id] = asyncio.create_task(self._end(job_id))

    async def close(self) -> None:
        for task in self._busy.values():
            task.cancel()
        await asyncio.gather(*self._busy.values(), return_exceptions=True)

    def _never_asked(self, work: Session | Run) -> bool:
        """True when no submit of it can have reached the gate."""
        return work.id not in self._asked and work.created_at.timestamp() >= self._started

    def _begin(self, work: Session | Run, call: Awaitable[None], doing: str) -> None:
        async def guarded() -> None:
            try:
                await call
            except Exception as exc:
                self._wait(work.id)
                with self._loops.item(work.id):
                    await self._tell(work, doing, exc)
            finally:
                del self._busy[work.id]

        self._busy[work.id] = asyncio.create_task(guarded())

    def _wait(self, job_id: str) -> None:
        """Nothing of this work is due for a while."""
        if job_id not in self._backoffs:
            self._backoffs[job_id] = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        self._not_before[job_id] = time.monotonic() + self._backoffs[job_id].next_s()

    def _forget_waits(self, live: frozenset[str]) -> None:
        for job_id in self._backoffs.keys() - live:
            del self._backoffs[job_id], self._not_before[job_id]

    async def _tell(self, work: Session | Run, doing: str, exc: Exception) -> None:
        if isinstance(exc, SceneBridgeError):
            log.info("%s: %s", work.id, exc)
            said = exc.message
        else:
            self._loops.note(work.id, exc)
            said = "The portal failed; it tries again."
        with contextlib.suppress(Unavailable):  # the store itself may lie on a full disk
            await asyncio.to_thread(self._say, work, f"{doing} {said}")

    async def _submit(self, work: Session | Run, info: GateInfo) -> None:
        try:
            refused = await asyncio.to_thread(self._refusal, work.owner, self._cluster)
            if refused:
                raise Refused(refused)
            request = await self._request(work, info)
            reply = await self._link.submit(request)
        except (Unavailable, ProtocolError):
            raise  # it may have been carried out
        except SceneBridgeError as exc:
            await asyncio.to_thread(self._end_unsubmitted, work, EndReason.REFUSED, exc.message)
            return
        await asyncio.to_thread(self._submitted, work, reply.status.job)

    async def _request(self, work: Session | Run, info: GateInfo) -> SubmitRequest:
        if isinstance(work, Session):
            run = await asyncio.to_thread(self._work.run, work.run)
            continued = work.continued_from or ""
        else:
            run, continued = work, ""
        module = self._modules.get(run.module)
        if module is None:
            raise Refused(f"This portal does not offer the module {run.module} any more.")
        items = await asyncio.to_thread(self._work.items, run.id)
        return SubmitRequest(
            id=work.id,
            kind=JobKind.RUN if isinstance(work, Run) else JobKind.SESSION,
            owner=work.owner,
            module=run.module,
            module_version=run.module_version,
            params=dict(run.params),
            items=await self._located(work, items, module, info),
            preset=work.resources.preset,
            walltime_s=work.resources.walltime_s,
            title=work.title,
            continue_from=continued,
            portal_origin=self._origin,
        )

    async def _located(
        self, work: Session | Run, items: list[dict[str, JsonValue]], module: Module, info: GateInfo
    ) -> list[dict[str, JsonValue]]:
        """The items with only the assets that the module needs, each readable from there;
        what must be sent is sent, and the card says how far that is."""
        located = [
            (str(item["id"]), key, asset, locate(str(item["id"]), key, asset, info))
            for item in items
            for key, asset in needed_assets(item, module).items()
        ]
        assets: dict[str, dict[str, JsonValue]] = {str(item["id"]): {} for item in items}
        files = []
        for scene, key, asset, where in located:
            if isinstance(where, Path):
                files.append(self._stage(work.id, scene, key, where))
            href = STAGED_SCHEME if isinstance(where, Path) else where
            assets[scene][key] = {**asset, "href": href}
        if files:
            await self._send(work, files)
        return [{**item, "assets": assets[str(item["id"])], "links": []} for item in items]

    async def _send(
        self, work: Session | Run, files: list[Coroutine[object, object, None]]
    ) -> None:
        """Side by side; the first that fails ends the others. The card says how far it is."""
        tasks = [asyncio.create_task(file) for file in files]
        waiting, told = set(tasks), False
        try:
            while True:
                done, waiting = await asyncio.wait(
                    waiting, timeout=_TELL_EVERY_S, return_when=asyncio.FIRST_EXCEPTION
                )
                for task in done:
                    task.result()
                if not waiting:
                    break
                said = sending(len(tasks) - len(waiting), len(tasks))
                await asyncio.to_thread(self._say, work, said)
                told = True
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if told:
            await asyncio.to_thread(self._say, work, HANDING_OVER)

    async def _stage(self, job_id: str, scene: str, key: str, source: Path) -> None:
        async with self._files:
            try:
                size, digest = await asyncio.to_thread(_measure, source)
            except OSError as exc:
                raise InvalidInput(
                    f"The file {source.name} of the scene {scene} cannot be read ({exc.strerror})."
                ) from exc
            # A job that is submitted already was so by an earlier try whose answer was lost;
            # the submit that follows is answered with that job.
            with contextlib.suppress(Conflict):
                await self._link.put(PutRequest(job_id, scene, key, size, digest), source)

    async def _cancel(self, work: Session | Run) -> None:
        try:
            await self._link.cancel(work.id)
        except NotFound:
            await asyncio.to_thread(self._end_unsubmitted, work, EndReason.CANCELLED, "")
        self._wait(work.id)

    async def _end(self, job_id: str) -> None:
        try:
            with self._loops.item(job_id, SceneBridgeError):
                await self._link.cancel(job_id)
        except SceneBridgeError as exc:
            log.info("%s: %s", job_id, exc)
        finally:
            del self._busy[job_id]

    def _end_unsubmitted(self, work: Session | Run, why: EndReason, detail: str) -> None:
        reason, now = ending(why, detail), time.time()
        state = RunState.CANCELLED if why is EndReason.CANCELLED else RunState.FAILED
        run_ended = RunChange(state=state, reason=reason, ended_at=now)
        if isinstance(work, Run):
            self._work.update_run(work.id, run_ended)
            return
        ended = SessionChange(state=SessionState.ENDED, end_reason=why, reason=reason, ended_at=now)
        self._work.update_session(work.id, ended)
        if work.continued_from is not None:
            self._work.release_files(work.continued_from)
        else:
            self._work.update_run(work.run, run_ended)

    def _submitted(self, work: Session | Run, job: str) -> None:
        now = time.time()
        if isinstance(work, Run):
            run = RunChange(state=RunState.SUBMITTED, job=job, submitted_at=now, reason=ACCEPTED)
            self._work.update_run(work.id, run)
        else:
            session = SessionChange(
                state=SessionState.SUBMITTED, job=job, submitted_at=now, reason=ACCEPTED
            )
            self._work.update_session(work.id, session)

    def _say(self, work: Session | Run, reason: str) -> None:
        """With the state that it had: where it has gone on, this reason is not taken."""
        if isinstance(work, Run):
            self._work.update_run(work.id, RunChange(state=work.state, reason=reason))
        else:
            self._work.update_session(work.id, SessionChange(state=work.state, reason=reason))


def _measure(source: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    with source.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()
