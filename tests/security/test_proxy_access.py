"""Who gets through to a notebook and who does not: every allow has its refuse."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from lib.errors import InvalidInput, Unavailable
from lib.model import SessionId, UserId
from lib.notebook_proxy import lab_bar
from lib.notebook_proxy.origins import HostAddresses, PortAddresses
from lib.notebook_proxy.tickets import TICKET_LIFE_S, Cookies, Grant
from tests.contract.small_notebook import LOGIN, USER, Stage, stage

PAGE = b"the notebook"


async def page(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Upgrade", "").lower() == "websocket":
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.close()
        return ws
    return web.Response(body=PAGE)


#: All share one loop, so that one notebook of each kind of address serves them all.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def notebook(notebooks: str) -> AsyncIterator[Stage]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", page)
    async with stage(app, notebooks=notebooks) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["host", "port"])
async def standing(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    async with notebook(request.param) as made:
        yield made


@pytest.fixture
def on(standing: Stage) -> Iterator[Stage]:
    """That notebook with a visitor inside; what a test changes is as before afterwards."""
    cookie = standing.cookie
    yield standing
    standing.cookie, standing.porter.allowed = cookie, True
    standing.porter.asked.clear()


async def ask(on: Stage, method: str, path: str, **headers: Any) -> aiohttp.ClientResponse:
    answer = await on.http.request(
        method, on.url(path), headers=on.headers(**headers), allow_redirects=False
    )
    await answer.read()
    return answer


async def go(on: Stage, path: str, **headers: Any) -> aiohttp.ClientResponse:
    """Navigate, as a browser does."""
    answer = await on.http.get(
        on.url(path), headers=on.navigation(**headers), allow_redirects=False
    )
    await answer.read()
    return answer


def ticket(on: Stage, onward: str = "/", session: SessionId | None = None) -> str:
    return (on.proxy.entry_url(session or on.session, USER, LOGIN, onward)).rsplit("/", 1)[1]


# --- entering -----------------------------------------------------------------


async def test_ticket_cookie_page(on: Stage) -> None:
    """The whole way a browser takes, step by step."""
    on.cookie = ""
    entry = on.proxy.entry_url(on.session, USER, LOGIN, "/lab/tree/a%20b.ipynb?x=1")
    assert entry.startswith(on.origin)
    first = await go(on, entry.removeprefix(on.origin))
    assert first.status == 303
    assert first.headers["Cache-Control"] == "no-store"
    assert first.headers["Referrer-Policy"] == "no-referrer"
    cookie = first.headers["Set-Cookie"]
    assert cookie.startswith("__Host-sb-notebook-")
    for flag in ("Path=/", "Secure", "HttpOnly", "SameSite=None", "Partitioned"):
        assert f"; {flag}" in cookie
    assert "domain" not in cookie.lower()
    on.cookie = cookie.split(";")[0]
    second = await go(on, first.headers["Location"])
    assert second.status == 303
    assert second.headers["Location"] == "/lab/tree/a%20b.ipynb?x=1"
    third = await go(on, second.headers["Location"])
    assert (third.status, await third.read()) == (200, PAGE)
    assert on.porter.asked[-1] == (on.session, USER, LOGIN)


async def test_ticket_is_good_for_one_use(on: Stage) -> None:
    path = f"/_portal/{ticket(on)}"
    assert (await go(on, path)).status == 303
    again = await go(on, path)
    assert again.status == 403
    assert "Set-Cookie" not in again.headers
    assert f"http://localhost:8501/open/{on.session}" in (await again.text())


async def test_ticket_grows_old(on: Stage) -> None:
    path = f"/_portal/{ticket(on)}"
    on.proxy._tickets._issued.expire(time.monotonic() + TICKET_LIFE_S)
    assert (await go(on, path)).status == 403


async def test_ticket_of_another_notebook_is_refused_and_spent(on: Stage) -> None:
    other = SessionId(str(uuid.uuid4()))
    made = on.proxy._tickets.issue(Grant(other, USER, LOGIN), "/")
    assert (await go(on, f"/_portal/enter?t={made}")).status == 403
    assert made not in on.proxy._tickets._issued


@pytest.mark.parametrize("bad", ["", "enter", "enter?t=", "enter?t=x", "other"])
async def test_made_up_tickets_are_refused(on: Stage, bad: str) -> None:
    answer = await go(on, f"/_portal/{bad}")
    assert answer.status in (403, 404)
    assert "Set-Cookie" not in answer.headers


async def test_only_a_navigation_can_redeem_a_ticket(on: Stage) -> None:
    name = ticket(on)
    assert (await ask(on, "POST", f"/_portal/{name}")).status == 404
    script = await ask(on, "GET", f"/_portal/{name}", Sec_Fetch_Mode="cors")
    assert script.status == 404
    assert (await go(on, f"/_portal/{name}")).status == 303


async def test_portal_that_says_no_makes_the_ticket_worthless(on: Stage) -> None:
    on.porter.allowed = False
    assert (await go(on, f"/_portal/{ticket(on)}")).status == 403


@pytest.mark.parametrize(
    "onward",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "\\\\evil",
        "",
        "lab",
        "/a\r\nX: y",
        "/_portal/enter?t=1",
        "/" + "x" * 3000,
    ],
)
async def test_onward_leads_nowhere_else(on: Stage, onward: str) -> None:
    first = await go(on, f"/_portal/{ticket(on, onward)}")
    assert parse_qs(urlsplit(first.headers["Location"]).query)["next"] == ["/"]
    second = await go(on, "/_portal/entered", Cookie=on.cookie)
    assert second.headers["Location"] == "/"


async def test_onward_in_the_second_step_leads_nowhere_else(on: Stage) -> None:
    answer = await go(on, "/_portal/entered?next=//evil.example")
    assert (answer.status, answer.headers["Location"]) == (303, "/")


async def test_browser_without_cookies_does_not_go_round_in_circles(on: Stage) -> None:
    on.cookie = ""
    first = await go(on, f"/_portal/{ticket(on)}")
    second = await go(on, first.headers["Location"])
    assert second.status == 403
    assert "did not keep the notebook" in await second.text()


# --- without a valid cookie -----------------------------------------------------


async def test_page_without_cookie_goes_to_the_portal_and_comes_back(on: Stage) -> None:
    answer = await go(on, "/lab/tree/a.ipynb?reset", Cookie=None)
    assert answer.status == 303
    portal = urlsplit(answer.headers["Location"])
    assert portal.netloc == "localhost:8501"
    assert portal.path == f"/open/{on.session}"
    assert parse_qs(portal.query)["next"] == ["/lab/tree/a.ipynb?reset"]


async def test_script_without_cookie_is_unauthorised(on: Stage) -> None:
    assert (await ask(on, "GET", "/api/contents", Cookie=None)).status == 401
    assert (await ask(on, "GET", "/api/contents")).status == 200


async def test_the_bar_is_told_of_the_visitor_s_own_notebook_alone(on: Stage) -> None:
    on.porter.ends = 1234.5
    told = await ask(on, "GET", lab_bar.STATE)
    assert told.status == 200
    assert told.headers["Cache-Control"] == "no-store"
    assert (await told.json())["ends_at"] == on.porter.ends
    for cookie in (None, forged(on, session=SessionId(str(uuid.uuid4())))):
        assert (await ask(on, "GET", lab_bar.STATE, Cookie=cookie)).status == 401
        assert (await ask(on, "POST", lab_bar.KEEP, Cookie=cookie)).status == 401
    on.porter.allowed = False
    assert (await ask(on, "GET", lab_bar.STATE)).status == 401
    assert (await ask(on, "POST", lab_bar.KEEP)).status == 401


async def test_the_bar_s_requests_come_from_the_own_page_only(on: Stage) -> None:
    for path in (lab_bar.SCRIPT, lab_bar.STATE):
        assert (await ask(on, "GET", path, Sec_Fetch_Site="cross-site")).status == 403
        assert (await ask(on, "GET", path, Origin=OTHERS[0])).status == 403
        assert (await ask(on, "POST", path)).status == 404
    for origin in (*OTHERS, None):
        assert (await ask(on, "POST", lab_bar.KEEP, Origin=origin)).status == 403
    assert (await ask(on, "GET", lab_bar.KEEP)).status == 404
    assert (await ask(on, "POST", lab_bar.KEEP)).status == 200
    script = await ask(on, "GET", lab_bar.SCRIPT, Cookie=None)
    assert script.headers["Content-Type"].startswith("text/javascript")
    assert await script.read() == lab_bar.script()
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await on.websocket(lab_bar.STATE)
    assert refused.value.status == 404


async def test_websocket_without_cookie_is_unauthorised(on: Stage) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await on.websocket("/ws", Cookie=None)
    assert refused.value.status == 401
    async with on.websocket("/ws"):
        pass


def forged(on: Stage, **change: Any) -> str:
    cookies = Cookies(change.pop("secret", b"s" * 32))
    visitor = Grant(change.pop("session", on.session), UserId("eve"), LOGIN)
    _, _, value = cookies.set(visitor).split(";")[0].partition("=")
    return f"{on.cookie.partition('=')[0]}={value}"


async def test_forged_cookies_are_refused(on: Stage) -> None:
    name, _, value = on.cookie.partition("=")
    other = SessionId(str(uuid.uuid4()))
    for bad in (
        forged(on, secret=b"x" * 32),
        forged(on, session=other),
        f"{name}={value[:-2]}",
        f"{name}=",
        f"{on.cookie}; {on.cookie}",
        f"__Secure-{value}",
    ):
        assert (await ask(on, "GET", "/", Cookie=bad)).status == 401, bad
    assert (await ask(on, "GET", "/", Cookie=f"a=1; {on.cookie}; b=2")).status == 200


async def test_old_cookie_is_refused(on: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.notebook_proxy.tickets.COOKIE_LIFE_S", -1)
    assert (await ask(on, "GET", "/")).status == 401


async def test_portal_is_asked_at_every_request(on: Stage) -> None:
    assert (await ask(on, "GET", "/")).status == 200
    on.porter.allowed = False
    assert (await ask(on, "GET", "/")).status == 401
    assert (await go(on, "/")).status == 303
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await on.websocket("/ws")
    on.porter.allowed = True
    assert (await ask(on, "GET", "/")).status == 200


async def test_portal_that_cannot_be_asked_lets_nobody_in(
    on: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> bool:
        raise Unavailable("The store does not answer. Try again.")

    monkeypatch.setattr(on.porter, "may_open", fail)
    answer = await ask(on, "GET", "/")
    assert answer.status == 503
    assert PAGE not in await answer.read()


async def test_page_of_a_notebook_that_is_not_connected_yet_tries_again(
    on: Stage,
) -> None:
    upstream = on.proxy._notebooks._open.pop(on.session)  # as after a restart of the portal
    answer = await go(on, "/lab")
    assert answer.status == 503
    assert 'http-equiv="refresh"' in await answer.text()
    on.proxy._notebooks.remove(on.session, "It reached its time limit.")
    page = await (await go(on, "/lab")).text()
    assert "It reached its time limit." in page
    assert "refresh" not in page
    on.proxy._notebooks.add(on.session, upstream)


# --- other origins ----------------------------------------------------------------

OTHERS = ["http://localhost:8501", "https://evil.example", "null", "", "http://nb-1.localhost:8501"]


async def test_changes_come_from_the_own_page_only(on: Stage) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for origin in (*OTHERS, None):
            answer = await ask(on, method, "/api", Origin=origin)
            assert answer.status == 403, (method, origin)
        assert (await ask(on, method, "/api")).status == 200


async def test_websockets_come_from_the_own_page_only(on: Stage) -> None:
    for origin in (*OTHERS, None):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await on.websocket("/ws", Origin=origin)
        assert refused.value.status == 403, origin
    for site in ("same-origin", "cross-site", None):
        async with on.websocket("/ws", Sec_Fetch_Site=site):
            pass


async def test_reading_is_for_the_own_page_only(on: Stage) -> None:
    for origin in OTHERS:
        assert (await ask(on, "GET", "/api", Origin=origin)).status == 403, origin
        assert (await ask(on, "OPTIONS", "/api", Origin=origin)).status == 403, origin
    assert (await ask(on, "GET", "/api", Origin=None)).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "rubbish"])
async def test_subresources_for_other_sites_are_refused(on: Stage, site: str) -> None:
    for mode in ("no-cors", "cors", "websocket", None):
        refused = await ask(
            on,
            "GET",
            "/files/x.png",
            Origin=None,
            Sec_Fetch_Site=site,
            Sec_Fetch_Mode=mode,
            Accept="image/*",
        )
        assert refused.status == 403, mode
    for dest in ("object", "embed", "image", None):
        assert (await go(on, "/", Sec_Fetch_Site=site, Sec_Fetch_Dest=dest)).status == 403
    for dest in ("document", "iframe"):
        assert (await go(on, "/", Sec_Fetch_Site=site, Sec_Fetch_Dest=dest)).status == 200


async def test_service_workers_are_refused(on: Stage) -> None:
    assert (await ask(on, "GET", "/sw.js", Service_Worker="script")).status == 403
    assert (await ask(on, "GET", "/sw.js", Sec_Fetch_Dest="serviceworker")).status == 403
    assert (await ask(on, "GET", "/sw.js", Sec_Fetch_Dest="script")).status == 200


async def test_only_the_portal_may_frame(on: Stage) -> None:
    for path in ("/", "/_portal/enter?t=x"):
        answer = await go(on, path)
        policies = ";".join(answer.headers.getall("Content-Security-Policy"))
        assert "frame-ancestors 'self' http://localhost:8501" in policies
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"


async def test_huge_headers_are_refused(on: Stage) -> None:
    assert (await ask(on, "GET", "/", X_Big="x" * 70_000)).status == 431
    assert (await ask(on, "GET", "/", X_Big="x" * 7_000)).status == 200


async def test_messages_of_the_proxy_are_escaped() -> None:
    async with notebook("host") as on:
        await on.proxy.close(on.session, "<script>alert(1)</script>")
        answer = await go(on, "/")
        assert answer.status == 503
        assert "<script>" not in await answer.text()
        assert json.loads(await (await ask(on, "GET", "/")).text())["message"].startswith(
            "<script>"
        )


# --- hosts ------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def by_host() -> AsyncIterator[Stage]:
    async with notebook("host") as made:
        yield made


async def test_capitals_and_trailing_dot_are_the_same_host(by_host: Stage) -> None:
    name, port = by_host.host.rsplit(":", 1)
    for host in (by_host.host, by_host.host.upper(), f"{name}.:{port}", name):
        assert (await ask(by_host, "GET", "/", Host=host)).status == 200, host


async def test_other_hosts_hold_no_notebook(by_host: Stage) -> None:
    for host in ("localhost:8501", "evil.example", f"x.{by_host.host}", "127.0.0.1:8501"):
        answer = await ask(by_host, "GET", "/", Host=host)
        assert answer.status == 404, host
        assert "no notebook at this address" in (await answer.json())["message"], host


async def test_notebook_addresses_that_are_none_hold_no_notebook(by_host: Stage) -> None:
    full = by_host.session.replace("-", "")
    for label in ("nb-", "nb-x", f"nb-{full}0", f"nb-{full[:-1]}g", f"nb-{by_host.session}"):
        answer = await ask(by_host, "GET", "/", Host=f"{label}.localhost:8501")
        assert answer.status == 404, label
    absent = uuid.uuid4().hex
    answer = await ask(by_host, "GET", "/", Host=f"nb-{absent}.localhost:8501")
    assert answer.status == 403  # the origin of the request is another notebook's
    answer = await ask(by_host, "GET", "/", Host=f"nb-{absent}.localhost:8501", Origin=None)
    assert answer.status == 401


async def test_two_hosts_are_refused(by_host: Stage) -> None:
    reader, writer = await by_host.raw(
        b"GET / HTTP/1.1\r\nHost: localhost:8501\r\nHost: {HOST}\r\nCookie: {COOKIE}\r\n"
        b"Connection: close\r\n\r\n"
    )
    answer = await reader.read()
    writer.close()
    assert b" 400 " in answer.splitlines()[0]
    assert PAGE not in answer


async def test_port_answers_to_no_other_name() -> None:
    async with notebook("port") as on:
        assert (await ask(on, "GET", "/")).status == 200
        assert (await ask(on, "GET", "/", Host=f"evil.example:{on.port}")).status == 404
        assert (await ask(on, "GET", "/", Host=f"localhost:{on.port}")).status == 404
        headers = on.headers()
        await on.proxy.close(on.session, "Stopped.")
        with pytest.raises(aiohttp.ClientConnectorError):
            await on.http.get(on.url("/"), headers=headers)


async def test_origins_that_would_share_cookies_or_names_are_refused() -> None:
    HostAddresses("http://localhost:8501")
    HostAddresses("https://portal.example", "notebooks.example")
    PortAddresses("http://localhost:8501")
    for origin in ("http://127.0.0.1:8501", "http://[::1]:8501", "localhost:8501", "http://a/b"):
        with pytest.raises(InvalidInput):
            HostAddresses(origin)
    with pytest.raises(InvalidInput, match="share its cookies"):
        PortAddresses("http://127.0.0.1:8501")
