"""Node-local scratch directory of a job: made for it alone, and gone with it.

A node that is killed, or a scheduler that loses patience, can end a session script before
it has tidied up. So each folder is locked while its script lives, and a script that starts
removes what those of the same account left behind on this node.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path

from lib.files.tree import remove

#: As `lib.gate.session_dir` names them.
_NAME = re.compile(r"sb-[0-9a-f]{8}-[0-9a-f]{12}")
#: A folder so young may not be locked yet.
_YOUNG_S = 60.0
#: What cannot be removed by then is left to the next job on this node.
_REMOVE_S = 20.0


class Scratch:
    """One job's folder. `remove` needs all that the job started to be over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def make(self, *below: str) -> None:
        """Make it, with folders in it, and remove what ended jobs left beside it.

        Raises:
            FileExistsError: it must be new: nobody else may have prepared it.
        """
        self.path.mkdir(mode=0o700)
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in below:
            (self.path / name).mkdir(mode=0o700)
        until = time.monotonic() + _REMOVE_S
        for other in self.path.parent.glob("sb-*"):
            if other != self.path and _NAME.fullmatch(other.name):
                _remove_if_left(other, until - time.monotonic())

    def remove(self) -> None:
        """Remove it if this object made it."""
        if self._lock < 0:
            return
        remove(self.path, timeout_s=_REMOVE_S)
        os.close(self._lock)
        self._lock = -1


def _remove_if_left(folder: Path, timeout_s: float) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            info = os.fstat(fd)
            if info.st_uid == os.getuid() and info.st_mtime < time.time() - _YOUNG_S:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(folder, timeout_s=timeout_s)
        finally:
            os.close(fd)
