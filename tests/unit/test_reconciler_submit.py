"""Submitter whose answers are late or lost, with files to be staged: one job, never ended
by its own repetition."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib.model import SessionState
from lib.reconciler.submit import Submitter
from tests.fakes.reconciler_harness import ReconcilerHarness, until
from tests.fakes.things import FIRE, HERE, add_session


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ReconcilerHarness]:
    """A store and a gate; no reconciler runs: the test itself calls it."""
    it = ReconcilerHarness(tmp_path)
    yield it
    it.store.close()


def a_submitter(world: ReconcilerHarness) -> Submitter:
    return Submitter(HERE, world.link, world.store, {FIRE.id: FIRE}, "http://localhost:8501")


def staged_session(world: ReconcilerHarness, folder: Path) -> Any:
    file = folder / "LC08_A" / "red.tif"
    file.parent.mkdir()
    file.write_bytes(b"red")
    return add_session(world.store, folder=str(folder), bands=("red",)).id


async def test_a_list_that_was_read_too_early_submits_nothing_twice(
    world: ReconcilerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session was refused as “submitted already” when the store was read before its
    submit was written down, and looked at afterwards."""
    session = staged_session(world, tmp_path)
    running, submitted = a_submitter(world), threading.Event()
    live_sessions = world.store.work.live_sessions

    def slow(cluster: Any) -> Any:
        found = live_sessions(cluster)
        assert submitted.wait(300)
        return found

    await running.run(world.gate.info())
    monkeypatch.setattr(world.store.work, "live_sessions", slow)
    second = asyncio.create_task(running.run(world.gate.info()))
    await until(lambda: world.session(session).state is SessionState.SUBMITTED)
    await until(lambda: not running._busy)
    submitted.set()
    await second
    await until(lambda: not running._busy)
    assert world.session(session).state is SessionState.SUBMITTED
    assert [verb for verb, _ in world.gate.calls].count("submit") == 1


async def test_a_lost_answer_to_a_submit_with_staged_files(
    world: ReconcilerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate takes no more files for a job that it has; the repetition finds the job."""
    monkeypatch.setattr("lib.reconciler.submit._LONGEST_PAUSE_S", 0.0)
    world.gate.lose_replies["submit"] = 1
    session = staged_session(world, tmp_path)
    running = a_submitter(world)

    async def again() -> bool:
        await running.run(world.gate.info())
        return world.session(session).state is not SessionState.NEW

    await until(again)
    await running.close()
    assert world.session(session).state is SessionState.SUBMITTED
    assert world.gate.submitted == 1
