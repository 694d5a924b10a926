"""Runs as the reconciler sees them through: events, files, ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lib.errors import ProtocolError
from lib.model import EndReason, RunState, SceneId, SceneState, SessionState
from lib.protocol.messages import ArtifactKind, JobKind
from lib.reconciler.results import ResultCollector
from lib.store.changes import RunChange
from tests.fakes.acts import begun, done, write_results
from tests.fakes.reconciler_harness import ReconcilerHarness, hurry, running_reconciler, until
from tests.fakes.things import (
    HERE,
    a_picture,
    add_session,
    module_event,
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


async def test_found_objects_appear_while_it_runs_and_end_as_outlines(
    world: ReconcilerHarness,
) -> None:
    run = await begun(world, "A", "B")
    assert world.gate.jobs[run.id].request.kind is JobKind.RUN
    write_results(world, run.id)
    world.gate.say(run.id, module_event("progress", scene="A", fraction=0.4))
    world.gate.say(run.id, object_event(2, "A"), object_event(1, "A"))
    await until(lambda: world.run(run.id).objects == 2)
    await until(lambda: all(d.has_chip for d in world.store.detections.of_run(run.id)))
    first = world.store.detections.of_run(run.id)[0]
    assert (first.n, first.score, first.flags) == (1, 1.0, ("cloud",))
    assert first.geometry["coordinates"][0][0] == [0.4, 0.4]
    assert world.results.image(run.id, A, ArtifactKind.CHIP, 2) == a_picture()
    assert world.run(run.id).scenes[0].fraction == 0.4
    assert world.run(run.id).state is RUNNING

    write_results(world, run.id, "B", ())
    world.gate.say(run.id, done(), module_event("scene_started", scene="B"), done("B", 0))
    world.gate.say(run.id, module_event("run_done", objects=2, failed=0))
    over = await world.run_is(run.id, RunState.DONE)
    assert (over.reason, over.objects) == ("", 2)
    assert over.ended_at is not None
    assert [(s.state, s.objects, s.fraction) for s in over.scenes] == [
        (SceneState.DONE, 2, 1.0),
        (SceneState.DONE, 0, 1.0),
    ]
    assert over.scenes[0].searched == {"pixels": 1000, "valid_fraction": 0.98}
    found = world.store.detections.of_run(run.id)
    assert [len(d.geometry["coordinates"][0]) for d in found] == [4, 4], "the outlines are here"
    assert all(d.has_chip for d in found)
    assert world.results.image(run.id, A, ArtifactKind.OVERVIEW)
    world.gate.end(run.id)
    await world.quiet(0.1)
    assert world.run(run.id) == over


async def test_a_run_inside_a_session_ends_while_the_notebook_goes_on(
    world: ReconcilerHarness,
) -> None:
    session = add_session(world.store, "A")
    world.wake()
    await until(lambda: session.id in world.gate.jobs)
    world.gate.start(session.id)
    world.gate.report_endpoint(session.id)
    write_results(world, session.id)
    world.gate.say(session.id, module_event("run_started"), object_event(1, "A"), done())
    world.gate.change(session.id, module_exit_code=0)
    await world.run_is(session.run, RunState.DONE)
    await world.session_is(session.id, SessionState.READY)


async def test_some_scenes_failed(world: ReconcilerHarness) -> None:
    run = await begun(world, "A", "B")
    write_results(world, run.id)
    world.gate.say(run.id, done())
    world.gate.say(run.id, module_event("scene_failed", scene="B", message="B is broken.\x00\n"))
    over = await world.run_is(run.id, RunState.PARTIAL)
    assert over.reason == "1 scene could not be searched. B is broken."
    assert over.scenes[1].message == "B is broken."


async def test_every_scene_failed(world: ReconcilerHarness) -> None:
    run = await begun(world, "A", "B")
    for scene in "AB":
        world.gate.say(run.id, module_event("scene_failed", scene, message=f"{scene} is broken."))
    over = await world.run_is(run.id, RunState.FAILED)
    assert over.reason == "No scene could be searched."


async def test_a_run_that_is_stopped_keeps_what_it_has(world: ReconcilerHarness) -> None:
    run = await begun(world, "A", "B", "C")
    write_results(world, run.id)
    world.gate.say(run.id, object_event(1, "A"), done(), module_event("scene_started", scene="B"))
    await until(lambda: world.run(run.id).scenes[1].state is SceneState.RUNNING)
    world.store.work.update_run(run.id, RunChange(stopping=True))
    world.wake()
    over = await world.run_is(run.id, RunState.CANCELLED)
    assert over.reason == "It was stopped. The results of 1 scene are kept."
    assert [(s.state, s.message) for s in over.scenes] == [
        (SceneState.DONE, ""),
        (SceneState.FAILED, "This scene was not searched to its end."),
        (SceneState.WAITING, "This scene was not searched."),
    ]
    assert world.gate.jobs[run.id].status.end_reason is EndReason.STOPPED
    assert len(world.store.detections.of_run(run.id)) == 2


@pytest.mark.parametrize(
    ("why", "words"),
    [
        (EndReason.WALLTIME, "Its time was up."),
        (EndReason.OUT_OF_MEMORY, "It ran out of memory."),
        (EndReason.NODE_FAILURE, "The computer that it ran on failed."),
        (EndReason.FINISHED, "The module ended before it was through."),
    ],
)
async def test_a_job_that_ended_early_says_why(
    world: ReconcilerHarness, why: EndReason, words: str
) -> None:
    run = await begun(world, "A", "B")
    write_results(world, run.id)
    world.gate.say(run.id, done())
    world.gate.end(run.id, why)
    over = await world.run_is(run.id, RunState.PARTIAL)
    assert over.reason.startswith(f"1 scene could not be searched. {words}")
    assert over.scenes[1].state is SceneState.FAILED


async def test_a_module_that_crashes_beside_a_living_notebook(world: ReconcilerHarness) -> None:
    session = add_session(world.store, "A")
    world.wake()
    await until(lambda: session.id in world.gate.jobs)
    world.gate.start(session.id)
    world.gate.say(session.id, module_event("run_started"), module_event("scene_started", "A"))
    await world.run_is(session.run, RUNNING)
    await world.reconciler.close()
    message = "The module ended with code 1: ValueError: no such band"
    world.gate.change(session.id, module_exit_code=1, module_message=message)
    await world.restart()
    over = await world.run_is(session.run, RunState.FAILED)
    assert over.reason == message
    await world.session_is(session.id, SessionState.STARTING)


async def test_the_end_of_the_job_waits_for_its_events(world: ReconcilerHarness) -> None:
    """The status may come before the last events."""
    run = await begun(world)
    write_results(world, run.id)
    world.gate.end(run.id)
    world.gate.change(run.id, events=4)
    await world.quiet(0.1)
    assert world.run(run.id).state is RUNNING
    world.gate.jobs[run.id].events += [object_event(1, "A"), done()]
    world.gate.tell()
    await world.run_is(run.id, RunState.DONE)


async def test_events_that_arrive_while_the_end_is_judged_count(
    world: ReconcilerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last events are stored between two looks of the judge."""
    run = await begun(world)
    write_results(world, run.id)
    world.gate.end(run.id)
    world.gate.change(run.id, events=4)
    await world.quiet(0.1)
    really, loop, judged = ResultCollector.all_here, asyncio.get_running_loop(), threading.Event()

    def look(collector: ResultCollector) -> bool:
        here = really(collector)
        if not judged.is_set():
            judged.set()
            world.gate.jobs[run.id].events += [object_event(1, "A"), done()]
            loop.call_soon_threadsafe(world.gate.tell)
            while world.store.work.events_have(run.id) < 4:
                time.sleep(0.01)
        return here

    monkeypatch.setattr(ResultCollector, "all_here", look)
    world.gate.change(run.id, reason="Something new.")
    await until(lambda: world.run(run.id).state.over)
    assert judged.is_set()
    assert world.run(run.id).state is RunState.DONE


