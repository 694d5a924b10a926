"""Verify image files by SHA-256, once per file that did not change since.

A file of some gigabytes takes half a minute to read: what was checked is remembered by
size, time of change and inode, over restarts of the gate.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lib.errors import NotFound, Refused
from lib.files.atomic import read_json, write_json

_PIECE_BYTES = 4 * 2**20
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass(frozen=True, slots=True)
class CheckedFiles:
    """The memory of checksums. All methods block on files.

    Args:
        note: JSON file that keeps it.
    """

    note: Path
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def known(self, path: Path) -> str | None:
        """The checksum of the file if it is as it was when that was read, else None.

        Raises:
            NotFound: there is no such file, or it cannot be read by this account.
        """
        return self._memory().get(str(path), {}).get(_identity(path))

    def checksum(self, path: Path, progress: Progress) -> str:
        """Read the file now and remember. Raises `NotFound`."""
        before = _identity(path)
        digest, done = hashlib.sha256(), 0
        try:
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                while piece := file.read(_PIECE_BYTES):
                    digest.update(piece)
                    done += len(piece)
                    progress(done, size)
        except OSError as exc:
            raise NotFound(f"{path} cannot be read: {exc.strerror}") from exc
        if _identity(path) == before:
            self.remember(path, digest.hexdigest())
        return digest.hexdigest()

    def remember(self, path: Path, sha256: str) -> None:
        """The checksum of a file that was just read or written."""
        with self._lock:
            memory = {k: v for k, v in self._memory().items() if Path(k).exists()}
            write_json(self.note, {**memory, str(path): {_identity(path): sha256}})

    def require(self, path: Path, sha256: str, progress: Progress) -> None:
        """Raises `NotFound`, or `Refused` for another checksum."""
        found = self.known(path) or self.checksum(path, progress)
        if found != sha256:
            raise Refused(other_checksum(str(path), found, sha256))

    def _memory(self) -> dict[str, dict[str, str]]:
        try:
            memory = read_json(self.note)
        except ValueError:  # damaged: everything is read again
            return {}
        return memory if isinstance(memory, dict) else {}


def other_checksum(name: str, found: str, wanted: str) -> str:
    """The sentence about an image that is not the one of the policy."""
    return (
        f"The image {name} has the checksum {found[:12]}..., the gate's policy says "
        f"{wanted[:12]}...; who looks after the gate can put the right image there or correct "
        "sha256 in the policy."
    )


def _identity(path: Path) -> str:
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode) or not os.access(path, os.R_OK):
            raise NotFound(f"{path} is not a file that this account can read")
    except OSError as exc:
        raise NotFound(f"{path} does not exist") from exc
    return f"{info.st_size} {info.st_mtime_ns} {info.st_ino}"
