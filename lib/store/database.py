"""Opening the SQLite file: private, migrated, safe for threads and processes."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import DatabaseError, OperationalError

from lib.errors import SceneBridgeError, StorageFull, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The newest of `migrations/versions`.
REVISION = "0004"
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
    engine = create_engine(
        address, connect_args={"timeout": 15.0}, json_deserializer=_json_without_nan
    )
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


def _json_without_nan(text: str) -> object:
    """NaN and Infinity are no JSON: a store of an older version may hold them, no answer may."""
    return json.loads(text, parse_constant=lambda _: None)


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


def _is_current(connection: Connection) -> bool:
    """Without alembic, which takes a tenth of a second to import, where nothing is to do."""
    if inspect(connection).has_table("alembic_version"):
        versions = connection.exec_driver_sql("SELECT version_num FROM alembic_version").all()
        if versions == [(REVISION,)]:
            return True
    from lib.store import upgrade

    return upgrade.is_current(connection)


def _migrate(engine: Engine) -> None:
    with _writing(engine).begin() as connection:
        if not _is_current(connection):
            from lib.store import upgrade

            upgrade.upgrade(connection)


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
