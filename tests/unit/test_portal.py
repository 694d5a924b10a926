"""The Portal: what pages and API may ask, in whose name, and what it remembers."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lib.auth import CLIENT_HEADER, COOKIE, OWNER
from lib.errors import ClusterUnreachable, Conflict, InvalidInput, NotFound, Refused
from lib.model import (
    ClusterId,
    EndReason,
    LaunchRequest,
    ModuleId,
    Reachability,
    Resources,
    RunState,
    SceneId,
    SceneQuery,
    Session,
    SessionState,
)
from lib.portal import asking, audit_words, facade
from lib.protocol.messages import ArtifactKind
from lib.store.changes import SessionChange
from tests.fakes.reconciler_harness import hurry, until
from tests.fakes.site import ALICE, BOB, Site, serve_site
from tests.fakes.things import HERE, a_detection, a_picture, a_run, module_event, new_id

REQUEST = LaunchRequest(
    scenes=(SceneId("LC08_A"),),
    module=ModuleId("active-fire"),
    params={},
    cluster=HERE,
    resources=Resources("small", 3600),
)


@pytest.fixture
async def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    hurry(monkeypatch)
    async with serve_site(tmp_path) as it:
        yield it


async def ask(method: Any, *args: Any) -> Any:
    """As the pages do: from another thread than the reconciler's."""
    return await asyncio.to_thread(method, *args)


async def ready(here: Site) -> Session:
    session = await ask(here.portal.open_notebook, ALICE, REQUEST)
    await here.world.session_is(session.id, SessionState.QUEUED)
    here.world.gate.start(session.id)
    here.world.gate.report_endpoint(session.id)
    await here.world.session_is(session.id, SessionState.READY)
    return await ask(here.portal.session, ALICE, session.id)


async def ended(here: Site) -> Session:
    session = await ready(here)
    here.world.gate.end(session.id, EndReason.WALLTIME)
    await here.world.session_is(session.id, SessionState.ENDED)
    await until(lambda: here.world.run(session.run).state.over)
    return await ask(here.portal.session, ALICE, session.id)


def test_there_is_no_portal_before_it_starts() -> None:
    with pytest.raises(ClusterUnreachable, match="is starting"):
        facade.current()


async def test_who_is_asking(here: Site) -> None:
    name, _, secret = here.login(BOB).partition("=")
    assert name == COOKIE
    user = here.portal.user_of_browser({COOKIE: secret}, {CLIENT_HEADER: "192.0.2.7"})
    assert user is not None
    assert user == BOB
    assert user.client == "192.0.2.7"
    assert here.portal.user_of_browser({COOKIE: "x"}, {}) is None
    assert here.portal.user_of_browser({}, {}) is None


async def test_scenes_modules_and_what_fits(here: Site) -> None:
    assert here.portal.search(ALICE, SceneQuery()).total == 2
    assert here.portal.footprints(ALICE, SceneQuery(text="_B")).total == 1
    assert here.portal.scene(ALICE, SceneId("LC08_B")).synthetic
    (one,) = here.portal.fits(ALICE, ["LC08_A", "LC08_B"])
    assert one.ok
    with pytest.raises(NotFound):
        here.portal.fits(ALICE, ["NONE"])
    assert here.portal.quicklook(ALICE, SceneId("LC08_A"), 64).width <= 64
    assert dict(here.portal.platforms(ALICE))["landsat-8"] == "Landsat 8"


async def test_what_a_card_shows_from_click_to_end(here: Site) -> None:
    session = await ask(here.portal.open_notebook, ALICE, REQUEST)
    assert session.state is SessionState.NEW
    assert session.reason == "The job is being handed to the cluster."
    with pytest.raises(NotFound):
        here.portal.notebook(BOB, session.id)
    assert here.portal.notebook(ALICE, session.id) == here.portal.session(ALICE, session.id)
    assert here.portal.notebook_path(session) == f"/open/{session.id}"
    await here.world.session_is(session.id, SessionState.QUEUED)
    await ask(here.portal.stop, ALICE, session.id)
    over = await here.world.session_is(session.id, SessionState.ENDED)
    await ask(here.portal.stop, ALICE, session.id)
    assert here.world.session(session.id) == over
    acts = [(e.user, e.action, e.object, e.result) for e in here.world.store.audit.latest()]
    assert acts == [
        ("alice", "stop", session.id, "ok"),  # its repetition is counted
        ("alice", "open", session.id, "ok"),
        ("bob", "open", session.id, "not-found"),
        ("alice", "open-notebook", session.id, "ok"),
    ]


