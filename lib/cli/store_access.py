"""What commands on a portal share: which portal is meant, its store, and in whose name they act.

A command that looks into a portal makes none: it is refused where there is no portal. Whoever
means the one that runs, and has named another, is told before anything is done.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from lib.auth import OWNER, auth_of
from lib.cli.output import plain
from lib.config import settings
from lib.config.data_dir import PORTAL_FILE, account_name, make_data_folder, running_portal
from lib.config.runtime_dir import running_portals, runtime_path
from lib.errors import NotFound, Refused
from lib.store import Store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from lib.auth import Auth
    from lib.config.data_dir import PortalRecord

#: Whoever may run a command on the data folder acts as the portal's owner; the audit log
#: says by which way.
BY = replace(OWNER, via="admin.py")
#: What a portal, or whoever has taken scenes in for it, leaves in its data folder.
_MARKS = ("portal.sqlite", PORTAL_FILE, "scenes")


@contextmanager
def store_of(options: argparse.Namespace) -> Iterator[Store]:
    """The store of a portal that has run at least once.

    Raises:
        NotFound: none has, on this data folder.
    """
    data = portal_of(options)
    if not (data / "portal.sqlite").exists():
        raise NotFound(f"No portal has run on the data folder {data} yet; start ./run first.")
    store = Store(data / "portal.sqlite")
    try:
        yield store
    finally:
        store.close()


@contextmanager
def auth_on(options: argparse.Namespace) -> Iterator[tuple[Store, Auth]]:
    """That store, and who may come by the settings of the moment."""
    chosen = settings.load(portal_of(options))
    with store_of(options) as store:
        yield store, auth_of(chosen, store)


def portal_of(options: argparse.Namespace) -> Path:
    """The data folder of the portal that is meant; says which, where another one runs.

    Raises:
        NotFound: no portal has run there, and which ones run.
        Refused: as of `data_of`.
    """
    data = data_of(options)
    others = _others(data)
    if not has_portal(data):
        raise NotFound(
            f"No portal has run on the data folder {data} yet; start ./run first, or name the "
            f"folder of another with --data.{_listed(others)}"
        )
    _say_which(options, data, "which does not run", others)
    return data


def portal_or_new(options: argparse.Namespace) -> Path:
    """The same for a command that may be the first on a data folder, which it makes."""
    data = data_of(options)
    if has_portal(data):
        return portal_of(options)
    where = "where no portal has run yet" if data.exists() else "which is made now"
    _say_which(options, data, where, _others(data), always=True)
    make_data_folder(data)
    return data


def has_portal(data: Path) -> bool:
    """Whether a portal has run on this folder, or was set up in it."""
    return any((data / name).exists() for name in (*_MARKS, settings.FILE))


def _others(data: Path) -> dict[Path, PortalRecord]:
    """The portals of this account that run, none of which is on `data`; {} where one is."""
    if running_portal(data) is not None:
        return {}
    return running_portals(runtime_path(data))


def _listed(running: Mapping[Path, PortalRecord]) -> str:
    return "".join(f" The portal at {r.origin} has --data {d}." for d, r in running.items())


def _say_which(
    options: argparse.Namespace,
    data: Path,
    state: str,
    others: Mapping[Path, PortalRecord],
    *,
    always: bool = False,
) -> None:
    """Once for each command, on stderr: the answer may be for a program."""
    if (others or always) and not getattr(options, "said_which", False):
        options.said_which = True
        said = f"This is about the portal on {data}, {state}.{_listed(others)}"
        print(plain(said), file=sys.stderr, flush=True)


def data_of(options: argparse.Namespace) -> Path:
    """The data folder, resolved; it need not exist.

    Raises:
        Refused: it belongs to another account, which must run the command.
    """
    data: Path = options.data.expanduser().resolve()
    try:
        owner = account_name(data.stat().st_uid)
        ours = os.access(data, os.R_OK | os.X_OK, effective_ids=True)
    except FileNotFoundError:
        return data
    except PermissionError:
        owner, ours = "another account", False
    if not ours:
        raise Refused(
            f"The data folder {data} belongs to {owner}: run this as that account, with sudo -u."
        )
    return data
