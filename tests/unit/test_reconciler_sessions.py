"""Sessions as the reconciler sees them through, with every fault on the way."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from lib.errors import ClusterUnreachable, ProtocolError, Refused, StorageFull, Unavailable
from lib.model import (
    EndReason,
    JobState,
    RunState,
    SessionId,
    SessionState,
)
from lib.protocol.messages import STAGED_SCHEME, JobKind, SubmitRequest
from lib.reconciler.submit import Submitter
from lib.store.sessions_runs import SessionsRuns
from tests.fakes.acts import launch, ready, stop
from tests.fakes.gate import MemoryRoutes
from tests.fakes.reconciler_harness import ReconcilerHarness, hurry, running_reconciler, until
from tests.fakes.things import HERE, a_run, a_scene, a_session, add_session, new_id

READY, ENDED, QUEUED = SessionState.READY, SessionState.ENDED, SessionState.QUEUED


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ReconcilerHarness]:
    async with running_reconciler(tmp_path) as it:
        await it.connected()
        yield it


async def test_from_the_click_to_the_end(world: ReconcilerHarness) -> None:
    session = launch(world, "B", "A")
    queued = await world.session_is(session, QUEUED)
    assert queued.reason == "Waits for a free place."
    assert queued.job == "101"
    await until(lambda: world.session(session).submitted_at is not None)

    request = world.gate.jobs[session].request
    assert (request.kind, request.owner, request.portal_origin) == (
        JobKind.SESSION,
        "alice",
        "http://localhost:8501",
    )
    assert [i["id"] for i in request.items] == ["B", "A"]
    assert request.params == {"min_pixels": 1, "factor": 0.5}

    world.gate.start(session)
    starting = await world.session_is(session, SessionState.STARTING)
    assert starting.started_at is not None
    assert world.link.open == set()

    world.routes.answers = False
    world.gate.report_endpoint(session)
    await until(lambda: world.routes.tries > 2)
    proving = world.session(session)
    assert proving.state is SessionState.STARTING, "READY only when it was proved"
    assert "does not answer" in proving.reason
    assert not world.reconciler.connected(HERE, session)

    world.routes.answers = True
    now = await world.session_is(session, READY)
    assert now.reason == "The notebook is ready."
    assert now.endpoint_at is not None
    assert now.ready_at is not None
    assert world.routes.let_in.keys() == world.link.open == {session}

    stop(world, session)
    over = await world.session_is(session, ENDED)
    assert over.end_reason is EndReason.STOPPED
    assert over.reason == "It was stopped."
    assert over.files_until is not None
    await until(lambda: not world.link.open and not world.routes.let_in)
    run = await world.run_is(over.run, RunState.CANCELLED)
    assert run.reason == "It was stopped."


async def test_a_queue_is_told_and_held_is_a_reason(world: ReconcilerHarness) -> None:
    session = launch(world)
    await world.session_is(session, QUEUED)
    world.gate.change(session, state=JobState.HELD, reason="Held by the administrator.")
    await until(lambda: world.session(session).reason == "Held by the administrator.")
    assert world.session(session).state is QUEUED
    world.gate.start(session)
    await world.session_is(session, SessionState.STARTING)
    world.gate.change(session, state=JobState.QUEUED, reason="Put back by the scheduler.")
    assert (await world.session_is(session, QUEUED)).reason == "Put back by the scheduler."


async def test_a_notebook_that_nobody_uses_is_told_of_and_can_be_kept(
    world: ReconcilerHarness,
) -> None:
    session = await ready(world)
    assert world.reconciler.idle_at(HERE, session) is None
    soon = time.time() + 300
    world.gate.change(session, idle_at=soon)
    await until(lambda: world.reconciler.idle_at(HERE, session) == soon)
    assert world.routes.idle_at[session] == soon, "the notebook's own page says so too"
    world.routes.answers = False
    with pytest.raises(Unavailable):
        await world.reconciler.keep(HERE, session)
    assert world.reconciler.idle_at(HERE, session) == soon
    world.routes.answers = True
    await world.reconciler.keep(HERE, session)
    assert world.routes.kept == [session]
    assert world.reconciler.idle_at(HERE, session) is None
    assert world.routes.idle_at[session] is None
    world.gate.change(session, idle_at=soon + 600)  # nobody came after all
    await until(lambda: world.reconciler.idle_at(HERE, session) == soon + 600)
    world.gate.end(session, EndReason.IDLE)
    await world.session_is(session, SessionState.ENDED)
    assert world.reconciler.idle_at(HERE, session) is None
    with pytest.raises(Unavailable, match="cannot be reached"):
        await world.reconciler.keep(HERE, session)


async def test_a_lost_reply_costs_a_second_call_and_no_second_job(world: ReconcilerHarness) -> None:
    world.gate.lose_replies["submit"] = 2
    session = launch(world)
    await world.session_is(session, QUEUED)
    await world.quiet()
    assert world.gate.submitted == 1
    assert world.session(session).submitted_at is not None


async def test_an_answer_that_is_not_understood_ends_nothing(world: ReconcilerHarness) -> None:
    faults = iter([ProtocolError("The gate sent an answer that is not understood.")] * 2)

    def fail() -> None:
        for fault in faults:
            raise fault

    world.gate.before["submit"] = fail
    session = launch(world)
    await until(lambda: "not understood" in world.session(session).reason)
    await world.session_is(session, QUEUED)
    assert world.gate.submitted == 1


async def test_a_late_reply_changes_nothing_that_has_gone_on(world: ReconcilerHarness) -> None:
    """The stream may tell that a job runs before its submit has answered."""
    release = asyncio.Event()
    answers = world.link.submit

    async def slow(request):  # type: ignore[no-untyped-def]
        reply = await answers(request)
        await release.wait()
        return reply

    world.link.submit = slow  # type: ignore[method-assign]
    session = launch(world)
    await world.session_is(session, QUEUED)
    world.gate.start(session)
    world.gate.report_endpoint(session)
    await world.session_is(session, READY)
    release.set()
    await world.quiet()
    assert world.session(session).state is READY
    assert world.session(session).reason == "The notebook is ready."
    assert world.session(session).submitted_at is not None


async def test_what_the_gate_refuses_ends_with_its_words(world: ReconcilerHarness) -> None:
    world.gate.refuse = Refused("No more than 4 notebooks at once.")
    session = launch(world)
    over = await world.session_is(session, ENDED)
    assert over.end_reason is EndReason.REFUSED
    assert over.reason == "The cluster refused it. No more than 4 notebooks at once."
    run = await world.run_is(over.run, RunState.FAILED)
    assert "No more than 4" in run.reason


async def test_a_full_disk_on_the_cluster_is_waited_out(world: ReconcilerHarness) -> None:
    world.gate.refuse = StorageFull("The cluster's disk is full.")
    session = launch(world)
    await until(lambda: "disk is full" in world.session(session).reason)
    assert world.session(session).state is SessionState.NEW
    world.gate.refuse = None
    await world.session_is(session, QUEUED)


async def test_a_file_that_is_gone_ends_it_with_a_sentence(
    world: ReconcilerHarness, tmp_path: Path
) -> None:
    session = add_session(world.store, folder=str(tmp_path / "gone"))
    world.wake()
    over = await world.session_is(session.id, ENDED)
    assert re.search(r"The file \w+\.tif of the scene LC08_A cannot be read", over.reason)


async def test_files_that_the_cluster_does_not_have_are_staged(
    world: ReconcilerHarness, tmp_path: Path
) -> None:
    for band in ("red", "swir22"):
        file = tmp_path / "LC08_A" / f"{band}.tif"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(band.encode())
    session = add_session(world.store, folder=str(tmp_path), bands=("red", "swir22", "blue"))
    world.wake()
    await world.session_is(session.id, QUEUED)
    (item,) = world.gate.jobs[session.id].request.items
    assert {k: a["href"] for k, a in item["assets"].items()} == {
        "red": STAGED_SCHEME,
        "swir22": STAGED_SCHEME,
    }, "bands that the module does not need stay here"
    assert item["links"] == []
    assert world.gate.staged == {
        (session.id, "LC08_A", "red"): b"red",
        (session.id, "LC08_A", "swir22"): b"swir22",
    }


async def test_a_module_that_left_the_portal_ends_it_with_a_sentence(
    world: ReconcilerHarness,
) -> None:
    session_id = SessionId(new_id())
    run = a_run(session=session_id, module="old-module")
    world.store.work.add_session(a_session(run, session_id), run, [a_scene()])
    world.wake()
    over = await world.session_is(session_id, ENDED)
    assert "does not offer the module old-module any more" in over.reason


# --- cancelling, in every state ---------------------------------------------------


async def test_cancel_before_anything_was_asked(world: ReconcilerHarness) -> None:
    world.gate.go_away()
    await until(lambda: not world.reconciler.health(HERE).reachable)
    session = launch(world)
    await world.quiet(0.1)
    stop(world, session)
    over = await world.session_is(session, ENDED)
    assert over.end_reason is EndReason.CANCELLED
    assert (await world.run_is(over.run, RunState.CANCELLED)).reason.startswith("It was cancelled")
    world.gate.come_back()
    await world.connected()
    await world.quiet()
    assert world.gate.submitted == 0


async def test_cancel_while_the_submit_is_under_way(world: ReconcilerHarness) -> None:
    release = asyncio.Event()
    world.gate.before["submit"] = release.wait
    session = launch(world)
    await until(lambda: ("submit", session) in world.gate.calls)
    stop(world, session)
    await world.quiet(0.1)
    assert world.session(session).state is SessionState.NEW
    release.set()
    over = await world.session_is(session, ENDED)
    assert over.end_reason is EndReason.CANCELLED
    assert world.gate.jobs[session].status.state is JobState.ENDED


async def test_cancel_after_a_lost_reply_reaches_the_job(world: ReconcilerHarness) -> None:
    world.gate.lose_replies["submit"] = 1
    world.gate.before["submit"] = lambda: stop(world, session)
    session = add_session(world.store).id
    world.wake()
    await world.session_is(session, ENDED)
    assert world.gate.jobs[session].status.state is JobState.ENDED


async def test_a_submit_that_overtakes_its_cancel_is_cancelled(world: ReconcilerHarness) -> None:
    """The cancel finds no job, and the slow submit makes one afterwards."""
    arrived = []

    def slow() -> None:
        if not arrived:
            arrived.append(session)
            raise ClusterUnreachable("The connection broke before the answer came.")

    world.gate.before["submit"] = slow
    session = launch(world)
    await until(lambda: bool(arrived))
    stop(world, session)
    over = await world.session_is(session, ENDED)
    assert over.end_reason is EndReason.CANCELLED
    late = SubmitRequest(session, JobKind.SESSION, "alice", "active-fire", "1.0.0", {}, [], "s", 60)
    world.gate.submit(late)
    await until(lambda: world.gate.jobs[session].status.state is JobState.ENDED)
    await until(lambda: world.session(session).files_until is not None)


async def test_cancel_while_queued(world: ReconcilerHarness) -> None:
    session = launch(world)
    await world.session_is(session, QUEUED)
    stop(world, session)
    over = await world.session_is(session, ENDED)
    assert over.end_reason is EndReason.CANCELLED


async def test_cancel_while_starting(world: ReconcilerHarness) -> None:
    session = launch(world)
    await world.session_is(session, QUEUED)
    world.gate.start(session)
    await world.session_is(session, SessionState.STARTING)
    stop(world, session)
    assert (await world.session_is(session, ENDED)).end_reason is EndReason.STOPPED


async def test_it_ends_while_it_is_being_connected(world: ReconcilerHarness) -> None:
    session = launch(world)
    await world.session_is(session, QUEUED)
    world.routes.answers = False
    world.gate.start(session)
    world.gate.report_endpoint(session)
    await until(lambda: world.routes.tries > 1)
    world.gate.end(session, EndReason.OUT_OF_MEMORY)
    over = await world.session_is(session, ENDED)
    assert "Choose larger resources" in over.reason
    world.routes.answers = True
    await world.quiet()
    assert world.session(session) == over
    assert (world.link.open, world.routes.let_in) == (set(), {})


async def test_a_cancel_whose_reply_is_lost_is_asked_again(world: ReconcilerHarness) -> None:
    session = await ready(world)
    world.gate.before["cancel"] = _once(StorageFull("The cluster's disk is full."))
    stop(world, session)
    await until(lambda: world.session(session).reason.startswith("Stopping. The cluster's disk"))
    assert world.session(session).state is READY
    await world.session_is(session, ENDED)


def _once(fault: Exception):  # type: ignore[no-untyped-def]
    left = [fault] * 2

    def fail() -> None:
        if left:
            raise left.pop()

    return fail


# --- the cluster cannot be asked ----------------------------------------------------


@pytest.mark.parametrize("when", ["new", "queued", "starting", "ready"])
async def test_unreachable_ends_nothing_and_goes_on(world: ReconcilerHarness, when: str) -> None:
    if when == "new":
        world.gate.go_away()
        await until(lambda: not world.reconciler.health(HERE).reachable)
        session = launch(world)
    elif when == "ready":
        session = await ready(world)
    else:
        session = launch(world)
        await world.session_is(session, QUEUED)
        if when == "starting":
            world.gate.start(session)
            await world.session_is(session, SessionState.STARTING)
    before = world.session(session).state
    world.gate.go_away()
    await until(lambda: not world.reconciler.health(HERE).reachable)
    health = world.reconciler.health(HERE)
    assert health.reason == "The cluster does not answer."
    await world.quiet()
    assert world.session(session).state is before
    assert world.reconciler.health(HERE).since == health.since

    world.gate.come_back()
    await world.connected()
    await until(lambda: session in world.gate.jobs)
    world.gate.start(session)
    world.gate.report_endpoint(session)
    await world.session_is(session, READY)
    await until(lambda: world.reconciler.connected(HERE, session))


async def test_ready_stays_ready_and_keeps_its_reason_while_proved_again(
    world: ReconcilerHarness,
) -> None:
    session = await ready(world)
    first = world.session(session).ready_at
    world.gate.go_away()
    await until(lambda: not world.reconciler.health(HERE).reachable)
    world.gate.come_back()
    await world.connected()
    await until(lambda: world.reconciler.connected(HERE, session))
    assert world.session(session).reason == "The notebook is ready."
    assert world.session(session).ready_at == first


async def test_a_scheduler_that_does_not_answer_is_unknown(world: ReconcilerHarness) -> None:
    session = launch(world)
    await world.session_is(session, QUEUED)
    world.gate.asked_ok = False
    world.gate.tell()
    await until(lambda: not world.reconciler.health(HERE).reachable)
    assert world.reconciler.health(HERE).reason == "The scheduler does not answer."
    assert world.reconciler.health(HERE).info is not None
    assert world.session(session).state is QUEUED
    world.gate.asked_ok = True
    world.gate.tell()
    await world.connected()


# --- a fault of one session stops no other ------------------------------------------------

PLACES: dict[str, tuple[type, str, Callable[..., str]]] = {
    "submit": (Submitter, "_begin_due", lambda _, work, info: work.id),
    "status": (SessionsRuns, "update_session", lambda _, session, change: session),
    "connect": (MemoryRoutes, "open", lambda _, session, socket, where: session),
    "drop": (MemoryRoutes, "close", lambda _, session, reason: session),
}


def pinged(world: ReconcilerHarness) -> bool:
    """The gate says that nothing is new, as it does every few seconds."""
    world.gate.tell()
    return True


@pytest.mark.parametrize("place", PLACES)
async def test_a_fault_of_one_session_is_logged_once_and_the_others_go_on(
    world: ReconcilerHarness,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("lib.reconciler.cluster._WATCH_AGAIN_S", 0.1)
    kind, name, ident = PLACES[place]
    real = getattr(kind, name)
    bad = add_session(world.store, "A").id
    faults = 0
    faulty = True

    def planted(*args: Any, **values: Any) -> Any:
        nonlocal faults
        if faulty and ident(*args) == bad:
            faults += 1
            raise OverflowError("planted")
        return real(*args, **values)

    monkeypatch.setattr(kind, name, planted)
    world.wake()
    for _ in range(2):
        good = await ready(world)
        world.gate.end(good)
        await world.session_is(good, ENDED)
    if place in ("connect", "drop"):
        await until(lambda: bad in world.gate.jobs)
        world.gate.start(bad)
        world.gate.report_endpoint(bad)
    if place == "drop":
        await world.session_is(bad, READY)
        world.gate.end(bad)
    await until(lambda: pinged(world) and faults >= 2)
    assert world.reconciler.health(HERE).reachable
    errors = [r.getMessage().partition(":")[0] for r in caplog.records if r.levelname == "ERROR"]
    assert errors == [bad]
    faulty = False
    if place == "drop":
        await world.session_is(bad, ENDED)
        return
    await until(lambda: bad in world.gate.jobs)
    world.gate.start(bad)
    world.gate.report_endpoint(bad)
    await until(lambda: pinged(world) and world.session(bad).state is READY)


@pytest.mark.parametrize("part", ["_submit_due", "_ask_again", "_follow"])
async def test_every_loop_outlives_its_faults_and_one_that_fails_makes_the_cluster_unknown(
    tmp_path: Path,
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("lib.loops.FAULT_PAUSE_S", 0.0)
    monkeypatch.setattr("lib.reconciler.cluster._INFO_EVERY_S", 0.01)
    async with running_reconciler(tmp_path, start=False) as world:
        await _fail_and_recover(world, part, monkeypatch, caplog)


async def _fail_and_recover(
    world: ReconcilerHarness,
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = world.reconciler._clusters[HERE]
    real = getattr(cluster, part)
    turns, faulty = 0, False

    async def planted() -> None:
        nonlocal turns
        if faulty:
            turns += 1
            await asyncio.sleep(0)
            raise OverflowError("planted")
        await real()

    monkeypatch.setattr(cluster, part, planted)
    world.reconciler.start()
    await world.connected()
    faulty = True
    if part == "_follow":
        world.gate.go_away()
    await until(lambda: turns >= 3)
    world.gate.come_back()
    clock = cluster._loops.clock
    if part != "_follow":
        assert world.reconciler.health(HERE).reachable
        cluster._loops.clock = lambda: clock() + 31.0
    health = world.reconciler.health(HERE)
    assert not health.reachable
    assert health.reason.startswith("The portal ")
    assert sum(r.levelname == "ERROR" for r in caplog.records) == 1
    faulty = False
    await until(lambda: world.reconciler.health(HERE).reachable)
    await ready(world)