async def test_the_audit_says_what_it_was(here: Site) -> None:
    """An id alone tells nobody anything, and the row that it names may be gone."""
    long = dataclasses.replace(
        REQUEST, scenes=tuple(SceneId(s) for s in ("LC08_A", "LC08_B")), params={"min_pixels": 7}
    )
    session = await ask(here.portal.open_notebook, ALICE, REQUEST)
    run = await ask(here.portal.start_run, ALICE, long)
    await ask(here.portal.describe, ALICE, run.id, "Dry season", "")
    await ask(here.portal.notebook, ALICE, session.id)
    await ask(here.portal.stop, ALICE, session.id)
    await ask(here.portal.stop, OWNER, run.id)
    await until(lambda: here.world.run(run.id).state.over)
    await ask(here.portal.delete, ALICE, run.id)
    said = {(e.action, e.object): e.detail for e in here.world.store.audit.latest()}
    what = (
        f"notebook “{session.title}” on here, active-fire 1.0.0, 1 scene (LC08_A), "
        "factor=0.5, min_pixels=1"
    )
    for action in ("open-notebook", "open", "stop"):
        assert said[action, session.id] == what
    rest = "active-fire 1.0.0, 2 scenes (LC08_A, LC08_B), factor=0.5, min_pixels=7"
    assert said["start-run", run.id] == f"run “{run.title}” on here, {rest}"
    for action in ("describe", "delete"):
        assert said[action, run.id] == f"run “Dry season” on here, {rest}"
    assert said["stop", run.id] == f"run “Dry season” on here, {rest}, of Alice"


def test_however_much_there_is_of_it_the_audit_stays_a_line() -> None:
    scenes = [f"LC08_{i}" for i in range(200)]
    run = a_run(*scenes, title="x" * 300 + "\ny", params={"a": "y" * 9000, "b": ["\n", None]})
    said = audit_words.told(run, run)
    assert len(said) < 900
    assert "200 scenes (LC08_0, LC08_1, LC08_2, …), a=" in said
    assert "\n" not in said
    none = audit_words.told(run, dataclasses.replace(run, params={}))
    assert none.endswith("(LC08_0, LC08_1, LC08_2, …), no parameters")


async def test_stopping_an_ended_session_leaves_its_arriving_results_alone(here: Site) -> None:
    session = await ready(here)
    here.world.gate.say(session.id, module_event("run_started"))
    here.world.gate.change(session.id, events=5)
    here.world.gate.end(session.id, EndReason.WALLTIME)
    await here.world.session_is(session.id, SessionState.ENDED)
    await ask(here.portal.stop, ALICE, session.id)
    assert not here.world.run(session.run).stopping
    with pytest.raises(Conflict, match="results of this notebook still arrive"):
        await ask(here.portal.start_again, ALICE, session.id)


async def test_unknown_is_a_second_axis(here: Site) -> None:
    session = await ready(here)
    assert session.reachability is Reachability.REACHABLE
    here.world.gate.go_away()
    await until(lambda: not here.world.reconciler.health(HERE).reachable)
    seen = await ask(here.portal.session, ALICE, session.id)
    assert (seen.state, seen.reachability) == (SessionState.READY, Reachability.UNKNOWN)
    assert here.portal.runs(ALICE)[0].reachability is Reachability.UNKNOWN
    here.world.routes.answers = False
    here.world.gate.come_back()
    await here.world.connected()
    seen = await ask(here.portal.session, ALICE, session.id)
    assert seen.reachability is Reachability.UNKNOWN, "it was not proved again yet"
    here.world.routes.answers = True
    await until(lambda: here.world.reconciler.connected(HERE, session.id))
    assert (await ask(here.portal.session, ALICE, session.id)) == session


