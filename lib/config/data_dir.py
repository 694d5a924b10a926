"""The data folder of a portal: private, and one portal's at a time.

`DATA/portal.json` says which portal has it, and holds the lock.
"""

from __future__ import annotations

import fcntl
import json
import pwd
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import Conflict, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

PORTAL_FILE = "portal.json"


@dataclass(frozen=True, slots=True)
class PortalRecord:
    """The portal that has a data folder, or had it last."""

    pid: int
    origin: str
    runtime: str


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
            other = read_record(data)
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
        return read_record(data)
    except OSError:
        return None
    return None


def read_record(data: Path) -> PortalRecord | None:
    """The portal that has `data`, or had it last; None where none is written down."""
    try:
        return PortalRecord(**json.loads((data / PORTAL_FILE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def account_name(user: int) -> str:
    """As people know it; the number where it has no name."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
