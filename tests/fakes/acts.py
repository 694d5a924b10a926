"""What the reconciler's tests do again and again: begin, stop, let a module write."""

from __future__ import annotations

import json
from typing import Any

from lib.model import Run, RunState, SessionId, SessionState
from lib.protocol.messages import ArtifactKind
from lib.store.changes import RunChange, SessionChange
from tests.fakes.reconciler_harness import ReconcilerHarness, until
from tests.fakes.things import a_picture, add_run, add_session, module_event, outlines


def launch(world: ReconcilerHarness, *scenes: str) -> SessionId:
    session = add_session(world.store, *scenes)
    world.wake()
    return session.id


def stop(world: ReconcilerHarness, session: SessionId) -> None:
    """As `Portal.stop` does."""
    found = world.session(session)
    world.store.work.update_session(session, SessionChange(stopping=True))
    world.store.work.update_run(found.run, RunChange(stopping=True))
    world.wake()


async def ready(world: ReconcilerHarness) -> SessionId:
    session = launch(world)
    await world.session_is(session, SessionState.QUEUED)
    world.gate.start(session)
    world.gate.report_endpoint(session)
    await world.session_is(session, SessionState.READY)
    return session


async def begun(world: ReconcilerHarness, *scenes: str) -> Run:
    """A run whose job runs and whose module has begun."""
    run = add_run(world.store, *(scenes or ("A",)))
    world.wake()
    await world.run_is(run.id, RunState.QUEUED)
    world.gate.start(run.id)
    world.gate.say(run.id, module_event("run_started"), module_event("scene_started", scene="A"))
    await until(lambda: world.store.work.events_have(run.id) == 2)
    return run


def done(scene: str = "A", objects: int = 2, **fields: Any) -> dict[str, Any]:
    searched = {"pixels": 1000, "valid_fraction": 0.98}
    told = {"objects": objects, "shown": objects, "searched": searched, **fields}
    return module_event("scene_done", scene, **told)


def write_results(
    world: ReconcilerHarness, job: str, scene: str = "A", numbers: tuple[int, ...] = (1, 2)
) -> None:
    for n in numbers:
        world.gate.write(job, ArtifactKind.CHIP, scene, a_picture(), n)
    found = json.dumps(outlines(*numbers)).encode()
    world.gate.write(job, ArtifactKind.DETECTIONS, scene, found)
    world.gate.write(job, ArtifactKind.OVERVIEW, scene, a_picture(64, 64))
    world.gate.write(job, ArtifactKind.ITEM, scene, b"{}")
    world.gate.write(job, ArtifactKind.SCENE_LOG, scene, b"searched\n")
