"""What commands on a portal's store share: the store itself, and in whose name they act."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from lib.auth import OWNER, auth_of
from lib.config import settings
from lib.config.data_dir import account_name
from lib.errors import NotFound, Refused
from lib.store import Store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    from lib.auth import Auth

#: Whoever may run a command on the data folder acts as the portal's owner; the audit log
#: says by which way.
BY = replace(OWNER, via="admin.py")


@contextmanager
def store_of(options: argparse.Namespace) -> Iterator[Store]:
    """The store of a portal that has run at least once.

    Raises:
        NotFound: none has, on this data folder.
    """
    data = data_of(options)
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
    chosen = settings.load(data_of(options))
    with store_of(options) as store:
        yield store, auth_of(chosen, store)


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
