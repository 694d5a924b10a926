"""New stores without the work of the migrations, which make the same file each time."""

from __future__ import annotations

import functools
import tempfile
from contextlib import suppress
from pathlib import Path

from lib.store import Store


@functools.cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "portal.sqlite"
        Store(path).close()
        return path.read_bytes()


def new_store(path: Path) -> Store:
    """Open a store that is not there yet."""
    path.touch(0o600, exist_ok=False)
    path.write_bytes(_empty())
    return Store(path)


def open_store(path: Path) -> Store:
    """Open a store, a new one where there is none; several processes may do so at once."""
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=path.parent) as whole, suppress(FileExistsError):
            Path(whole.name).write_bytes(_empty())
            path.hardlink_to(whole.name)
    return Store(path)
