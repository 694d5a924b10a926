"""The modules are compiled once per code, in the background."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from lib.model import ModuleId
from lib.server.module_cache import fill_module_cache

MODULES = (ModuleId("active-fire"),)


@pytest.mark.slow
async def test_the_cache_is_filled_once(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    await fill_module_cache(MODULES, cache)
    compiled = {p: p.stat().st_mtime_ns for p in cache.rglob("*.nbc")}
    assert compiled
    (cache / next(iter(compiled))).unlink()
    await fill_module_cache(MODULES, cache)
    assert len(list(cache.rglob("*.nbc"))) == len(compiled) - 1, "it compiled again"


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
