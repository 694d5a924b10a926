"""Runs whose cluster, portal or disk fails on the way: nothing is lost, nothing twice."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lib.errors import StorageFull
from lib.model import JobState, RunId, RunState, SceneId, SceneState
from lib.reconciler.results import ResultCollector
from lib.store import Store
from lib.store.changes import RunChange, SceneChange, SessionChange
from tests.fakes.acts import begun, done, write_results
from tests.fakes.reconciler_harness import ReconcilerHarness, hurry, running_reconciler, until
from tests.fakes.things import (
    HERE,
    add_run,
    add_session,
    object_event,
)

A = SceneId("A")
RUNNING = RunState.RUNNING


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ReconcilerHarness]:
    async with running_reconciler(tmp_path) as it:
        await it.connected()
        yield it


# --- the cluster cannot be asked, the portal restarts ----------------------------------


async def test_unreachable_while_fetching_ends_nothing(world: ReconcilerHarness) -> None:
    run = await begun(world)
    write_results(world, run.id)
    world.gate.before["get"] = world.gate.go_away
    world.gate.say(run.id, object_event(1, "A"), object_event(2, "A"), done())
    world.gate.end(run.id)
    await until(lambda: not world.reconciler.health(HERE).reachable)
    await world.quiet()
    assert world.run(run.id).state is RUNNING
    del world.gate.before["get"]
    world.gate.come_back()
    over = await world.run_is(run.id, RunState.DONE)
    assert over.objects == 2
    assert all(d.has_chip for d in world.store.detections.of_run(run.id))


@pytest.mark.parametrize("gets", [0, 1, 3, 5, 7])
async def test_a_portal_that_dies_while_fetching_ends_at_the_same_result(
    world: ReconcilerHarness, gets: int
) -> None:
    run = await begun(world)
    write_results(world, run.id, numbers=(1, 2, 3))
    left = [None] * gets
    stuck = asyncio.Event()

    async def wait_for_ever() -> None:
        if left:
            left.pop()
            return
        stuck.set()
        await asyncio.Event().wait()

    world.gate.before["get"] = wait_for_ever
    world.gate.say(run.id, *(object_event(n, "A") for n in (1, 2, 3)), done(objects=3))
    world.gate.end(run.id)
    if gets < 7:
        await stuck.wait()
    await world.reconciler.close()
    del world.gate.before["get"]
    await world.restart()
    over = await world.run_is(run.id, RunState.DONE)
    assert (over.objects, over.scenes[0].objects, over.scenes[0].message) == (3, 3, "")
    found = world.store.detections.of_run(run.id)
    assert [(d.n, d.has_chip, len(d.geometry["coordinates"][0])) for d in found] == [
        (n, True, 4) for n in (1, 2, 3)
    ]


async def test_another_run_s_slow_files_do_not_hold_up_the_stream(world: ReconcilerHarness) -> None:
    run = await begun(world)
    write_results(world, run.id)
    stuck = asyncio.Event()

    async def wait_for_ever() -> None:
        stuck.set()
        await asyncio.Event().wait()

    world.gate.before["get"] = wait_for_ever
    world.gate.say(run.id, object_event(1, "A"))
    await stuck.wait()
    world.gate.say(run.id, object_event(2, "A"))
    await until(lambda: world.run(run.id).objects == 2)
    other = await begun(world)
    assert world.run(other.id).state is RUNNING


async def test_a_lost_run_is_over(world: ReconcilerHarness) -> None:
    run = await begun(world, "A", "B")
    world.gate.say(run.id, object_event(1, "A"))
    await until(lambda: world.run(run.id).objects == 1)
    await world.reconciler.close()
    world.store.work.update_scene(run.id, A, SceneChange(state=SceneState.DONE))
    world.gate.forget(run.id)
    await world.restart()
    over = await world.run_is(run.id, RunState.PARTIAL)
    assert "does not know it any more" in over.reason
    assert "outlines of the objects are missing" in over.scenes[0].message
    assert len(world.store.detections.of_run(run.id)) == 1


async def test_a_run_of_a_session_that_ended_long_ago_is_over(world: ReconcilerHarness) -> None:
    """The portal was down until the gate had removed the files."""
    session = add_session(world.store, "A")
    world.wake()
    await until(lambda: session.id in world.gate.jobs)
    world.gate.start(session.id)
    await world.run_is(session.run, RUNNING)
    await world.reconciler.close()
    world.store.work.update_session(session.id, SessionChange(state=type(session.state).ENDED))
    world.gate.forget(session.id)
    await world.restart()
    over = await world.run_is(session.run, RunState.FAILED)
    assert "does not know it any more" in over.reason


async def test_a_run_cancelled_before_it_was_submitted_never_starts(
    world: ReconcilerHarness,
) -> None:
    world.gate.go_away()
    await until(lambda: not world.reconciler.health(HERE).reachable)
    run = add_run(world.store, "A")
    world.store.work.update_run(run.id, RunChange(stopping=True))
    world.wake()
    over = await world.run_is(run.id, RunState.CANCELLED)
    assert over.reason == "It was cancelled before it started."
    world.gate.come_back()
    await world.connected()
    await world.quiet(0.1)
    assert world.gate.jobs == {}


async def test_a_job_that_runs_though_its_run_was_cancelled_is_ended(
    world: ReconcilerHarness,
) -> None:
    run = await begun(world)
    await world.reconciler.close()
    world.store.work.update_run(run.id, RunChange(state=RunState.CANCELLED))
    await world.restart()
    await until(lambda: world.gate.jobs[run.id].status.state is JobState.ENDED)


# --- full disks -------------------------------------------------------------------------


async def test_a_disk_that_is_full_while_results_arrive_loses_nothing(
    world: ReconcilerHarness,
) -> None:
    run = await begun(world)
    write_results(world, run.id)
    get = world.link.get

    async def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    world.link.get = full  # type: ignore[method-assign]
    world.gate.say(run.id, object_event(1, "A"), done())
    world.gate.end(run.id)
    await until(lambda: "disk" in world.run(run.id).reason)
    assert "Free some space" in world.run(run.id).reason
    assert world.run(run.id).state is RUNNING
    world.link.get = get  # type: ignore[method-assign]
    over = await world.run_is(run.id, RunState.DONE)
    assert over.reason == ""
    assert [d.has_chip for d in world.store.detections.of_run(run.id)] == [True, False]


async def test_results_that_cannot_be_written_say_so_and_arrive_later(
    world: ReconcilerHarness,
) -> None:
    """A file stands where the run's folder belongs."""
    run = await begun(world)
    write_results(world, run.id)
    obstacle = world.home / "results" / run.id
    obstacle.write_bytes(b"")
    world.gate.say(run.id, object_event(1, "A"))
    await until(lambda: "cannot write its results folder" in world.run(run.id).reason)
    obstacle.unlink()
    await until(lambda: all(d.has_chip for d in world.store.detections.of_run(run.id)))
    await until(lambda: world.run(run.id).reason == "")


