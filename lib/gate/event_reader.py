"""Read the events of all live jobs, a slice of time at each poll, and none at another's cost.

Whatever one job wrote, the others are read in their turn. Nothing here needs the lock of the job
table, so nobody who submits or cancels waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from lib.gate.events import EventLog
from lib.gate.job_record import JobRecord, SessionFolders
from lib.loops import Loops

_SLICE_S = 0.25
_NOT_READ = "What this module wrote cannot be read because of a fault of the gate's own."


class EventReader:
    """The event logs of one gate. Safe to use from several threads; all methods block on files."""

    def __init__(self, folders: SessionFolders, loops: Loops) -> None:
        self._folders = folders
        self._loops = loops
        self._logs: dict[str, EventLog] = {}
        self._opening = threading.Lock()
        self.slice_s = _SLICE_S
        #: Whether the last slice left something unread.
        self.behind = False

    def log(self, record: JobRecord) -> EventLog:
        """The event log of a job, opened once."""
        with self._opening:
            log = self._logs.get(record.id)
            if log is None:
                source = (self._folders.work(record), record.out)
                control = self._folders.control(record.id)
                log = EventLog(control, source, frozenset(record.scenes))
                self._logs[record.id] = log
            return log

    def read(self, records: Iterable[JobRecord]) -> frozenset[str]:
        """Read what these jobs have added. Returns the ids of those that were read to the end.

        A piece of each in turn, until that time is over.
        """
        until = time.monotonic() + self.slice_s
        turn, whole = list(records), set[str]()
        while turn:
            turn = [record for record in turn if not self._read_piece(record, whole)]
            if time.monotonic() >= until:
                break
        self.behind = bool(turn)
        return frozenset(whole)

    def forget(self, job_id: str) -> None:
        """Of a job that is removed."""
        with self._opening:
            self._logs.pop(job_id, None)

    def _read_piece(self, record: JobRecord, whole: set[str]) -> bool:
        """Returns whether this job is done for this time."""
        try:
            if self.log(record).take_piece():
                return False
        except OSError as exc:  # a full disk: read again with the next slice
            self._loops.note(record.id, exc)
            return True
        except Exception as exc:
            self._loops.note(record.id, exc)
            with self._loops.item(record.id):
                self.log(record).give_up(_NOT_READ)
        whole.add(record.id)
        return True
