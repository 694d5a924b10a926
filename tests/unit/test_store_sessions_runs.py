"""Sessions and Runs in a real SQLite file: life cycles, races, what survives a restart."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from lib.errors import Conflict, NotFound
from lib.model import (
    EndReason,
    RunId,
    RunState,
    SceneId,
    SceneState,
    Session,
    SessionId,
    SessionState,
)
from lib.store import Store
from lib.store.changes import RunChange, SceneChange, SessionChange
from tests.fakes.stores import new_store
from tests.fakes.things import (
    ALICE,
    BOB,
    HERE,
    TIME,
    a_detection,
    a_run,
    a_scene,
    a_session,
    add_run,
    add_session,
    new_id,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = new_store(tmp_path / "portal.sqlite")
    store.people.ensure_user(ALICE)
    store.people.ensure_user(BOB)
    yield store
    store.close()


def test_a_session_comes_back_as_it_was_written(store: Store, tmp_path: Path) -> None:
    made = add_session(store, "B", "A")
    store.close()
    again = Store(tmp_path / "portal.sqlite")
    found = again.work.session(made.id)
    assert found == made
    assert found.scenes == ("B", "A")
    run = again.work.run(made.run)
    assert run.session == made.id
    assert [s.state for s in run.scenes] == [SceneState.WAITING] * 2
    assert [i["id"] for i in again.work.items(run.id)] == ["B", "A"]
    assert again.work.scene_times(run.id) == {"A": TIME, "B": TIME}
    again.close()


def test_what_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        store.work.session(SessionId(new_id()))
    with pytest.raises(NotFound):
        store.work.run(RunId("'; drop table runs; --"))


def test_lists_hold_the_owner_s_things_newest_first(store: Store) -> None:
    first, second = add_run(store), add_run(store)
    add_run(store, owner=BOB)
    add_session(store, owner=BOB)
    assert [r.id for r in store.work.runs_of(ALICE.id)] == [second.id, first.id]
    assert store.work.sessions_of(ALICE.id) == ()
    assert len(store.work.runs_of(BOB.id)) == 2
    assert len(store.work.live_sessions(HERE)) == 1


@pytest.mark.parametrize(
    ("present", "late"),
    [
        (SessionState.QUEUED, SessionState.SUBMITTED),
        (SessionState.READY, SessionState.STARTING),
        (SessionState.READY, SessionState.SUBMITTED),
        (SessionState.ENDED, SessionState.READY),
    ],
)
def test_late_news_changes_neither_state_nor_reason(
    store: Store, present: SessionState, late: SessionState
) -> None:
    session = add_session(store)
    store.work.update_session(session.id, SessionChange(state=present, reason="as it is"))
    store.work.update_session(session.id, SessionChange(state=late, reason="as it was", job="7"))
    found = store.work.session(session.id)
    assert (found.state, found.reason) == (present, "as it is")
    assert found.job == ("" if present is SessionState.ENDED else "7")


def test_a_session_that_ended_stays_as_it_ended(store: Store) -> None:
    session = add_session(store)
    store.work.update_session(
        session.id,
        SessionChange(
            state=SessionState.ENDED, end_reason=EndReason.IDLE, reason="idle", ended_at=5.0
        ),
    )
    store.work.update_session(session.id, SessionChange(reason="being connected", stopping=True))
    store.work.update_session(
        session.id,
        SessionChange(
            state=SessionState.ENDED, end_reason=EndReason.LOST, reason="lost", ended_at=9.0
        ),
    )
    store.work.update_session(session.id, SessionChange(files_until=time.time() + 60))
    found = store.work.session(session.id)
    assert (found.end_reason, found.reason, found.stopping) == (EndReason.IDLE, "idle", False)
    assert found.ended_at is not None
    assert found.ended_at.timestamp() == 5.0
    assert [s.id for s in store.work.sessions_with_files(HERE)] == [session.id]


@pytest.mark.parametrize("over", [s for s in RunState if s.over])
def test_a_run_that_is_over_stays_as_it_ended(store: Store, over: RunState) -> None:
    run = add_run(store)
    store.work.update_run(run.id, RunChange(state=over, reason="so it ended"))
    store.work.update_run(
        run.id, RunChange(state=RunState.RUNNING, reason="", stopping=True, events_have=4)
    )
    store.work.update_run(run.id, RunChange(reason="the disk is full"))
    found = store.work.run(run.id)
    assert (found.state, found.reason, found.stopping) == (over, "so it ended", False)
    assert store.work.events_have(run.id) == 4
    assert store.work.live_runs(HERE) == ()


def test_a_run_that_runs_is_not_submitted_again(store: Store) -> None:
    run = add_run(store)
    store.work.update_run(run.id, RunChange(state=RunState.RUNNING, reason="it searches"))
    store.work.update_run(
        run.id, RunChange(state=RunState.SUBMITTED, reason="accepted", submitted_at=3.0)
    )
    found = store.work.run(run.id)
    assert (found.state, found.reason) == (RunState.RUNNING, "it searches")
    assert found.submitted_at is not None


def test_scenes_go_forward_only(store: Store) -> None:
    run = add_run(store, "A", "B")
    a, b = SceneId("A"), SceneId("B")
    store.work.update_scene(run.id, a, SceneChange(state=SceneState.RUNNING, fraction=0.5))
    store.work.update_scene(run.id, a, SceneChange(state=SceneState.DONE, objects=3))
    store.work.update_scene(run.id, a, SceneChange(state=SceneState.RUNNING, fraction=0.1))
    store.work.update_scene(run.id, a, SceneChange(state=SceneState.FAILED, message="no"))
    store.work.update_scene(run.id, b, SceneChange(state=SceneState.FAILED, message="broken"))
    store.work.update_scene(run.id, b, SceneChange(state=SceneState.DONE))
    scenes = store.work.run(run.id).scenes
    assert [(s.state, s.message) for s in scenes] == [
        (SceneState.DONE, ""),
        (SceneState.FAILED, "broken"),
    ]
    assert scenes[0].fraction == 0.5
    assert store.work.unfetched_scenes(run.id) == (a,)


def test_no_thread_can_slip_between_reading_and_writing(store: Store) -> None:
    """READY and ENDED race; whoever comes last in time, ENDED stands."""
    for _ in range(15):
        session = add_session(store)
        together = threading.Barrier(8)

        def tell(
            state: SessionState, one: SessionId = session.id, all_: threading.Barrier = together
        ) -> None:
            all_.wait()
            store.work.update_session(one, SessionChange(state=state, reason=str(state)))

        states = [SessionState.READY, SessionState.STARTING, SessionState.QUEUED] * 2
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(tell, [*states, SessionState.ENDED, SessionState.ENDED]))
        found = store.work.session(session.id)
        assert (found.state, found.reason) == (SessionState.ENDED, "ENDED")


def test_only_one_session_takes_over_the_files(store: Store) -> None:
    old = add_session(store)
    runs = store.work.runs_of(ALICE.id)
    fresh = [a_session(runs[0], SessionId(new_id()), continued_from=old.id) for _ in range(6)]

    def begin(session: object) -> bool:
        try:
            store.work.add_session(session, None, ())  # type: ignore[arg-type]
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(begin, fresh)) == [False] * 5 + [True]
    assert len(store.work.sessions_of(ALICE.id)) == 2
    winner = store.work.session(old.id).continued_as
    assert winner is not None
    store.work.release_files(old.id)
    assert store.work.session(old.id).continued_as is None


def test_a_run_needs_its_owner(store: Store) -> None:
    from sqlalchemy.exc import IntegrityError

    stranger = a_run(owner=type(ALICE)(type(ALICE.id)("nobody"), "Nobody"))
    with pytest.raises(IntegrityError):
        store.work.add_run(stranger, [a_scene()])


def ended(store: Store, *scenes: str) -> Session:
    session = add_session(store, *scenes)
    store.work.update_session(session.id, SessionChange(state=SessionState.ENDED))
    store.work.update_run(session.run, RunChange(state=RunState.CANCELLED))
    return session


def test_a_name_and_a_note_are_those_of_a_session_and_its_run(store: Store) -> None:
    session, run, other = add_session(store), add_run(store), add_run(store)
    store.work.describe(session.id, "Kagoshima", "too many\nclouds")
    store.work.describe(run.id, "Taipei", "")
    for found in (store.work.session(session.id), store.work.run(session.run)):
        assert (found.title, found.note) == ("Kagoshima", "too many\nclouds")
    assert (store.work.run(run.id).title, store.work.run(run.id).note) == ("Taipei", "")
    assert store.work.run(other.id).title == other.title


def test_what_is_deleted_is_not_found_and_leaves_only_a_mark(store: Store) -> None:
    session, run, kept = ended(store), add_run(store), add_run(store)
    store.detections.put([a_detection(run.id), a_detection(kept.id)])
    store.work.update_run(run.id, RunChange(state=RunState.DONE))
    assert store.work.delete(run.id) == run.id
    assert store.work.delete(session.id) == session.run
    assert [r.id for r in store.work.runs_of(ALICE.id)] == [kept.id]
    assert [r.id for r in store.work.runs_of_all(None, ended=9)] == [kept.id]
    assert store.work.sessions_of(ALICE.id) == store.work.sessions_of_all(None, ended=9) == ()
    with pytest.raises(NotFound):
        store.work.session(session.id)
    for gone in (run.id, session.run):
        with pytest.raises(NotFound):
            store.work.run(gone)
        mark = store.work.run(gone, deleted=True)
        assert (mark.title, mark.note, mark.params, mark.scenes) == ("", "", {}, ())
        assert store.detections.of_run(gone) == ()
        assert store.work.items(gone) == []
    assert len(store.detections.of_run(kept.id)) == 1


def test_the_cluster_s_late_news_bring_nothing_deleted_back(store: Store) -> None:
    """And the cluster is told that nothing more of it is wanted."""
    lost = "The cluster does not know it any more."
    session, run = ended(store), add_run(store)
    store.work.update_run(run.id, RunChange(state=RunState.FAILED, reason=lost))
    store.work.delete(session.id)
    store.work.delete(run.id)
    assert store.work.events_of_cluster(HERE) == {session.id: (0, True), run.id: (0, True)}
    assert not store.work.take_run_back(run.id, lost=lost, unfinished="x", missing="y")
    assert not store.work.send_session_back(session.id, SessionState.QUEUED)
    store.work.update_session(session.id, SessionChange(state=SessionState.READY))
    store.work.update_run(run.id, RunChange(state=RunState.RUNNING))
    assert store.work.live_sessions(HERE) == store.work.live_runs(HERE) == ()


@pytest.mark.parametrize("session_over", [True, False])
def test_what_is_not_over_is_not_deleted(store: Store, session_over: bool) -> None:
    session, run = add_session(store), add_run(store)
    if session_over:
        store.work.update_session(session.id, SessionChange(state=SessionState.ENDED))
    else:
        store.work.update_run(session.run, RunChange(state=RunState.DONE))
    for work in (session.id, run.id):
        with pytest.raises(Conflict, match="not over yet"):
            store.work.delete(work)
    assert store.work.session(session.id).title == session.title
    assert len(store.work.runs_of(ALICE.id)) == 2


def test_results_stay_while_a_session_that_went_on_shows_them(store: Store) -> None:
    old = ended(store)
    store.detections.put([a_detection(old.run)])
    fresh = replace(old, id=SessionId(new_id()), continued_from=old.id)
    store.work.add_session(fresh, None, ())
    assert store.work.delete(old.id) is None
    assert [s.id for s in store.work.sessions_of(ALICE.id)] == [fresh.id]
    assert len(store.detections.of_run(store.work.run(old.run).id)) == 1
    store.work.update_session(fresh.id, SessionChange(state=SessionState.ENDED))
    assert store.work.delete(fresh.id) == old.run


def test_marks_go_when_no_cluster_speaks_of_them_any_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ended(store), ended(store)
    store.work.delete(first.id)
    later = time.time() + 101 * 86_400
    monkeypatch.setattr("lib.store.sessions_runs.time.time", lambda: later)
    store.work.delete(second.id)
    assert set(store.work.events_of_cluster(HERE)) == {second.id}


def test_a_row_that_an_older_version_let_in_is_shown_and_deleted(
    store: Store, tmp_path: Path
) -> None:
    session, run = ended(store), add_run(store)
    store.work.update_run(run.id, RunChange(state=RunState.DONE))
    with sqlite3.connect(tmp_path / "portal.sqlite") as raw:
        raw.execute("update sessions set files_until = 1e308, reason = ?", ("x" * 2_000_000,))
        raw.execute("update runs set started_at = -1e308")
    raw.close()
    assert [s.id for s in store.work.sessions_of(ALICE.id)] == [session.id]
    assert {r.id for r in store.work.runs_of(ALICE.id)} == {run.id, session.run}
    store.work.delete(session.id)
    store.work.delete(run.id)
    assert store.work.sessions_of(ALICE.id) == store.work.runs_of(ALICE.id) == ()


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        *(("sessions", column, "x") for column in ("walltime_s", "created_at", "started_at")),
        *(("sessions", column, b"x") for column in ("title", "reason", "state")),
        ("sessions", "state", "NONE"),
        *(("runs", column, "{") for column in ("params", "objects", "created_at", "state")),
        *(("runs", column, b"\xff") for column in ("params", "title")),
        *(("run_scenes", column, "{") for column in ("searched", "fraction", "state", "time")),
    ],
)
def test_a_row_of_other_types_costs_itself_alone(
    store: Store, tmp_path: Path, table: str, column: str, value: object
) -> None:
    bad, good = ended(store), ended(store)
    of = {"sessions": ("id", bad.id), "runs": ("id", bad.run), "run_scenes": ("run_id", bad.run)}
    key, row = of[table]
    with sqlite3.connect(tmp_path / "portal.sqlite") as raw:
        raw.execute("pragma ignore_check_constraints = on")
        raw.execute(f"update {table} set {column} = ? where {key} = ?", (value, row))
    raw.close()
    sessions = {s.id for s in store.work.sessions_of(ALICE.id)}
    runs = {r.id: r for r in store.work.runs_of(ALICE.id)}
    assert sessions - {bad.id} == {good.id}
    assert runs.keys() - {bad.run} == {good.run}
    assert (bad.id in sessions) is (table != "sessions")
    assert (bad.run in runs) is (table != "runs")
    assert store.work.sessions_of_all(None, ended=10)
    assert store.work.scene_times(good.run)
    assert good.id in store.work.events_of_cluster(HERE)
