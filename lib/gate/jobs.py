"""The jobs of a gate: submit, cancel, and what became of them.

Truth is on disk and at the scheduler; this keeps both in step. What is remembered lies in
`lib.gate.job_table`; `lib.gate.submission` brings records to the scheduler, `lib.gate.job_state`
reads what became of them. Every file is read in a thread: a slow one holds up no connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence

from lib.errors import Conflict, NotFound, Refused, SceneBridgeError, StorageFull, Unavailable
from lib.gate.audit import Audit
from lib.gate.clean_up import CleanUp
from lib.gate.disk_watch import DiskWatch
from lib.gate.endpoint_watch import EndpointWatch
from lib.gate.events import EventLog
from lib.gate.images.store import Images
from lib.gate.job_record import JobRecord, SessionFolders, TrackedJob
from lib.gate.job_state import Look, RecordUpdater
from lib.gate.job_table import JobTable
from lib.gate.policy import Policy
from lib.gate.quotas import check_quotas
from lib.gate.session_dir import SessionDirBuilder, old_out_name
from lib.gate.submission import Submitter
from lib.gate.validate_submit import ValidatedSubmit, validate
from lib.jobs.control_files import ROOT
from lib.jobs.interfaces import JobKey, JobView, Scheduler
from lib.loops import Loops
from lib.model import QueueLoad
from lib.protocol.messages import JobStatus, SubmitReply, SubmitRequest

_log = logging.getLogger(__name__)
_IDLE_POLL_S = 1.0
_QUERY_TIMEOUT_S = 60.0
#: A submit is answered by then; what the scheduler says later is told by `watch`.
_SUBMIT_ANSWER_S = 10.0
_RECONCILE_PATIENCE_S = 0.2
_RECALL_EVERY_S = 5.0
#: How often a job is looked for that was lost.
_LOST_EVERY_S = 30.0
_EXTRA_EVERY_S = 1.0
#: While some job wrote more than was read in one poll.
_BEHIND_POLL_S = 0.5
_LOOK_AFTER_DISK_S = 1.0
#: A turn that takes longer will not come to an end; a scheduler may be silent for a while.
_POLL_LATE_S = 300.0
_ENDPOINTS_LATE_S = 60.0
_DISK_LATE_S = 900.0


class Jobs:
    """All jobs of one gate. One per process (the gate's lock sees to that).

    Args:
        clock: by which jobs that are missing are asked for again, and given up; as
            `time.monotonic`.
    """

    def __init__(
        self,
        folders: SessionFolders,
        policy: Policy,
        scheduler: Scheduler,
        audit: Audit,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self.images = Images(folders.images, policy)
        self._policy = policy
        self._scheduler = scheduler
        self._audit = audit
        self.loops = Loops("The gate", _log)
        self._table = JobTable(folders, self.loops)
        self._builder = SessionDirBuilder(folders, policy, scheduler)
        self._updater = RecordUpdater(self._table, policy, scheduler, audit, clock=clock)
        self._endpoint_watch = EndpointWatch(self._table, self._updater.take_endpoint)
        self._submitter = Submitter(
            self._table, self._builder, scheduler, audit, self.images, keep_s=policy.limits.keep_s
        )
        self._disk_watch = DiskWatch(self._table, policy.limits.max_disk_bytes)
        self._clean_up = CleanUp(folders)
        self._extra_at = 0.0
        self._recall_at = 0.0
        self._lost_at = 0.0
        self._recalled: Mapping[str, JobView] = {}
        self._forgotten: set[str] = set()
        self.asked_ok = True
        self.asked_reason = ""

    # --- questions --------------------------------------------------------------

    def all(self) -> list[JobStatus]:
        """Every job that is live, or ended and kept."""
        return [job.status() for job in self._table]

    def record(self, job_id: str) -> JobRecord:
        """Raises `NotFound`."""
        return self._table.named(job_id).record

    @property
    def live(self) -> int:
        """How many have not ended."""
        return self._table.live

    @property
    def asked(self) -> tuple[bool, str]:
        """Whether the states of jobs are those of now, and if not, why: one sentence."""
        if self.loops.trouble:
            return False, self.loops.trouble
        return self.asked_ok, self.asked_reason

    def still_running(self) -> list[str]:
        """Those that have not ended, or are not known to have: one line each for people."""
        return [_line(r) for r in self._table.records() if r.live]

    def events(self, job_id: str) -> EventLog:
        """The checked events of a job. Raises `NotFound`."""
        return self._updater.events.log(self.record(job_id))

    def where(self, job_id: str) -> tuple[str, int] | None:
        """Host and port of a live notebook that its scheduler vouches for right now."""
        job = self._table.get(job_id)
        if job is None or not job.record.live or not job.record.port:
            return None
        r = job.record
        # None: not known right now (a gate that has just started); it was vouched for once.
        refused = self._scheduler.vouches(r.key, r.host, r.port) is False
        return None if refused else (r.host, r.port)

    async def load(self) -> Sequence[QueueLoad]:
        """How busy the scheduler's queues are. Raises `Unavailable`."""
        return await self._scheduler.load()

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` whenever something may be new. Returns how to stop that."""
        return self._table.listen(changed)

    # --- acts -------------------------------------------------------------------

    async def submit(self, request: SubmitRequest) -> SubmitReply:
        """Idempotent by id. Errors as in `lib.gate.validate_submit.validate`, and:

        Raises:
            Refused: too many jobs live, or another quota of the policy (`lib.gate.quotas`).
            Conflict: the session to continue is running, gone, or somebody else's.
            Unavailable: the scheduler gave no answer and has no such job.
        """
        async with self._table.lock:
            job = self._table.get(request.id)
            created = job is None
            if job is None:
                validated = await asyncio.to_thread(validate, request, self._policy)
                if self.live >= self._policy.limits.max_live:
                    raise Refused(
                        f"{self.live} jobs are live on this cluster, which is all it allows; "
                        "stop one or wait until one has ended."
                    )
                check_quotas(request, validated, self._policy, self._table.records())
                with self._submitter.preparing(request.id):
                    job = await asyncio.to_thread(self._prepare, request, validated)
                    self._submitter.begin(job)
        self._table.tell()
        await self._submitter.wait(job, _SUBMIT_ANSWER_S)
        return SubmitReply(job.status(), created=created)

    async def cancel(self, job_id: str, *, text: str = "") -> JobStatus:
        """Ask a job to end. Idempotent; remembered, and asked for until the scheduler hears.

        One that was lost is asked too: it may run all the same. Raises `NotFound`, `Unavailable`.
        """
        async with self._table.lock:
            job = self._table.named(job_id)
            record = job.record
            ending = record.live or record.may_turn_up(time.time())
            if ending:
                record.cancelled = True
                record.cancel_text = record.cancel_text or text
                await asyncio.to_thread(self._table.folders.save, record)
        if ending:
            await self._submitter.cancel(record)
        return job.status()

    async def watch_over(self) -> None:
        """Look after the jobs for ever: promptly while some live, lazily otherwise."""
        late = max(_POLL_LATE_S, 4 * self._scheduler.poll_s)
        polls = self.loops.add("looked after its jobs", late_after_s=late)
        endpoints = self.loops.add("looked for endpoints", late_after_s=_ENDPOINTS_LATE_S)
        disk = self.loops.add("counted its jobs' files", late_after_s=_DISK_LATE_S)
        removed = self.loops.add("removed what it threw away", late_after_s=_DISK_LATE_S)
        await asyncio.gather(
            polls.run(self._poll_and_pause),
            endpoints.run(self._endpoint_watch.look),
            disk.run(self.look_at_disk, _LOOK_AFTER_DISK_S),
            removed.run(self.remove_thrown_away, _LOOK_AFTER_DISK_S),
        )

    async def poll(self, *, lost_too: bool = False) -> None:
        """Look once at the scheduler and at the session folders.

        A scheduler that does not answer ends nothing; `asked_ok` says so.

        Args:
            lost_too: look now for jobs that were lost, which is done seldom else.
        """
        lost = self._lost_due(now=lost_too)
        asking = self._watched or bool(lost) or not self.asked_ok
        views = await self._ask() if asking else {}
        if views is not None:
            await self._recall_missing(views, lost)
            await self._submitter.reconcile(views, patience_s=_RECONCILE_PATIENCE_S)
        look = await asyncio.to_thread(self._updater.look)
        async with self._table.lock:
            changed = await asyncio.to_thread(self._refresh, views, look)
        if changed:
            self._table.tell()
        await self._let_scheduler_forget()

    async def look_at_disk(self) -> None:
        """Count the files of jobs that are due, and stop those that use too much."""
        for record in self._disk_watch.due():
            with self.loops.item(record.id):
                text = await asyncio.to_thread(self._disk_watch.look, record)
                if text:
                    with contextlib.suppress(SceneBridgeError):
                        await self.cancel(record.id, text=text)

    async def remove_thrown_away(self) -> None:
        """Remove some of everything that was thrown away."""
        for folder in await asyncio.to_thread(self._clean_up.due):
            with self.loops.item(folder.name):
                await asyncio.to_thread(self._clean_up.go_on, folder)

    # --- inside -----------------------------------------------------------------

    @property
    def _watched(self) -> bool:
        """Whether the scheduler has to be asked: a job lives, or may yet come up."""
        return any(r.live or self._submitter.in_doubt(r) for r in self._table.records())

    async def _poll_and_pause(self) -> None:
        await self.poll()
        if self._watched:
            await self._pause()
        else:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._table.wait(), _IDLE_POLL_S)

    async def _pause(self) -> None:
        """Until the next poll is due, or at once when a node must be known."""
        poll_s = self._scheduler.poll_s
        if self._updater.events.behind:
            poll_s = min(poll_s, _BEHIND_POLL_S)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._endpoint_watch.node_unknown.wait(), poll_s)
        if self._endpoint_watch.node_unknown.is_set():
            self._endpoint_watch.node_unknown.clear()
            await asyncio.sleep(max(0.0, self._extra_at - time.monotonic()))
            self._extra_at = time.monotonic() + _EXTRA_EVERY_S

    def _lost_due(self, *, now: bool) -> list[JobRecord]:
        """Jobs that were lost and are looked for again, now or because it is time."""
        if self._clock() < self._lost_at and not now:
            return []
        self._lost_at = self._clock() + _LOST_EVERY_S
        return [r for r in self._table.records() if r.may_turn_up(time.time())]

    async def _recall_missing(
        self, views: Mapping[str, JobView], lost: Sequence[JobRecord]
    ) -> None:
        """Ask the scheduler for each job that its list does not have, now and then."""
        live = [r for r in self._table.records() if r.live and r.job]
        missing = {r.id: r.key for r in [*live, *lost] if not _lists(views, r)}
        self._recalled = {i: view for i, view in self._recalled.items() if i in missing}
        if not missing or (self._clock() < self._recall_at and not lost):
            return
        self._recall_at = self._clock() + _RECALL_EVERY_S
        found: Mapping[JobKey, JobView] = {}
        silent = contextlib.suppress(Unavailable, asyncio.TimeoutError)
        with self.loops.item("recalling jobs"), silent:
            asking = self._scheduler.recall(list(missing.values()))
            found = await asyncio.wait_for(asking, _QUERY_TIMEOUT_S)
        self._recalled = {i: found[key] for i, key in missing.items() if key in found}

    async def _ask(self) -> Mapping[str, JobView] | None:
        before = (self.asked_ok, self.asked_reason)
        views: Mapping[str, JobView] | None = None
        try:
            views = await asyncio.wait_for(self._scheduler.query(), _QUERY_TIMEOUT_S)
            self.asked_ok, self.asked_reason = True, ""
        except Exception as exc:
            why = self._why_silent(exc)
            self.asked_ok = False
            self.asked_reason = f"The scheduler of the cluster does not answer: {why}"
        if before != (self.asked_ok, self.asked_reason):
            self._table.tell()
        return views

    def _why_silent(self, error: Exception) -> str:
        if isinstance(error, Unavailable):
            return error.message
        if isinstance(error, asyncio.TimeoutError):
            return "It takes too long to answer."
        self.loops.note("asking the scheduler", error)
        return "What it says is not understood; the gate's log says more."

    def _prepare(self, request: SubmitRequest, validated: ValidatedSubmit) -> TrackedJob:
        """Make the folder and, last of all, the record."""
        old = self._old_session(request) if request.continue_from else None
        try:
            self._builder.build(request, validated, old)
            record = JobRecord(
                id=request.id,
                kind=request.kind,
                owner=request.owner,
                module=request.module,
                module_version=request.module_version,
                title=request.title,
                name=f"sb-{request.id}-{secrets.token_hex(4)}",
                preset=request.preset,
                walltime_s=request.walltime_s,
                scenes=validated.scenes,
                submitted_at=time.time(),
                tries=1,
                tried_until=self._submitter.tried_until(),
                gpus=validated.preset.preset.gpus,
                code=ROOT.name,
            )
            if old is not None:
                self._mark_continued(old, record)
            return self._table.add(record)
        except OSError as exc:
            raise StorageFull(f"The cluster cannot store the job: {exc.strerror}.") from exc

    def _old_session(self, request: SubmitRequest) -> JobRecord:
        old = self.record(request.continue_from)
        if old.owner != request.owner:
            raise NotFound("This cluster does not know that session.")
        if old.live:
            raise Conflict("That session is still running; stop it first.")
        if old.files_in and old.files_in != request.id:
            raise Conflict("That session was continued already; its files are there.")
        return old

    def _mark_continued(self, old: JobRecord, new: JobRecord) -> None:
        """Everything whose files were in the old folder is now found in the new one."""
        for r in self._table.records():
            if r.id == old.id:
                r.out, r.continued_as = old_out_name(old.id), new.id
            if r.id == old.id or r.files_in == old.id:
                r.files_in = new.id
                self._table.folders.save(r)

    def _refresh(self, views: Mapping[str, JobView] | None, look: Look) -> bool:
        changed = False
        for job in self._table:
            changed |= self._refresh_one(job, views, look)
        return changed

    def _refresh_one(
        self, job: TrackedJob, views: Mapping[str, JobView] | None, look: Look
    ) -> bool:
        """Returns whether anything may be new; on a full disk it is saved later."""
        changed = True
        recalled = self._recalled.get(job.record.id)
        with self.loops.item(job.record.id):
            if job.record.live:
                changed = self._updater.refresh(job, views, look, recalled)
            elif self._updater.take_back(job, views, look, recalled):
                self._forgotten.discard(job.record.id)
            else:
                over = (job.record.keep_until or 0) < time.time()
                changed = over and self._forget(job.record)
        return changed

    async def _let_scheduler_forget(self) -> None:
        """Ended jobs whose record is safe need not be remembered twice."""
        for job in self._table:
            r = job.record
            if not r.live and r.job and not job.unsaved and r.id not in self._forgotten:
                with self.loops.item(r.id), contextlib.suppress(Unavailable):
                    await self._scheduler.forget(r.key)
                    self._forgotten.add(r.id)

    def _forget(self, record: JobRecord) -> bool:
        """Throw the files of a job away that was kept long enough. Raises `OSError`."""
        if not self._table.remove(record):
            return False
        self._updater.events.forget(record.id)
        self._audit.write("removed", session=record.id, owner=record.owner)
        return True


def _line(record: JobRecord) -> str:
    job = f"job {record.job}" if record.job else "not yet at the scheduler"
    return f"{record.kind.value} {record.id} of {record.owner} ({job}, {record.state.value})"


def _lists(views: Mapping[str, JobView], record: JobRecord) -> bool:
    view = views.get(record.job)
    return view is not None and view.is_of(record.key)