async def test_rubbish_events_harm_nobody(world: ReconcilerHarness) -> None:
    run = await begun(world)
    other = await begun(world)
    write_results(world, run.id, numbers=(7,))
    world.gate.say(
        run.id,
        {},
        {"event": None, "scene": 3},
        {"event": ["object"], "scene": {"a": 1}},
        {"event": "object", "scene": "A"},
        object_event(1, "A", score=10**400),
        {**object_event(2, "A"), "n": 2**70},
        object_event(3, "A", lon=float("nan")),
        object_event(4, "A", bbox=[1, 2, 3]),
        object_event(5, "elsewhere"),
        object_event(6, "A", **{"class": ""}),
        object_event(7, "A", properties={"long": 10**400}),
        object_event(8, "A", flags=[""]),
        object_event(9, "A", bbox=[0, 1, 1, 0]),
        object_event(7, "A", **{"class": "fi\ud800re\x00", "properties": {"\ud800": 1, "x": [[]]}}),
        module_event("progress", scene="A", fraction=10**400),
        module_event("progress", scene="A", fraction=float("nan")),
        module_event("progress", scene="A", fraction="0.5"),
        module_event("run_done", objects=-1),
    )
    await until(lambda: world.run(run.id).objects == 1)
    (only,) = world.store.detections.of_run(run.id)
    assert (only.n, only.kind) == (7, "fi re")
    assert only.properties == {"": 1}
    assert world.run(run.id).scenes[0].fraction == 0.0
    world.gate.say(
        run.id,
        done(objects=2**80),
        done(searched={"a": float("inf")}),
        done(objects=2**20, searched={"a\ud800": [1.5, {"b": {}}]}),
    )
    over = await world.run_is(run.id, RunState.DONE)
    assert over.scenes[0].searched == {"a": [1.5, {"b": {}}]}
    assert over.scenes[0].objects == 1, "counted in the file, not believed"
    assert world.reconciler.health(HERE).reachable
    assert world.run(other.id).state is RUNNING


