"""New stores without the work of the migrations, which make the same file each time."""

from __future__ import annotations

import functools
import tempfile
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
