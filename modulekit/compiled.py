"""Compiling numeric kernels with numba, with a cache on disk that works for any user.

Importing this module does not import numba; the first `@compiled` function does.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """Compile `function` in nopython mode; it releases the interpreter lock.

    Division by zero gives infinity or NaN as in numpy."""
    choose_cache_folder()
    import numba

    kernel: Callable[P, T] = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return kernel


def choose_cache_folder() -> None:
    """Set NUMBA_CACHE_DIR, unless it is set, to a folder that only this user can write.

    numba's own choice is beside the source, which is read-only in an image, and it
    stops when it finds no place. A cache holds code, so a folder of someone else is
    never used; without a home a new temporary folder serves this one process.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "scenebridge" / "numba"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK)
        chosen = str(folder) if private else ""
    except (OSError, RuntimeError):
        chosen = ""
    os.environ["NUMBA_CACHE_DIR"] = chosen or tempfile.mkdtemp(prefix="scenebridge-numba-")