async def test_start_again(here: Site) -> None:
    session = await ready(here)
    with pytest.raises(Conflict, match="still runs"):
        await ask(here.portal.start_again, ALICE, session.id)
    here.world.gate.end(session.id, EndReason.IDLE)
    await here.world.session_is(session.id, SessionState.ENDED)
    await here.world.run_is(session.run, RunState.FAILED)
    with pytest.raises(NotFound):
        await ask(here.portal.start_again, BOB, session.id)
    fresh = await ask(here.portal.start_again, ALICE, session.id)
    assert (fresh.continued_from, fresh.run) == (session.id, session.run)
    assert (fresh.end_reason, fresh.ended_at, fresh.job) == (None, None, "")
    with pytest.raises(Conflict, match="again already"):
        await ask(here.portal.start_again, ALICE, session.id)
    await here.world.session_is(fresh.id, SessionState.QUEUED)
    assert here.world.gate.jobs[fresh.id].request.continue_from == session.id


async def test_files_that_are_gone_cannot_be_started_again(here: Site) -> None:
    session = await ended(here)
    here.world.store.work.update_session(session.id, SessionChange(files_until=1.0))
    with pytest.raises(Conflict, match="no longer kept"):
        await ask(here.portal.start_again, ALICE, session.id)


async def test_logs(here: Site) -> None:
    session = await ready(here)
    for kind in ("job", "module", "notebook"):
        log = await ask(here.portal.log, ALICE, session.id, kind)
        assert log.text == f"the {kind} log of {session.id}"
        of_run = await ask(here.portal.log, ALICE, session.run, kind)
        assert of_run == log, "the run's log is its session's"
    with pytest.raises(InvalidInput, match="job, module, notebook"):
        await ask(here.portal.log, ALICE, session.id, "../../etc/passwd")
    with pytest.raises(NotFound):
        await ask(here.portal.log, BOB, session.id)
    here.world.gate.go_away()
    with pytest.raises(ClusterUnreachable):
        await ask(here.portal.log, ALICE, session.id)


