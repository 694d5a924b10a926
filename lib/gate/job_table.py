"""The table of jobs: every record that a gate remembers, on disk and in memory, with its lock.

A record changes only while the lock is held, and is on disk before anybody hears of the
change. The lock is never held while the scheduler is asked, so a slow one holds up nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

from lib.errors import NotFound
from lib.gate.job_record import JobRecord, SessionFolders, TrackedJob
from lib.loops import Loops

_log = logging.getLogger(__name__)


class JobTable:
    """All jobs of one gate that are live, or ended and kept. One per gate.

    Methods that say so block on files: call them in a thread, with the lock held.

    Args:
        folders: where the records lie; read once, here. Blocks on files.
        loops: those that look at the jobs, each within `Loops.item`.
    """

    def __init__(self, folders: SessionFolders, loops: Loops) -> None:
        self.folders = folders
        self.loops = loops
        self.lock = asyncio.Lock()
        self._jobs: dict[str, TrackedJob] = {}
        for record in folders.load():
            with loops.item(record.id):
                self._jobs[record.id] = _tracked(record, folders)
        self._listeners: set[Callable[[], None]] = set()

    def __iter__(self) -> Iterator[TrackedJob]:
        """Those of now, whatever is added or removed in another thread meanwhile."""
        return iter(list(self._jobs.values()))

    def get(self, job_id: str) -> TrackedJob | None:
        """The job of that id, if there is one."""
        return self._jobs.get(job_id)

    def named(self, job_id: str) -> TrackedJob:
        """The job of that id. Raises `NotFound`."""
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound("This cluster does not know that job.")
        return job

    def records(self) -> list[JobRecord]:
        """The records of all jobs."""
        return [job.record for job in self]

    @property
    def live(self) -> int:
        """How many have not ended."""
        return sum(record.live for record in self.records())

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` whenever something may be new. Returns how to stop that."""
        self._listeners.add(changed)
        return lambda: self._listeners.discard(changed)

    def tell(self) -> None:
        """Something may be new."""
        for changed in list(self._listeners):
            changed()

    async def wait(self) -> None:
        """Until something may be new."""
        woken = asyncio.Event()
        stop = self.listen(woken.set)
        try:
            await woken.wait()
        finally:
            stop()

    async def change(self, job: TrackedJob, change: Callable[[], None]) -> None:
        """Take the lock, change a record, save it, and tell.

        On a full disk it stays unsaved until the next `save_changed`.
        """
        async with self.lock:
            change()
            try:
                await asyncio.to_thread(self.folders.save, job.record)
            except OSError as exc:
                job.unsaved = True
                _log.error("a job's record cannot be saved: %s", exc)
        self.tell()

    def save_changed(self, job: TrackedJob) -> None:
        """Save a record that differs from what is on disk. Blocks on files; raises `OSError`."""
        job.unsaved = True
        self.folders.save(job.record)
        job.unsaved = False

    def add(self, record: JobRecord) -> TrackedJob:
        """Save a new record, and remember it. Blocks on files; raises `OSError`."""
        self.folders.save(record)
        job = TrackedJob(record, self.folders.endpoint(record))
        self._jobs[record.id] = job
        return job

    def remove(self, record: JobRecord) -> bool:
        """Remove a job, and throw its files away, unless a live one needs them. Blocks on files.

        Returns whether it was removed. Raises `OSError`.
        """
        if any(r.files_in == record.id and r.live for r in self.records()):
            return False
        self.folders.throw_away(self.folders.session(record.id))
        del self._jobs[record.id]
        return True


def _tracked(record: JobRecord, folders: SessionFolders) -> TrackedJob:
    has_endpoint = record.live and record.port
    return TrackedJob(record, folders.endpoint(record) if has_endpoint else None)
