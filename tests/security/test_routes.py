"""Every route of the assembled portal: who gets through, what is asked, who may change."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock
from urllib.parse import quote

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from lib.auth import CLIENT_HEADER, COOKIE, OWNER
from lib.auth.authorization import _BY_TOKEN, Access, Act
from lib.config import settings
from lib.model import ClusterId, SceneId, SessionId, TokenScope, User, UserId
from lib.portal import facade
from lib.reconciler.reconciler import Reconciler
from lib.scenes.local_catalog import LocalCatalog
from lib.server import app
from lib.store.audit import AuditQuery
from lib.web.auth_middleware import CLOSED_PATHS, OPEN_PATHS
from tests.crowd import Crowd
from tests.fakes.stores import new_store
from tests.fakes.things import a_run, a_session, new_id
from tests.pages.sample_portal import plant_scene

OPEN = None  #: for strangers too
#: Every route of the portal's own, and the act that it asks for beside that of being here.
ROUTES: dict[str, Act | None] = {
    "GET /healthz": OPEN,
    "GET /signin": OPEN,
    "GET /signin/{provider}": OPEN,
    "GET /signin/{provider}/callback": OPEN,
    "POST /signout": Act.ENTER,
    "GET /open/{session}": Act.OPEN,
    "GET /explore": Act.ENTER,
    "GET /assets": Act.ENTER,
    "GET /api/openapi.yaml": Act.ENTER,
    "GET /api/me": Act.SEARCH,
    "GET /api/scenes": Act.SEARCH,
    "GET /api/scenes/{scene}": Act.READ_SCENE,
    "GET /api/scenes/{scene}/quicklook.webp": Act.READ_SCENE,
    "GET /api/scenes/{scene}/tiles/{z}/{x}/{y}.webp": Act.READ_SCENE,
    "GET /api/footprints": Act.SEARCH,
    "GET /api/audit.jsonl": Act.ADMINISTER,
    "GET /api/modules": Act.SEARCH,
    "GET /api/clusters": Act.SEARCH,
    "GET /api/sessions": Act.SEARCH,
    "POST /api/sessions": Act.LAUNCH,
    "GET /api/sessions/{session}": Act.SEE,
    "DELETE /api/sessions/{session}": Act.STOP,
    "POST /api/sessions/{session}/keep": Act.STOP,
    "GET /api/runs": Act.SEARCH,
    "POST /api/runs": Act.LAUNCH,
    "GET /api/runs/{run}": Act.SEE,
    "DELETE /api/runs/{run}": Act.STOP,
    "GET /api/runs/{run}/detections": Act.READ,
    "GET /api/runs/{run}/scenes/{scene}/chips/{n}.webp": Act.READ,
    "GET /api/runs/{run}/scenes/{scene}/overview.webp": Act.READ,
}
#: Its WebSockets; they end with the sign-in.
WEBSOCKETS = {"/changes"}
CHANGING = [route for route in ROUTES if not route.startswith("GET ")]
LAUNCH = {
    "scenes": ["LC08_A"], "module": "active-fire", "cluster": "here",
    "resources": {"preset": "small", "walltime_s": 3600},
}  # fmt: skip
NAVIGATE = {"sec-fetch-mode": "navigate", "sec-fetch-site": "none"}


class Whole:
    """The portal as `app.py` assembles it, without its clusters and without Streamlit."""

    def __init__(self, data: Path) -> None:
        chosen = settings.load(data)
        self.store = new_store(data / "portal.sqlite")
        self.it = app.Assembly(chosen)
        self.origin = chosen.origin
        self.session = SessionId(new_id())
        run = a_run("LC08_A", owner=OWNER, session=self.session)
        found = [LocalCatalog(data / "scenes").get(SceneId("LC08_A"))]
        self.store.work.add_session(a_session(run, self.session), run, found)
        self.run = a_run("LC08_A", owner=OWNER)
        self.store.work.add_run(self.run, found)
        self.app = Starlette(
            routes=[
                *self.it.routes(),
                Route("/{rest:path}", lambda _: PlainTextResponse("inside")),
            ],
            middleware=self.it.middleware(),
        )

    def cookie(self) -> str:
        key = self.it.auth.links.new("").partition("key=")[2]
        return f"{COOKIE}={self.it.auth.sign_in(key)}"

    async def ask(self, route: str, **headers: str) -> httpx.Response:
        """Ask a route of the table with ids of the owner's own work."""
        method, _, path = route.partition(" ")
        ids = {"session": self.session, "run": self.run.id, "scene": "LC08_A", "provider": "x"}
        numbers = {"z": 8, "x": 214, "y": 110, "n": 1}
        path = path.format(**ids, **numbers).replace("/assets", "/assets/leaflet/leaflet.js")
        body = LAUNCH if method == "POST" and path.startswith("/api/") else None
        given = {"host": self.origin.partition("//")[2], **headers}
        given = {name.replace("_", "-"): value for name, value in given.items()}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url=self.origin
        ) as client:
            return await client.request(method, path, headers=given, json=body)


