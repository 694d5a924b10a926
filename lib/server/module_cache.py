"""Compiling the modules once, in the background, so that the first run is quick too.

A module without `warm`, or one that fails, costs nothing: its first run compiles.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from lib.config.settings import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from lib.model import ModuleId

MARK = "warmed"
_NICE = 10


async def fill_module_cache(modules: Iterable[ModuleId], cache: Path) -> None:
    """Fill the jobs' `cache` for these modules, one after the other; skipped when it is
    filled for this very code. Cancelling ends the compiler."""
    code = code_digest()
    mark = cache / MARK
    with suppress(OSError):
        if mark.read_text("utf-8") == code:
            return
    await asyncio.to_thread(cache.mkdir, mode=0o700, parents=True, exist_ok=True)
    done = [await _warm(module, cache) for module in modules]
    if all(done):
        mark.write_text(code, "utf-8")


async def _warm(module: ModuleId, cache: Path) -> bool:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"modules.{module.replace('-', '_')}", "warm"),
        cwd=PROJECT,
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)
        return await process.wait() == 0
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise


def code_digest() -> str:
    """Of all that the cache is compiled from."""
    total = hashlib.sha256(sys.version.encode())
    for folder in ("modulekit", "modules"):
        for file in sorted((PROJECT / folder).rglob("*.py")):
            total.update(file.read_bytes())
    return total.hexdigest()
