"""What is thrown away: out of sight at once, removed afterwards, by nobody who holds a lock.

A tree that a job made may take long to remove. So `SessionFolders.throw_away` only renames it
into the folder `removed`, and this removes what lies there, a little of each in turn.
"""

from __future__ import annotations

import logging
from pathlib import Path

from lib.files.tree import remove
from lib.gate.job_record import SessionFolders

_log = logging.getLogger(__name__)
_SLICE_S = 5.0


class CleanUp:
    """Removes what was thrown away, also by a gate before this one."""

    def __init__(self, folders: SessionFolders) -> None:
        self._folders = folders
        self._said: set[str] = set()

    def waiting(self) -> list[Path]:
        """What is still there. Blocks on files."""
        try:
            return sorted(self._folders.removed.iterdir())
        except FileNotFoundError:
            return []

    def go_on(self, folder: Path) -> None:
        """Remove some of it. Blocks on files for a few seconds."""
        before = len(self._said)
        if not remove(folder, timeout_s=_SLICE_S):
            self._said.add(folder.name)
            if len(self._said) > before:
                _log.warning("%s is not removed yet; that is tried again", folder)