@pytest.fixture
async def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Whole]:
    monkeypatch.setattr(app, "links", lambda *_: {})
    monkeypatch.setattr(Reconciler, "wake", lambda *_: None)
    plant_scene(tmp_path, "LC08_A")
    it = Whole(tmp_path)
    facade.use(it.it.portal)
    yield it
    facade.use(None)
    it.store.close()


def paths(routes: Any) -> set[str]:
    found = set()
    for route in routes:
        if isinstance(route, Mount):
            found.add(f"GET {route.path}")
        elif not isinstance(route, WebSocketRoute):
            assert isinstance(route, Route)
            found |= {
                f"{method} {route.path}" for method in (route.methods or ()) if method != "HEAD"
            }
    return found


def test_every_route_is_in_the_table(whole: Whole) -> None:
    assert paths(whole.it.routes()) == set(ROUTES)
    sockets = {r.path for r in whole.it.routes() if isinstance(r, WebSocketRoute)}
    assert sockets == WEBSOCKETS


@pytest.mark.parametrize("path", WEBSOCKETS)
def test_a_websocket_is_for_the_portal_s_own_pages_with_a_sign_in(whole: Whole, path: str) -> None:
    token = whole.it.auth.tokens.new("t")
    cookie, own = whole.cookie(), whole.origin
    with TestClient(whole.app, base_url=own) as client:
        for code, headers in (
            (4401, {"origin": own}),
            (4401, {"origin": own, "cookie": f"{COOKIE}=x"}),
            (4401, {"origin": own, "authorization": f"Bearer {token}"}),
            (4403, {"cookie": cookie}),
            (4403, {"cookie": cookie, "origin": "null"}),
            (4403, {"cookie": cookie, "origin": own.replace("localhost", "nb-1.localhost")}),
            (4421, {"cookie": cookie, "origin": own, "host": "evil.example"}),
        ):
            headers = {"host": own.partition("//")[2], **headers}
            with (
                pytest.raises(WebSocketDisconnect) as refused,
                client.websocket_connect(path, headers=headers),
            ):
                pytest.fail(f"it was let in: {headers}")
            assert refused.value.code == code, headers
        own_page = {"host": own.partition("//")[2], "cookie": cookie, "origin": own}
        with client.websocket_connect(path, headers=own_page) as socket:
            socket.send_text('{"follow": ["announcements"]}')
            assert "announcements" in socket.receive_text()


async def test_every_route_asks_who_it_is_and_for_its_act(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Act] = []
    decide = Access._decide

    def note(self: Access, user: User, act: Act, thing: Any) -> User:
        asked.append(act)
        return decide(self, user, act, thing)

    monkeypatch.setattr(Access, "_decide", note)
    for route, act in ROUTES.items():
        asked.clear()
        stranger = await whole.ask(route, origin=whole.origin)
        assert asked == [], route
        if act is OPEN:
            assert stranger.status_code in (200, 404), route
            continue
        assert stranger.status_code == 401, route
        answer = await whole.ask(route, origin=whole.origin, cookie=whole.cookie(), **NAVIGATE)
        assert answer.status_code in (200, 201, 202, 303, 404, 409, 503), (route, answer.text)
        assert asked[0] is Act.ENTER, route
        assert act in asked, (route, asked)


