"""Submission: bring recorded jobs to the scheduler, each at most once.

A record is on disk before its job is submitted. Whatever then happens (a crash, a submit
without an answer, a scheduler that takes the job later), the job is looked for by its name,
and submitted again only when the scheduler is certain that there is none. Each submit is a
task of its own, so that one which hangs holds up nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from lib.errors import Refused, SceneBridgeError, Unavailable
from lib.gate.audit import Audit
from lib.gate.images.store import Images
from lib.gate.job_record import JobRecord, TrackedJob
from lib.gate.job_table import JobTable
from lib.gate.session_dir import SessionDirBuilder
from lib.jobs import control_files
from lib.jobs.interfaces import JobKey, JobView, Scheduler
from lib.model import EndReason, JobState

_MAX_TRIES = 3
_CANCEL_AGAIN_S = 10.0
_DOUBT_S = 600.0
_IMAGE_POLL_S = 0.2
_NEVER_SUBMITTED = "Stopped before it was submitted."
_NOT_KNOWN = "It is not known yet whether the scheduler took the job."
_RAN_UNSEEN = "The job was started, and it ended while the scheduler could not be asked."


class Submitter:
    """Everything between a record and its scheduler's id.

    Args:
        keep_s: how long the files of a job that never ran are kept.
    """

    def __init__(
        self,
        table: JobTable,
        builder: SessionDirBuilder,
        scheduler: Scheduler,
        audit: Audit,
        images: Images,
        *,
        keep_s: int,
    ) -> None:
        self._table = table
        self._builder = builder
        self._scheduler = scheduler
        self._audit = audit
        self._images = images
        self._keep_s = keep_s
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._imageless: dict[str, asyncio.Event] = {}
        self._preparing: set[str] = set()
        self._cancel_again: dict[str, float] = {}
        self._ended_twins: dict[JobKey, float] = {}

    def tried_until(self) -> float:
        """For a record that is submitted now: until when that may be under way."""
        return time.time() + self._scheduler.submit_timeout_s

    @contextlib.contextmanager
    def preparing(self, job_id: str) -> Iterator[None]:
        """While a new record is written and until `begin`: nobody else submits it, too."""
        self._preparing.add(job_id)
        try:
            yield
        finally:
            self._preparing.discard(job_id)

    def begin(self, tracked: TrackedJob) -> None:
        """Submit a new job, right after its record was written."""
        self._start(tracked, self._submit(tracked))

    async def wait(self, tracked: TrackedJob, timeout_s: float) -> None:
        """Until what is under way for this job is done or waits for its image, or `timeout_s`."""
        record = tracked.record
        task = self._tasks.get(record.id)
        if task is None:
            return
        image = asyncio.ensure_future(self._imageless[record.id].wait())
        both: set[asyncio.Future[None] | asyncio.Future[Literal[True]]] = {task, image}
        done, _ = await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        image.cancel()
        if image not in done and record.live and not record.job:
            record.reason = _NOT_KNOWN

    def in_doubt(self, record: JobRecord) -> bool:
        """Whether a job may still come up for a record that has ended without one."""
        tried = record.tried_until
        return not record.live and not record.job and time.time() < tried + _DOUBT_S

    async def cancel(self, record: JobRecord) -> None:
        """Ask the scheduler to end a job; `reconcile` asks again until it has ended.

        Raises:
            Unavailable: it did not hear yet.
        """
        if record.job:
            await self._scheduler.cancel(record.key)
            self._cancel_again[record.id] = time.monotonic() + _CANCEL_AGAIN_S

    async def reconcile(self, views: Mapping[str, JobView], *, patience_s: float) -> None:
        """After every answer of the scheduler: join records and jobs by their names.

        Args:
            patience_s: how long to wait for what this begins; the rest goes on.
        """
        named = _by_name(views)
        begun: list[asyncio.Task[None]] = []
        for tracked in self._table:
            if tracked.record.id in self._preparing:
                continue
            with self._table.loops.item(tracked.record.id):
                begun += await self._reconcile_one(tracked, named.get(tracked.record.name, []))
        if begun:
            await asyncio.wait(begun, timeout=patience_s)

    async def _reconcile_one(
        self, tracked: TrackedJob, jobs: list[JobView]
    ) -> list[asyncio.Task[None]]:
        """Returns what it began."""
        record = tracked.record
        if record.id in self._tasks:
            if jobs and record.live and not record.job:  # its submit still hangs
                with contextlib.suppress(Unavailable):
                    await self._taken(tracked, _first(jobs).id)
            return []
        if record.live and not record.job:
            return [self._start(tracked, self._look(tracked, jobs))]
        if [v for v in jobs if v.state is not JobState.ENDED and _unwanted(record, v)]:
            return [self._start(tracked, self._end_twins(tracked, jobs))]
        if record.live and record.cancelled and self._cancel_due(record):
            return [self._start(tracked, self.cancel(record))]
        return []

    def _cancel_due(self, record: JobRecord) -> bool:
        """A scheduler may have heard and done nothing: it did not know the job then."""
        return time.monotonic() >= self._cancel_again.get(record.id, 0.0)

    def _start(self, tracked: TrackedJob, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        self._imageless[tracked.record.id] = asyncio.Event()
        task = asyncio.ensure_future(self._guarded(tracked.record.id, work))
        self._tasks[tracked.record.id] = task
        return task

    async def _guarded(self, job_id: str, work: Coroutine[None, None, None]) -> None:
        try:
            # Asked again after the next answer of the scheduler.
            with self._table.loops.item(job_id), contextlib.suppress(Unavailable):
                await work
        finally:
            del self._tasks[job_id], self._imageless[job_id]

    async def _submit(self, tracked: TrackedJob) -> None:
        record = tracked.record
        try:
            image = await self._image(tracked)
            if record.cancelled:
                await self._end(tracked, EndReason.CANCELLED, _NEVER_SUBMITTED)
                return
            spec = await asyncio.to_thread(self._builder.job_spec, record, image)
            job = await self._scheduler.submit(spec)
        except Unavailable as exc:
            await self._no_answer(tracked, exc)
        except SceneBridgeError as exc:
            if record.tries <= 1:
                record.tried_until = 0.0  # no earlier try can still turn into a job
            await self._end(tracked, EndReason.REFUSED, exc.message)
        else:
            await self._taken(tracked, job)

    async def _image(self, tracked: TrackedJob) -> Path | None:
        """The image of its module, once it is there; None without one, or when cancelled.

        Raises `Refused`.
        """
        record = tracked.record
        said = ""
        while True:
            state = await self._images.state(record.module, record.module_version)
            if state.failure:
                raise Refused(state.failure)
            if not state.waiting or record.cancelled:
                break
            if state.waiting != said:
                said = state.waiting
                await self._table.change(tracked, partial(setattr, record, "reason", said))
                self._imageless[record.id].set()
            await asyncio.sleep(_IMAGE_POLL_S)
        if said or record.reason:  # the submit begins only now

            def note() -> None:
                record.reason, record.tried_until = "", self.tried_until()

            await self._table.change(tracked, note)
        return state.path

    async def _no_answer(self, tracked: TrackedJob, error: Unavailable) -> None:
        """It may have been taken all the same: look, and do not submit it again."""
        record = tracked.record

        def note() -> None:
            record.tried_until = time.time()
            record.reason = _NOT_KNOWN

        if record.job:  # seen in the scheduler's list meanwhile
            return
        await self._table.change(tracked, note)
        job = await self._scheduler.find(record.name, record.tried_until)
        if job is None:
            await self._end(tracked, EndReason.REFUSED, error.message)
        else:
            await self._taken(tracked, job)

    async def _look(self, tracked: TrackedJob, jobs: list[JobView]) -> None:
        """For a record without a job: which job is it, or may it be submitted (again)?"""
        record = tracked.record
        job: str | None
        if jobs:
            job = _first(jobs).id
        else:
            tried_until = record.tried_until or record.submitted_at
            job = await self._scheduler.find(record.name, tried_until)
        if job is not None:
            await self._taken(tracked, job)
        elif record.cancelled:
            await self._end(tracked, EndReason.CANCELLED, _NEVER_SUBMITTED)
        elif (self._table.folders.control(record.id) / control_files.JOB_LOG).exists():
            await self._end(tracked, EndReason.LOST, _RAN_UNSEEN)
        elif record.tries >= _MAX_TRIES:
            text = f"The scheduler did not take the job, though it was asked {record.tries} times."
            await self._end(tracked, EndReason.REFUSED, text)
        else:
            await self._table.change(tracked, lambda: self._note_try(record))
            await self._submit(tracked)

    def _note_try(self, record: JobRecord) -> None:
        record.tries += 1
        record.tried_until = self.tried_until()

    async def _taken(self, tracked: TrackedJob, job: str) -> None:
        record = tracked.record

        def note() -> None:
            if not record.job:
                record.job, record.job_submitted_at = job, None
            record.tried_until = 0.0
            if record.reason == _NOT_KNOWN:
                record.reason = ""

        await self._table.change(tracked, note)
        if record.cancelled:  # somebody asked for its end while this was under way
            await self.cancel(record)

    async def _end_twins(self, tracked: TrackedJob, jobs: list[JobView]) -> None:
        """Two jobs of one record: keep the one that got furthest, end the others at once.

        They share a folder, so at most one may live. Of an ended record none may.
        """
        record = tracked.record
        live = [v for v in jobs if v.state is not JobState.ENDED]
        if record.live:
            keep = _first([v for v in live if not _unwanted(record, v) and _begun(v)] or live)

            def note() -> None:
                record.job, record.job_submitted_at = keep.id, keep.submitted_at

            if _unwanted(record, keep):
                await self._table.change(tracked, note)
        now = time.monotonic()
        for twin in live:
            if not _unwanted(record, twin) or now < self._ended_twins.get(twin.key, 0.0):
                continue
            await self._scheduler.cancel(twin.key)
            self._ended_twins[twin.key] = now + _CANCEL_AGAIN_S
            self._audit.write("duplicate", session=record.id, owner=record.owner, job=twin.id)

    async def _end(self, tracked: TrackedJob, end_reason: EndReason, text: str) -> None:
        record = tracked.record
        if record.job:
            return

        def note() -> None:
            record.state, record.end_reason, record.reason = JobState.ENDED, end_reason, text
            record.ended_at = time.time()
            record.keep_until = record.ended_at + self._keep_s

        await self._table.change(tracked, note)


def _by_name(views: Mapping[str, JobView]) -> dict[str, list[JobView]]:
    named: dict[str, list[JobView]] = {}
    for view in views.values():
        named.setdefault(view.name, []).append(view)
    return named


def _unwanted(record: JobRecord, view: JobView) -> bool:
    """Whether this job of the record's name must not live.

    Beside the record's own none may, and of one that has ended none at all (an operator can
    have it begun anew), but for one that was lost and has its files still: that is taken back.
    """
    lost = record.end_reason is EndReason.LOST and not record.continued_as
    return not view.is_of(record.key) or not (record.live or lost)


def _begun(view: JobView) -> bool:
    return view.state in (JobState.RUNNING, JobState.SUSPENDED)


def _first(jobs: list[JobView]) -> JobView:
    """The one that lives, has begun, and was taken first."""

    def rank(view: JobView) -> tuple[bool, bool, int, str]:
        number = int(view.id) if view.id.isdigit() else 0
        return view.state is JobState.ENDED, not _begun(view), number, view.id

    return min(jobs, key=rank)
