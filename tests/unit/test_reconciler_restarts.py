"""Sessions that the gate does not know, over restarts of the portal, and started again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lib.errors import Refused
from lib.model import (
    EndReason,
    JobState,
    Resources,
    RunState,
    SceneState,
    SessionId,
    SessionState,
)
from lib.protocol.messages import JobKind, SubmitRequest
from tests.fakes.acts import begun, launch, ready, stop
from tests.fakes.reconciler_harness import ReconcilerHarness, hurry, running_reconciler, until
from tests.fakes.things import HERE, a_session, module_event, new_id, object_event

READY, ENDED, QUEUED = SessionState.READY, SessionState.ENDED, SessionState.QUEUED


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ReconcilerHarness]:
    async with running_reconciler(tmp_path) as it:
        await it.connected()
        yield it


# --- what the gate does not know ------------------------------------------------------


async def test_a_job_that_the_gate_lost_is_lost_with_its_run(world: ReconcilerHarness) -> None:
    session = await ready(world)
    world.gate.forget(session)
    world.gate.go_away()
    await until(lambda: not world.reconciler.health(HERE).reachable)
    assert world.session(session).state is READY
    world.gate.come_back()
    over = await world.session_is(session, ENDED)
    assert over.end_reason is EndReason.LOST
    assert over.ended_at is not None
    assert (await world.run_is(over.run, RunState.FAILED)).reason == (
        "The cluster does not know it any more."
    )
    await until(lambda: not world.link.open and not world.routes.let_in)


@pytest.mark.parametrize("said", ["by the gate", "by its silence"])
@pytest.mark.parametrize("portal_restarts", [False, True])
async def test_a_job_that_turns_up_again_is_taken_back_with_its_run(
    world: ReconcilerHarness, said: str, *, portal_restarts: bool
) -> None:
    session = await ready(world)
    job = world.gate.jobs[session]
    status = job.status
    if said == "by the gate":
        world.gate.end(session, EndReason.LOST)
    else:
        world.gate.forget(session)
        world.gate.go_away()
        await until(lambda: not world.reconciler.health(HERE).reachable)
        world.gate.come_back()
    over = await world.session_is(session, ENDED)
    await world.run_is(over.run, RunState.FAILED)
    await until(lambda: session not in world.routes.let_in)
    if portal_restarts:
        await world.restart()
        await world.connected()
    job.status = status
    world.gate.jobs[session] = job
    world.gate.tell()
    back = await world.session_is(session, READY)
    assert (back.end_reason, back.ended_at, back.files_until) == (None, None, None)
    await until(lambda: session in world.routes.let_in)
    run = await world.run_is(back.run, RunState.RUNNING)
    world.gate.say(session, module_event("scene_started", scene=run.scenes[0].scene))
    world.gate.say(session, object_event(1, run.scenes[0].scene))
    await until(lambda: world.run(run.id).objects == 1)
    stop(world, session)
    assert (await world.session_is(session, ENDED)).end_reason is EndReason.STOPPED


async def test_a_session_that_ended_otherwise_or_goes_on_elsewhere_stays_ended(
    world: ReconcilerHarness,
) -> None:
    stopped = await ready(world)
    status = world.gate.jobs[stopped].status
    world.gate.end(stopped, EndReason.WALLTIME)
    await world.session_is(stopped, ENDED)
    lost = await ready(world)
    running = world.gate.jobs[lost].status
    world.gate.end(lost, EndReason.LOST)
    await world.session_is(lost, ENDED)
    await world.session_is(continue_it(world, lost), QUEUED)
    world.gate.jobs[stopped].status, world.gate.jobs[lost].status = status, running
    world.gate.tell()
    await world.quiet()
    assert world.session(stopped).end_reason is EndReason.WALLTIME
    assert world.session(lost).end_reason is EndReason.LOST


async def test_a_job_of_which_nothing_is_known_stays_as_it_was_and_says_so(
    world: ReconcilerHarness,
) -> None:
    session = await ready(world)
    world.gate.change(session, state=JobState.UNKNOWN, reason="It is not listed.")
    await until(lambda: world.session(session).reason == "It is not listed.")
    assert world.session(session).state is READY
    assert session in world.routes.let_in
    world.gate.change(session, state=JobState.RUNNING, reason="")
    await until(lambda: world.session(session).reason == "The notebook is ready.")


@pytest.mark.parametrize("seen_waiting", [False, True])
async def test_a_job_that_is_begun_anew_is_connected_anew(
    world: ReconcilerHarness, *, seen_waiting: bool
) -> None:
    """Requeued by an operator or with its node: nothing answers where it was."""
    session = await ready(world)
    world.routes.answers = False
    if seen_waiting:
        world.gate.change(session, state=JobState.QUEUED, endpoint=None, reason="Waiting.")
        assert (await world.session_is(session, QUEUED)).reason == "Waiting."
    world.gate.change(session, state=JobState.RUNNING, endpoint=None, reason="")
    await world.session_is(session, SessionState.STARTING)
    await until(lambda: session not in world.routes.let_in)
    tries = world.routes.tries
    world.gate.report_endpoint(session)
    await until(lambda: world.routes.tries > tries)
    assert world.session(session).state is SessionState.STARTING
    world.routes.answers = True
    await world.session_is(session, READY)
    await until(lambda: session in world.routes.let_in)


@pytest.mark.parametrize("held", [False, True])
async def test_a_run_whose_job_is_begun_anew_waits_and_goes_on(
    world: ReconcilerHarness, *, held: bool
) -> None:
    run = await begun(world, "A", "B")
    world.gate.say(run.id, object_event(1, "A"))
    await until(lambda: world.run(run.id).objects == 1)
    assert world.run(run.id).scenes[0].state is SceneState.RUNNING
    waits = JobState.HELD if held else JobState.QUEUED
    world.gate.change(run.id, state=waits, reason="Put back by the scheduler.")
    back = await world.run_is(run.id, RunState.QUEUED)
    assert (back.reason, back.started_at) == ("Put back by the scheduler.", None)
    assert [s.state for s in back.scenes] == [SceneState.WAITING] * 2
    assert back.objects == 1, "what was found stays"
    world.gate.change(run.id, state=JobState.RUNNING, reason="")
    await world.run_is(run.id, RunState.RUNNING)
    world.gate.say(run.id, module_event("scene_started", scene="A"))
    await until(lambda: world.run(run.id).scenes[0].state is SceneState.RUNNING)


async def test_the_run_of_a_notebook_that_is_begun_anew_waits_with_it(
    world: ReconcilerHarness,
) -> None:
    session = await ready(world)
    run = await world.run_is(world.session(session).run, RunState.RUNNING)
    world.gate.change(session, state=JobState.QUEUED, endpoint=None, reason="Waiting.")
    await world.session_is(session, QUEUED)
    await world.run_is(run.id, RunState.QUEUED)


async def test_one_that_is_being_submitted_is_not_lost(world: ReconcilerHarness) -> None:
    """The gate makes a snapshot while a submit is on its way."""
    release = asyncio.Event()
    world.gate.before["submit"] = release.wait
    session = launch(world)
    await until(lambda: ("submit", session) in world.gate.calls)
    info_calls = world.gate.calls.count(("info", ""))
    world.gate.go_away()
    await until(lambda: not world.reconciler.health(HERE).reachable)
    world.gate.come_back()
    await world.connected()
    await until(lambda: world.gate.calls.count(("info", "")) > info_calls)
    await world.quiet(0.1)
    assert world.session(session).state is SessionState.NEW
    release.set()
    await world.session_is(session, QUEUED)
    await world.quiet(0.1)
    assert world.session(session).state is QUEUED
    assert world.gate.submitted == 1


async def test_files_that_the_gate_removed_are_no_longer_offered(world: ReconcilerHarness) -> None:
    session = await ready(world)
    world.gate.end(session, EndReason.IDLE)
    await world.session_is(session, ENDED)
    assert world.store.work.sessions_with_files(HERE)
    world.gate.forget(session)
    await world.restart()
    await until(lambda: not world.store.work.sessions_with_files(HERE))


async def test_jobs_of_somebody_else_s_portal_are_left_alone(world: ReconcilerHarness) -> None:
    theirs = new_id()
    world.gate.submit(
        SubmitRequest(theirs, JobKind.SESSION, "x", "active-fire", "1.0.0", {}, [], "small", 60)
    )
    world.gate.start(theirs)
    world.gate.report_endpoint(theirs)
    world.gate.say(theirs, module_event("run_started"))
    await world.quiet()
    assert world.gate.jobs[theirs].status.state is JobState.RUNNING
    assert world.link.open == set()
    assert world.reconciler.health(HERE).reachable


# --- restarts -----------------------------------------------------------------------


@pytest.mark.parametrize("forget_forwards", [False, True])
async def test_a_new_portal_finds_the_notebook_ready(
    world: ReconcilerHarness, forget_forwards: bool
) -> None:
    session = await ready(world)
    before = world.session(session)
    await world.restart(forget_forwards=forget_forwards)
    await until(lambda: world.reconciler.connected(HERE, session))
    await until(lambda: session in world.routes.let_in)
    assert world.session(session) == before
    assert world.gate.submitted == 1


async def test_a_portal_that_died_while_submitting_submits_once(world: ReconcilerHarness) -> None:
    release = asyncio.Event()
    answers = world.link.submit

    async def die_before_the_reply(request):  # type: ignore[no-untyped-def]
        await answers(request)
        await release.wait()

    world.link.submit = die_before_the_reply  # type: ignore[assignment]
    session = launch(world)
    await until(lambda: session in world.gate.jobs)
    world.link.submit = answers  # type: ignore[method-assign]
    await world.restart()
    await world.session_is(session, QUEUED)
    await world.quiet(0.1)
    assert world.gate.submitted == 1


async def test_stopped_while_the_portal_was_down(world: ReconcilerHarness) -> None:
    """A NEW session of an earlier process may have reached the gate: the gate is asked."""
    world.gate.go_away()
    await until(lambda: not world.reconciler.health(HERE).reachable)
    session = launch(world)
    await world.restart()
    stop(world, session)
    await world.quiet(0.1)
    assert world.session(session).state is SessionState.NEW, "it cannot be known yet"
    world.gate.come_back()
    over = await world.session_is(session, ENDED)
    assert over.end_reason is EndReason.CANCELLED
    assert world.gate.submitted == 0


async def test_forwards_of_a_portal_that_died_are_dropped(world: ReconcilerHarness) -> None:
    session = await ready(world)
    stray = SessionId(new_id())
    world.link.open.add(stray)
    await world.reconciler.close()
    world.gate.end(session, EndReason.WALLTIME)
    await world.restart()
    over = await world.session_is(session, ENDED)
    assert over.reason == "Its time was up."
    await until(lambda: world.link.open == set())


async def test_closing_leaves_jobs_and_forwards_alone(world: ReconcilerHarness) -> None:
    session = await ready(world)
    await world.reconciler.close()
    assert world.gate.jobs[session].status.state is JobState.RUNNING
    assert world.link.open == {session}
    assert world.link.watching == 0


# --- starting again ---------------------------------------------------------------------


async def ended(world: ReconcilerHarness) -> SessionId:
    session = await ready(world)
    world.gate.end(session, EndReason.WALLTIME)
    await world.session_is(session, ENDED)
    await until(lambda: world.run(world.session(session).run).state.over)
    return session


def continue_it(world: ReconcilerHarness, old: SessionId) -> SessionId:
    before = world.session(old)
    session = a_session(
        world.run(before.run),
        SessionId(new_id()),
        continued_from=old,
        resources=Resources("small", 60),
    )
    world.store.work.add_session(session, None, ())
    world.wake()
    return session.id


async def test_start_again_takes_the_files_over(world: ReconcilerHarness) -> None:
    old = await ended(world)
    fresh = continue_it(world, old)
    await world.session_is(fresh, QUEUED)
    assert world.gate.jobs[fresh].request.continue_from == old
    assert world.session(old).continued_as == fresh
    world.gate.start(fresh)
    world.gate.report_endpoint(fresh)
    await world.session_is(fresh, READY)
    assert world.session(fresh).run == world.session(old).run


async def test_start_again_that_is_refused_may_be_tried_again(world: ReconcilerHarness) -> None:
    old = await ended(world)
    run_before = world.run(world.session(old).run)
    world.gate.refuse = Refused("No more than 4 notebooks at once.")
    fresh = continue_it(world, old)
    over = await world.session_is(fresh, ENDED)
    assert over.end_reason is EndReason.REFUSED
    await until(lambda: world.session(old).continued_as is None)
    assert world.run(run_before.id) == run_before
    world.gate.refuse = None
    again = continue_it(world, old)
    await world.session_is(again, QUEUED)
