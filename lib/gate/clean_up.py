"""What is thrown away: out of sight at once, removed afterwards, by nobody who holds a lock.

A tree that a job made may take long to remove. So `SessionFolders.throw_away` only renames it
into the folder `removed`, and this removes what lies there, a little of each in turn.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from lib.files.tree import remove
from lib.gate.job_record import SessionFolders

_log = logging.getLogger(__name__)
_SLICE_S = 5.0
#: What stays though there was time (it is another account's, or mounted) is tried again later.
_STUCK_S = 600.0


class CleanUp:
    """Removes what was thrown away, also by a gate before this one."""

    def __init__(self, folders: SessionFolders) -> None:
        self._folders = folders
        self._again_at: dict[str, float] = {}

    def due(self) -> list[Path]:
        """What is to be removed now. Blocks on files."""
        try:
            there = sorted(self._folders.removed.iterdir())
        except FileNotFoundError:
            return []
        now = time.monotonic()
        self._again_at = {f.name: self._again_at.get(f.name, 0.0) for f in there}
        return [folder for folder in there if self._again_at[folder.name] <= now]

    def go_on(self, folder: Path) -> None:
        """Remove some of it. Blocks on files for a few seconds."""
        begun = time.monotonic()
        if remove(folder, timeout_s=_SLICE_S) or time.monotonic() - begun >= _SLICE_S:
            return
        if not self._again_at.get(folder.name):
            _log.warning("%s cannot be removed; that is tried again now and then", folder)
        self._again_at[folder.name] = time.monotonic() + _STUCK_S