async def test_a_log_that_does_not_come_is_not_waited_for(
    here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_TIMEOUT_S", 0.05)
    session = await ready(here)
    here.world.gate.before["log"] = asyncio.Event().wait
    with pytest.raises(ClusterUnreachable, match="does not answer"):
        await ask(here.portal.log, ALICE, session.id)


async def test_work_on_a_cluster_that_left_the_catalogue_is_still_shown(here: Site) -> None:
    session = await ended(here)
    store = here.world.store
    gone = ClusterId("gone")
    lost = dataclasses.replace(
        session, id=type(session.id)(new_id()), cluster=gone, state=SessionState.NEW
    )
    run = dataclasses.replace(
        store.work.run(session.run), id=type(session.run)(new_id()), cluster=gone, session=lost.id
    )
    store.work.add_session(
        dataclasses.replace(lost, run=run.id),
        run,
        [here.catalog.get(SceneId("LC08_A"))],
    )
    seen = await ask(here.portal.session, ALICE, lost.id)
    assert seen.reachability is Reachability.UNKNOWN
    with pytest.raises(ClusterUnreachable, match="not connected to that cluster"):
        await ask(here.portal.log, ALICE, lost.id)
    await ask(here.portal.stop, ALICE, lost.id)


async def test_a_cluster_in_the_catalogue_that_is_not_kept(here: Site) -> None:
    offerings = here.portal._offerings
    far = dataclasses.replace(offerings.clusters[HERE], id=ClusterId("far"), embedded=False)
    both = dataclasses.replace(offerings, clusters={**offerings.clusters, far.id: far})
    here.portal._clusters._offerings = here.portal._offerings = both
    seen = here.portal.all_clusters(ALICE)[1]
    assert (seen.id, seen.reachability) == ("far", Reachability.UNKNOWN)
    assert seen.unreachable_reason.startswith("This portal is not connected to it; the portal's")
    assert seen.refused.startswith("No tunnel to This computer has been opened yet")
    assert "far" not in {c.id for c in here.portal.clusters(ALICE)}
    with pytest.raises(Refused, match="No tunnel"):
        here.portal.check_launch(ALICE, dataclasses.replace(REQUEST, cluster=far.id))
    here.access.tunnel = lambda _entry: None
    with pytest.raises(ClusterUnreachable, match="cannot be asked"):
        here.portal.check_launch(ALICE, dataclasses.replace(REQUEST, cluster=far.id))


async def test_launching_while_the_cluster_is_away_waits(here: Site) -> None:
    here.world.gate.go_away()
    await until(lambda: not here.world.reconciler.health(HERE).reachable)
    run = await ask(here.portal.start_run, ALICE, REQUEST)
    assert run.reachability is Reachability.UNKNOWN
    here.world.gate.come_back()
    await here.world.run_is(run.id, RunState.QUEUED)


async def test_results_belong_to_their_owner(here: Site) -> None:
    run = await ask(here.portal.start_run, ALICE, REQUEST)
    here.world.store.detections.put([a_detection(run.id, 1), a_detection(run.id, 2, kind="x")])
    path = here.world.results.path(run.id, SceneId("LC08_A"), ArtifactKind.CHIP, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(a_picture())
    picture = (run.id, SceneId("LC08_A"), ArtifactKind.CHIP, 1)
    assert len(here.portal.detections(ALICE, run.id)) == 2
    assert len(here.portal.detections(ALICE, run.id, kind="x", min_score=0.1)) == 1
    assert here.portal.detection_counts(ALICE, run.id) == {
        ("LC08_A", "fire"): 1,
        ("LC08_A", "x"): 1,
    }
    assert here.portal.export_geojson(ALICE, run.id).startswith(b"{")
    assert here.portal.picture(ALICE, *picture) == a_picture()
    for method, args in (
        (here.portal.run, (run.id,)),
        (here.portal.detections, (run.id,)),
        (here.portal.detection_counts, (run.id,)),
        (here.portal.export_geojson, (run.id,)),
        (here.portal.picture, picture),
        (here.portal.stop, (run.id,)),
        (here.portal.log, (run.id,)),
    ):
        with pytest.raises(NotFound):
            await ask(method, BOB, *args)
    assert here.portal.runs(BOB) == ()
    assert here.portal.sessions(BOB) == ()
    lines = here.world.store.audit.latest()
    refused = {(e.user, e.action, e.result) for e in lines if e.user == BOB.id}
    assert refused == {
        ("bob", "stop", "not-found"),
        ("bob", "attempt-see", "not-found"),
        ("bob", "attempt-read", "not-found"),
    }


async def test_a_name_and_a_note(here: Site) -> None:
    run = await ask(here.portal.start_run, ALICE, REQUEST)
    await here.world.run_is(run.id, RunState.QUEUED)
    await ask(here.portal.describe, ALICE, run.id, "  Before the rain ", "one\ntwo\n")
    found = here.portal.run(ALICE, run.id)
    assert (found.title, found.note) == ("Before the rain", "one\ntwo")
    for title, note in (("", ""), (" ", ""), ("x" * 201, ""), ("a\nb", ""), ("x", "y" * 2001)):
        with pytest.raises(InvalidInput):
            await ask(here.portal.describe, ALICE, run.id, title, note)
    with pytest.raises(NotFound):
        await ask(here.portal.describe, BOB, run.id, "mine", "")
    assert here.portal.run(ALICE, run.id) == found


async def test_what_is_deleted_is_gone_with_its_files_and_stays_gone(here: Site) -> None:
    session = await ended(here)
    path = here.world.results.path(session.run, SceneId("LC08_A"), ArtifactKind.CHIP, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(a_picture())
    picture = (session.run, SceneId("LC08_A"), ArtifactKind.CHIP, 1)
    assert here.portal.picture(ALICE, *picture)
    with pytest.raises(NotFound):
        await ask(here.portal.delete, BOB, session.id)
    with pytest.raises(Conflict, match="belongs to a notebook"):
        await ask(here.portal.delete, ALICE, session.run)
    live = await ask(here.portal.start_run, ALICE, REQUEST)
    with pytest.raises(Conflict, match="not over"):
        await ask(here.portal.delete, ALICE, live.id)
    await ask(here.portal.delete, ALICE, session.id)
    assert not path.exists()
    for method, args in (
        (here.portal.session, (session.id,)),
        (here.portal.run, (session.run,)),
        (here.portal.detections, (session.run,)),
        (here.portal.picture, picture),
        (here.portal.notebook, (session.id,)),
        (here.portal.start_again, (session.id,)),
        (here.portal.delete, (session.id,)),
    ):
        with pytest.raises(NotFound):
            await ask(method, ALICE, *args)
    here.world.gate.end(session.id, EndReason.WALLTIME)  # its gate says it once more
    await here.world.run_is(live.id, RunState.QUEUED)
    assert here.portal.sessions(ALICE) == ()
    assert [r.id for r in here.portal.runs(ALICE)] == [live.id]
    assert all(c.reachability is Reachability.REACHABLE for c in here.portal.clusters(ALICE))
