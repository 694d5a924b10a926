"""Opening the SQLite file: private, migrated, safe for threads and processes."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError

from lib.errors import Conflict, SceneBridgeError, StorageFull, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIGRATIONS = Path(__file__).parent / "migrations"


def open_database(path: Path) -> Engine:
    """Open `path` (made 0600 when new) and bring it to this version's schema.

    Raises:
        Conflict: the file was written by a newer version.
        Unavailable: it cannot be read or written.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as exc:
        raise Unavailable(f"The portal's store {path} cannot be opened: {exc.strerror}.") from exc
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 15.0})
    event.listen(engine, "connect", _configure)
    try:
        _migrate(engine)
    except DatabaseError as exc:
        engine.dispose()
        raise Unavailable(f"The portal's store {path} is damaged: {exc.orig}.") from exc
    except SceneBridgeError:
        engine.dispose()
        raise
    return engine


def _configure(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def _migrate(engine: Engine) -> None:
    scripts = ScriptDirectory.from_config(_config())
    with engine.begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current == scripts.get_current_head():
            return
        if current is not None and current not in {s.revision for s in scripts.walk_revisions()}:
            raise Conflict(
                "This data folder was used by a newer version of SceneBridge. "
                "Update the program, or choose another folder with --data."
            )
        command.upgrade(_config(connection), "head")


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One write transaction; a full disk becomes `StorageFull`."""
    try:
        with engine.begin() as connection:
            yield connection
    except OperationalError as exc:
        if "full" in str(exc.orig):
            raise StorageFull(
                "The disk that holds the portal's data is full. Free some space; nothing is lost."
            ) from exc
        if "locked" in str(exc.orig):
            raise Unavailable("The portal's store is busy. Try again in a moment.") from exc
        raise
