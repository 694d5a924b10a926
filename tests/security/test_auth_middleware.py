"""Authentication middleware against strangers, foreign pages and borrowed names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from lib.auth import COOKIE
from lib.auth.secret import digest
from lib.errors import Unavailable
from lib.web import api
from tests.fakes.reconciler_harness import hurry
from tests.fakes.site import ALICE, BOB, ORIGIN, Site, serve_site

NAVIGATE = {"sec-fetch-mode": "navigate", "sec-fetch-site": "none", "accept": "text/html"}


#: All share one loop, so that one site serves them all.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        async with serve_site(tmp_path_factory.mktemp("site")) as it:
            yield it


@pytest.fixture
def site(standing: Site) -> Site:
    """That site as nobody has reached it; logins and tokens are each test's own."""
    standing.reached.clear()
    return standing


async def ask(site: Site, method: str, path: str, *headers: tuple[str, str]) -> httpx.Response:
    """Ask with exactly these headers; Host is the portal's where none is given."""
    names = [name for name, _ in headers]
    given = headers if "host" in names else (("host", "localhost:8501"), *headers)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site.app)) as client:
        request = httpx.Request(method, f"http://x{path}")
        request.headers = httpx.Headers(list(given))
        return await client.send(request)


# --- strangers ----------------------------------------------------------------------


def every_route() -> list[tuple[str, str]]:
    sample = {"{scene}": "LC08_A", "{z}": "1", "{x}": "0", "{y}": "0", "{n}": "1"}
    found = []
    for route in api.routes():
        path = route.path
        for name, value in {**sample, "{session}": "s", "{run}": "r"}.items():
            path = path.replace(name, value)
        found += [(method, path) for method in sorted(route.methods or ())]
    return found


@pytest.mark.parametrize(("method", "path"), every_route())
async def test_no_route_answers_a_stranger(site: Site, method: str, path: str) -> None:
    answer = await ask(site, method, path, ("origin", ORIGIN))
    if path == "/healthz":
        assert answer.status_code == 200
        return
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    if method != "HEAD":
        assert answer.json()["error"]["code"] == "not-signed-in"


@pytest.mark.parametrize(
    "path", ["/", "/work", "/_stcore/health", "/assets/x.js", "/open/1", "/signin/", "/healthz/x"]
)
async def test_nothing_else_answers_a_stranger(site: Site, path: str) -> None:
    answer = await ask(site, "GET", path)
    assert answer.status_code == 401
    assert "You are not signed in" in answer.text
    page = await ask(site, "GET", path, *NAVIGATE.items())
    assert page.status_code == 401
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["cache-control"] == "no-store"
    assert site.reached == []


async def test_the_way_in_is_open(site: Site) -> None:
    assert (await ask(site, "GET", "/signin?key=x", *NAVIGATE.items())).status_code == 200
    assert (await ask(site, "GET", "/healthz")).json()["status"] == "ok"


async def test_a_login_opens_the_door(site: Site) -> None:
    cookie = ("cookie", site.login())
    assert (await ask(site, "GET", "/work", cookie)).text == "inside"
    assert (await ask(site, "GET", "/api/sessions", cookie)).status_code == 200
    assert (await ask(site, "POST", "/x", cookie, ("origin", ORIGIN))).status_code == 200
    assert site.reached == ["alice", "alice"]


async def test_logins_that_do_not_count(site: Site) -> None:
    good = site.login()
    revoked = site.login(login_id="gone")
    site.world.store.people.revoke_login("gone")
    expired = site.login(lifetime_s=-1)
    for cookies in (
        [revoked],
        [expired],
        [f"{good}; {site.login(BOB)}"],
        [good, site.login(BOB)],
        [f"{COOKIE}=x; {good}"],
        [f"{COOKIE}-2={good.partition('=')[2]}"],
    ):
        answer = await ask(site, "GET", "/", *(("cookie", c) for c in cookies))
        assert answer.status_code == 401, cookies
    assert (await ask(site, "GET", "/", ("cookie", good))).status_code == 200


