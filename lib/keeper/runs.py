"""Following the Runs of one cluster: their events, their files, their end."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from lib.errors import StorageFull, Unavailable
from lib.keeper.intake import Intake
from lib.keeper.transitions import conclusion, ending, run_columns
from lib.model import EndReason, JobState, RunState, SceneState

if TYPE_CHECKING:
    from lib.keeper.ports import Link
    from lib.model import ClusterId, Run, RunId
    from lib.protocol import JobStatus, WatchMessage
    from lib.results.folder import ResultFolder
    from lib.store import Store

log = logging.getLogger(__name__)

_SCENE_OVER = (SceneState.DONE, SceneState.FAILED)
_STOPPED = (EndReason.STOPPED, EndReason.CANCELLED)
_RETRY_S = 10.0


class Runs:
    def __init__(self, cluster: ClusterId, link: Link, store: Store, folder: ResultFolder) -> None:
        self._cluster = cluster
        self._link = link
        self._store = store
        self._folder = folder
        self._by_job: dict[str, RunId] = {}
        self._intakes: dict[RunId, Intake] = {}
        self._statuses: dict[RunId, JobStatus] = {}
        self._settling: dict[RunId, asyncio.Task[None]] = {}
        self._again: set[RunId] = set()

    async def have(self) -> dict[str, int]:
        """How many events of each living run are stored, by the gate's job id."""
        runs = await asyncio.to_thread(self._store.work.live_runs, self._cluster)
        for run in runs:
            self._know(run)
        return {
            run.session or run.id: self._store.work.events_have(run.id)
            for run in runs
            if run.state is not RunState.NEW
        }

    async def status(self, status: JobStatus) -> None:
        """The gate said something about a job; it may be a run's, or carry one."""
        run_id = await self._run_of(status.id)
        if run_id is None:
            return
        self._statuses[run_id] = status
        if status.state is not JobState.ENDED:
            columns = run_columns(status)
            await asyncio.to_thread(self._store.work.update_run, run_id, **columns)
        self._settle_soon(run_id)

    async def events(self, message: WatchMessage) -> None:
        run_id = await self._run_of(message.id)
        if run_id is None:
            return
        await self._intakes[run_id].take_events(message.first, message.events)
        self._settle_soon(run_id)

    async def lost(self, run: Run) -> None:
        """The gate does not know its job (any more)."""
        await asyncio.to_thread(
            self._conclude, run, (EndReason.LOST in _STOPPED), ending(EndReason.LOST)
        )

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
        if run.id not in self._intakes:
            self._intakes[run.id] = Intake(run.id, job, self._store, self._folder)

    # --- files, and the end -------------------------------------------------

    def _settle_soon(self, run_id: RunId) -> None:
        self._again.add(run_id)
        if run_id not in self._settling:
            self._settling[run_id] = asyncio.create_task(self._settle(run_id))

    async def _settle(self, run_id: RunId) -> None:
        try:
            while run_id in self._again:
                self._again.discard(run_id)
                try:
                    await self._intakes[run_id].fetch(self._link)
                    await asyncio.to_thread(self._conclude_if_over, run_id)
                except StorageFull as exc:
                    self._store.work.update_run(run_id, reason=exc.message)
                    self._again.add(run_id)
                    await asyncio.sleep(_RETRY_S)
                except Unavailable as exc:
                    log.info("run %s: its results come later: %s", run_id, exc)
                    self._again.add(run_id)
                    await asyncio.sleep(_RETRY_S)
        except Exception:
            log.exception("run %s could not be settled", run_id)
        finally:
            del self._settling[run_id]

    def _conclude_if_over(self, run_id: RunId) -> None:
        run = self._store.work.run(run_id)
        if run.state.over:
            return
        status = self._statuses.get(run_id)
        job_over = (
            status is not None
            and status.state is JobState.ENDED
            and self._store.work.events_have(run_id) >= status.events
        )
        crashed = self._intakes[run_id].module_message
        if not (all(s.state in _SCENE_OVER for s in run.scenes) or job_over or crashed):
            return
        stopped = run.stopping or (
            job_over and status is not None and status.end_reason in _STOPPED
        )
        detail = crashed or (
            ending(status.end_reason, status.reason) if job_over and status else ""
        )
        self._conclude(run, stopped, detail)

    def _conclude(self, run: Run, stopped: bool, detail: str) -> None:
        state, reason = conclusion(run.scenes, stopped=stopped, detail=detail)
        for scene in run.scenes:
            if scene.state not in _SCENE_OVER:
                told = SceneState.WAITING if stopped else SceneState.FAILED
                message = "This scene was not searched to its end."
                self._store.work.update_scene(run.id, scene.scene, state=told, message=message)
        self._store.work.update_run(run.id, state=state, reason=reason, ended_at=time.time())
