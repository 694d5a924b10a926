"""Node-local scratch directory of a job: made for it alone, and gone with it.

A node that is killed, or a scheduler that loses patience, can end a session script before
it has tidied up. So each folder is locked while its script lives, and a script that starts
removes what those of the same account left behind on this node.

Where the folders lie is a setting of the policy. Only the node can tell whether others could put
a folder of theirs in place of the job's there, so it is looked at by the job.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import re
import stat
import time
from collections.abc import Mapping
from pathlib import Path

from lib.errors import InvalidInput, Refused, Unavailable
from lib.files.tree import remove

#: Where node-local folders lie unless the policy says otherwise.
USUAL = "/tmp"  # noqa: S108 (private folders of unguessable names, made 0700)

#: As `lib.gate.session_dir` names them.
_NAME = re.compile(r"sb-[0-9a-f]{8}-[0-9a-f]{12}")
#: A folder so young may not be locked yet.
_YOUNG_S = 60.0
#: What cannot be removed by then is left to the next job on this node.
_REMOVE_S = 20.0
_PART = re.compile(r"\$[A-Z_][A-Z0-9_]*|[^$/\x00-\x1f\x7f]+")
#: They lead to a home, or wherever somebody was.
_NOT_FOR_SCRATCH = ("$HOME", "$PWD", "$OLDPWD")
#: A link too many is a circle.
_MOST_LINKS = 40
_FULL = (errno.ENOSPC, errno.EDQUOT)
#: One block of most file systems.
_NO_ROOM = 4096


def node() -> str:
    """What this computer is called, as its scheduler calls it."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def check_place(text: str) -> str:
    """The same, where it may name a place for scratch: an absolute path, in which variables of
    the job stand for whole names, the first one for a whole path.

    Raises:
        InvalidInput: it is something else, or leads to a home.
    """
    parts = text.removeprefix("/").split("/")
    if not text.startswith(("/", "$")) or len(text) > 200:
        raise InvalidInput(f"{text!r:.80} must be an absolute path, or begin with a variable.")
    if any(_PART.fullmatch(part) is None or part in (".", "..") for part in parts):
        raise InvalidInput(f"{text!r:.80} is not a plain path: names and $VARIABLES alone.")
    if any(part in _NOT_FOR_SCRATCH for part in parts):
        raise InvalidInput(f"{text!r:.80} may lead to a home, which other computers share.")
    return text


def located(text: str, variables: Mapping[str, str]) -> Path:
    """Where that is for the job that has these variables.

    Raises:
        Refused: with a sentence that names the node.
    """
    found = Path("/")
    for number, part in enumerate(check_place(text).removeprefix("/").split("/")):
        name = variables.get(part[1:], "") if part.startswith("$") else part
        if not name:
            raise _refused(text, f"no {part[1:]} is set for its jobs")
        whole = number == 0 and text.startswith("$")
        if whole and (not name.startswith("/") or ".." in name.split("/")):
            raise _refused(text, f"{part[1:]} is no absolute path: {name!r:.80}")
        if not whole and ("/" in name or name in (".", "..")):
            raise _refused(text, f"{part[1:]} is not the name of a folder: {name!r:.80}")
        found /= name
    return found


def room(*folders: Path) -> str:
    """A sentence about those on disks that are full; "" where there is room."""
    full = []
    for folder in folders:
        with contextlib.suppress(OSError):
            found = os.statvfs(folder)
            bytes_left = found.f_bavail * found.f_frsize
            if bytes_left < _NO_ROOM or (found.f_files and not found.f_favail):
                full.append(str(folder))
    return f"There is no space left in {' and '.join(full)} on node {node()}." if full else ""


def _refused(place: object, why: str) -> Refused:
    return Refused(
        f"Node {node()} has no place for this job's own files at {place}: {why}. The site's "
        "operators, or the gate's policy (scratch), can mend that."
    )


class Scratch:
    """One job's folder. `remove` needs all that the job started to be over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def make(self, *below: str) -> None:
        """Make it, with folders in it, and remove what ended jobs left beside it.

        Raises:
            FileExistsError: it must be new: nobody else may have prepared it.
            Refused: others could put another folder in its place, or it lies in a home.
            Unavailable: there is no room for it.
        """
        try:
            _look_at(self.path.parent)
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            raise
        except OSError as exc:
            if exc.errno in _FULL:
                raise Unavailable(
                    f"There is no space left in {self.path.parent} on node {node()}. Start it "
                    "again later, or tell the site's operators."
                ) from exc
            raise _refused(self.path.parent, (exc.strerror or str(exc)).lower()) from exc
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in below:
            (self.path / name).mkdir(mode=0o700)
        until = time.monotonic() + _REMOVE_S
        for folder in dict.fromkeys((self.path.parent, Path(USUAL))):  # before it was set
            for other in folder.glob("sb-*"):
                if other != self.path and _NAME.fullmatch(other.name):
                    _remove_if_left(other, until - time.monotonic())

    def remove(self) -> None:
        """Remove it if this object made it."""
        if self._lock < 0:
            return
        remove(self.path, timeout_s=_REMOVE_S)
        os.close(self._lock)
        self._lock = -1


def _look_at(place: Path) -> None:
    """Go the way there name by name. Whoever may write to a folder of it, or owns it, decides what
    lies below; a link may be anybody's.

    Raises:
        Refused: that is somebody else than the system and this account.
        OSError: there is no such folder.
    """
    system = {0, Path("/").stat().st_uid}  # in a container root may have another number
    here, left, links = Path("/"), list(reversed(place.parts[1:])), 0
    while left:
        name = left.pop()
        if name == "..":  # of a link's target
            here = here.parent
            continue
        info = os.lstat(here / name)
        if stat.S_ISLNK(info.st_mode):
            links += 1
            if info.st_uid not in system or links > _MOST_LINKS:
                raise _refused(place, f"{here / name} is a link")
            target = (here / name).readlink()
            here = Path("/") if target.is_absolute() else here
            left += reversed([part for part in target.parts if part != "/"])
            continue
        here /= name
        if not stat.S_ISDIR(info.st_mode):
            raise _refused(place, f"{here} is no folder")
        if info.st_uid not in {*system, os.getuid()}:
            raise _refused(place, f"{here} belongs to another account")
        if info.st_mode & 0o022 and not info.st_mode & stat.S_ISVTX:
            raise _refused(place, f"others may rename what lies in {here}")
    for home in _homes():
        if here == home or home in here.parents:
            raise _refused(place, f"it lies in the home {home}, which other computers share")


def _homes() -> set[Path]:
    """The account's homes, as folders; not one that is the whole computer."""
    told = [os.environ.get("HOME", "")]
    with contextlib.suppress(KeyError):
        told.append(pwd.getpwuid(os.getuid()).pw_dir)
    return {Path(home).resolve() for home in told if home.startswith("/")} - {Path("/")}


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
