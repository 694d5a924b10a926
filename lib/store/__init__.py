"""What the portal remembers: people, sessions, runs, detections, announcements,
the audit log.

Truth lives here; every process may restart. Methods are synchronous, quick and safe to
call from any thread; one call is one transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.store.announcements import Announcements
from lib.store.audit import Audit
from lib.store.database import open_database
from lib.store.detections import Detections
from lib.store.people import People
from lib.store.sessions_runs import SessionsRuns
from lib.store.stamps import Stamps

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Store"]


class Store:
    """The open store. Raises what `open_database` raises."""

    def __init__(self, path: Path) -> None:
        self._engine = open_database(path)
        self.people = People(self._engine)
        self.work = SessionsRuns(self._engine)
        self.detections = Detections(self._engine)
        self.audit = Audit(self._engine)
        self.announcements = Announcements(self._engine)
        self.stamps = Stamps(self._engine)

    def close(self) -> None:
        """Release the file. The store cannot be used afterwards."""
        self.audit.tell_repeated()
        self.stamps.close()
        self._engine.dispose()
