"""Measuring, moving and removing a tree that a job has made, however it was made.

What is below was written by an attacker, who may still be writing. So each folder is opened
relative to the one before it and no link is followed: nothing that is swapped meanwhile leads
elsewhere. A walk is a loop, never a recursion, and holds few descriptors open at any depth: the
way back up is `..`, which counts only where it is the folder that the walk came from. It stays on
one file system, and ends after a number of entries or of seconds.

`measure` and `remove` block on files for as long as they are allowed to: call them in a thread,
and without a lock that anybody else needs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Folders that a walk holds open, and so many names of subfolders it takes at a time.
_OPEN = 16
_NAMES = 10_000
_LOOK_AT_CLOCK_EVERY = 64
#: What opening a folder says where it is none any more: it vanished, or something else is there.
#: EXDEV: it lies on another disk.
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.EXDEV)
_CANNOT_OPEN = "a folder in them cannot be opened"
_MOVED = "folders in them are moved about while they are counted"
_TRIES = 3


@dataclass(slots=True)
class Size:
    """What lies below a folder, as far as it was counted.

    Args:
        bytes: on disk, folders included; a file with several names counts for each.
        entries: files, folders and whatever else has a name.
        newest: the latest time at which one of them changed (Unix time); 0 where there is none.
        uncounted: why something is not in it, as the end of a sentence; "" where all is. It is
            the doing of whoever made the tree.
        in_time: false where the time was over first, which may be the file system's fault.
    """

    bytes: int = 0
    entries: int = 0
    newest: float = 0.0
    uncounted: str = ""
    in_time: bool = True


def measure(root: Path, *, max_bytes: int, max_entries: int, timeout_s: float) -> Size:
    """Count what lies below `root`, until one of the bounds is passed.

    A tree that is not there has no size. Raises `OSError` where the fault is the computer's
    (no descriptor is left, the disk cannot be read): then nothing is known.
    """
    deadline = time.monotonic() + timeout_s
    for _ in range(_TRIES):
        count = _Count(max_bytes, max_entries, deadline)
        with contextlib.suppress(_Moved):
            count.run(root)
            return count.size
    count.size.uncounted = _MOVED
    return count.size


def remove(path: Path, *, timeout_s: float) -> bool:
    """Remove `path` and everything below it; a link is removed, and not what it leads to.

    What the owner may not look into or change is made theirs first. Never raises: what stays
    is what is not ours, what is mounted there, or what the time was too short for.

    Returns whether it is gone.
    """
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return not os.path.lexists(path)
    try:
        with contextlib.suppress(OSError, _Moved, _Late):
            _remove(parent, path.name, time.monotonic() + timeout_s)
        return not _is_there(parent, path.name)
    finally:
        os.close(parent)


def move(name: str, target: Path, *, folder: int) -> None:
    """Rename what has that name in an open folder, out of it and onto its disk; a link itself.

    A folder that is moved is written to, so it is made its owner's first where that is needed.
    Raises `OSError`.
    """
    try:
        os.rename(name, target, src_dir_fd=folder)
    except PermissionError:
        _allow_owner(name, folder)
        os.rename(name, target, src_dir_fd=folder)


class _Moved(Exception):
    """`..` of a folder is not where the walk came from."""


class _Late(Exception):
    """The time is over."""


@dataclass(slots=True)
class _Level:
    """One folder between the root of a walk and the place where it is. `fd` is -1 while closed.

    Args:
        names: subfolders that are still to be entered.
        cut: there were more of them than are taken at a time.
        changed: something was removed from it since it was looked at.
    """

    name: str
    key: tuple[int, int]
    fd: int
    names: Iterator[str] = field(default_factory=lambda: iter(()))
    cut: bool = False
    changed: bool = False


class _Walk:
    """A place in a tree, and the way back up. Closes its descriptors when it is left."""

    def __init__(self, folder: int | None, name: str, *, take_over: bool = False) -> None:
        self._take_over = take_over
        fd = self._open(folder, name)
        self.levels = [_Level(name, _key(fd), fd)]

    def __enter__(self) -> _Walk:
        return self

    def __exit__(self, *_: object) -> None:
        for level in self.levels:
            if level.fd >= 0:
                os.close(level.fd)

    @property
    def here(self) -> _Level:
        return self.levels[-1]

    def enter(self, name: str) -> None:
        """Go down into a subfolder. Raises `OSError`; EXDEV: it is another file system."""
        fd = self._open(self.here.fd, name)
        level = _Level(name, _key(fd), fd)
        if level.key[0] != self.here.key[0]:
            os.close(fd)
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        self.levels.append(level)
        if len(self.levels) > _OPEN and (old := self.levels[-_OPEN - 1]).fd >= 0:
            os.close(old.fd)
            old.fd = -1

    def leave(self) -> str:
        """Go up. Returns the name of the folder that was left. Raises `_Moved`."""
        left = self.levels.pop()
        try:
            if self.here.fd < 0:
                self.here.fd = _up(left.fd, self.here.key)
        finally:
            os.close(left.fd)
        return left.name

    def _open(self, folder: int | None, name: str) -> int:
        try:
            fd = os.open(name, _FOLDER, dir_fd=folder)
        except PermissionError:
            if not self._take_over:
                raise
            _allow_owner(name, folder)
            fd = os.open(name, _FOLDER, dir_fd=folder)
        if self._take_over:
            with contextlib.suppress(OSError):  # not ours: what is below stays
                if os.fstat(fd).st_mode & stat.S_IRWXU != stat.S_IRWXU:
                    os.fchmod(fd, stat.S_IRWXU)
        return fd


class _Count:
    """One count, up to its bounds. `run` raises `_Moved`, and `OSError` as `measure` does."""

    def __init__(self, max_bytes: int, max_entries: int, deadline: float) -> None:
        self.size = Size()
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._deadline = deadline
        self._steps = 0

    def run(self, root: Path) -> None:
        try:
            start = _Walk(None, str(root))
        except FileNotFoundError:
            return
        except OSError as exc:
            self._not_entered(exc)
            self.size.uncounted = _CANNOT_OPEN  # a link or a file is no folder of ours either
            return
        with start as walk:
            self._look(walk.here)
            while not self._over:
                name = next(walk.here.names, None)
                if name is not None:
                    self._enter(walk, name)
                elif len(walk.levels) > 1:
                    walk.leave()
                else:
                    return

    @property
    def _over(self) -> bool:
        size = self.size
        if self._steps % _LOOK_AT_CLOCK_EVERY == 0 and time.monotonic() > self._deadline:
            size.in_time = False
        self._steps += 1
        over = size.bytes > self._max_bytes or size.entries > self._max_entries
        return over or not size.in_time

    def _enter(self, walk: _Walk, name: str) -> None:
        try:
            walk.enter(name)
        except OSError as exc:
            self._not_entered(exc)
        else:
            self._look(walk.here)

    def _look(self, level: _Level) -> None:
        """Count what lies in one folder."""
        names = []
        try:
            with os.scandir(level.fd) as entries:
                for entry in entries:
                    if self._add(entry):
                        names.append(entry.name)
                    if self._over:
                        break
        except OSError as exc:
            self._not_entered(exc)
        level.names = iter(names)

    def _add(self, entry: os.DirEntry[str]) -> bool:
        """Returns whether it is a folder."""
        size = self.size
        size.entries += 1
        try:
            info = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return False
        size.bytes += info.st_blocks * 512
        size.newest = max(size.newest, info.st_mtime)
        return stat.S_ISDIR(info.st_mode)

    def _not_entered(self, error: OSError) -> None:
        if isinstance(error, PermissionError):
            self.size.uncounted = _CANNOT_OPEN
        elif error.errno not in _NO_FOLDER:
            raise error


def _remove(parent: int, name: str, deadline: float) -> None:
    """Raises `OSError`, `_Moved`, `_Late`."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    with _Walk(parent, name, take_over=True) as walk:
        _clear(walk.here, deadline)
        while True:
            below = next(walk.here.names, None)
            if below is not None:
                with contextlib.suppress(OSError):  # it stays
                    walk.enter(below)
                    _clear(walk.here, deadline)
            elif walk.here.cut and walk.here.changed:
                _clear(walk.here, deadline)
            elif len(walk.levels) > 1:
                left = walk.leave()
                with contextlib.suppress(OSError):  # something in it stays
                    os.rmdir(left, dir_fd=walk.here.fd)
                    walk.here.changed = True
            else:
                break
    os.rmdir(name, dir_fd=parent)


