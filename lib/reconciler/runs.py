"""Following the Runs of one cluster: their events, their files, their end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from lib.backoff import Backoff
from lib.errors import StorageFull, Unavailable
from lib.model import EndReason, JobState, RunState, SceneState
from lib.protocol.events import MAX_EVENTS
from lib.reconciler.results import ResultCollector
from lib.reconciler.states import (
    ACCEPTED,
    STOPS,
    UNFINISHED,
    conclusion,
    ending,
    has_ended,
    run_change,
    run_ending,
    unfinished,
)
from lib.store.changes import RunChange, SceneChange

if TYPE_CHECKING:
    from lib.loops import Loops
    from lib.model import ClusterId, Run, RunId
    from lib.protocol.messages import JobStatus, WatchMessage
    from lib.reconciler.interfaces import Link
    from lib.results.folder import ResultFolder
    from lib.store import Store

log = logging.getLogger(__name__)

_SCENE_OVER = (SceneState.DONE, SceneState.FAILED)
_OUTLINES_LOST = f"The outlines of the objects are missing. {ending(EndReason.LOST)}"
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 10.0


class Runs:
    def __init__(
        self, cluster: ClusterId, link: Link, store: Store, folder: ResultFolder, loops: Loops
    ) -> None:
        self._loops = loops
        self._cluster = cluster
        self._link = link
        self._store = store
        self._folder = folder
        self._by_job: dict[str, RunId] = {}
        self._collectors: dict[RunId, ResultCollector] = {}
        self._statuses: dict[RunId, JobStatus] = {}
        self._settling: dict[RunId, asyncio.Task[None]] = {}
        self._again: set[RunId] = set()

    async def have(self) -> dict[str, int]:
        """How many events of each run are stored, by the gate's job id.

        Of runs that are over nothing more is wanted, whatever there is.
        """
        counts = await asyncio.to_thread(self._store.work.events_of_cluster, self._cluster)
        return {job: MAX_EVENTS if over else count for job, (count, over) in counts.items()}

    async def status(self, status: JobStatus) -> None:
        """The gate said something about a job; it may be a run's, or carry one."""
        run_id = await self._run_of(status.id)
        if run_id is None:
            return
        self._statuses[run_id] = status
        if status.state is not JobState.ENDED:
            await asyncio.to_thread(self._store.work.update_run, run_id, run_change(status))
            if status.state in (JobState.QUEUED, JobState.HELD):  # it was begun anew, if it ran
                reason = status.reason or ACCEPTED
                await asyncio.to_thread(
                    self._store.work.send_run_back, run_id, RunState.QUEUED, reason
                )
        self._settle_soon(run_id)

    async def events(self, message: WatchMessage) -> None:
        run_id = await self._run_of(message.id)
        if run_id is None:
            return
        await self._collectors[run_id].take_events(message.first, message.events)
        self._settle_soon(run_id)

    async def lost(self, run: Run) -> None:
        """The gate does not know its job (any more); what is not here never comes."""
        await asyncio.to_thread(self._end_lost, run.id)

    async def take_back(self, run_id: RunId) -> bool:
        """It ended because its job was lost, and goes on if so; its events are wanted again."""
        run = await asyncio.to_thread(self._store.work.run, run_id, deleted=True)
        if not run.state.over:
            return False
        took = await asyncio.to_thread(
            self._store.work.take_run_back,
            run_id,
            lost=ending(EndReason.LOST),
            unfinished=UNFINISHED,
            missing=_OUTLINES_LOST,
        )
        if took:
            self._statuses.pop(run_id, None)
            self._collectors.pop(run_id, None)
            self._know(await asyncio.to_thread(self._store.work.run, run_id))
        return took

    async def close(self) -> None:
        for task in self._settling.values():
            task.cancel()
        await asyncio.gather(*self._settling.values(), return_exceptions=True)

    async def _run_of(self, job: str) -> RunId | None:
        if job not in self._by_job:
            for run in await asyncio.to_thread(self._store.work.live_runs, self._cluster):
                self._know(run)
        return self._by_job.get(job)

    def _know(self, run: Run) -> None:
        job = run.session or run.id
        self._by_job[job] = run.id
        if run.id not in self._collectors:
            self._collectors[run.id] = ResultCollector(run.id, job, self._store, self._folder)

    # --- files, and the end -------------------------------------------------

    def _settle_soon(self, run_id: RunId) -> None:
        self._again.add(run_id)
        if run_id not in self._settling:
            self._settling[run_id] = asyncio.create_task(self._settle(run_id))

    async def _settle(self, run_id: RunId) -> None:
        trouble = ""
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        try:
            while run_id in self._again:
                self._again.discard(run_id)
                try:
                    await self._collectors[run_id].fetch(self._link)
                    await asyncio.to_thread(self._conclude_if_over, run_id, trouble)
                    trouble = ""
                    backoff.reset()
                except StorageFull as exc:
                    trouble = exc.message
                    await self._tell(run_id, trouble)
                    await self._later(run_id, backoff)
                except Unavailable as exc:
                    log.info("run %s: its results come later: %s", run_id, exc)
                    await self._later(run_id, backoff)
                except Exception as exc:
                    self._loops.note(run_id, exc)
                    await self._later(run_id, backoff)
        finally:
            del self._settling[run_id]

    async def _later(self, run_id: RunId, backoff: Backoff) -> None:
        self._again.add(run_id)
        await asyncio.sleep(backoff.next_s())

    async def _tell(self, run_id: RunId, reason: str) -> None:
        # The store may lie on the same full disk: then the reason cannot be shown.
        with contextlib.suppress(Unavailable):
            await asyncio.to_thread(self._store.work.update_run, run_id, RunChange(reason=reason))

    def _conclude_if_over(self, run_id: RunId, trouble: str) -> None:
        """End the run when nothing more can come.

        Args:
            trouble: a reason that was shown and does not hold any more.
        """
        # Before the run is read: events that are stored in between must not be missed.
        status = self._statuses.get(run_id)
        if status is not None and self._store.work.events_have(run_id) < status.events:
            status = None
        run = self._store.work.run(run_id, deleted=True)
        if run.state.over:
            return
        if trouble and run.reason == trouble:
            self._store.work.update_run(run_id, RunChange(reason=""))
        if not self._collectors[run_id].all_here():
            self._again.add(run_id)
            return
        if all(s.state in _SCENE_OVER for s in run.scenes) or has_ended(status):
            stopped = run.stopping or (status is not None and status.end_reason in STOPS)
            self._end(run, stopped, run_ending(run.scenes, status, stopped=stopped))

    def _end_lost(self, run_id: RunId) -> None:
        run = self._store.work.run(run_id)
        for scene in self._store.work.unfetched_scenes(run_id):
            gone = SceneChange(fetched=True, message=_OUTLINES_LOST)
            self._store.work.update_scene(run_id, scene, gone)
        self._end(run, run.stopping, ending(EndReason.LOST))

    def _end(self, run: Run, stopped: bool, detail: str) -> None:
        state, reason = conclusion(run.scenes, stopped=stopped, detail=detail)
        left = {
            s.scene: unfinished(s, stopped=stopped)
            for s in run.scenes
            if s.state not in _SCENE_OVER
        }
        self._store.work.end_run(run.id, state, reason, left)
