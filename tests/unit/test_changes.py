"""What tells open pages to look again: stamps, and the WebSocket that carries them."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from starlette.applications import Starlette
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from lib.auth import COOKIE, OWNER
from lib.errors import NotFound, Refused, Unavailable
from lib.model import AnnouncementKind, EndReason, RunState, SceneId, SceneState, SessionState
from lib.portal import facade
from lib.portal.reads import Reads
from lib.store.audit import AuditQuery
from lib.store.changes import RunChange, SceneChange, SessionChange
from lib.web import change_feed
from lib.web.auth_middleware import AuthMiddleware
from lib.web.change_feed import ChangeFeed
from tests.pages.sample_portal import Site, plant_scene

HOST = "localhost:8501"
ORIGIN = f"http://{HOST}"
A = SceneId("LC08_A")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    plant_scene(folder, A, rasters=False)
    return folder / "scenes"


@pytest.fixture
def site(tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    (tmp_path / "scenes").symlink_to(scenes)
    monkeypatch.setattr("lib.portal.changes._CLUSTERS_COUNT_S", 0.0)
    it = Site(tmp_path)
    facade.use(it.portal)
    yield it
    facade.use(None)
    it.store.close()


# --- stamps -------------------------------------------------------------------------------


def test_a_stamp_changes_with_all_that_a_page_shows_of_it_and_with_nothing_else(site: Site) -> None:
    user = site.person("user")
    session = site.add_session([A], SessionState.QUEUED, owner=user)
    run = site.add_run([A], RunState.RUNNING, owner=user)
    far = site.folder / "far-is-silent"
    topics = ("work", f"run:{run.id}", "clusters", "announcements")
    work, ready = site.store.work, SessionState.READY

    def stamps() -> dict[str, str]:
        return dict(site.portal.changes.stamps(user.id, topics))

    acts: list[tuple[set[str], Callable[[], Any]]] = [
        ({"work"}, lambda: work.update_session(session.id, SessionChange(reason="2 before it."))),
        ({"work"}, lambda: work.update_session(session.id, SessionChange(stopping=True))),
        ({"work"}, lambda: work.update_session(session.id, SessionChange(starts_at=1.8e9))),
        (
            {"work"},
            lambda: work.update_session(session.id, SessionChange(state=ready)),
        ),
        ({"work"}, lambda: setattr(site.reconciler, "proved", False)),
        ({"work", topics[1]}, lambda: work.update_scene(run.id, A, SceneChange(fraction=0.5))),
        ({"work", topics[1]}, lambda: site.add_detections(run, A, [0.9, 0.8])),
        ({topics[1]}, lambda: site.store.detections.set_chip(run.id, A, 1, here=False)),
        (set(), lambda: work.update_run(run.id, RunChange(events_have=7))),
        (set(), lambda: site.add_run([A], RunState.RUNNING, owner=OWNER)),
        (set(), lambda: site.auth.logins.touch(user.via.removeprefix("login:"))),
        (
            {"work", topics[1]},
            lambda: work.end_run(run.id, RunState.PARTIAL, "x", {A: (SceneState.FAILED, "broken")}),
        ),
        (
            {"work"},
            lambda: work.update_session(
                session.id, SessionChange(state=SessionState.ENDED, end_reason=EndReason.IDLE)
            ),
        ),
        ({"work"}, lambda: work.update_session(session.id, SessionChange(files_until=1.9e9))),
        ({"work", topics[1], "clusters"}, far.touch),
        ({"work", topics[1], "clusters"}, far.unlink),
        ({"work"}, lambda: work.describe(session.id, "another name", "")),
        ({"work", topics[1]}, lambda: work.describe(run.id, run.title, "a note")),
        ({"work", topics[1]}, lambda: work.delete(run.id)),
        ({"announcements"}, lambda: site.store.announcements.add("x", AnnouncementKind.INFO, 2e9)),
    ]
    before = stamps()
    for n, (expected, act) in enumerate(acts):
        act()
        after = stamps()
        assert {t for t in topics if after[t] != before[t]} == expected, n
        assert stamps() == after
        before = after
    again = Site(site.folder)  # after a restart, or in another process
    again.reconciler.began, again.reconciler.proved = site.reconciler.began, False
    assert again.portal.changes.stamps(user.id, topics) == before
    again.store.close()


def test_what_another_process_writes_is_seen(site: Site) -> None:
    before = site.portal.changes.stamp(OWNER, "announcements")
    assert site.portal.administration.announcements(OWNER) == ()
    other = Site(site.folder)
    other.store.announcements.add("It rests on Friday.", AnnouncementKind.INFO, time.time() + 60)
    other.store.close()
    assert site.portal.changes.stamp(OWNER, "announcements") != before
    (told,) = site.portal.administration.announcements(OWNER)  # nor is what is drawn older
    assert told.text == "It rests on Friday."


def test_an_announcement_that_has_run_out_is_a_change(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    none, now = site.portal.changes.stamp(OWNER, "announcements"), time.time()
    site.store.announcements.add("It rests on Friday.", AnnouncementKind.INFO, now + 60)
    assert site.portal.changes.stamp(OWNER, "announcements") != none
    monkeypatch.setattr("lib.portal.changes.time.time", lambda: now + 61)
    assert site.portal.changes.stamp(OWNER, "announcements") == none


def test_who_may_follow_what(site: Site) -> None:
    user, administrator = site.person("user"), site.person("administrator")
    theirs = site.add_run([A], owner=user)
    for topic in ("work", "clusters", "announcements", f"run:{theirs.id}"):
        site.portal.changes.check(user, topic)
    for topic in ("everybody", f"run:{theirs.id}"):
        site.portal.changes.check(administrator, topic)
    site.portal.changes.check(site.person("lead"), "everybody")
    for who, topic, refused in (
        (user, "everybody", Refused),
        (site.person("other"), f"run:{theirs.id}", NotFound),
        (user, "run:", NotFound),
        (user, "sessions", NotFound),
    ):
        with pytest.raises(refused):
            site.portal.changes.check(who, topic)
    assert [e.user for e in site.store.audit.search(AuditQuery(refused=True))][-1] == user.id


# --- the WebSocket ------------------------------------------------------------------------


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    app = Starlette(routes=[ChangeFeed().route()])
    guarded = AuthMiddleware(
        app,
        origin=ORIGIN,
        auth=site.auth,
        access=site.access,
        policies={"/": ""},
        sign_in_page=lambda _: "",
    )
    with TestClient(guarded, base_url=ORIGIN) as it:
        yield it


def connect(client: TestClient, site: Site, who: str = "user") -> WebSocketTestSession:
    ((_, value),) = site.cookie_of(who).items()
    headers = {"host": HOST, "origin": ORIGIN, "cookie": f"{COOKIE}={value}"}
    return client.websocket_connect(change_feed.PATH, headers=headers)


def follow(socket: WebSocketTestSession, *topics: str) -> dict[str, str]:
    """The stamps that come first."""
    socket.send_text(json.dumps({"follow": topics}))
    return heard(socket)


def heard(socket: WebSocketTestSession) -> dict[str, str]:
    said: dict[str, str] = json.loads(socket.receive_text())
    return said


def test_a_tab_is_told_what_it_follows_and_when_it_changes(client: TestClient, site: Site) -> None:
    user = site.person("user")
    with connect(client, site) as socket:
        first = follow(socket, "work", "announcements")
        assert first == site.portal.changes.stamps(user.id, ("work", "announcements"))
        site.add_run([A], owner=site.person("other"))
        site.add_run([A], owner=user)
        assert heard(socket) == site.portal.changes.stamps(user.id, ("work",)) != first
        site.store.announcements.add("x", AnnouncementKind.INFO, time.time() + 60)
        assert set(heard(socket)) == {"announcements"}
        (site.folder / "far-is-silent").touch()  # a change that is in no store
        assert set(heard(socket)) == {"work"}
        assert set(follow(socket, "clusters")) == {"clusters"}


def test_of_what_is_not_theirs_nothing_is_said(client: TestClient, site: Site) -> None:
    theirs = site.add_run([A], owner=site.person("other"))
    with connect(client, site) as socket:
        assert set(follow(socket, f"run:{theirs.id}", "everybody", "x", "work")) == {"work"}
        site.store.work.update_run(theirs.id, RunChange(state=RunState.RUNNING))
        site.add_run([A], owner=site.person("user"))
        assert set(heard(socket)) == {"work"}


@pytest.mark.parametrize(
    "asked",
    ["", "[]", "{", '{"follow": "work"}', '{"follow": [1]}', '{"follow": {}}',
     json.dumps({"follow": ["work"] * (change_feed.MOST_TOPICS + 1)}),
     json.dumps({"follow": ["x" * (change_feed.LONGEST_TOPIC + 1)]})],
)  # fmt: skip
def test_what_is_not_understood_ends_it(client: TestClient, site: Site, asked: str) -> None:
    with connect(client, site) as socket:
        socket.send_text(asked)
        with pytest.raises(WebSocketDisconnect) as ended:
            socket.receive_text()
        assert ended.value.code == 4400


def test_a_tab_that_cannot_be_answered_asks_in_a_new_connection(
    client: TestClient, site: Site, monkeypatch: Any
) -> None:
    def busy(*_: Any) -> Any:
        raise Unavailable("The portal's store is busy.")

    with monkeypatch.context() as planted, connect(client, site) as socket:
        planted.setattr(site.portal.changes, "stamps", busy)
        socket.send_text(json.dumps({"follow": ["work"]}))
        socket.send_text("this would end it with another code")
        with pytest.raises(WebSocketDisconnect) as ended:
            socket.receive_text()
        assert ended.value.code == 1013
    with connect(client, site) as socket:
        assert follow(socket, "work")


def test_one_sign_in_has_so_many_tabs(client: TestClient, site: Site, monkeypatch: Any) -> None:
    monkeypatch.setattr(change_feed, "MOST_OF_A_LOGIN", 2)
    ((_, value),) = site.cookie_of("user").items()
    headers = {"host": HOST, "origin": ORIGIN, "cookie": f"{COOKIE}={value}"}

    def tab() -> WebSocketTestSession:
        return client.websocket_connect(change_feed.PATH, headers=headers)

    with tab() as first, tab() as second:
        assert follow(first, "work") == follow(second, "work")
        with tab() as third, pytest.raises(WebSocketDisconnect) as ended:
            third.receive_text()
        assert ended.value.code == 4429
        with connect(client, site, "lead") as somebody_else:
            assert follow(somebody_else, "work")


def test_it_ends_with_the_sign_in_and_is_no_act_of_the_user(client: TestClient, site: Site) -> None:
    user = site.person("user")
    socket = connect(client, site)
    began = [login.seen_at for login in site.auth.logins.of(user.id)]
    with socket:
        assert follow(socket, "work")
        seen = [login.seen_at for login in site.auth.logins.of(user.id)]
        assert seen == began, "a question prolongs nothing"
        site.auth.logins.sign_out_everywhere(user.id, by=user)
        with pytest.raises(WebSocketDisconnect) as ended:
            socket.receive_text()
        assert ended.value.code == 4401


def test_a_fault_of_one_look_ends_no_other(
    client: TestClient, site: Site, monkeypatch: Any, caplog: Any
) -> None:
    faults = iter([OSError("planted"), OSError("planted"), NotFound("planted")])
    stamps = site.portal.changes.stamps

    def failing(*asked: Any) -> Any:
        for fault in faults:
            raise fault
        return stamps(*asked)

    with connect(client, site) as socket:
        assert follow(socket, "work")
        monkeypatch.setattr(site.portal.changes, "stamps", failing)
        site.add_run([A], owner=site.person("user"))
        assert set(heard(socket)) == {"work"}
    assert sum("telling open pages" in r.message for r in caplog.records) == 2, "once of each"


# --- what was read ------------------------------------------------------------------------


@contextlib.contextmanager
def asked_of_the_store() -> Iterator[list[str]]:
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_what_was_read_counts_until_anything_stored_has_changed(site: Site) -> None:
    user = site.person("user")
    run = site.add_run([A], RunState.RUNNING, owner=user)
    portal = site.portal

    def everything() -> list[object]:
        found = portal.detections(user, run.id), portal.detection_counts(user, run.id)
        return [portal.runs(user), portal.run(user, run.id), portal.sessions(user), *found]

    everything()
    with asked_of_the_store() as asked:
        before = everything()
    assert not asked
    site.add_session([A], owner=user)
    site.add_detections(run, A, [0.9, 0.4])
    site.store.work.update_run(run.id, RunChange(state=RunState.DONE))
    assert all(a != b for a, b in zip(before, everything(), strict=True))
    assert sum(portal.detection_counts(user, run.id, min_score=0.5).values()) == 1
    with pytest.raises(NotFound):
        portal.run(site.person("other"), run.id)


def test_what_changes_while_it_is_read_is_read_again() -> None:
    version = iter((1, 2, 2))
    reads, values = Reads[str](lambda: next(version), 9), iter(("old", "new"))
    assert reads.of("it", lambda: next(values)) == "old"  # and the store changes meanwhile
    assert reads.of("it", lambda: next(values)) == "new"
    assert reads.of("it", lambda: next(values)) == "new"
