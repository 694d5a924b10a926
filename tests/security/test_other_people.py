"""A real notebook of Alice's against people who are not her: ids, tickets, cookies, sockets."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from lib.auth import CLIENT_HEADER, COOKIE
from lib.model import TokenScope
from tests.crowd import NAVIGATE, Crowd, Somebody, at_notebook

pytestmark = pytest.mark.slow
#: A notebook's origin goes by what it was told for `lib.auth.notebook_access.REMEMBER_S`.
FORGOTTEN_S = 0.6
PATHS = {
    "session": ("GET /api/sessions/{}", "DELETE /api/sessions/{}", "GET /open/{}"),
    "run": (
        "GET /api/runs/{}", "DELETE /api/runs/{}", "GET /api/runs/{}/detections",
        "GET /api/runs/{}/scenes/LC08_A/overview.webp",
        "GET /api/runs/{}/scenes/LC08_A/chips/1.webp",
    ),
}  # fmt: skip


def ask(client: httpx.Client, route: str, ident: str) -> tuple[int, str]:
    """Status and text, without the id."""
    method, _, path = route.partition(" ")
    headers = NAVIGATE if path.startswith("/open/") else {}
    answer = client.request(method, path.format(ident), headers=headers)
    return answer.status_code, answer.text.replace(ident, "ID")


@pytest.mark.parametrize("who", ["bob", "kim"])
def test_what_is_alice_s_is_not_there_for_others(there: Crowd, who: str) -> None:
    ids = {"session": there.notebook.id, "run": there.notebook.run}
    absent = str(uuid.uuid4())
    with there.client(there.sign_in(who)) as other, there.client(there.sign_in()) as alice:
        for kind, routes in PATHS.items():
            for route in routes:
                refused = ask(other, route, ids[kind])
                assert refused == ask(other, route, absent), route
                assert refused[0] == 404
                if not route.startswith("DELETE"):
                    assert ask(alice, route, ids[kind]) != refused or "webp" in route
        assert other.get("/api/sessions").json() == []
        assert other.get("/api/runs").json() == []
        assert not alice.get(f"/api/sessions/{ids['session']}").json()["stopping"]


@pytest.mark.parametrize("who", ["lee", "ada"])
def test_who_looks_after_it_sees_it_and_no_more(there: Crowd, who: str) -> None:
    session, run = there.notebook.id, there.notebook.run
    with there.client(there.sign_in(who)) as client:
        assert ask(client, "GET /api/sessions/{}", session)[0] == 200
        assert ask(client, "GET /api/runs/{}", run)[0] == 200
        for route, ident in (
            ("GET /open/{}", session),
            ("GET /api/runs/{}/detections", run),
            ("GET /api/runs/{}/scenes/LC08_A/chips/1.webp", run),
        ):
            status, text = ask(client, route, ident)
            assert status == 403
            assert "Only its owner" in text


def test_no_token_opens_a_notebook(there: Crowd) -> None:
    for scopes in ((TokenScope.READ,), (TokenScope.LAUNCH,), ()):
        headers = {"authorization": f"Bearer {there.token('alice', *scopes)}", **NAVIGATE}
        with there.client(**headers) as client:
            assert client.get(f"/open/{there.notebook.id}").status_code == 401
            assert client.get(f"/api/sessions/{there.notebook.id}").status_code == 200


# --- the notebook's origin --------------------------------------------------------------


def test_the_notebook_s_origin_is_for_its_own_cookie(there: Crowd) -> None:
    book = there.notebook
    name, _, value = book.cookie.partition("=")
    bob = there.sign_in("bob")
    guessed = f"{uuid.uuid4().hex}"
    elsewhere = book.origin.replace(book.id.replace("-", ""), guessed)
    assert at_notebook(f"{book.origin}/api/status", cookie=book.cookie).status_code == 200
    for cookie in (
        "", bob.cookie, there.sign_in().cookie, f"{name}={value[:-3]}abc", f"{name}={bob.secret}",
        f"{book.cookie}; {book.cookie}", f"{name}x={value}", f"{COOKIE}={value}",
    ):  # fmt: skip
        refused = at_notebook(f"{book.origin}/api/status", cookie=cookie)
        assert refused.status_code == 401, cookie
        absent = at_notebook(f"{elsewhere}/api/status", cookie=cookie)
        assert (absent.status_code, absent.text) == (401, refused.text)
    page = at_notebook(f"{book.origin}/lab", cookie=bob.cookie, **NAVIGATE)
    assert page.status_code == 303
    assert page.headers["location"] == f"{there.origin}/open/{book.id}?next=/lab"
    other = at_notebook(f"{elsewhere}/lab", cookie=book.cookie, **NAVIGATE)
    assert other.status_code == 303, "the cookie of one notebook opens no other"


def test_a_websocket_of_the_notebook_is_for_its_own_page(there: Crowd) -> None:
    book = there.notebook
    for cookie, origin, status in (
        (book.cookie, book.origin, 101),
        (book.cookie, there.origin, 403),
        (book.cookie, "http://evil.example", 403),
        (book.cookie, "null", 403),
        (book.cookie, None, 403),
        (there.sign_in("bob").cookie, book.origin, 401),
        ("", book.origin, 401),
    ):
        assert handshake(book.origin, "/api/events/subscribe", cookie, origin) == status, origin


def test_a_websocket_of_the_portal_is_for_its_own_page(there: Crowd) -> None:
    cookie = there.sign_in().cookie
    for given, origin, status in (
        (cookie, there.origin, 101),
        (cookie, there.notebook.origin, 403),
        (cookie, "http://evil.example", 403),
        (cookie, "null", 403),
        (cookie, None, 403),
        ("", there.origin, 403),
        (there.notebook.cookie, there.origin, 403),
    ):
        assert handshake(there.origin, "/_stcore/stream", given, origin) == status, origin


def handshake(origin: str, path: str, cookie: str, page: str | None) -> int:
    parts = urlsplit(origin)
    to = socket.create_connection(("127.0.0.1", parts.port or 0))
    try:
        with connect(
            f"ws://{parts.netloc}{path}",
            sock=to,
            origin=page,  # type: ignore[arg-type]
            additional_headers={"Cookie": cookie} if cookie else {},
        ):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code
    finally:
        to.close()


TRICKS = ("/..%2f..%2f", "/%2e%2e/", "//", "/%00", "/\\..\\", "/..;/", "/%252e%252e/")


@pytest.mark.parametrize("trick", TRICKS)
def test_a_path_does_not_lead_around_the_notebook_s_door(there: Crowd, trick: str) -> None:
    book = there.notebook
    for begin in ("", "/static", "/_portal", "/_portal/enter"):
        for end in ("api/status", "_portal/entered", "api/contents"):
            raw = f"{begin}{trick}{end}"
            assert raw_status(book.origin, raw, "") in (400, 401, 403, 404), raw
            assert raw_status(book.origin, raw, book.cookie) in (200, 400, 403, 404, 405), raw


def raw_status(origin: str, path: str, cookie: str) -> int:
    parts = urlsplit(origin)
    with socket.create_connection(("127.0.0.1", parts.port or 0), timeout=300) as stream:
        head = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nCookie: {cookie}\r\n"
        stream.sendall(f"{head}Connection: close\r\n\r\n".encode())
        return int(stream.makefile("rb").readline().split()[1])


# --- tickets and links ------------------------------------------------------------------


def test_a_ticket_works_once_for_one_notebook_and_while_signed_in(there: Crowd) -> None:
    book, alice = there.notebook, there.sign_in()
    used = there.ticket(alice, book.id)
    assert at_notebook(used, **NAVIGATE).status_code == 303
    assert at_notebook(used, **NAVIGATE).status_code == 403
    elsewhere = book.origin.replace(book.id.replace("-", ""), uuid.uuid4().hex)
    moved = there.ticket(alice, book.id)
    wrong = at_notebook(moved.replace(book.origin, elsewhere), **NAVIGATE)
    assert wrong.status_code == 403
    assert at_notebook(moved, **NAVIGATE).status_code == 403, "it is spent all the same"
    kept = there.ticket(alice, book.id)
    with there.client(alice) as client:
        assert client.post("/signout").status_code == 303
    time.sleep(FORGOTTEN_S)
    late = at_notebook(kept, **NAVIGATE)
    assert late.status_code == 403
    assert "set-cookie" not in late.headers


def test_a_one_time_link_works_once(there: Crowd) -> None:
    link = there.auth.links.new(there.origin)
    looks = {"HEAD": {}, "GET": {"sec-purpose": "prefetch;prerender"}}
    for method, headers in looks.items():
        assert httpx.request(method, link, headers=headers).status_code == 405
    first = httpx.get(link, headers=NAVIGATE)
    assert first.status_code == 303
    again = httpx.get(link, headers=NAVIGATE)
    assert again.status_code == 403
    assert COOKIE not in again.headers.get("set-cookie", "")


# --- what is over is over ---------------------------------------------------------------


def _sign_out(there: Crowd, who: Somebody) -> None:
    with there.client(who) as client:
        assert client.post("/signout").status_code == 303


def _everywhere(there: Crowd, who: Somebody) -> None:
    there.auth.logins.sign_out_everywhere(who.user.id, by=who.user)


def _elsewhere(there: Crowd, who: Somebody) -> None:
    there.auth.logins.sign_out_one(who.user.id, who.login, by=there.sign_in().user)


def _blocked(there: Crowd, who: Somebody) -> None:
    ada = there.sign_in("ada").user
    there.auth.block(who.user.id, blocked=True, by=ada)
    there.auth.block(who.user.id, blocked=False, by=ada)  # what ended stays ended


@pytest.mark.parametrize("end", [_sign_out, _elsewhere, _everywhere, _blocked])
def test_cookies_are_worth_nothing_once_the_sign_in_is_over(
    there: Crowd, end: Callable[[Crowd, Somebody], None]
) -> None:
    book, alice = there.notebook, there.sign_in()
    _, cookie = there.enter(alice, book.id)
    status = f"{book.origin}/api/status"
    with there.client(alice) as client:
        assert client.get("/api/me").status_code == 200
        assert at_notebook(status, cookie=cookie).status_code == 200
        end(there, alice)
        assert client.get("/api/me").status_code == 401
    time.sleep(FORGOTTEN_S)
    assert at_notebook(status, cookie=cookie).status_code == 401
    with there.client(there.sign_in()) as fresh:
        assert fresh.get("/api/me").status_code == 200


def test_a_planted_cookie_becomes_nobody_s_sign_in(there: Crowd) -> None:
    """Session fixation: what a browser had before it signed in is worth nothing after."""
    planted = f"{COOKIE}=planted-by-somebody"
    link = there.auth.links.new(there.origin)
    answer = httpx.get(link, headers={**NAVIGATE, "cookie": planted})
    assert answer.status_code == 303
    assert "planted" not in answer.headers["set-cookie"]
    assert httpx.get(f"{there.origin}/api/me", headers={"cookie": planted}).status_code == 401
    mallory = there.sign_in("bob")
    link = there.auth.links.new(there.origin)
    httpx.get(link, headers={**NAVIGATE, "cookie": mallory.cookie})
    with there.client(mallory) as client:
        assert client.get("/api/me").status_code == 401, "the planted sign-in has ended"


# --- names and addresses ----------------------------------------------------------------


def test_headers_of_front_servers_count_from_front_servers_alone(there: Crowd) -> None:
    forged = {
        "x-forwarded-for": "192.0.2.66", "forwarded": "for=192.0.2.66;host=evil.example",
        "x-real-ip": "192.0.2.66", CLIENT_HEADER.lower(): "192.0.2.66",
        "x-forwarded-host": "evil.example", "x-forwarded-proto": "https",
    }  # fmt: skip
    link = there.auth.links.new(there.origin)
    answer = httpx.get(link, headers={**NAVIGATE, **forged})
    assert answer.headers["location"] == "/"
    assert there.store.audit.latest(1)[0].client in ("127.0.0.1", "::1")
    with there.client(there.sign_in("bob"), **forged) as client:
        client.get(f"/open/{there.notebook.id}", headers=NAVIGATE)
        tried = there.store.audit.latest(1)[0]
        assert (tried.action, tried.client in ("127.0.0.1", "::1")) == ("open", True)
        host = {"host": f"127.0.0.1:{there.running.port}"}
        moved = client.get("/work", headers={**NAVIGATE, **host})
        assert moved.headers["location"] == f"{there.origin}/work"
        wrong = {"host": f"evil.example:{there.running.port}"}
        assert client.get("/api/me", headers=wrong).status_code == 421
        assert client.get("/api/me").status_code == 200


# --- sizes ------------------------------------------------------------------------------


def test_bodies_are_limited(there: Crowd) -> None:
    def chunks(n: int) -> Any:
        return (b" " * 2**16 for _ in range(n))

    deep = b'{"scenes":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with there.client(there.sign_in()) as client:
        for body, status in (
            (b" " * (2**20 + 1), 413), (chunks(17), 422), (deep, 422), (b"[]", 422), (b"{}", 422),
        ):  # fmt: skip
            assert client.post("/api/sessions", content=body).status_code == status
    with there.client() as stranger:
        assert stranger.post("/api/sessions", content=chunks(4)).status_code == 401


def test_a_stranger_s_body_is_not_waited_for(there: Crowd) -> None:
    for origin, path in ((there.origin, "/api/runs"), (there.notebook.origin, "/api/contents/x")):
        parts = urlsplit(origin)
        with socket.create_connection(("127.0.0.1", parts.port or 0), timeout=300) as stream:
            head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nOrigin: {origin}\r\n"
            stream.sendall(f"{head}Content-Length: 1000000\r\n\r\nx".encode())
            assert stream.makefile("rb").readline().split()[1] == b"401"