def _clear(level: _Level, deadline: float) -> None:
    """Remove what is no folder, and note the folders. Raises `OSError`, `_Late`."""
    names: list[str] = []
    level.cut = level.changed = False
    with os.scandir(level.fd) as entries:
        for count, entry in enumerate(entries):
            if count % _LOOK_AT_CLOCK_EVERY == 0 and time.monotonic() > deadline:
                raise _Late
            if len(names) >= _NAMES:
                level.cut = True
                break
            if entry.is_dir(follow_symlinks=False):
                names.append(entry.name)
                continue
            with contextlib.suppress(OSError):  # it stays
                os.unlink(entry.name, dir_fd=level.fd)
                level.changed = True
    level.names = iter(names)


def _key(fd: int) -> tuple[int, int]:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


def _up(fd: int, key: tuple[int, int]) -> int:
    """Open the folder above, which must be the one with that key. Raises `_Moved`."""
    try:
        above = os.open("..", _FOLDER, dir_fd=fd)
    except OSError as exc:
        raise _Moved from exc
    if _key(above) != key:
        os.close(above)
        raise _Moved
    return above


def _allow_owner(name: str, folder: int | None) -> None:
    """Let the owner into a folder that cannot be opened. Raises `OSError`."""
    if not hasattr(os, "O_PATH"):
        os.chmod(name, stat.S_IRWXU, dir_fd=folder, follow_symlinks=False)
        return
    # Linux changes no mode without following a link, but that of what a descriptor stands for.
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=folder)
    try:
        Path(f"/proc/self/fd/{fd}").chmod(stat.S_IRWXU)
    finally:
        os.close(fd)


def _is_there(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return False
    return True
