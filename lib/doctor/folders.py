"""Who may read and write what a portal keeps; its store; the free space."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from lib.config.data_dir import account_name
from lib.config.settings import PROJECT
from lib.doctor.check import Check
from lib.errors import SceneBridgeError
from lib.store.database import is_current

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lib.config.settings import Settings

#: Less free space than this and a few full scenes fill the disk.
LOW_DISK_BYTES = 5 * 2**30
_SECRET = ("portal.sqlite*", "portal.log*", "keys/*", "secrets/*", "embedded")
_PUBLIC = (".pub", ".host")
#: What becomes part of a portal when it starts.
_CODE = (".", "lib", "admin.py", "app.py", "run", "catalogs", "modules", ".venv")


def checks(chosen: Settings) -> Iterator[Check]:
    yield permissions(chosen)
    yield runtime(chosen)
    if not chosen.single_user:
        yield account(chosen)
        yield code(chosen, PROJECT)
    yield store(chosen)
    yield disk(chosen)


def permissions(chosen: Settings) -> Check:
    """Whether other accounts are kept away from what is secret, and from the settings."""
    data = chosen.data
    private = [f for p in _SECRET for f in data.glob(p) if f.suffix not in _PUBLIC]
    own_files = [chosen.client_secret_file(provider) for provider in chosen.provider]
    private += [file for file in own_files if file.exists() and file not in private]
    open_to_others = [f for f in (data, *private) if _mode(f) & 0o077]
    if open_to_others:
        return Check(
            "permissions", False,
            f"others may enter or read {_names(open_to_others)}: chmod go= on them",
        )  # fmt: skip
    owner = data.stat().st_uid
    foreign = [file for file in private if file.stat().st_uid != owner]
    if foreign:
        return Check(
            "permissions", False,
            f"{_names(foreign)} do not belong to the account that {data} belongs to: "
            f"chown them to {account_name(owner)}",
        )  # fmt: skip
    settings_file = data / "settings.toml"
    if settings_file.exists() and _mode(settings_file) & 0o022:
        return Check(
            "permissions", False, f"others may write {settings_file}: chmod go-w on it"
        )  # fmt: skip
    return Check("permissions", True, f"{data} is closed to other accounts")


def runtime(chosen: Settings) -> Check:
    """The folder of sockets; it is made at each start."""
    folder = chosen.runtime
    try:
        status = folder.lstat()
    except OSError:
        return Check("runtime folder", True, f"{folder} is made when the portal starts")
    private = (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == chosen.data.stat().st_uid
        and not stat.S_IMODE(status.st_mode) & 0o077
    )
    if private:
        return Check("runtime folder", True, f"{folder} is private")
    return Check(
        "runtime folder", False,
        f"{folder} is not a private folder of the portal's account: stop the portal, remove it, "
        "and find out who made it",
    )  # fmt: skip


def account(chosen: Settings) -> Check:
    """An account of its own limits what a fault in the portal can do."""
    owner = chosen.data.stat().st_uid
    if owner == 0:
        return Check(
            "account", False,
            f"{chosen.data} belongs to root: run the portal under an account of its own, see "
            "docs/operate.md",
        )  # fmt: skip
    return Check("account", True, f"the portal is {account_name(owner)}'s")


def code(chosen: Settings, project: Path) -> Check:
    """Whoever may change the program may do whatever it does, at its next start."""
    owner = chosen.data.stat().st_uid
    files = [project / name for name in _CODE if (project / name).exists()]
    writable = [
        f for f in files
        if _mode(f) & 0o022 or (f.stat().st_uid == owner and owner != 0)
    ]  # fmt: skip
    if writable:
        return Check(
            "program", False,
            f"the portal's account or others may change {_names(writable)}: "
            "chown -R root: and chmod -R go-w",
        )  # fmt: skip
    return Check("program", True, f"{project} can be changed by its owner alone")


def store(chosen: Settings) -> Check:
    """Whether this version of the program and the store fit."""
    file = chosen.data / "portal.sqlite"
    if not file.exists():
        return Check("store", True, f"{file} is made when the portal starts")
    try:
        current = is_current(file)
    except SceneBridgeError as exc:
        return Check("store", False, exc.message)
    return Check(
        "store",
        True,
        f"{file} is of this version"
        if current
        else f"{file} is of an older version and is brought up to date at the next start: "
        "back it up before",
    )


def disk(chosen: Settings) -> Check:
    """Space for scenes and results."""
    usage = shutil.disk_usage(chosen.data)
    detail = f"{usage.free / 2**30:.1f} GiB free below {chosen.data}"
    if usage.free < LOW_DISK_BYTES:
        return Check(
            "disk", False, f"{detail}, and a full scene needs about 1 GiB: free some space"
        )  # fmt: skip
    return Check("disk", True, detail)


def _mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def _names(files: Iterable[Path]) -> str:
    return ", ".join(str(file) for file in files)
