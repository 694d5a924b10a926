"""The modules are compiled once per code, in the background."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lib.model import ModuleId
from lib.server.module_cache import fill_module_cache
from tests.isolation import PROJECT

MODULES = (ModuleId("offshore-objects"),)


@pytest.mark.slow
async def test_the_cache_is_filled_once_and_modules_use_it(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    await fill_module_cache(MODULES, cache)
    compiled = times_of(cache)
    assert compiled
    next(cache.rglob("*.nbc")).unlink()
    await fill_module_cache(MODULES, cache)
    assert len(times_of(cache)) == len(compiled) - 1, "it compiled again"
    # Where the account keeps its own, a module compiles what is missing and no more.
    own = tmp_path / "home" / "scenebridge" / "numba"
    shutil.copytree(cache, own)
    there = times_of(own)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "home")}
    del environment["NUMBA_CACHE_DIR"]
    command = [sys.executable, "-m", "modules.offshore_objects", "warm"]
    warm = functools.partial(subprocess.run, command, cwd=PROJECT, env=environment)
    await asyncio.to_thread(warm, check=True, timeout=300)
    after = times_of(own)
    assert after.keys() == compiled.keys()
    assert there.items() <= after.items()


def times_of(folder: Path) -> dict[Path, int]:
    """When each kernel below it was compiled."""
    return {file.relative_to(folder): file.stat().st_mtime_ns for file in folder.rglob("*.nbc")}


async def test_a_module_that_cannot_be_warmed_is_tried_again(tmp_path: Path) -> None:
    await fill_module_cache((ModuleId("no-such-module"),), tmp_path / "cache")
    assert not (tmp_path / "cache" / "warmed").exists()


async def test_cancelling_ends_the_compiler(tmp_path: Path) -> None:
    before = psutil.Process().children()  # of tests that ran before in this process
    task = asyncio.create_task(fill_module_cache(MODULES, tmp_path / "cache"))
    while not (children := set(psutil.Process().children()) - set(before)):  # noqa: ASYNC110 (nothing tells)
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(child.is_running() and child.status() != "zombie" for child in children)