# --- names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8501",
        "localhost",
        "localhost:80",
        "localhost.:8501",
        "localhost:8501.evil.example",
        "nb-1.localhost:8501",
        "localhost:8501@evil.example",
        "user@localhost:8501",
        "localhost:08501",
        " localhost:8501",
        "",
        "0.0.0.0:8501",
        "127.1:8501",
        "[::ffff:127.0.0.1]:8501",
    ],
)
async def test_other_names_get_nothing(site: Site, host: str) -> None:
    cookie, token = ("cookie", site.login()), ("authorization", f"Bearer {site.token()}")
    for path in ("/", "/healthz", "/signin", "/api/sessions"):
        answer = await ask(site, "GET", path, ("host", host), cookie, token)
        assert answer.status_code == 421, path
    assert site.reached == []


async def test_no_name_or_two_names_get_nothing(site: Site) -> None:
    cookie = ("cookie", site.login())
    two = (("host", "localhost:8501"), ("host", "localhost:8501"))
    assert (await ask(site, "GET", "/", *two, cookie)).status_code == 421
    scope = _scope("/", [])
    assert (await _raw(site, scope))[0]["status"] == 421


@pytest.mark.parametrize("host", ["LOCALHOST:8501", "localhost:8501"])
async def test_the_portal_s_name_in_any_case(site: Site, host: str) -> None:
    answer = await ask(site, "GET", "/", ("host", host), ("cookie", site.login()))
    assert answer.status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1:8501", "[::1]:8501"])
async def test_pages_move_to_the_one_name(site: Site, host: str) -> None:
    path = "/work?scene=a%20b&x=%2F"
    answer = await ask(site, "GET", path, ("host", host), *NAVIGATE.items())
    assert answer.status_code == 307
    assert answer.headers["location"] == ORIGIN + path
    program = await ask(
        site, "GET", "/api/runs", ("host", host), ("authorization", f"Bearer {site.token()}")
    )
    assert program.status_code == 200
    posted = await ask(site, "POST", "/", ("host", host), ("origin", f"http://{host}"))
    assert posted.status_code == 403


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example", "/%0d%0aX: y", "/@evil"])
async def test_moving_leads_nowhere_else(site: Site, path: str) -> None:
    answer = await ask(site, "GET", path, ("host", "127.0.0.1:8501"), *NAVIGATE.items())
    target = httpx.URL(answer.headers["location"])
    assert (target.host, target.port) == ("localhost", 8501)
    assert "x" not in answer.headers
    scope = _scope("@evil.example", [(b"host", b"127.0.0.1:8501"), (b"accept", b"text/html")])
    moved = dict((await _raw(site, scope))[0]["headers"])
    assert moved[b"location"] == b"http://localhost:8501/@evil.example"


# --- foreign pages ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    "origin",
    [
        [],
        ["null"],
        ["http://evil.example"],
        ["http://nb-1.localhost:8501"],
        ["http://localhost:8600"],
        ["https://localhost:8501"],
        ["http://localhost:8501/"],
        [ORIGIN, ORIGIN],
        [ORIGIN, "http://evil.example"],
    ],
)
async def test_a_foreign_page_changes_nothing(site: Site, method: str, origin: list[str]) -> None:
    headers = [("cookie", site.login()), *(("origin", o) for o in origin)]
    for path in ("/x", "/api/sessions/1", "/signin", "/signout"):
        answer = await ask(site, method, path, *headers)
        assert answer.status_code == 403, path
    assert site.reached == []


@pytest.mark.parametrize("where", ["cross-site", "same-site"])
async def test_a_foreign_page_reads_nothing(site: Site, where: str) -> None:
    cookie, site_ = ("cookie", site.login()), ("sec-fetch-site", where)
    for mode in ("no-cors", "cors", "same-origin", "websocket"):
        answer = await ask(site, "GET", "/api/scenes", cookie, site_, ("sec-fetch-mode", mode))
        assert answer.status_code == 403, mode
    linked = await ask(site, "GET", "/work", cookie, site_, ("sec-fetch-mode", "navigate"))
    assert linked.status_code == 200, "a link from elsewhere may be followed"


async def test_frames_and_sniffing_are_forbidden_everywhere(site: Site) -> None:
    for answer in (
        await ask(site, "GET", "/"),
        await ask(site, "GET", "/", ("host", "evil.example")),
        await ask(site, "GET", "/", ("cookie", site.login())),
        await ask(site, "GET", "/api/scenes", ("cookie", site.login())),
    ):
        assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


# --- WebSockets -----------------------------------------------------------------------------


