"""Opening the SQLite file: private, migrated, safe for threads and processes."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError

from lib.errors import Conflict, SceneBridgeError, StorageFull, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIGRATIONS = Path(__file__).parent / "migrations"
_WRITES = "scenebridge_writes"


def open_database(path: Path) -> Engine:
    """Open `path` (made 0600 when new) and bring it to this version's schema.

    Raises:
        Conflict: the file was written by a newer version.
        Unavailable: it cannot be read or written.
    """
    try:
        # Only a new file is opened here: closing a second descriptor of a database that
        # this process has open would drop SQLite's POSIX locks on it, and the next
        # process to close the database would delete the WAL under us.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    except OSError as exc:
        raise Unavailable(f"The portal's store {path} cannot be opened: {exc.strerror}.") from exc
    address = URL.create("sqlite", database=str(path))
    engine = create_engine(address, connect_args={"timeout": 15.0})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    try:
        _migrate(engine)
    except SceneBridgeError:
        engine.dispose()
        raise
    except DatabaseError as exc:
        engine.dispose()
        raise _explained(exc, path) from exc
    return engine


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    # sqlite3 would begin a transaction only at the first write, so what was read before
    # it might have changed: we begin it ourselves, in `_begin`.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _explained(exc: DatabaseError, path: Path) -> SceneBridgeError:
    if not isinstance(exc, OperationalError):
        return Unavailable(f"The portal's store {path} is damaged: {exc.orig}.")
    return _known(exc) or Unavailable(f"The portal's store {path} cannot be used: {exc.orig}.")


def _known(exc: OperationalError) -> SceneBridgeError | None:
    """The error to show for a fault of the computer; None for a fault of ours."""
    said = str(exc.orig)
    if "full" in said:
        return StorageFull(
            "The disk that holds the portal's data is full. Free some space; nothing is lost."
        )
    if "locked" in said:
        return Unavailable("The portal's store is busy. Try again in a moment.")
    if "readonly" in said or "disk I/O" in said or "unable to open" in said:
        return Unavailable(f"The portal's store cannot be written: {said}.")
    return None


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def is_current(path: Path) -> bool:
    """Whether the file has this version's schema; an older one is migrated when opened.

    Changes nothing.

    Raises:
        Conflict: the file was written by a newer version.
        Unavailable: it cannot be read.
    """
    engine = create_engine(URL.create("sqlite", database=str(path)))
    try:
        with engine.connect() as connection:
            return _is_current(connection)
    except DatabaseError as exc:
        raise _explained(exc, path) from exc
    finally:
        engine.dispose()


@cache
def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _is_current(connection: Connection) -> bool:
    scripts = _scripts()
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in {s.revision for s in scripts.walk_revisions()}:
        raise Conflict(
            "This data folder was used by a newer version of SceneBridge. "
            "Update the program, or choose another folder with --data."
        )
    return current == scripts.get_current_head()


def _migrate(engine: Engine) -> None:
    with _writing(engine).begin() as connection:
        if not _is_current(connection):
            command.upgrade(_config(connection), "head")


def _writing(engine: Engine) -> Engine:
    return engine.execution_options(**{_WRITES: True})


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One write transaction, alone from its first statement to its last.

    Raises:
        StorageFull: the disk is full; nothing of the transaction was kept.
        Unavailable: another process holds the store for long, or it cannot be written.
    """
    try:
        with _writing(engine).begin() as connection:
            yield connection
    except OperationalError as exc:
        known = _known(exc)
        if known is None:
            raise
        raise known from exc
