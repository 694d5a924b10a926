"""Who may open tunnels on this host, and whether the program itself can be trusted there.

An administrator's account runs this program while it holds a forwarded agent. Whoever can
change the program or a cluster's file can have that agent sign for something else; the
portal's account above all must not.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lib.config.clusters import ACCOUNT_PATTERN
from lib.config.data_dir import account_name
from lib.errors import InvalidInput, NotFound, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PORTAL_GROUP = "scenebridge"
_FOLDER_MODE = 0o2750


def calling_account() -> str:
    """The name of the calling account."""
    return account_name(os.geteuid())


def own_folder(tunnels: Path) -> Path:
    """The calling account's folder, once root has admitted it.

    Raises:
        Refused: root asks, the portal's account asks, or the account was not admitted.
    """
    if os.geteuid() == 0:
        raise Refused(
            "Tunnels are opened by administrators in accounts of their own, not by root: "
            "admit one with `admin.py tunnel admit ACCOUNT` and come again as that account."
        )
    groups = {os.getegid(), *os.getgroups()}
    if groups & {folder.stat().st_gid for folder in _folders(tunnels)}:
        raise Refused(
            "This account belongs to the portal's group, so it may use tunnels and never open "
            "any. An administrator opens them in an account of their own."
        )
    name = calling_account()
    folder = tunnels / name
    try:
        status = folder.lstat()
    except OSError:
        raise Refused(
            f"The account {name} may not open tunnels yet: root on this host runs "
            f"`admin.py tunnel admit {name}`."
        ) from None
    sound = stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == _FOLDER_MODE
    if not sound or status.st_uid != os.geteuid():
        raise Refused(
            f"{folder} is not as it must be (the account's own, mode 2750): root on this host "
            f"runs `admin.py tunnel admit {name}` again."
        )
    require_safe([tunnels])
    return folder


def admit(tunnels: Path, account: str, portal_group: str) -> Path:
    """As root: give an account its folder, which the portal's group may enter. Idempotent.

    Raises:
        Refused: it is not root who asks, or the account is the portal's.
        NotFound: there is no such account or group.
    """
    if os.geteuid() != 0:
        raise Refused("Only root admits accounts: run it again with sudo.")
    if ACCOUNT_PATTERN.fullmatch(account) is None:
        raise InvalidInput(f"{account!r:.60} is not the name of an account.")
    try:
        user = pwd.getpwnam(account)
    except KeyError:
        raise NotFound(f"There is no account {account} on this host.") from None
    try:
        group = grp.getgrnam(portal_group)
    except KeyError:
        raise NotFound(
            f"There is no group {portal_group} on this host; give the group of the portal's "
            "account with --portal-group."
        ) from None
    if user.pw_uid == 0 or group.gr_gid == 0:
        raise Refused("Tunnels are neither root's nor for root's group.")
    if group.gr_gid in os.getgrouplist(user.pw_name, user.pw_gid):
        raise Refused(
            f"{account} belongs to the portal's group {portal_group}: it could be the portal, "
            "or be taken over by it. Admit an account of a person."
        )
    tunnels.mkdir(mode=0o755, parents=True, exist_ok=True)
    require_safe([tunnels])
    folder = tunnels / account
    folder.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(fd).st_uid not in (0, user.pw_uid):
            raise Refused(f"{folder} belongs to {account_name(os.fstat(fd).st_uid)}.")
        os.fchown(fd, user.pw_uid, group.gr_gid)
        os.fchmod(fd, _FOLDER_MODE)  # after chown, which takes setgid away
    finally:
        os.close(fd)
    return folder


def require_safe(files: Iterable[Path]) -> None:
    """Whether only root and the calling account can change these, and what they lie in.

    Raises:
        Refused: names the first that others can change.
    """
    seen: set[Path] = set()
    for file in files:
        _look_at(file.absolute(), seen)


def code_files() -> Iterator[Path]:
    """All that this process runs."""
    yield Path(sys.executable)
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file:
            yield Path(file)


def _look_at(path: Path, seen: set[Path]) -> None:
    """It and the folders above, as they are named and, where that is a link, as they are found."""
    while path not in seen:
        seen.add(path)
        try:
            status = path.lstat()
        except OSError:
            pass
        else:
            _require_safe(path, status)
            if stat.S_ISLNK(status.st_mode):
                _look_at(path.parent / path.readlink(), seen)
        path = path.parent


def _require_safe(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        mode = 0  # a link is changed by who may change its folder
    elif stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        mode = 0  # as /tmp: nobody moves away what is another's
    else:
        mode = status.st_mode
    others = mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not _private(status.st_gid))
    if others or status.st_uid not in (0, os.geteuid()):
        raise Refused(
            f"{path} could be changed by {'others' if others else account_name(status.st_uid)}, "
            "who could so misuse your keys. Root on this host gives it to root (chown root:) "
            "and takes others' rights to write away (chmod go-w)."
        )


def _private(gid: int) -> bool:
    """Whether a group holds root or the calling account alone."""
    if gid == 0:
        return True
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return False
    name = calling_account()
    return gid == os.getegid() and group.gr_name == name and set(group.gr_mem) <= {name}


def _folders(tunnels: Path) -> Iterator[Path]:
    try:
        yield from (f for f in tunnels.iterdir() if f.is_dir() and not f.is_symlink())
    except OSError:
        return