async def test_a_full_disk_under_the_store_itself(
    world: ReconcilerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await begun(world)
    write_results(world, run.id)
    full = True
    for part, name in (("work", "update_run"), ("work", "update_scene"), ("detections", "put")):
        _fill(monkeypatch, world.store, part, name, lambda: full)
    world.gate.say(run.id, object_event(1, "A"), done())
    world.gate.end(run.id)
    await world.quiet()
    assert world.run(run.id).state is RUNNING
    assert world.store.work.events_have(run.id) == 2
    assert world.reconciler.health(HERE).reachable, "the cluster is well"
    full = False
    over = await world.run_is(run.id, RunState.DONE)
    assert over.objects == 2


def _fill(patch: pytest.MonkeyPatch, store: Store, part: str, name: str, full: Any) -> None:
    really = getattr(getattr(store, part), name)

    def write(*args: Any, **values: Any) -> None:
        if full():
            raise StorageFull("The disk that holds the portal's data is full.")
        really(*args, **values)

    patch.setattr(getattr(store, part), name, write)


async def test_two_new_events_are_one_step_and_repeat_harmlessly(world: ReconcilerHarness) -> None:
    """A portal that died between storing objects and their number takes them in twice."""
    run = await begun(world)
    write_results(world, run.id)
    world.gate.say(run.id, object_event(1, "A"), object_event(2, "A"))
    await until(lambda: world.run(run.id).objects == 2)
    await until(lambda: all(d.has_chip for d in world.store.detections.of_run(run.id)))
    await world.reconciler.close()
    world.store.work.update_run(run.id, RunChange(events_have=1))
    await world.restart()
    await until(lambda: world.store.work.events_have(run.id) == 4)
    found = world.store.detections.of_run(RunId(run.id))
    assert [(d.n, d.has_chip) for d in found] == [(1, True), (2, True)]


# --- a fault of one run stops no other ------------------------------------------------------


def ping(world: ReconcilerHarness) -> bool:
    world.gate.tell()
    return True


@pytest.mark.parametrize("place", ["_take_events", "fetch"])
async def test_a_fault_of_one_run_is_logged_once_and_the_others_go_on(
    world: ReconcilerHarness,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("lib.reconciler.cluster._WATCH_AGAIN_S", 0.1)
    bad, good = await begun(world), await begun(world)
    real = getattr(ResultCollector, place)
    faults, faulty = 0, True

    def planted(self: ResultCollector, *args: Any) -> Any:
        nonlocal faults
        if faulty and self._run == bad.id:
            faults += 1
            raise OverflowError("planted")
        return real(self, *args)

    monkeypatch.setattr(ResultCollector, place, planted)
    for run in (bad, good):
        write_results(world, run.id)
        world.gate.say(run.id, object_event(1, "A"), object_event(2, "A"), done())
        world.gate.end(run.id)
    await world.run_is(good.id, RunState.DONE)
    await until(lambda: ping(world) and faults >= 2)
    assert world.run(bad.id).state is RUNNING
    assert world.reconciler.health(HERE).reachable
    errors = [r.getMessage().partition(":")[0] for r in caplog.records if r.levelname == "ERROR"]
    assert errors == [bad.id]
    faulty = False
    await until(lambda: ping(world) and world.run(bad.id).state is RunState.DONE)
