"""Bringing a store to this version's schema, by the scripts in `migrations`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from lib.errors import Conflict

if TYPE_CHECKING:
    from sqlalchemy import Connection

_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(connection: Connection) -> None:
    """Run every script that this store has not seen, in its transaction."""
    command.upgrade(_config(connection), "head")


def is_current(connection: Connection) -> bool:
    """Whether every script has run.

    Raises:
        Conflict: one did that this version does not have.
    """
    known = scripts()
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in {s.revision for s in known.walk_revisions()}:
        raise Conflict(
            "This data folder was used by a newer version of SceneBridge. "
            "Update the program, or choose another folder with --data."
        )
    return current == known.get_current_head()


@cache
def scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    if connection is not None:
        config.attributes["connection"] = connection
    return config
