"""The two folders of a portal: data (kept) and runtime (sockets), both for us alone.

One portal at a time has a data folder; `DATA/portal.json` says which, and holds the lock.
The runtime folder is found from the data folder, so that a portal that starts after a
crash finds the ssh masters and forwards of the one before.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import re
import stat
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import Conflict, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The address of a UNIX socket ends at 104 characters on some systems; what lies below
#: the runtime folder needs up to 62 of them (`CLUSTER.ctl` and ssh's temporary suffix).
LONGEST_RUNTIME = 40
#: ssh's options read nothing else in a path.
_PLAIN = re.compile(r"/[A-Za-z0-9._/-]*")
PORTAL_FILE = "portal.json"


@dataclass(frozen=True, slots=True)
class PortalRecord:
    """The portal that has a data folder, or had it last."""

    pid: int
    origin: str
    runtime: str


# --- data ----------------------------------------------------------------------------


def make_data_folder(data: Path) -> None:
    """Make sure that `data` is there and can be written to; a new one is private.

    Raises:
        Unavailable: it is not, and why.
    """
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data):
            pass
    except FileExistsError as exc:
        raise Unavailable(f"The data folder {data} cannot be used: it is a file.") from exc
    except OSError as exc:
        raise Unavailable(
            f"The data folder {data} cannot be written to ({exc.strerror}). "
            "Choose another with --data."
        ) from exc


@contextmanager
def lock_data_folder(data: Path, running: PortalRecord) -> Iterator[None]:
    """Have the data folder to ourselves until the end of the block, or of the process.

    Raises:
        Conflict: another portal has it.
    """
    with (data / PORTAL_FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            other = _read_portal(data)
            where = f" at {other.origin} (process {other.pid})" if other else ""
            raise Conflict(
                f"SceneBridge is already running on the data folder {data}{where}. "
                "Stop it first, or choose another folder with --data."
            ) from exc
        file.truncate(0)
        file.write(json.dumps(asdict(running)))
        file.flush()
        yield


def running_portal(data: Path) -> PortalRecord | None:
    """The portal that runs on `data` now, if one does."""
    try:
        with (data / PORTAL_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_portal(data)
    except OSError:
        return None
    return None


def _read_portal(data: Path) -> PortalRecord | None:
    try:
        return PortalRecord(**json.loads((data / PORTAL_FILE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


# --- runtime --------------------------------------------------------------------------


def runtime_path(data: Path) -> Path:
    """Where the sockets of the portal on `data` lie: short whatever the length of `data`.

    The folder that the last portal used is used again while it is there, since its ssh
    masters may still run, even when we have been given another XDG_RUNTIME_DIR.
    """
    last = _read_portal(data)
    if last is not None and _is_private(Path(last.runtime)):
        return Path(last.runtime)
    mark = hashlib.sha256(os.fsencode(data)).hexdigest()[:8]
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    short = Path(session) / f"sb-{mark}"
    fits = len(str(short)) <= LONGEST_RUNTIME and _PLAIN.fullmatch(session) is not None
    if fits and _is_ours(session):
        return short
    return Path("/tmp") / f"sb-{os.getuid()}-{mark}"  # noqa: S108 - made 0700 and checked


def make_runtime_folder(runtime: Path) -> None:
    """Make sure that `runtime` is a folder that only we can enter.

    Raises:
        Refused: something else has this name, or somebody else owns it.
        Unavailable: it cannot be made.
    """
    try:
        runtime.mkdir(mode=0o700)
    except FileExistsError:
        if not _is_private(runtime):
            raise Refused(
                f"The folder {runtime} for SceneBridge's sockets is there already and is not "
                "private to you. Have it removed, then start again."
            ) from None
    except OSError as exc:
        raise Unavailable(f"The folder {runtime} cannot be made: {exc.strerror}.") from exc


def _is_private(folder: Path) -> bool:
    """A real folder of ours, closed to everybody else. A link to one is not."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.getuid()
        and stat.S_IMODE(status.st_mode) & 0o077 == 0
    )


def _is_ours(folder: str) -> bool:
    try:
        return Path(folder).stat().st_uid == os.getuid() and os.access(folder, os.W_OK)
    except OSError:
        return False


def account_name(user: int) -> str:
    """As people know it; the number where it has no name."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
