"""The jobs of a gate: submit, cancel, and what became of them.

Truth is on disk (`lib.gate.records`) and at the scheduler; this keeps both in step. Every
change of a record is made under one lock, and every file is read in a thread, so that a
slow file system or scheduler holds up no connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Mapping

from lib.errors import Conflict, NotFound, Refused, SceneBridgeError, StorageFull, Unavailable
from lib.gate.audit import Audit
from lib.gate.events import EventLog
from lib.gate.folder import FolderMaker, old_out_name
from lib.gate.images import Images, ImageState
from lib.gate.intake import Accepted, check
from lib.gate.policy import Policy
from lib.gate.records import Folders, Known, Record
from lib.gate.refresh import Refresher
from lib.jobs.ports import JobView, Scheduler
from lib.model import EndReason, JobState
from lib.protocol import JobStatus, SubmitReply, SubmitRequest

_log = logging.getLogger(__name__)
_IDLE_POLL_S = 1.0
_QUERY_TIMEOUT_S = 60.0


class Jobs:
    """All jobs of one gate. One per process (the gate's lock sees to that)."""

    def __init__(
        self, folders: Folders, policy: Policy, scheduler: Scheduler, audit: Audit
    ) -> None:
        self.images = Images(folders.images, policy)
        self._folders = folders
        self._policy = policy
        self._scheduler = scheduler
        self._audit = audit
        self._maker = FolderMaker(folders, policy, scheduler)
        self._known = {r.id: _known(r, folders) for r in folders.load()}
        self._refresher = Refresher(folders, policy, scheduler, audit)
        self._lock = asyncio.Lock()
        self._listeners: set[Callable[[], None]] = set()
        self._forgotten: set[str] = set()
        self.asked_ok = True
        self.asked_reason = ""

    # --- questions --------------------------------------------------------------

    def all(self) -> list[JobStatus]:
        """Every job that is live, or ended and kept."""
        return [known.status() for known in list(self._known.values())]

    def record(self, job_id: str) -> Record:
        """Raises `NotFound`."""
        known = self._known.get(job_id)
        if known is None:
            raise NotFound("This cluster does not know that job.")
        return known.record

    @property
    def live(self) -> int:
        """How many have not ended."""
        return sum(known.record.live for known in list(self._known.values()))

    def events(self, job_id: str) -> EventLog:
        """The checked events of a job. Raises `NotFound`."""
        return self._refresher.events(self.record(job_id))

    def where(self, job_id: str) -> tuple[str, int] | None:
        """Host and port of a live notebook that its scheduler vouches for right now."""
        known = self._known.get(job_id)
        if known is None or not known.record.live or not known.record.port:
            return None
        r = known.record
        return (r.host, r.port) if self._scheduler.vouches(r.job, r.host, r.port) else None

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` whenever something may be new. Returns how to stop that."""
        self._listeners.add(changed)
        return lambda: self._listeners.discard(changed)

    # --- acts -------------------------------------------------------------------

    async def submit(self, request: SubmitRequest) -> SubmitReply:
        """Idempotent by id. Errors as in `lib.gate.intake.check`, and:

        Raises:
            Refused: too many jobs live.
            Conflict: the session to continue is running, gone, or somebody else's.
            Unavailable: the scheduler gave no answer and has no such job.
        """
        async with self._lock:
            known = self._known.get(request.id)
            if known is not None:
                return SubmitReply(known.status(), created=False)
            accepted = await asyncio.to_thread(check, request, self._policy)
            if self.live >= self._policy.limits.max_live:
                raise Refused(
                    f"{self.live} jobs are live on this cluster, which is all it allows; "
                    "stop one or wait until one has ended."
                )
            known = await asyncio.to_thread(self._prepare, request, accepted)
            await self._hand_over(known)
        self._tell()
        return SubmitReply(known.status(), created=True)

    async def cancel(self, job_id: str, *, text: str = "") -> JobStatus:
        """Ask a job to end. Idempotent. Raises `NotFound`, `Unavailable`."""
        async with self._lock:
            record = self.record(job_id)
            if record.live:
                record.cancelled = True
                record.cancel_text = record.cancel_text or text
                await asyncio.to_thread(self._folders.save, record)
                if record.job:
                    await self._scheduler.cancel(record.job)
        return self._known[job_id].status()

    async def watch_over(self) -> None:
        """Poll for ever: promptly while jobs live, lazily otherwise."""
        while True:
            await self.poll()
            if self.live:
                await asyncio.sleep(self._scheduler.poll_s)
            else:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._woken(), _IDLE_POLL_S)

    async def poll(self) -> None:
        """Look once at the scheduler and at the session folders.

        A scheduler that does not answer ends nothing; `asked_ok` says so.
        """
        views = await self._ask() if self.live or not self.asked_ok else {}
        async with self._lock:
            if views is not None:
                await self._settle_unsubmitted()
            try:
                changed = await asyncio.to_thread(self._refresh, views)
            except OSError as exc:  # a full disk: told now, saved when there is room again
                _log.error("a job's record cannot be saved: %s", exc)
                changed = True
        if changed:
            self._tell()
        await self._stop_too_large()
        await self._let_scheduler_forget()

    # --- inside -----------------------------------------------------------------

    async def _woken(self) -> None:
        woken = asyncio.Event()
        stop = self.listen(woken.set)
        try:
            await woken.wait()
        finally:
            stop()

    def _tell(self) -> None:
        for changed in list(self._listeners):
            changed()

    async def _ask(self) -> Mapping[str, JobView] | None:
        before = (self.asked_ok, self.asked_reason)
        views: Mapping[str, JobView] | None = None
        try:
            views = await asyncio.wait_for(self._scheduler.query(), _QUERY_TIMEOUT_S)
            self.asked_ok, self.asked_reason = True, ""
        except (Unavailable, asyncio.TimeoutError) as exc:
            why = exc.message if isinstance(exc, Unavailable) else "It takes too long to answer."
            self.asked_ok = False
            self.asked_reason = f"The scheduler of the cluster does not answer: {why}"
        if before != (self.asked_ok, self.asked_reason):
            self._tell()
        return views

    def _prepare(self, request: SubmitRequest, accepted: Accepted) -> Known:
        """Make the folder and, last of all, the record."""
        old = self._old_session(request) if request.continue_from else None
        try:
            self._maker.build(request, accepted, old)
            record = Record(
                id=request.id,
                kind=request.kind,
                owner=request.owner,
                module=request.module,
                module_version=request.module_version,
                title=request.title,
                name=f"sb-{request.id}-{secrets.token_hex(4)}",
                preset=request.preset,
                walltime_s=request.walltime_s,
                scenes=accepted.scenes,
                submitted_at=time.time(),
            )
            if old is not None:
                self._mark_continued(old, record)
            self._folders.save(record)
        except OSError as exc:
            raise StorageFull(f"The cluster cannot store the job: {exc.strerror}.") from exc
        known = Known(record, self._folders.endpoint(record))
        self._known[record.id] = known
        return known

    def _old_session(self, request: SubmitRequest) -> Record:
        old = self.record(request.continue_from)
        if old.owner != request.owner:
            raise NotFound("This cluster does not know that session.")
        if old.live:
            raise Conflict("That session is still running; stop it first.")
        if old.files_in and old.files_in != request.id:
            raise Conflict("That session was continued already; its files are there.")
        return old

    def _mark_continued(self, old: Record, new: Record) -> None:
        """Everything whose files were in the old folder is now found in the new one."""
        for known in self._known.values():
            r = known.record
            if r.id == old.id:
                r.out, r.continued_as = old_out_name(old.id), new.id
            if r.id == old.id or r.files_in == old.id:
                r.files_in = new.id
                self._folders.save(r)

    async def _hand_over(self, known: Known) -> None:
        """Give a recorded job to the scheduler, once its image is there."""
        record = known.record
        image = await self._image(record)
        try:
            if image.waiting:
                record.reason = image.waiting
            elif image.failure:
                self._refuse(record, image.failure)
            else:
                job = await asyncio.to_thread(self._maker.job_spec, record, image.path)
                record.job = await self._scheduler.submit(job)
        except SceneBridgeError as exc:
            if isinstance(exc, Unavailable):
                await self._after_no_answer(record, exc)
            else:
                self._refuse(record, exc.message)
        await asyncio.to_thread(self._folders.save, record)

    async def _image(self, record: Record) -> ImageState:
        return await self.images.state(self._policy.module(record.module, record.module_version))

    async def _after_no_answer(self, record: Record, error: Unavailable) -> None:
        """It may have been taken all the same: look by name, and never submit twice."""
        try:
            record.job = await self._scheduler.find(record.name) or ""
        except Unavailable:
            record.reason = "It is not known yet whether the scheduler took the job."
            return
        if not record.job:
            self._refuse(record, error.message)

    def _refuse(self, record: Record, text: str) -> None:
        record.state, record.end_reason, record.reason = JobState.ENDED, EndReason.REFUSED, text
        record.ended_at = time.time()
        record.keep_until = record.ended_at + self._policy.limits.keep_s

    async def _settle_unsubmitted(self) -> None:
        """Jobs that a crash or silence left between record and scheduler."""
        for known in list(self._known.values()):
            record = known.record
            if not record.live or record.job:
                continue
            if not record.cancelled and (waiting := (await self._image(record)).waiting):
                if waiting != record.reason:
                    record.reason = waiting
                    self._tell()
                continue
            try:
                record.job = await self._scheduler.find(record.name) or ""
            except Unavailable:
                continue
            if not record.job and record.cancelled:
                self._refuse(record, "Stopped before it was submitted.")
                record.end_reason = EndReason.CANCELLED
            if not record.job and record.live:
                await self._hand_over(known)
            await asyncio.to_thread(self._folders.save, record)
            self._tell()

    def _refresh(self, views: Mapping[str, JobView] | None) -> bool:
        changed = False
        for known in list(self._known.values()):
            if known.record.live:
                changed |= self._refresher.refresh(known, views)
            elif (known.record.keep_until or 0) < time.time():
                changed |= self._forget(known.record)
        return changed

    async def _let_scheduler_forget(self) -> None:
        """Ended jobs whose record is safe need not be remembered twice."""
        for known in list(self._known.values()):
            r = known.record
            if not r.live and r.job and not known.unsaved and r.id not in self._forgotten:
                with contextlib.suppress(Unavailable):
                    await self._scheduler.forget(r.job)
                    self._forgotten.add(r.id)

    async def _stop_too_large(self) -> None:
        records = [known.record for known in self._known.values()]
        allowed = self._policy.limits.max_disk_bytes // 2**20
        text = f"It was stopped because its files grew beyond {allowed} MB."
        for record in await asyncio.to_thread(self._refresher.too_large, records):
            with contextlib.suppress(SceneBridgeError):
                await self.cancel(record.id, text=text)

    def _forget(self, record: Record) -> bool:
        """Remove the files of a job that was kept long enough."""
        if any(k.record.files_in == record.id and k.record.live for k in self._known.values()):
            return False
        shutil.rmtree(self._folders.session(record.id), ignore_errors=True)
        del self._known[record.id]
        self._audit.write("removed", session=record.id, owner=record.owner)
        return True


def _known(record: Record, folders: Folders) -> Known:
    has_endpoint = record.live and record.port
    return Known(record, folders.endpoint(record) if has_endpoint else None)