async def test_events_after_the_end_of_a_scene_change_nothing(world: ReconcilerHarness) -> None:
    run = await begun(world, "A", "B")
    write_results(world, run.id)
    world.gate.say(run.id, object_event(1, "A"), done(), object_event(9, "A"))
    world.gate.say(
        run.id,
        module_event("scene_started", "A"),
        module_event("progress", scene="A", fraction=0.1),
        module_event("scene_failed", scene="A", message="no"),
        object_event(8, "A"),
        done("A", 77),
    )
    await until(lambda: world.store.work.events_have(run.id) == 10)
    await until(lambda: not world.store.work.unfetched_scenes(run.id))
    scene = world.run(run.id).scenes[0]
    assert (scene.state, scene.objects, scene.fraction) == (SceneState.DONE, 2, 1.0)
    assert [d.n for d in world.store.detections.of_run(run.id)] == [1, 2]


async def test_thumbnails_that_are_missing_broken_or_huge(world: ReconcilerHarness) -> None:
    run = await begun(world)
    write_results(world, run.id, numbers=(1, 2, 3, 4, 5))
    del world.gate.jobs[run.id].files[ArtifactKind.CHIP, "A", 2]
    world.gate.write(run.id, ArtifactKind.CHIP, "A", b"<svg onload=alert(1)>" * 9, 3)
    world.gate.write(run.id, ArtifactKind.CHIP, "A", b"x" * (2**20 + 1), 4)
    world.gate.write(run.id, ArtifactKind.CHIP, "A", a_picture(4000, 8), 5)
    world.gate.say(run.id, *(object_event(n, "A") for n in range(1, 6)), done(objects=5))
    await world.run_is(run.id, RunState.DONE)
    found = world.store.detections.of_run(run.id)
    assert [(d.n, d.has_chip) for d in found] == [(n, n == 1) for n in range(1, 6)]
    assert not world.results.path(run.id, A, ArtifactKind.CHIP, 3).exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "The module did not write this file."),
        (b"\xff{", "no GeoJSON feature collection"),
        (b"[" * 100_000, "no GeoJSON feature collection"),
        (b'{"features": 7}', "no GeoJSON feature collection"),
        (b'{"features": [1]}', "no feature"),
        (b" " * (64 * 2**20 + 1), "larger than was asked for"),
    ],
)
async def test_outlines_that_cannot_be_read_leave_the_boxes(
    world: ReconcilerHarness, content: bytes | None, words: str
) -> None:
    run = await begun(world)
    write_results(world, run.id)
    if content is None:
        del world.gate.jobs[run.id].files[ArtifactKind.DETECTIONS, "A", 0]
    else:
        world.gate.write(run.id, ArtifactKind.DETECTIONS, "A", content)
    world.gate.say(run.id, object_event(1, "A"), done())
    over = await world.run_is(run.id, RunState.DONE)
    assert over.scenes[0].message.startswith("The outlines of the objects are missing. ")
    assert words in over.scenes[0].message
    assert [d.n for d in world.store.detections.of_run(run.id)] == [1]


async def test_a_gate_that_breaks_the_contract_for_one_file(world: ReconcilerHarness) -> None:
    run = await begun(world)
    write_results(world, run.id)

    def fail() -> None:
        raise ProtocolError("The gate sent more bytes than it had announced.")

    world.gate.before["get"] = fail
    world.gate.say(run.id, object_event(1, "A"), done())
    over = await world.run_is(run.id, RunState.DONE)
    assert "more bytes" in over.scenes[0].message


async def test_events_that_the_gate_left_out_are_asked_for_again(world: ReconcilerHarness) -> None:
    run = await begun(world)
    write_results(world, run.id)
    job = world.gate.jobs[run.id]
    hidden, job.events = job.events, []
    await world.reconciler.close()
    world.store.work.update_run(run.id, RunChange(events_have=0))
    job.events = [*hidden, object_event(1, "A"), done()]
    world.gate.change(run.id, events=4)
    await world.restart()
    await world.run_is(run.id, RunState.DONE)
    assert world.store.work.events_have(run.id) == 4
