"""Sample scenes are made beside the portal, said step by step, and taken up again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lib.config.settings import PROJECT
from lib.server import sample_scenes
from lib.server.sample_scenes import ingest_once, mark_of


def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Let `code` stand for the child."""
    package = tmp_path / "project" / "lib" / "server"
    package.mkdir(parents=True)
    (package / "sample_scenes.py").write_text(f"import json, sys, time\n{code}\n")
    monkeypatch.setattr(sample_scenes, "PROJECT", tmp_path / "project")


def half_done(data: Path) -> list[Path]:
    return [*data.glob(".samples-*"), *data.glob("scenes/.incoming-*")]


async def test_steps_and_problems_are_told_and_the_end_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    child(
        monkeypatch,
        tmp_path,
        "for line in (['step', 'one'], ['problem', 'no network'], ['step', 'two']):\n"
        "    print(json.dumps(line), flush=True)",
    )
    await ingest_once(tmp_path, lambda *line: told.append(line))
    assert told == [("one", ""), ("", "no network"), ("two", "no network"), ("", "no network")]
    assert mark_of(tmp_path).exists()
    told.clear()
    await ingest_once(tmp_path, lambda *line: told.append(line))
    assert told == [], "what a user has removed since does not come back"


async def test_one_that_fails_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    child(monkeypatch, tmp_path, "sys.exit(1)")
    await ingest_once(tmp_path, lambda *line: told.append(line))
    assert len(told) == 1
    assert "the next start goes on" in told[0][1]
    assert not mark_of(tmp_path).exists()


@pytest.mark.slow
async def test_a_stop_ends_the_child_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    """The real child, stopped while it makes a scene."""
    (tmp_path / "cache" / "samples").mkdir(parents=True)
    begun = asyncio.Event()

    def report(step: str, _problem: str) -> None:
        if step:
            begun.set()

    before = set(psutil.Process().children())
    task = asyncio.create_task(ingest_once(tmp_path, report))
    await begun.wait()
    children = set(psutil.Process().children()) - before
    for one in children:  # a signal of somebody else's, and those of the stop
        one.terminate()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children
    assert not any(one.is_running() and one.status() != "zombie" for one in children)
    assert not mark_of(tmp_path).exists()
    assert half_done(tmp_path) == []


def test_none_outlives_a_portal_that_is_killed(tmp_path: Path) -> None:
    """Its standard input ends with the portal."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lib.server.sample_scenes", str(tmp_path)],
        cwd=PROJECT,
        env={"PYTHONPATH": str(PROJECT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert done.returncode == 1
    assert not mark_of(tmp_path).exists()
