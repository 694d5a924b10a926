"""Watch for new endpoints, so that they are seen between two polls of the scheduler.

The session script writes `control/endpoint.json` when its notebook answers. One stat per
job that has none yet is cheap; on a network file system a stat may be answered from a
cache of names that were not there, which listing the folder refreshes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence

from lib.gate.job_record import TrackedJob
from lib.gate.job_table import JobTable
from lib.jobs import control_files
from lib.protocol.messages import JobKind

_LOOK_EVERY_S = 0.1
_LIST_EVERY_S = 1.0


class EndpointWatch:
    """Looks for endpoint files, and has each new one taken.

    Args:
        take: reads the file of a job, and says whether its endpoint is known now. Called in
            a thread, with the lock of the table held.
    """

    def __init__(self, table: JobTable, take: Callable[[TrackedJob], bool]) -> None:
        self._table = table
        self._take = take
        self._seen: dict[str, tuple[int, int]] = {}
        self._list_at = 0.0
        #: Set when an endpoint waits for the scheduler to say which node its job was given.
        self.node_unknown = asyncio.Event()

    async def look(self) -> None:
        """Take the endpoints that were reported since the last call; after a moment's pause."""
        await asyncio.sleep(_LOOK_EVERY_S)
        jobs = [job for job in self._table if _awaits_endpoint(job)]
        if not jobs:
            return
        reported = await asyncio.to_thread(self._reported, jobs)
        if not reported:
            return
        async with self._table.lock:
            taken = await asyncio.to_thread(self._take_all, reported)
        if taken:
            self._table.tell()
        if any(_awaits_endpoint(job) for job in reported):
            self.node_unknown.set()

    def _take_all(self, jobs: Sequence[TrackedJob]) -> bool:
        taken = False
        for job in jobs:
            with self._table.loops.item(job.record.id):
                taken |= self._take(job)
        return taken

    def _reported(self, jobs: Sequence[TrackedJob]) -> list[TrackedJob]:
        """Those whose file is new since the last call. Blocks on files."""
        listing = time.monotonic() >= self._list_at
        if listing:
            self._list_at = time.monotonic() + _LIST_EVERY_S
        found = []
        for job in jobs:
            control = self._table.folders.control(job.record.id)
            try:
                if listing:
                    os.listdir(control)  # noqa: PTH208 (read it, not only open it)
                info = os.lstat(control / control_files.ENDPOINT)
            except OSError:
                continue
            mark = (info.st_ino, info.st_mtime_ns)
            if self._seen.get(job.record.id) != mark:
                self._seen[job.record.id] = mark
                found.append(job)
        return found


def _awaits_endpoint(job: TrackedJob) -> bool:
    """Whether this job may report an endpoint that is not known yet."""
    r = job.record
    return r.live and r.kind is JobKind.SESSION and bool(r.job) and not r.port