async def test_every_refusal_of_every_route_is_written_down(whole: Whole) -> None:
    """Beside each that is allowed, which leaves no such line."""
    tokens = whole.it.auth.tokens
    for scope in TokenScope:
        token = tokens.new("t", scopes=frozenset({scope}))
        for route, act in ROUTES.items():
            if " /api/" not in route:  # for browsers: a token is no sign-in
                continue
            before = whole.store.audit.latest(1)
            answer = await whole.ask(route, authorization=f"Bearer {token}")
            whole.it._store.audit.tell_repeated()  # of equal ones, how many more
            lines = whole.store.audit.search(AuditQuery(refused=True), limit=1000)
            lines = [line for line in lines if line.result in ("refused", "not-found")]
            new = [line for line in lines if not before or line.id > before[0].id]
            allowed = act in _BY_TOKEN[scope]
            assert (answer.status_code == 403) is not allowed, (route, scope, answer.text)
            assert len(new) == (0 if allowed else 1), (route, scope, new)
            if new:
                assert (new[0].user, new[0].result) == (OWNER.id, "refused")
                assert new[0].via, "by which token"


async def test_explore_is_found_by_its_name_too(whole: Whole) -> None:
    for asked, found in (("/explore", "/"), ("/explore?q=a%26b&sensor=x", "/?q=a%26b&sensor=x")):
        answer = await whole.ask(f"GET {asked}", cookie=whole.cookie(), **NAVIGATE)
        assert answer.headers["location"] == found


async def test_work_that_may_start_no_more_is_written_down(whole: Whole) -> None:
    """As the reconciler asks, in nobody's browser, before it hands work to a gate."""
    here, bob = ClusterId("here"), UserId("u-bob")
    assert whole.it._refusal(OWNER.id, here) == ""
    closed = dataclasses.replace(whole.it._offerings.cluster(here), groups=())
    whole.it._offerings = dataclasses.replace(whole.it._offerings, clusters={here: closed})
    whole.store.people.came(bob, name="Bob", provider="test", subject="bob", claims={})
    assert "no group may start work there" in whole.it._refusal(bob, here)
    (line,) = whole.store.audit.search(AuditQuery(refused=True))
    assert (line.user, line.action, line.object) == (bob, "attempt-launch", here)


@pytest.mark.parametrize("route", CHANGING)
async def test_changes_come_from_the_portal_s_own_pages(whole: Whole, route: str) -> None:
    cookie = whole.cookie()
    foreign = (
        {}, {"origin": "null"}, {"origin": "http://evil.example"}, {"origin": whole.origin + ".x"},
        {"origin": whole.origin.replace("localhost", "nb-1.localhost")},
        {"origin": whole.origin.replace("http:", "https:")},
        {"referer": whole.origin + "/work"}, {"x_requested_with": "XMLHttpRequest"},
        {"origin": "http://evil.example", "x_forwarded_host": "evil.example"},
        {"origin": "http://evil.example", "x_http_method_override": "GET"},
    )  # fmt: skip
    for headers in foreign:
        answer = await whole.ask(route, cookie=cookie, **headers)
        assert answer.status_code == 403, headers
        assert "another site" in answer.text
    assert whole.it.auth.logins.of_header(cookie) is not None
    assert not whole.store.work.session(whole.session).stopping
    assert len(whole.store.work.sessions_of(OWNER.id)) == 1
    own = await whole.ask(route, cookie=cookie, origin=whole.origin)
    assert own.status_code in (201, 202, 303, 409, 503), own.text
    token = whole.it.auth.tokens.new("t")
    by_program = await whole.ask(route, authorization=f"Bearer {token}")
    assert by_program.status_code == (401 if route == "POST /signout" else own.status_code)


