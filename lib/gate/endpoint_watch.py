"""See new endpoints at once, though the scheduler is asked only now and then.

The session script writes `control/endpoint.json` when its notebook answers. One stat per
job that has none yet is cheap; on a network file system a stat may be answered from a
cache of names that were not there, which listing the folder refreshes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from lib.gate.job_record import SessionFolders, TrackedJob
from lib.jobs import control_files
from lib.protocol.messages import JobKind

LOOK_EVERY_S = 0.1
_LIST_EVERY_S = 1.0


def awaits_endpoint(known: TrackedJob) -> bool:
    """Whether this job may report an endpoint that is not known yet."""
    r = known.record
    return r.live and r.kind is JobKind.SESSION and bool(r.job) and not r.port


class EndpointWatch:
    """Which jobs have an endpoint file that nobody has looked at."""

    def __init__(self, folders: SessionFolders) -> None:
        self._folders = folders
        self._seen: dict[str, tuple[int, int]] = {}
        self._list_at = 0.0

    def reported(self, jobs: Iterable[TrackedJob]) -> list[TrackedJob]:
        """Those whose file is new since the last call. Blocks on files."""
        listing = time.monotonic() >= self._list_at
        if listing:
            self._list_at = time.monotonic() + _LIST_EVERY_S
        found = []
        for known in jobs:
            control = self._folders.control(known.record.id)
            try:
                if listing:
                    os.listdir(control)  # noqa: PTH208 (read it, not only open it)
                info = os.lstat(control / control_files.ENDPOINT)
            except OSError:
                continue
            mark = (info.st_ino, info.st_mtime_ns)
            if self._seen.get(known.record.id) != mark:
                self._seen[known.record.id] = mark
                found.append(known)
        return found
