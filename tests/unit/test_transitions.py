"""The tables of allowed transitions: whole, forward only, enforced by the store, and drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.model import (
    RUN_RETURNS,
    RUN_TRANSITIONS,
    SCENE_TRANSITIONS,
    SESSION_RETURNS,
    SESSION_TRANSITIONS,
    EndReason,
    RunState,
    SceneId,
    SceneState,
    SessionState,
)
from lib.store import Store
from lib.store.changes import UNSET, RunChange, SceneChange, SessionChange
from tests.fakes.things import ALICE, add_run, add_session
from tools import transitions


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(Path(tmp_path_factory.mktemp("store")) / "portal.sqlite")
    store.people.ensure_user(ALICE)
    yield store
    store.close()


def test_the_document_shows_the_tables() -> None:
    document = transitions.DOCUMENT.read_text(encoding="utf-8")
    assert transitions.drawn(document) == transitions.drawing(), (
        "docs/architecture.md does not show the transitions of lib/model/work.py; "
        "write them anew: python -m tools.transitions --write"
    )


def test_the_life_cycles() -> None:
    """Spelled out: news may be skipped, nothing goes backwards, an end stays."""
    s, r, c = SessionState, RunState, SceneState
    over = {r.DONE, r.PARTIAL, r.FAILED, r.CANCELLED}
    assert {
        s.NEW: {s.SUBMITTED, s.QUEUED, s.STARTING, s.READY, s.ENDED},
        s.SUBMITTED: {s.QUEUED, s.STARTING, s.READY, s.ENDED},
        s.QUEUED: {s.STARTING, s.READY, s.ENDED},
        s.STARTING: {s.READY, s.ENDED},
        s.READY: {s.ENDED},
        s.ENDED: set(),
    } == SESSION_TRANSITIONS
    assert {
        s.STARTING: {s.QUEUED},
        s.READY: {s.QUEUED, s.STARTING},
        s.ENDED: {s.QUEUED, s.STARTING},
    } == SESSION_RETURNS
    assert {
        r.NEW: {r.SUBMITTED, r.QUEUED, r.RUNNING} | over,
        r.SUBMITTED: {r.QUEUED, r.RUNNING} | over,
        r.QUEUED: {r.RUNNING} | over,
        r.RUNNING: over,
        **{end: set() for end in over},
    } == RUN_TRANSITIONS
    assert {r.RUNNING: {r.QUEUED}} == RUN_RETURNS
    assert {
        c.WAITING: {c.RUNNING, c.DONE, c.FAILED},
        c.RUNNING: {c.DONE, c.FAILED},
        c.DONE: set(),
        c.FAILED: set(),
    } == SCENE_TRANSITIONS
    assert {state for state in r if state.over} == over


@pytest.mark.parametrize("present", list(SessionState))
@pytest.mark.parametrize("wanted", list(SessionState))
def test_sessions_in_the_store(store: Store, present: SessionState, wanted: SessionState) -> None:
    session = add_session(store).id
    store.work.update_session(session, SessionChange(state=present))
    store.work.update_session(session, SessionChange(state=wanted))
    expected = wanted if wanted in SESSION_TRANSITIONS[present] else present
    assert store.work.session(session).state is expected


@pytest.mark.parametrize("present", list(SessionState))
@pytest.mark.parametrize("wanted", list(SessionState))
def test_sessions_that_are_sent_back(
    store: Store, present: SessionState, wanted: SessionState
) -> None:
    session = add_session(store).id
    lost = EndReason.LOST if present is SessionState.ENDED else UNSET
    store.work.update_session(session, SessionChange(state=present, end_reason=lost))
    goes = wanted in SESSION_RETURNS.get(present, ())
    assert store.work.send_session_back(session, wanted) is goes
    found = store.work.session(session)
    assert found.state is (wanted if goes else present)
    stays = present is SessionState.ENDED and not goes
    assert found.end_reason is (EndReason.LOST if stays else None)


@pytest.mark.parametrize("reason", [r for r in EndReason if r is not EndReason.LOST])
def test_only_what_was_lost_comes_back_from_its_end(store: Store, reason: EndReason) -> None:
    session = add_session(store).id
    ended = SessionChange(state=SessionState.ENDED, end_reason=reason)
    store.work.update_session(session, ended)
    assert not store.work.send_session_back(session, SessionState.STARTING)
    assert store.work.session(session).end_reason is reason


@pytest.mark.parametrize("present", list(RunState))
@pytest.mark.parametrize("wanted", list(RunState))
def test_runs_in_the_store(store: Store, present: RunState, wanted: RunState) -> None:
    run = add_run(store).id
    store.work.update_run(run, RunChange(state=present))
    store.work.update_run(run, RunChange(state=wanted))
    expected = wanted if wanted in RUN_TRANSITIONS[present] else present
    assert store.work.run(run).state is expected


@pytest.mark.parametrize("present", list(RunState))
@pytest.mark.parametrize("wanted", list(RunState))
def test_runs_that_are_sent_back(store: Store, present: RunState, wanted: RunState) -> None:
    run = add_run(store, "A", "B").id
    for scene, state in (("A", SceneState.RUNNING), ("B", SceneState.DONE)):
        store.work.update_scene(run, SceneId(scene), SceneChange(state=state, fraction=0.5))
    store.work.update_run(run, RunChange(state=present, started_at=5.0))
    goes = wanted in RUN_RETURNS.get(present, ())
    assert store.work.send_run_back(run, wanted, "Begun anew.") is goes
    found = store.work.run(run)
    assert found.state is (wanted if goes else present)
    assert (found.started_at is None) is goes
    assert [s.state for s in found.scenes] == [
        SceneState.WAITING if goes else SceneState.RUNNING,
        SceneState.DONE,
    ]


@pytest.mark.parametrize("present", list(SceneState))
@pytest.mark.parametrize("wanted", list(SceneState))
def test_scenes_in_the_store(store: Store, present: SceneState, wanted: SceneState) -> None:
    run = add_run(store, "A").id
    for state in (present, wanted):
        store.work.update_scene(run, SceneId("A"), SceneChange(state=state))
    expected = wanted if wanted in SCENE_TRANSITIONS[present] else present
    assert store.work.run(run).scenes[0].state is expected


@pytest.mark.parametrize("over", [state for state in RunState if state.over])
def test_an_end_is_not_written_over_another(store: Store, over: RunState) -> None:
    run = add_run(store, "A").id
    store.work.update_run(run, RunChange(state=over, reason="so it ended"))
    for state in RunState:
        store.work.end_run(run, state, "again", {SceneId("A"): (SceneState.FAILED, "no")})
    found = store.work.run(run)
    assert (found.state, found.reason, found.ended_at) == (over, "so it ended", None)
    assert found.scenes[0].state is SceneState.WAITING


def test_none_empties_and_unset_leaves_alone(store: Store) -> None:
    session = add_session(store).id
    store.work.update_session(session, SessionChange(ends_at=5.0, starts_at=3.0, job="7"))
    store.work.update_session(session, SessionChange(starts_at=None))
    found = store.work.session(session)
    assert found.starts_at is None
    assert found.ends_at is not None
    assert (found.ends_at.timestamp(), found.job) == (5.0, "7")