async def test_a_token_in_the_address_does_not_count(whole: Whole) -> None:
    token = whole.it.auth.tokens.new("t")
    for query in ("access_token", "token", "Authorization", "bearer"):
        for value in (token, f"Bearer {token}", quote(f"Bearer {token}")):
            answer = await whole.ask(f"GET /api/me?{query}={value}")
            assert answer.status_code == 401
    assert (await whole.ask("GET /api/me", authorization=f"Bearer {token}")).status_code == 200


async def test_strangers_cannot_fill_the_audit_log(whole: Whole) -> None:
    """Its lines cannot be deleted: of a flood only the beginning is kept."""
    for n in range(50):
        for path in (f"/signin?key={n}", "/signin/x/callback?state=1", "/api/me"):
            await whole.ask(f"GET {path}", authorization="Bearer sbt_x", **NAVIGATE)
        await whole.ask("POST /signout", origin="http://evil.example")
    lines = whole.store.audit.search(AuditQuery(refused=True), limit=1000)
    assert 0 < len(lines) <= 30
    assert whole.it.auth.logins.of_header(whole.cookie()) is not None
    assert whole.store.audit.latest(1)[0].action == "sign-in", "what people do is kept"


# --- names and addresses ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trusted", "forwarded", "client"),
    [
        ((), ["192.0.2.7"], "127.0.0.1"),
        (("198.51.100.1",), ["192.0.2.7"], "127.0.0.1"),
        (("127.0.0.1",), ["192.0.2.7"], "192.0.2.7"),
        (("127.0.0.1",), ["6.6.6.6, 192.0.2.7"], "192.0.2.7"),
        (("127.0.0.1",), ["6.6.6.6", "192.0.2.7"], "192.0.2.7"),
        (("127.0.0.1", "192.0.2.1"), ["6.6.6.6, 192.0.2.7, 192.0.2.1"], "192.0.2.7"),
        (("127.0.0.1",), ["<script>"], "127.0.0.1"),
        (("127.0.0.1",), ["192.0.2.7, "], "127.0.0.1"),
        (("127.0.0.1",), [], "127.0.0.1"),
    ],
)
async def test_who_asked_is_said_by_front_servers_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trusted: tuple[str, ...],
    forwarded: list[str],
    client: str,
) -> None:
    monkeypatch.setattr(app, "links", lambda *_: {})
    plant_scene(tmp_path, "LC08_A")
    (tmp_path / "settings.toml").write_text(f"trusted_proxies = {list(trusted)}")
    whole = Whole(tmp_path)
    key = whole.it.auth.links.new("").partition("key=")[2]
    headers = [("host", whole.origin[7:]), *(("x-forwarded-for", f) for f in forwarded)]
    headers += [(CLIENT_HEADER, "6.6.6.6"), ("x-forwarded-host", "evil.example")]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(whole.app)) as browser:
        answer = await browser.get(f"{whole.origin}/signin?key={key}", headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert whole.store.audit.latest(1)[0].client == client
    whole.store.close()


HOSTS = (
    "evil.example", "localhost", "localhost:1", "{}.", "x@{}", "{}@evil.example", "{}:80", "{}/x",
    "xlocalhost:{port}", "localhost.evil.example:{port}", "nb-1.{}", "0.0.0.0:{port}",
    "nb-00000000000000000000000000000000.localhost.:{port}x", "127.1:{port}", "[::1",
)  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_other_names_lead_nowhere(there: Crowd, host: str) -> None:
    own = there.origin.partition("//")[2]
    name = host.format(own, port=there.running.port)
    cookie = there.sign_in().cookie
    for path in ("/api/me", "/healthz", f"{there.origin}/api/me"):
        head, body = asyncio.run(raw(there, path, cookie, name))
        assert int(head.split(" ", 2)[1]) in (400, 401, 404, 421), head
        assert "Alice" not in body
        assert "version" not in body
    head, body = asyncio.run(raw(there, "/api/me", cookie))
    assert "Alice" in body


# --- paths --------------------------------------------------------------------------------


#: Ways out of a folder, as they may stand in a path.
TRICKS = (
    "..", "%2e%2e", "%2E%2e", ".%2e", "..%2f..", "%2e%2e%2f%2e%2e", "..%5c..", "..\\..",
    "%252e%252e%252f", "..;", "%2e%2e;x=1", "..%00", "%00", "%c0%ae%c0%ae", "....//", ".%00.",
)  # fmt: skip
PLACES = (
    "/assets/{}/lib/auth/authorization.py", "/assets/leaflet/{}/{}/app.py", "/assets{}/app.py",
    "/{}/app.py", "/{}/{}/etc/passwd", "/api/{}/portal.sqlite", "/api/scenes/{}/item.json",
    "/api/runs/{}/{}/portal.sqlite", "/open/{}/{}/app.py", "/media/{}/{}/app.py",
    "/component/streamlit_folium.st_folium/{}/__init__.py", "/component/{}/{}/app.py",
    "/signin/{}/callback", "/signin/{}/../../work", "/healthz/{}/work", "/signin/{}/api/scenes",
)  # fmt: skip
FILES = ("import streamlit", "root:", "SQLite format", "from __future__", "[build")


def test_no_path_leads_out_of_what_is_served(there: Crowd) -> None:
    """On the wire, byte by byte: a client would tidy such paths up before it asks."""
    known, stranger = there.sign_in().cookie, "x=1"
    asked = [place.replace("{}", trick) for place in PLACES for trick in TRICKS]
    asked += [f"//{there.origin[7:]}/app.py", "http://evil.example/app.py", "*", "/%", "/%zz"]

    async def all_of_them() -> None:
        limit = asyncio.Semaphore(20)

        async def one(path: str, cookie: str) -> None:
            async with limit:
                head, body = await raw(there, path, cookie)
            status = int(head.split(" ", 2)[1])
            assert status in (200, 303, 307, 400, 401, 403, 404, 405, 421), (path, head)
            for text in FILES:
                assert text not in body, path
            if cookie == stranger and status == 200:
                assert path.startswith("/signin") or "Please sign in" in body, path
                assert "streamlit" not in body.lower(), path

        await asyncio.gather(*(one(p, c) for p in asked for c in (known, stranger)))

    asyncio.run(all_of_them())
    head, body = asyncio.run(raw(there, "/assets/leaflet/leaflet.css", known))
    assert " 200 " in head
    assert ".leaflet-pane" in body


async def raw(there: Crowd, path: str, cookie: str, host: str = "") -> tuple[str, str]:
    name = host or f"localhost:{there.running.port}"
    reader, writer = await asyncio.open_connection("127.0.0.1", there.running.port)
    lines = (
        f"GET {path} HTTP/1.1", f"Host: {name}", f"Cookie: {cookie}",
        "Connection: close", "", "",
    )  # fmt: skip
    writer.write("\r\n".join(lines).encode("latin-1"))
    answer = await asyncio.wait_for(reader.read(-1), 300)
    writer.close()
    head, _, body = answer.decode("latin-1").partition("\r\n\r\n")
    return head, body


def test_streamlit_s_own_routes_are_behind_the_door(there: Crowd) -> None:
    from streamlit.web.server.starlette.starlette_app import create_streamlit_routes

    routes = create_streamlit_routes(MagicMock())
    found = {getattr(route, "path", "") for route in routes}
    assert {"/_stcore/stream", "/_stcore/host-config"} <= found
    who = there.sign_in()
    reached = 0
    with there.client() as stranger, there.client(who) as known:
        for path in found:
            path = re.sub(r"\{.*?\}", "x", path) or "/"
            assert path not in OPEN_PATHS
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
                answer = stranger.request(method, path)
                closed = path.startswith(CLOSED_PATHS)
                assert answer.status_code == (404 if closed else 401), (method, path)
                if closed:
                    assert known.request(method, path).status_code == 404, path
            reached += known.get(path).status_code == 200
    assert reached > 3
