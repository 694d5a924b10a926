"""`backup FILE`: what cannot be made again, in one archive, while the portal runs or not.

The store as one consistent moment of it, the settings, secrets and keys. Scenes and results
are plain files that only come and go: any program copies them.
"""

from __future__ import annotations

import os
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from lib.cli.output import Commands, Output, command
from lib.cli.store_access import BY, data_of, store_of
from lib.errors import Conflict, Unavailable

if TYPE_CHECKING:
    import argparse

_STORE = "portal.sqlite"
_BESIDE = ("settings.toml", "secrets", "keys")


def add_to(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    about = "Copy store, settings, secrets and keys into one .tar.gz file, readable by you alone."
    backup = command(commands, "backup", _backup, common, about)
    backup.add_argument("file", metavar="FILE", type=Path)
    backup.add_argument("--replace", action="store_true", help="where FILE is there already")


def _backup(options: argparse.Namespace) -> Output:
    file = options.file.expanduser().absolute()
    if file.exists() and not options.replace:
        raise Conflict(f"{file} is there already: choose another name, or use --replace.")
    with store_of(options) as store:
        store.audit.write(BY.id, "backup", file.name, via=BY.via)
    try:
        size = _write(data_of(options), file)
    except (OSError, sqlite3.Error) as exc:
        raise Unavailable(f"The backup {file} could not be written: {exc}.") from exc
    return Output({"file": str(file), "bytes": size}, f"{file}: {size} bytes. Keep it secret.")


def _write(data: Path, file: Path) -> int:
    """Whole or not at all: a file of that name that was there stays until the new one is."""
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=file.parent) as beside:
        copy, archive = Path(beside) / _STORE, Path(beside) / "archive"
        copy.touch(mode=0o600)
        archive.touch(mode=0o600)
        with (
            closing(sqlite3.connect(data / _STORE)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        with archive.open("wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as tar:
            tar.add(copy, _STORE)
            for name in _BESIDE:
                if (data / name).exists():
                    tar.add(data / name, name)
            tar.close()
            raw.flush()
            os.fsync(raw.fileno())
        size = archive.stat().st_size
        archive.replace(file)
    return size
