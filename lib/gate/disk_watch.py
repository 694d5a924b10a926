"""The disk that live jobs use: counted now and then, and why a job is stopped for it.

A job is stopped where it uses more than a session may, where it has made more files than can be
counted, and where it keeps something from being counted: what the gate cannot look into could
be of any size. A count that takes too long is no fault of the job (the disk may be slow): it is
logged, and nothing ends.
"""

from __future__ import annotations

import logging
import time

from lib.files.tree import measure
from lib.gate.job_record import JobRecord
from lib.gate.job_table import JobTable

_log = logging.getLogger(__name__)
_MAX_ENTRIES = 200_000
_TIMEOUT_S = 120.0
_EVERY_S = 10.0
#: How many times its own length a count is followed by rest.
_REST = 50.0


class DiskWatch:
    """Says which live jobs are due, and looks at one.

    Args:
        max_bytes: what a session may use.
    """

    def __init__(self, table: JobTable, max_bytes: int) -> None:
        self._table = table
        self._max_bytes = max_bytes
        self._due_at: dict[str, float] = {}
        self._late: set[str] = set()

    def due(self) -> list[JobRecord]:
        """Live jobs whose files were not counted for a while."""
        now = time.monotonic()
        live = [r for r in self._table.records() if r.live and not r.cancelled]
        self._due_at = {r.id: self._due_at.get(r.id, 0.0) for r in live}
        return [r for r in live if self._due_at[r.id] <= now]

    def look(self, record: JobRecord) -> str:
        """Count. Returns why the job is to be stopped, or "". Blocks for up to two minutes.

        Raises `OSError` where the disk cannot be read.
        """
        begun = time.monotonic()
        self._due_at[record.id] = begun + _EVERY_S
        size = measure(
            self._table.folders.work(record),
            max_bytes=self._max_bytes,
            max_entries=_MAX_ENTRIES,
            timeout_s=_TIMEOUT_S,
        )
        now = time.monotonic()
        self._due_at[record.id] = now + max(_EVERY_S, (now - begun) * _REST)
        if size.bytes > self._max_bytes:
            return f"It was stopped because its files grew beyond {self._max_bytes // 2**20} MB."
        if size.entries > _MAX_ENTRIES:
            return f"It was stopped because it made more than {_MAX_ENTRIES:,} files and folders."
        if size.uncounted:
            return f"It was stopped because its files cannot be counted: {size.uncounted}."
        if not size.in_time and record.id not in self._late:
            self._late.add(record.id)
            _log.warning("job %s: its files could not be counted in time", record.id)
        return ""
