"""The runtime folder of a portal: sockets, for us alone, at a short path.

It is found from the data folder, so that a portal that starts after a crash finds the ssh
masters and forwards of the one before.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

from lib.config.data_dir import PortalRecord, read_record, running_portal
from lib.errors import Refused, Unavailable
from lib.files.atomic import write_atomic

#: The address of a UNIX socket ends at 104 characters on some systems; what lies below
#: the runtime folder needs up to 62 of them (`CLUSTER.ctl` and ssh's temporary suffix).
LONGEST_RUNTIME = 40
#: The file of a runtime folder that says which data folder it belongs to.
_OF = "data"
#: ssh's options read nothing else in a path.
_PLAIN = re.compile(r"/[A-Za-z0-9._/-]*")


def runtime_path(data: Path) -> Path:
    """Where the sockets of the portal on `data` lie: short whatever the length of `data`.

    The folder that the last portal used is used again while it is there, since its ssh
    masters may still run, even when we have been given another XDG_RUNTIME_DIR.
    """
    last = read_record(data)
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


def name_data_folder(runtime: Path, data: Path) -> None:
    """Write down whose runtime folder this is, for `running_portals`."""
    write_atomic(runtime / _OF, os.fsencode(data))


def running_portals(beside: Path) -> dict[Path, PortalRecord]:
    """The portals of this account that run now, by their data folders.

    Args:
        beside: some portal's runtime folder; those of the others lie next to it.
    """
    found = {}
    for runtime in sorted(beside.parent.glob("sb-*")):
        if not _is_private(runtime):
            continue
        try:
            data = Path(os.fsdecode((runtime / _OF).read_bytes()))
        except OSError:
            continue
        running = running_portal(data)
        if running is not None:
            found[data] = running
    return found


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
