"""Origins, tickets, cookies and headers of notebooks, one by one; all together: tests/security."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from lib.errors import InvalidInput, NotFound, Refused
from lib.model import SessionId, UserId
from lib.notebook_proxy import headers, tickets
from lib.notebook_proxy.origins import HostAddresses, PortAddresses
from lib.notebook_proxy.tickets import Cookies, Grant, Tickets, local_path

ONE = SessionId("00000000-0000-4000-8000-000000000001")
TWO = SessionId("00000000-0000-4000-8000-000000000002")
GRANT = Grant(ONE, UserId("u-ada"), "login")


def scope(*raw: tuple[str, str], **changes: Any) -> dict[str, Any]:
    pairs = [(name.encode(), value.encode()) for name, value in raw]
    return {"type": "http", "method": "GET", "headers": pairs, "client": ("::1", 1), **changes}


# --- tickets ----------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_ticket_is_good_once_for_its_notebook_and_for_a_moment() -> None:
    clock = Clock()
    issued = Tickets(clock)
    ticket = issued.issue(GRANT, "/lab")
    clock.now += tickets.TICKET_LIFE_S - 0.1
    assert issued.redeem(ticket, ONE) == (GRANT, "/lab")
    with pytest.raises(Refused):
        issued.redeem(ticket, ONE)
    of_another, late = issued.issue(GRANT, "/"), issued.issue(GRANT, "/")
    for _ in range(2):  # the first try spends it
        with pytest.raises(Refused):
            issued.redeem(of_another, TWO)
    with pytest.raises(Refused):
        issued.redeem(of_another, ONE)
    clock.now += tickets.TICKET_LIFE_S
    with pytest.raises(Refused):
        issued.redeem(late, ONE)


@pytest.mark.parametrize(
    "onward",
    ["", "lab", "//evil.org/", "/\\evil.org", "/_portal/x", "/a\nb", "/é", "https://evil.org/",
     "/" + "x" * 2000],
)  # fmt: skip
def test_only_a_plain_path_of_its_own_is_gone_to(onward: str) -> None:
    assert local_path(onward) == "/"
    assert local_path("/lab/tree/a.ipynb?x=1#y") == "/lab/tree/a.ipynb?x=1#y"


# --- cookies ----------------------------------------------------------------------------


def pair_of(cookie: str) -> bytes:
    return cookie.partition(";")[0].encode()


def test_a_cookie_counts_at_its_notebook_alone_and_once() -> None:
    cookies = Cookies(b"s" * 32)
    mine = pair_of(cookies.set(GRANT))
    assert cookies.read(ONE, [b"a=b; " + mine]) == GRANT
    assert cookies.read(ONE, []) is None
    for twice in ([mine, mine], [mine + b"; " + mine], [mine, mine.partition(b"=")[0] + b"=x"]):
        assert cookies.read(ONE, twice) is None
    name = pair_of(cookies.set(Grant(TWO, GRANT.user, "login"))).partition(b"=")[0]
    moved = name + b"=" + mine.partition(b"=")[2]
    assert cookies.read(TWO, [moved]) is None
    assert Cookies(b"t" * 32).read(ONE, [mine]) is None


def test_a_cookie_grows_old_whether_it_was_seen_before_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cookies = Cookies(b"s" * 32)
    mine = pair_of(cookies.set(GRANT))
    assert cookies.read(ONE, [mine]) == GRANT
    monkeypatch.setattr(tickets, "COOKIE_LIFE_S", 0)
    assert cookies.read(ONE, [mine]) is None
    assert Cookies(b"s" * 32).read(ONE, [mine]) is None


# --- headers ----------------------------------------------------------------------------


def to_notebook(*raw: tuple[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers.to_notebook(scope(*raw), token="T", scheme="https"):
        found.setdefault(name.lower(), []).append(value)
    return found


def test_what_is_ours_to_say_is_said_once() -> None:
    sent = to_notebook(
        ("host", "nb"), ("authorization", "Basic eA=="), ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "http"), ("accept", "*/*"), ("connection", "close, x-hop"),
        ("x-hop", "1"), ("x-scenebridge-user", "root"),
    )  # fmt: skip
    assert sent["authorization"] == ["token T"]
    assert (sent["x-forwarded-for"], sent["x-forwarded-proto"]) == (["::1"], ["https"])
    assert (sent["host"], sent["accept"]) == (["nb"], ["*/*"])
    assert not {"connection", "x-hop", "x-scenebridge-user", "cookie"} & sent.keys()


def test_cookies_of_ours_never_reach_a_notebook() -> None:
    sent = to_notebook(
        ("cookie", "__Host-sb-login=secret; _xsrf=2; __host-SB-notebook-1=x"),
        ("cookie", "_streamlit_user=y; theme=dark"),
    )
    assert sent["cookie"] == ["_xsrf=2; theme=dark"]


def test_a_body_has_one_length() -> None:
    assert to_notebook(("content-length", "5"))["content-length"] == ["5"]
    both = to_notebook(("content-length", "5"), ("transfer-encoding", "chunked"))
    assert not {"content-length", "transfer-encoding"} & both.keys()


PORTAL = "http://localhost:8501"


def answered(*raw: tuple[bytes, bytes], status: int = 200) -> list[tuple[bytes, bytes]]:
    return headers.to_browser(status, raw, portal_origin=PORTAL)


@pytest.mark.parametrize(
    ("cookie", "kept"),
    [
        (b"_xsrf=1; Path=/", True),
        (b"a =1", True),
        (b"a=1; Domain=localhost", False),
        (b"b=1;domain =x", False),
        (b"__Host-sb-login=x", False),
        (b" \t__host-SB-login=x", False),
        (b"_streamlit_user=x", False),
        (b"=__Host-sb-login=x", False),
        (b" =__Host-sb-login=x; Path=/", False),
        (b"__Host-sb-login", False),
        (b"nameless", False),
        (b"", False),
        (b"a b=1", False),
        (b"a,b=1", False),
    ],
)
def test_a_notebook_sets_cookies_for_its_own_host(cookie: bytes, kept: bool) -> None:
    found = [value for name, value in answered((b"Set-Cookie", cookie)) if name == b"set-cookie"]
    assert found == ([cookie.strip()] if kept else [])


@pytest.mark.parametrize(
    ("said", "passed"),
    [
        ([], b"private"),
        ([b"public, max-age=60"], b"private, max-age=60"),
        ([b"PUBLIC", b"s-maxage=9, immutable"], b"private, immutable"),
        ([b'private="set-cookie", no-store'], b"private, no-store"),
        ([b"max-age=60,,public"], b"no-store"),
        ([b'x="a, public'], b"no-store"),
        ([b"pub\xa0lic"], b"no-store"),
    ],
)
def test_no_cache_that_others_share_keeps_an_answer(said: list[bytes], passed: bytes) -> None:
    found = answered(*((b"Cache-Control", value) for value in said))
    assert [value for name, value in found if name == b"cache-control"] == [passed]


def test_what_an_origin_says_of_itself_is_ours_to_say() -> None:
    ours = dict(headers.of_every_answer(PORTAL))
    foreign = [(name.title(), b"unsafe") for name in ours if name != b"content-security-policy"]
    orders = [
        (name, b"x")
        for name in (
            *(b"X-Accel-Redirect", b"X-Sendfile", b"WWW-Authenticate", b"Surrogate-Control"),
            *(b"Permissions-Policy", b"Timing-Allow-Origin", b"Age"),
        )
    ]
    found = answered(*foreign, *orders)
    for name, value in ours.items():
        assert [v for n, v in found if n == name] == [value]
    assert {name for name, _ in found} == {*ours, b"cache-control"}


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 101, 103, 199, 600, 999, 1000])
def test_a_status_that_ends_nothing_is_no_answer(status: int) -> None:
    with pytest.raises(headers.InvalidAnswer):
        answered(status=status)
    assert answered(status=200)
    assert answered(status=599)


@pytest.mark.parametrize(
    "raw",
    [
        [(b"", b"x")],
        [(b"a b", b"x")],
        [(b"a\x00", b"x")],
        [(b"a ", b"x")],
        [(b"\xc3\xa4", b"x")],
        [(b"x", b"a\r\nSet-Cookie: b=1")],
        [(b"x", b"a\rb")],
        [(b"x", b"a\x00b")],
        [(b"server", b"a\nb")],
        [(b"content-length", b"-1")],
        [(b"content-length", b"+1")],
        [(b"content-length", b"5, 5")],
        [(b"content-length", b"")],
        [(b"content-length", b"1" * 30)],
        [(b"content-length", b"5"), (b"Content-Length", b"6")],
        [(b"content-type", b"text/plain"), (b"Content-Type", b"text/html")],
        [(b"location", b"/a"), (b"location", b"/b")],
        [(b"x-%d" % n, b"x" * 1000) for n in range(70)],
    ],
    ids=lambda raw: str(raw)[:40],
)
def test_an_answer_that_can_be_read_in_two_ways_is_none(raw: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(headers.InvalidAnswer):
        answered(*raw)


def test_an_answer_has_one_length_or_none() -> None:
    length = (b"content-length", b"5")

    def lengths(status: int, *raw: tuple[bytes, bytes]) -> list[bytes]:
        return [v for name, v in answered(*raw, status=status) if name == b"content-length"]

    assert lengths(200, length, length) == [b"5"]
    assert lengths(200, length, (b"Transfer-Encoding", b"chunked")) == []
    assert lengths(204, length) == lengths(304, length) == []
    assert lengths(205, length) == [b"5"]


# --- origins ----------------------------------------------------------------------------


def test_a_notebook_has_one_name() -> None:
    names = HostAddresses("https://portal.example", "books.example")
    label = f"nb-{UUID(ONE).hex}"
    assert names.origin(ONE) == f"https://{label}.books.example"
    for host in (f"{label}.books.example", f"{label.upper()}.books.example.:443"):
        assert names.session_of(scope(("host", host))) == ONE
    for host in ("portal.example", f"{label}.elsewhere.example", "books.example"):
        assert names.session_of(scope(("host", host))) is None
    for wrong in (f"{label}0", f"{label}.x", f"{label}-x", label[:-1], "nb-"):
        with pytest.raises(NotFound):
            names.session_of(scope(("host", f"{wrong}.books.example")))


def test_a_request_is_for_one_host() -> None:
    host = ("host", f"nb-{UUID(ONE).hex}.localhost:8501")
    names = HostAddresses("http://localhost:8501")
    assert names.session_of(scope(host)) == ONE
    for hosts in ((), (host, host), (host, ("host", "localhost:8501"))):
        with pytest.raises(InvalidInput):
            names.session_of(scope(*hosts))


def test_a_name_that_leads_to_a_notebook_s_port_is_not_its_origin() -> None:
    ports = PortAddresses("http://localhost:8501")
    ports.ports[ONE] = 9001
    at = {"server": ("127.0.0.1", 9001)}
    assert ports.session_of(scope(("host", "127.0.0.1:9001"), **at)) == ONE
    for host in ("evil.example:9001", "localhost:9001", "127.0.0.1", "127.0.0.1:9002"):
        with pytest.raises(NotFound):
            ports.session_of(scope(("host", host), **at))
    with pytest.raises(InvalidInput):
        PortAddresses("http://127.0.0.1:8501")
