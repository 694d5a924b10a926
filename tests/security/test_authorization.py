"""Every route, method and page against the table of docs/security.md."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lib.auth.authorization import Access, Act
from lib.auth.notebook_access import NotebookAccess
from lib.errors import Conflict, NotFound, Refused, SignInEnded
from lib.model import (
    AnnouncementKind,
    ClusterId,
    RunState,
    SceneQuery,
    SessionId,
    SessionState,
    TokenScope,
    User,
)
from lib.portal.admin import Administration
from lib.portal.facade import LogText, Portal
from lib.portal.logs import JobLogs
from lib.portal.my_account import MyAccount
from lib.protocol.messages import ArtifactKind
from lib.results.folder import ResultFolder
from lib.store.audit import AuditQuery
from lib.store.changes import RunChange, SessionChange
from lib.web.auth_middleware import AuthMiddleware
from tests.fakes.people import SCENE, SECRET_SCENE, World, membership
from tests.fakes.things import FIRE, a_run, a_session, new_id
from tests.pages import sample_portal
from tests.pages.sample_portal import plant_scene

ROOT = Path(__file__).resolve().parents[2]
#: Who speaks, by column of the table. "other user" is in the owner's group or in another.
WHO = {
    "owner": ("alice",),
    "other user": ("mate", "bob", "zoe"),
    "lead of the owner": ("lee",),
    "other lead": ("kim",),
    "administrator": ("ada",),
    "read token": ("alice/read",),
    "launch token": ("alice/launch",),
}
ENDED = (
    "signed out",
    "too old",
    "idle",
    "blocked",
    "left",
    "withdrawn",
    "old token",
    "of somebody else",
    "stranger",
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    plant_scene(folder, SCENE)
    plant_scene(folder, SECRET_SCENE, platform="formosat-2", level="L2")
    return folder


@pytest.fixture
def world(tmp_path: Path, planted: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    (tmp_path / "scenes").symlink_to(planted / "scenes")
    monkeypatch.setattr(JobLogs, "read", lambda *_: LogText("", False))
    it = World(tmp_path)
    yield it
    it.store.close()


# --- the table ---------------------------------------------------------------------------


def table() -> dict[Act, dict[str, str]]:
    """The table of docs/security.md: what comes of an act, by who asks."""
    lines = (ROOT / "docs" / "security.md").read_text("utf-8").splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    begin = next(i for i, row in enumerate(rows) if row[0] == "act")
    names = rows[begin][1:]
    acts = {act.value for act in Act}
    return {
        Act(row[0]): dict(zip(names, row[1:], strict=True))
        for row in rows[begin + 2 :]
        if row[0] in acts
    }


TABLE = table()


def test_the_documented_table_has_every_act_and_everybody() -> None:
    assert list(TABLE) == list(Act)
    for row in TABLE.values():
        assert list(row) == list(WHO)
        assert set(row.values()) <= {"yes", "not found", "refused", "readers", "members"}


# --- every method ----------------------------------------------------------------------------

Call = Callable[[World, User], Any]
EVERY = AuditQuery()
METHODS: dict[str, tuple[Act, Call]] = {
    "Portal.me": (Act.SEARCH, lambda w, u: w.portal.me(u)),
    "Portal.group_titles": (Act.ACCOUNT, lambda w, u: w.portal.group_titles(u)),
    "Portal.search": (Act.SEARCH, lambda w, u: w.portal.search(u, SceneQuery())),
    "Portal.scene": (Act.READ_SCENE, lambda w, u: w.portal.scene(u, SCENE)),
    "Portal.footprints": (Act.SEARCH, lambda w, u: w.portal.footprints(u, SceneQuery())),
    "Portal.quicklook": (Act.READ_SCENE, lambda w, u: w.portal.quicklook(u, SCENE, 64)),
    "Portal.tile": (Act.READ_SCENE, lambda w, u: w.portal.tile(u, SCENE, 8, 214, 110)),
    "Portal.platforms": (Act.SEARCH, lambda w, u: w.portal.platforms(u)),
    "Portal.sample_scenes": (Act.SEARCH, lambda w, u: w.portal.sample_scenes(u)),
    "Portal.modules": (Act.SEARCH, lambda w, u: w.portal.modules(u)),
    "Portal.fits": (Act.SEARCH, lambda w, u: w.portal.fits(u, [SCENE])),
    "Portal.clusters": (Act.SEARCH, lambda w, u: w.portal.clusters(u)),
    "Portal.withheld": (Act.SEARCH, lambda w, u: w.portal.withheld(u)),
    "Portal.all_clusters": (Act.SEARCH, lambda w, u: w.portal.all_clusters(u)),
    "Portal.check_launch": (Act.LAUNCH, lambda w, u: w.portal.check_launch(u, w.request())),
    "Portal.check_params": (Act.SEARCH, lambda w, u: w.portal.check_params(u, FIRE.id, {})),
    "Portal.open_notebook": (Act.LAUNCH, lambda w, u: w.portal.open_notebook(u, w.request())),
    "Portal.start_run": (Act.LAUNCH, lambda w, u: w.portal.start_run(u, w.request())),
    "Portal.start_again": (Act.OPEN, lambda w, u: w.portal.start_again(u, w.ended_session().id)),
    "Portal.sessions": (Act.SEARCH, lambda w, u: w.portal.sessions(u)),
    "Portal.session": (Act.SEE, lambda w, u: w.portal.session(u, w.session().id)),
    "Portal.runs": (Act.SEARCH, lambda w, u: w.portal.runs(u)),
    "Portal.run": (Act.SEE, lambda w, u: w.portal.run(u, w.run())),
    "Portal.stop": (Act.STOP, lambda w, u: w.portal.stop(u, w.session().id)),
    "Portal.keep": (Act.STOP, lambda w, u: keep(w, u)),
    "Portal.describe": (
        Act.EDIT, lambda w, u: w.portal.describe(u, w.session().id, "a name", "a note"),
    ),
    "Portal.delete": (Act.EDIT, lambda w, u: w.portal.delete(u, w.ended_session().id)),
    "Portal.log": (Act.READ, lambda w, u: w.portal.log(u, w.run())),
    "Portal.notebook": (Act.OPEN, lambda w, u: w.portal.notebook(u, w.session().id)),
    "Portal.detections": (Act.READ, lambda w, u: w.portal.detections(u, w.run())),
    "Portal.detection_counts": (Act.READ, lambda w, u: w.portal.detection_counts(u, w.run())),
    "Portal.export_geojson": (Act.READ, lambda w, u: w.portal.export_geojson(u, w.run())),
    "Portal.picture": (Act.READ, lambda w, u: picture(w, u)),
    "MyAccount.logins": (Act.ACCOUNT, lambda w, u: w.portal.my_account.logins(u)),
    "MyAccount.sign_out": (Act.ACCOUNT, lambda w, u: w.portal.my_account.sign_out(u)),
    "MyAccount.end_login": (
        Act.ACCOUNT, lambda w, u: w.portal.my_account.end_login(u, u.via.partition(":")[2]),
    ),
    "MyAccount.sign_out_everywhere": (
        Act.ACCOUNT, lambda w, u: w.portal.my_account.sign_out_everywhere(u),
    ),
    "MyAccount.tokens": (Act.ACCOUNT, lambda w, u: w.portal.my_account.tokens(u)),
    "MyAccount.new_token": (
        Act.ACCOUNT, lambda w, u: w.portal.my_account.new_token(u, "t", [TokenScope.READ], 1),
    ),
    "MyAccount.withdraw_token": (
        Act.ACCOUNT, lambda w, u: w.portal.my_account.withdraw_token(u, token_of(w, u)),
    ),
    "Administration.work": (Act.LEAD, lambda w, u: w.portal.administration.work(u)),
    "Administration.names": (Act.LEAD, lambda w, u: w.portal.administration.names(u)),
    "Administration.people": (Act.ADMINISTER, lambda w, u: w.portal.administration.people(u)),
    "Administration.groups": (Act.ADMINISTER, lambda w, u: w.portal.administration.groups(u)),
    "Administration.sign_out_everywhere": (
        Act.ADMINISTER, lambda w, u: w.portal.administration.sign_out_everywhere(u, w.ids["zoe"]),
    ),
    "Administration.block": (
        Act.ADMINISTER, lambda w, u: w.portal.administration.block(u, w.ids["zoe"], blocked=False),
    ),
    "Administration.announcements": (
        Act.ENTER, lambda w, u: w.portal.administration.announcements(u),
    ),
    "Administration.announce": (
        Act.ADMINISTER,
        lambda w, u: w.portal.administration.announce(u, "Hello", AnnouncementKind.INFO, 60),
    ),
    "Administration.end_announcement": (
        Act.ADMINISTER,
        lambda w, u: w.portal.administration.end_announcement(
            u, w.store.announcements.add("x", AnnouncementKind.INFO, time.time() + 60)
        ),
    ),
    "Administration.audit": (Act.ADMINISTER, lambda w, u: w.portal.administration.audit(u, EVERY)),
    "Administration.audit_actions": (
        Act.ADMINISTER, lambda w, u: w.portal.administration.audit_actions(u),
    ),
    "Administration.audit_export": (
        Act.ADMINISTER, lambda w, u: list(w.portal.administration.audit_export(u, EVERY)),
    ),
}  # fmt: skip
#: Ask for nothing: who is signed in, and an address made of an id.
ASK_NOBODY = {"Portal.user_of_browser", "Portal.notebook_path", "Portal.report_sample_scenes"}


def picture(world: World, user: User) -> bytes:
    run = world.run()
    place = ResultFolder(world.portal._results._root).path(run, SCENE, ArtifactKind.CHIP, 1)
    place.parent.mkdir(parents=True)
    place.write_bytes(sample_portal.chip(1))
    return world.portal.picture(user, run, SCENE, ArtifactKind.CHIP, 1)


def token_of(world: World, user: User) -> str:
    world.auth.tokens.new("t", user=User(user.id, user.name))
    return world.auth.tokens.of(user.id)[0].id


def test_every_public_method_is_in_the_table() -> None:
    found = {
        f"{kind.__name__}.{name}"
        for kind in (Portal, MyAccount, Administration)
        for name, member in vars(kind).items()
        if callable(member) and not name.startswith("_")
    }
    assert found == set(METHODS) | ASK_NOBODY


def keep(world: World, user: User) -> None:
    with contextlib.suppress(Conflict):  # allowed, and there is no cluster that has it ready
        world.portal.keep(user, world.session().id)


def outcome(world: World, user: User, call: Call) -> str:
    try:
        call(world, user)
    except NotFound:
        return "not found"
    except SignInEnded:
        return "ended"
    except Refused:
        return "refused"
    return "yes"


def asked(world: World, monkeypatch: pytest.MonkeyPatch) -> list[Act]:
    """The acts that are asked for from now on."""
    acts: list[Act] = []
    decide = Access._decide

    def note(self: Access, user: User, act: Act, thing: Any) -> User:
        acts.append(act)
        return decide(self, user, act, thing)

    monkeypatch.setattr(Access, "_decide", note)
    return acts


@pytest.mark.parametrize("column", WHO)
def test_every_method_keeps_to_the_table(
    world: World, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts = asked(world, monkeypatch)
    monkeypatch.setattr("lib.auth.tokens.MOST_TOKENS", 2 * len(METHODS))  # one for each call
    for name, (act, call) in METHODS.items():
        for who in WHO[column]:
            expected = TABLE[act][column]
            acts.clear()
            user = world.speak(who)
            got = outcome(world, user, call)
            allowed = expected in ("yes", "readers", "members")
            assert got == ("yes" if allowed else expected), (name, who)
            assert act in acts or got != "yes", (name, "does not ask for", act)
            assert acts, name
            assert len(world.refusals(user)) == (0 if allowed else 1), (name, who)


@pytest.mark.parametrize("how", ENDED)
def test_no_method_answers_whose_sign_in_has_ended(world: World, how: str) -> None:
    user = world.ended(how)
    world.later_s += 0.25  # an answer about a sign-in that another process ends counts so long
    for name, (_, call) in METHODS.items():
        assert outcome(world, user, call) == "ended", name
    assert world.portal.user_of_browser({}, {}) is None


#: The acts that have a name of their own in the audit log; other refusals are attempts.
NAMED = {
    "Portal.open_notebook": "open-notebook",
    "Portal.start_run": "start-run",
    "Portal.start_again": "start-again",
    "Portal.stop": "stop",
    "Portal.keep": "keep",
    "Portal.describe": "describe",
    "Portal.delete": "delete",
    "Portal.notebook": "open",
    "MyAccount.sign_out": "sign-out",
    "MyAccount.end_login": "sign-out",
    "MyAccount.sign_out_everywhere": "sign-out-everywhere",
    "MyAccount.new_token": "token-made",
    "MyAccount.withdraw_token": "token-withdrawn",
    "Administration.sign_out_everywhere": "sign-out-everywhere",
    "Administration.block": "unblock",
    "Administration.announce": "announce",
    "Administration.end_announcement": "announcement-ended",
}


def test_no_method_refuses_without_a_line(world: World) -> None:
    for name, (_, call) in METHODS.items():
        user, _token = world.powerless()
        assert outcome(world, user, call) == "refused", name
        ((action, _object, result),) = world.refusals(user)
        assert result == "refused", name
        assert action == NAMED.get(name, action if action.startswith("attempt-") else ""), name


def test_nothing_else_refuses_without_a_line(world: World) -> None:
    """The account and administration of others, clusters, a notebook at its proxy."""
    session, ada = world.session(), world.speak("ada")
    others = world.speak("bob").via.partition(":")[2]
    with pytest.raises(Refused):
        world.portal.administration.block(ada, ada.id, blocked=True)
    assert world.refusals(ada) == [("block", ada.id, "refused")]
    mine = world.portal.my_account
    for end in (mine.end_login, mine.withdraw_token):
        with pytest.raises(NotFound):
            end(ada, others)
    assert [a for a, _, _ in world.refusals(ada)] == ["token-withdrawn", "sign-out", "block"]
    user, _ = world.powerless()
    with pytest.raises(Refused):
        world.portal._clusters.all(user)
    assert world.refusals(user) == [("attempt-search", "", "refused")]
    notebooks = NotebookAccess(world.auth, world.access, world.store)
    for who, refused in (("lee", "refused"), ("bob", "not-found")):
        visitor = world.speak(who)
        login = visitor.via.partition(":")[2]
        for _ in range(2):  # the second is answered from memory
            assert not asyncio.run(notebooks.may_open(session.id, visitor.id, login))
        assert world.refusals(visitor) == [("attempt-open", session.id, refused)]


async def test_who_may_not_be_in_the_portal_is_written_down(world: World) -> None:
    async def inside(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    portal = AuthMiddleware(
        inside,
        origin="http://localhost",
        auth=world.auth,
        access=world.access,
        policies={"/": ""},
        sign_in_page=lambda _: "",
    )
    user, token = world.powerless()
    transport = httpx.ASGITransport(portal, client=(user.client, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/api/me", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 403
    assert world.refusals(user) == [("attempt-enter", "", "refused")]


def test_what_is_asked_for_showing_decides_nothing() -> None:
    """`may` and `why_not` write no line: only what lists clusters asks them."""
    asking = re.compile(r"\.(?:may|why_not|_decide)\(")
    found = {
        str(file.relative_to(ROOT))
        for folder in ("lib", "pages", "ui")
        for file in (ROOT / folder).rglob("*.py")
        if asking.search(file.read_text("utf-8"))
    }
    assert found == {"lib/auth/authorization.py", "lib/portal/clusters.py"}


def test_a_refused_method_changes_nothing(world: World) -> None:
    session = world.session()
    for who in ("bob", "mate", "kim", "alice/read"):
        assert outcome(world, world.speak(who), lambda w, u: w.portal.stop(u, session.id)) != "yes"
    assert not world.store.work.session(session.id).stopping
    assert outcome(world, world.speak("lee"), lambda w, u: w.portal.stop(u, session.id)) == "yes"
    assert world.store.work.session(session.id).stopping


def test_refused_attempts_are_in_the_audit_log(world: World) -> None:
    session = world.session()
    for call in (world.portal.session, world.portal.stop, world.portal.notebook):
        with pytest.raises(NotFound):
            call(world.speak("bob"), session.id)
    lines = world.store.audit.latest(20)
    tried = {(e.action, e.result, e.object) for e in lines if e.user == world.ids["bob"]}
    for action in ("attempt-see", "stop", "open"):
        assert (action, "not-found", session.id) in tried


# --- what is not there and what is somebody else's look the same -------------------------------


def test_not_yours_is_said_as_not_there(world: World) -> None:
    session, run = world.session(), world.run()
    absent = str(uuid.uuid4())
    portal, kind = world.portal, ArtifactKind.CHIP
    asks: list[tuple[str, Callable[[User, Any], Any]]] = [
        (session.id, portal.session), (session.id, portal.stop), (session.id, portal.notebook),
        (session.id, portal.start_again), (session.id, portal.log), (run, portal.run),
        (run, portal.stop), (run, portal.log), (run, portal.detections),
        (run, portal.detection_counts), (run, portal.export_geojson),
        (run, lambda u, i: portal.picture(u, i, SCENE, kind, 1)),
    ]  # fmt: skip
    for who in ("bob", "mate", "kim"):
        for ident, ask in asks:
            said = []
            for asked_for in (ident, absent):
                with pytest.raises(NotFound) as refused:
                    ask(world.speak(who), asked_for)
                said.append((refused.value.code, refused.value.message))
            assert said[0] == said[1]


# --- collections and clusters ---------------------------------------------------------------------


def test_a_restricted_collection_is_for_its_readers(world: World) -> None:
    portal = world.portal
    pair = world.request("here", SCENE, SECRET_SCENE)
    calls: list[Callable[[User], Any]] = [
        lambda u: portal.scene(u, SECRET_SCENE),
        lambda u: portal.quicklook(u, SECRET_SCENE, 64),
        lambda u: portal.tile(u, SECRET_SCENE, 9, 428, 221),
        lambda u: portal.fits(u, [SECRET_SCENE]),
        lambda u: portal.start_run(u, pair),
        lambda u: portal.open_notebook(u, pair),
        lambda u: portal.check_launch(u, pair),
    ]
    for who in ("bob", "kim", "ada", "zoe"):
        for call in calls:
            with pytest.raises(NotFound, match=f"There is no scene '{SECRET_SCENE}' here"):
                call(world.speak(who))
        hits = portal.search(world.speak(who), SceneQuery())
        assert [scene.id for scene in hits.scenes] == [SCENE]
        everything = SceneQuery(collections=("formosat", "landsat8"))
        assert portal.search(world.speak(who), everything).total == 1
        assert SECRET_SCENE.encode() not in portal.footprints(world.speak(who), everything).geojson
    for who in ("alice", "lee", "alice/read"):
        assert portal.search(world.speak(who), SceneQuery()).total == 2
        assert portal.scene(world.speak(who), SECRET_SCENE).collection == "formosat"
        assert SECRET_SCENE.encode() in portal.footprints(world.speak(who), SceneQuery()).geojson


def test_a_restricted_cluster_is_for_its_groups(world: World) -> None:
    portal = world.portal
    for who, cluster, says in (
        ("bob", "forest", "for these groups: Forest. You are in none of them"),
        ("ada", "forest", "You are in none of them"),
        ("alice", "closed", "no group may start work there"),
        ("alice", "gone", r"groups that this portal does not have \(dissolved\)"),
        ("ada", "gone", "this portal does not have"),
    ):
        for call in (portal.check_launch, portal.open_notebook, portal.start_run):
            with pytest.raises(Refused, match=says):
                call(world.speak(who), world.request(cluster))
    assert {c.id for c in portal.clusters(world.speak("bob"))} == {"here"}
    assert {c.id for c in portal.clusters(world.speak("alice"))} == {"here", "forest"}
    portal.open_notebook(world.speak("lee"), world.request("forest"))


def test_what_was_lost_since_is_not_started_again(world: World) -> None:
    """Start again asks like a first start: for the cluster, and for the scenes."""
    portal = world.portal
    mine = world.speak("alice")
    for cluster, scene in (("forest", SCENE), ("here", SECRET_SCENE)):
        session_id = SessionId(new_id())
        run = a_run(scene, owner=mine, session=session_id, cluster=ClusterId(cluster))
        found = [world.catalog.get(scene)]
        world.store.work.add_session(a_session(run, session_id), run, found)
        world.store.work.update_session(
            session_id, SessionChange(state=SessionState.ENDED, files_until=time.time() + 3600)
        )
        world.store.work.update_run(run.id, RunChange(state=RunState.CANCELLED))
        world.auth.membership = membership("forest")
        with pytest.raises((Refused, NotFound)):
            portal.start_again(world.speak("alice"), session_id)
        world.auth.membership = membership()
        assert portal.start_again(world.speak("alice"), session_id).continued_from == session_id


def test_a_change_of_groups_counts_at_the_next_question(world: World) -> None:
    lee, session = world.speak("lee"), world.session()
    assert world.portal.session(lee, session.id)
    world.auth.membership = membership("forest")
    with pytest.raises(NotFound):
        world.portal.session(lee, session.id)


def test_leads_and_administrators_see_what_they_look_after(world: World) -> None:
    session = world.session()
    for who, sees in (("lee", True), ("ada", True), ("kim", False)):
        user = world.speak(who)
        assert (session.id in {w.id for w in world.portal.administration.work(user)}) is sees
        assert (world.ids["alice"] in world.portal.administration.names(user)) is sees
        assert world.portal.sessions(user) == ()


# --- pages ------------------------------------------------------------------------------------


def test_every_page_begins_with_who_is_signed_in() -> None:
    files = sorted((ROOT / "pages").glob("*.py"))
    listed = set(re.findall(r'"(pages/\w+\.py)"', (ROOT / "ui" / "layout.py").read_text()))
    assert {f"pages/{f.name}" for f in files if f.name != "__init__.py"} == listed
    for file in files:
        if file.name == "__init__.py":
            continue
        body = ast.parse(file.read_text("utf-8")).body
        acts = [node for node in body if isinstance(node, (ast.Expr, ast.If, ast.With, ast.For))]
        acts = [n for n in acts if not isinstance(getattr(n, "value", None), ast.Constant)]
        assert [ast.unparse(node) for node in acts] == ["main()"], file.name
        (main,) = [n for n in body if isinstance(n, ast.FunctionDef) and n.name == "main"]
        first = main.body[1] if ast.get_docstring(main) else main.body[0]
        assert "= layout.require_user()" in ast.unparse(first), file.name
    script = ast.unparse(ast.parse((ROOT / "app.py").read_text("utf-8")))
    assert script.index("layout.require_user()") < script.index("st.navigation")