def _scope(path: str, headers: list[tuple[bytes, bytes]], kind: str = "http") -> dict[str, Any]:
    return {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http" if kind == "http" else "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8501),
        "subprotocols": [],
    }


async def _raw(site: Site, scope: dict[str, Any]) -> list[Any]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        kind = "websocket.connect" if scope["type"] == "websocket" else "http.request"
        return {"type": kind}

    async def send(message: Any) -> None:
        sent.append(message)

    await site.app(scope, receive, send)
    return sent


async def connect(site: Site, *headers: tuple[str, str]) -> dict[str, Any]:
    """The first thing that the site answers to a WebSocket."""
    raw = [(name.encode(), value.encode()) for name, value in headers]
    answer = await _raw(site, _scope("/_stcore/stream", raw, "websocket"))
    first: dict[str, Any] = answer[0]
    return first


async def test_a_websocket_needs_name_origin_and_login(site: Site) -> None:
    host, origin = ("host", "localhost:8501"), ("origin", ORIGIN)
    cookie = ("cookie", site.login())
    assert (await connect(site, host, origin, cookie))["type"] == "websocket.accept"
    assert site.reached == ["alice"]
    bearer = ("authorization", f"Bearer {site.token()}")
    for headers, code in (
        ((host, origin), 4401),
        ((host, cookie), 4403),
        ((host, cookie, ("origin", "http://evil.example")), 4403),
        ((host, cookie, ("origin", "http://nb-1.localhost:8501")), 4403),
        ((host, cookie, origin, origin), 4403),
        ((host, cookie, ("origin", "null")), 4403),
        ((("host", "evil.example"), origin, cookie), 4421),
        ((("host", "127.0.0.1:8501"), ("origin", "http://127.0.0.1:8501"), cookie), 4403),
        ((host, origin, bearer), 4401),
    ):
        assert await connect(site, *headers) == {"type": "websocket.close", "code": code}, headers
    assert site.reached == ["alice"]


# --- tokens -----------------------------------------------------------------------------------


async def test_a_token_counts_below_api_only(site: Site) -> None:
    bearer = ("authorization", f"Bearer {site.token()}")
    assert (await ask(site, "GET", "/api/sessions", bearer)).status_code == 200
    assert (await ask(site, "DELETE", "/api/sessions/x", bearer)).status_code == 404
    for path in ("/", "/work", "/apix", "/open/1", "/_stcore/stream", "/api"):
        assert (await ask(site, "GET", path, bearer)).status_code == 401, path
    assert site.reached == []


async def test_tokens_that_do_not_count(site: Site) -> None:
    good = site.token()
    revoked = site.token(token_id="gone")
    site.world.store.people.revoke_token("gone")
    login = site.login().partition("=")[2]
    for value in (
        f"Bearer {revoked}",
        f"Bearer {site.token(lifetime_s=-1)}",
        f"Bearer {good}x",
        f"Basic {good}",
        good,
        "Bearer",
        "Bearer sbt_",
        f"Bearer {login}",
        f"Bearer {digest(good)}",
    ):
        answer = await ask(site, "GET", "/api/sessions", ("authorization", value))
        assert answer.status_code == 401, value
    answer = await ask(site, "GET", "/api/sessions", ("authorization", f"bearer  {good}"))
    assert answer.status_code == 200


async def test_a_good_token_wins_over_a_cookie_and_a_bad_one_is_refused(site: Site) -> None:
    cookie = ("cookie", site.login(ALICE))
    bearer = ("authorization", f"Bearer {site.token(BOB)}")
    await ask(site, "GET", "/api/elsewhere", cookie, bearer)
    assert site.reached == ["bob"]
    bad = ("authorization", "Bearer sbt_bad")
    assert (await ask(site, "GET", "/api/sessions", cookie)).status_code == 200
    assert (await ask(site, "GET", "/api/sessions", cookie, bad)).status_code == 401


async def test_a_store_that_does_not_answer_lets_nobody_in(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: str) -> None:
        raise Unavailable("The portal's store is busy. Try again in a moment.")

    monkeypatch.setattr(site.auth.logins, "of_header", busy)
    answer = await ask(site, "GET", "/", ("cookie", site.login()))
    assert answer.status_code == 503
    assert "busy" in answer.text
    assert site.reached == []
