"""New stores without the work of the migrations, which make the same file each time."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from lib.store import Store


@functools.cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "portal.sqlite"
        Store(path).close()
        return path.read_bytes()


def new_store(path: Path, filled: Callable[[Store], None] | None = None) -> Store:
    """Open a store that is not there yet, empty or with what `filled` writes.

    Args:
        filled: called once for all stores of this process that it is given for.
    """
    path.touch(0o600, exist_ok=False)
    path.write_bytes(_empty() if filled is None else _filled(filled))
    return Store(path)


@functools.cache
def _filled(fill: Callable[[Store], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "portal.sqlite"
        with closing(new_store(path)) as store:
            fill(store)
        return path.read_bytes()


def open_store(path: Path) -> Store:
    """Open a store, a new one where there is none; several processes may do so at once."""
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=path.parent) as whole, suppress(FileExistsError):
            Path(whole.name).write_bytes(_empty())
            path.hardlink_to(whole.name)
    return Store(path)
