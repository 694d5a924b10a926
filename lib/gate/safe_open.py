"""Safe opening of untrusted files below `work/`: no links, no devices, one name each.

Each name is opened relative to the descriptor of the folder before it, never following
a link, so nothing that is swapped meanwhile leads elsewhere. Only regular files with one
link are read; a FIFO or device cannot block because nothing is opened blocking.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lib.errors import NotFound, Refused

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open descriptor that the holder closes, its size when opened, and its inode."""

    fd: int
    size: int
    inode: int


def open_file(root: Path, parts: Sequence[str], *, max_bytes: int) -> OpenFile:
    """Open `root/parts[0]/.../parts[-1]` for reading.

    Args:
        root: the `work` folder itself; may not be a link either.
        parts: plain names, one per level.
    Raises:
        NotFound: it does not exist (yet).
        Refused: a part is a link or no plain name, or the end is no plain file, has
            several names, or is larger than `max_bytes`.
    """
    with ExitStack() as stack:
        folder = _step(_FOLDER, str(root), None)
        stack.callback(os.close, folder)
        for name in parts[:-1]:
            folder = _step(_FOLDER, _plain(name), folder)
            stack.callback(os.close, folder)
        fd = _step(_FILE, _plain(parts[-1]), folder)
    try:
        return _checked(fd, max_bytes)
    except BaseException:
        os.close(fd)
        raise


def _checked(fd: int, max_bytes: int) -> OpenFile:
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
        raise Refused("The job left something there that is not a plain file.")
    if info.st_size > max_bytes:
        raise Refused(f"The file is larger than {max_bytes} bytes.")
    return OpenFile(fd, info.st_size, info.st_ino)


def _plain(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise Refused("That is no plain name.")
    return name


def _step(flags: int, name: str, folder: int | None) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except FileNotFoundError as exc:
        raise NotFound("The job has not written that.") from exc
    except OSError as exc:  # ELOOP, ENOTDIR: a link or no folder; ENXIO: a socket
        raise Refused("The job left something there that is not a plain file.") from exc
