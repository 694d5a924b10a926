"""Signing in at real providers, and at one that lies: every fault has a sentence."""

from __future__ import annotations

import html
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from lib.auth import COOKIE, Auth, Membership
from lib.auth.authorization import Access
from lib.auth.oidc import SignInProviders
from lib.config.offerings import Offerings
from lib.config.settings import Group, Provider, Rule
from lib.web.auth_middleware import AuthMiddleware
from lib.web.sign_in_routes import WAY_COOKIE, SignInRoutes
from tests.fakes.lying_provider import LyingProvider, lying_provider
from tests.fakes.provider import TestProvider, provider, query_of
from tests.fakes.stores import new_store

ORIGIN = "http://localhost:8501"
NAVIGATE = {"sec-fetch-mode": "navigate", "sec-fetch-site": "cross-site", "user-agent": "Test"}
SECRET = "the-client-secret-of-this-portal-and-nobody-else"


class Gate:
    """Authentication and sign-in over a real store; behind them one page."""

    def __init__(
        self, home: Path, issuers: dict[str, str], *, limit_s: float = 60.0, **more: Any
    ) -> None:
        providers = [
            Provider(name, name.upper(), issuer, "portal", **more)
            for name, issuer in issuers.items()
        ]
        groups = [
            Group("forest", "Forest", (Rule("aist", "groups", "forest"),)),
            Group("coast", "Coast", (Rule("nspo", "email", "lin@nspo.example"),)),
        ]
        self.store = new_store(home / "portal.sqlite")
        self.auth = Auth(self.store, Membership(providers, groups))
        self.providers = SignInProviders(
            providers, lambda _: SECRET, needed=self.auth.membership.claims_of, limit_s=limit_s
        )
        sign_in = SignInRoutes(
            self.auth, cast(Any, None), self.providers, origin=ORIGIN, secret=b"s" * 32
        )
        inner = Starlette(
            routes=[*sign_in.routes(), Route("/{path:path}", lambda _: PlainTextResponse("in"))]
        )
        self.app = AuthMiddleware(
            inner,
            origin=ORIGIN,
            auth=self.auth,
            access=Access(self.auth, Offerings({}, {}), self.store.audit),
            policies={"/": "default-src 'self'"},
            sign_in_page=sign_in.sign_in_page,
        )

    def browser(self) -> httpx.AsyncClient:
        """Like a browser: it keeps cookies, of its own, and follows nothing by itself."""
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, client=("192.0.2.7", 1)),
            base_url=ORIGIN.replace("http", "https"),
            headers={"host": "localhost:8501", **NAVIGATE},
        )

    def last(self) -> tuple[str, str, str]:
        entry = self.store.audit.latest(1)[0]
        return entry.action, entry.result, entry.client


@contextmanager
def gate(home: Path, issuers: dict[str, str], **more: Any) -> Iterator[Gate]:
    it = Gate(home, issuers, **more)
    try:
        yield it
    finally:
        it.store.close()


async def back(browser: httpx.AsyncClient, address: str) -> httpx.Response:
    """Follow the provider's redirect to the portal."""
    parts = urlsplit(address)
    assert f"{parts.scheme}://{parts.netloc}" == ORIGIN
    return await browser.get(f"{parts.path}?{parts.query}")


async def come_in(at: Gate, name: str, who: TestProvider, subject: str) -> httpx.AsyncClient:
    browser = at.browser()
    leaving = await browser.get(f"/signin/{name}?next=/work%3Fx=1")
    answer = await back(browser, who.agree(leaving.headers["location"], subject))
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"] == "/work?x=1"
    return browser


# --- real providers -------------------------------------------------------------------


@pytest.fixture(scope="module")
def aist() -> Iterator[TestProvider]:
    with provider() as it:
        it.knows("kato", name="Kato Ken", groups=["forest"])
        it.knows("lin", name="Not Lin", email="lin@nspo.example", email_verified=True)
        yield it


@pytest.fixture(scope="module")
def nspo() -> Iterator[TestProvider]:
    with provider() as it:
        it.knows("lin", name="Lin Li", email="lin@nspo.example", email_verified=True)
        it.knows("wu", name="Wu", email="lin@nspo.example", email_verified=False)
        yield it


@pytest.fixture
def at(tmp_path: Path, aist: TestProvider, nspo: TestProvider) -> Iterator[Gate]:
    with gate(tmp_path, {"aist": aist.issuer, "nspo": nspo.issuer}) as it:
        yield it


async def test_two_providers_and_their_groups(
    at: Gate, aist: TestProvider, nspo: TestProvider
) -> None:
    stranger = await at.browser().get("/work?x=1")
    assert stranger.status_code == 401
    for name in ("aist", "nspo"):
        assert f'href="/signin/{name}?next=/work%3Fx%3D1"' in stranger.text
    who = {}
    for name, provider_, subject in (
        ("aist", aist, "kato"), ("aist", aist, "lin"), ("nspo", nspo, "lin"), ("nspo", nspo, "wu"),
    ):  # fmt: skip
        browser = await come_in(at, name, provider_, subject)
        assert (await browser.get("/")).text == "in"
        login = at.auth.logins.of_cookies(dict(browser.cookies))
        assert login is not None
        who[name, subject] = login.user
        assert at.last() == ("sign-in", "ok", "192.0.2.7")
    names = {key: (user.name, set(user.groups)) for key, user in who.items()}
    assert names == {
        ("aist", "kato"): ("Kato Ken", {"forest"}),
        ("aist", "lin"): ("Not Lin", set()),
        ("nspo", "lin"): ("Lin Li", {"coast"}),
        ("nspo", "wu"): ("Wu", set()),
    }
    assert len({user.id for user in who.values()}) == 4, "the same subject elsewhere is another"


async def test_the_same_person_comes_back_as_the_same(at: Gate, aist: TestProvider) -> None:
    first = await come_in(at, "aist", aist, "kato")
    second = await come_in(at, "aist", aist, "kato")
    users = [at.auth.logins.of_cookies(dict(b.cookies)) for b in (first, second)]
    assert users[0] is not None
    assert users[1] is not None
    assert users[0].user == users[1].user
    assert users[0].id != users[1].id
    assert len(at.auth.logins.of(users[0].user.id)) == 2


async def test_the_cookie_is_strict_and_new_at_each_sign_in(at: Gate, aist: TestProvider) -> None:
    browser = at.browser()
    browser.cookies.set(COOKIE, "planted-by-somebody", domain="localhost")
    leaving = await browser.get("/signin/aist")
    assert leaving.headers["cache-control"] == "no-store"
    way = leaving.headers["set-cookie"].lower()
    for word in (WAY_COOKIE.lower(), "path=/", "httponly", "samesite=lax", "secure"):
        assert word in way
    answer = await back(browser, aist.agree(leaving.headers["location"], "kato"))
    cookies = answer.headers.get_list("set-cookie")
    (login,) = [c for c in cookies if c.startswith(f"{COOKIE}=")]
    assert "planted" not in login
    for word in ("Path=/", "HttpOnly", "SameSite=lax", "Secure"):
        assert word in login
    assert "domain" not in login.lower()
    assert any(c.startswith(f"{WAY_COOKIE}=null") for c in cookies), "the way is forgotten"


async def test_signing_in_again_ends_what_the_browser_was(at: Gate, aist: TestProvider) -> None:
    browser = await come_in(at, "aist", aist, "kato")
    before = dict(browser.cookies)
    leaving = await browser.get("/signin/aist")
    await back(browser, aist.agree(leaving.headers["location"], "lin"))
    assert at.auth.logins.of_cookies(before) is None
    now = at.auth.logins.of_cookies(dict(browser.cookies))
    assert now is not None
    assert now.user.name == "Not Lin"


async def test_a_way_back_works_once_and_in_its_own_browser(at: Gate, aist: TestProvider) -> None:
    browser, other = at.browser(), at.browser()
    leaving = await browser.get("/signin/aist")
    address = aist.agree(leaving.headers["location"], "kato")
    for thief in (other, httpx.AsyncClient(transport=httpx.ASGITransport(at.app))):
        stolen = await thief.get(address, headers={"host": "localhost:8501", **NAVIGATE})
        assert stolen.status_code == 403
        assert "begun in another browser" in stolen.text
        assert COOKIE not in stolen.headers.get("set-cookie", "")
    assert (await back(browser, address)).status_code == 303
    again = await back(browser, address)
    assert again.status_code == 403
    assert "used already" in again.text
    assert at.last()[:2] == ("stranger", "refused")


async def test_the_way_of_one_provider_is_not_another_s(
    at: Gate, aist: TestProvider, nspo: TestProvider
) -> None:
    browser = at.browser()
    leaving = await browser.get("/signin/aist")
    address = aist.agree(leaving.headers["location"], "kato")
    mixed = await back(browser, address.replace("/signin/aist/", "/signin/nspo/"))
    assert mixed.status_code == 403
    assert at.auth.logins.of_cookies(dict(browser.cookies)) is None
    assert nspo.issuer != aist.issuer


async def test_who_does_not_agree_gets_a_sentence(at: Gate, aist: TestProvider) -> None:
    browser = at.browser()
    leaving = await browser.get("/signin/aist")
    answer = await back(browser, aist.deny(leaving.headers["location"]))
    assert answer.status_code == 403
    assert "AIST did not let you in, or you did not agree" in answer.text


@pytest.mark.parametrize(
    "onward",
    [
        "https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example",
        "javascript:alert(1)", "/%0d%0aSet-Cookie:x=1\r\n", "http:evil", "", "evil", "/\tx",
        "///evil.example", "/ü",
    ],
)  # fmt: skip
async def test_next_leads_nowhere_else(at: Gate, aist: TestProvider, onward: str) -> None:
    browser = at.browser()
    page = await browser.get("/signin", params={"next": onward})
    assert "evil" not in page.text
    leaving = await browser.get("/signin/aist", params={"next": onward})
    answer = await back(browser, aist.agree(leaving.headers["location"], "kato"))
    target = answer.headers["location"]
    if "%0d" in onward:
        assert "\r" not in target
        assert target == "/"
    else:
        assert target == "/"
    assert "x" not in answer.headers


async def test_next_may_be_any_page_here(at: Gate, aist: TestProvider) -> None:
    browser = at.browser()
    leaving = await browser.get("/signin/aist", params={"next": "/work?session=1&x=%2F"})
    answer = await back(browser, aist.agree(leaving.headers["location"], "kato"))
    assert answer.headers["location"] == "/work?session=1&x=%2F"


async def test_whom_the_settings_do_not_let_in(tmp_path: Path, aist: TestProvider) -> None:
    allow = (Rule("aist", "groups", "forest"),)
    with gate(tmp_path, {"aist": aist.issuer}, allow=allow) as at:
        kato = await come_in(at, "aist", aist, "kato")
        browser = at.browser()
        leaving = await browser.get("/signin/aist")
        answer = await back(browser, aist.agree(leaving.headers["location"], "lin"))
        assert answer.status_code == 403
        assert "not among those who may use this portal" in answer.text
        assert COOKIE not in browser.cookies
        login = at.auth.logins.of_cookies(dict(kato.cookies))
        assert login is not None
        at.store.people.block(login.user.id, blocked=True)
        assert (await kato.get("/")).status_code == 401
        leaving = await browser.get("/signin/aist")
        answer = await back(browser, aist.agree(leaving.headers["location"], "kato"))
        assert "was withdrawn" in answer.text


@pytest.mark.parametrize("path", ["/signin/other", "/signin/other/callback?code=1&state=2"])
async def test_a_provider_that_is_not_there(at: Gate, path: str) -> None:
    answer = await at.browser().get(path)
    assert answer.status_code == 404
    assert "no such way to sign in" in answer.text


@pytest.mark.parametrize(
    "path", ["/signin/", "/signin/aist/", "/signin/../work", "/signin/aist/callback/x",
             "/signin/AIST", "/signin/%2e%2e/work", "/auth/login", "/oauth2callback"],
)  # fmt: skip
async def test_what_only_looks_like_a_way_in(at: Gate, path: str) -> None:
    answer = await at.browser().get(path)
    assert answer.status_code in (401, 404)
    assert answer.text != "in"


# --- a provider that lies, is slow, or breaks -------------------------------------------


@pytest.fixture(scope="module")
def serving() -> Iterator[LyingProvider]:
    with lying_provider() as it:
        yield it


@pytest.fixture
def liar(serving: LyingProvider) -> LyingProvider:
    serving.be_honest()
    return serving


@pytest.fixture
def near(tmp_path: Path, liar: LyingProvider) -> Iterator[Gate]:
    with gate(tmp_path, {"aist": liar.issuer}) as it:
        yield it


async def try_it(near: Gate) -> tuple[httpx.Response, httpx.AsyncClient]:
    """Sign in as far as it goes; the last answer of the portal."""
    browser = near.browser()
    leaving = await browser.get("/signin/aist?next=/work")
    if leaving.status_code != 302:
        return leaving, browser
    async with httpx.AsyncClient() as outside:
        sent = await outside.get(leaving.headers["location"])
    return await back(browser, sent.headers["location"]), browser


async def test_while_it_is_honest_it_is_believed(near: Gate) -> None:
    answer, browser = await try_it(near)
    assert (answer.status_code, answer.headers["location"]) == (303, "/work")
    assert (await browser.get("/")).text == "in"


def _set(**values: Any) -> Callable[[LyingProvider], None]:
    def change(liar: LyingProvider) -> None:
        for name, value in values.items():
            setattr(liar, name, value)

    return change


def _client_secret(liar: LyingProvider) -> None:
    liar.sign_with_the_client_secret(SECRET)


FAULTS: list[tuple[str, Callable[[LyingProvider], None], int, str]] = [
    ("broken", _set(status={"metadata": 500}), 503, "has a fault (500)"),
    ("moved", _set(status={"metadata": 302}), 503, "has a fault (302)"),
    ("broken keys", _set(status={"keys": 500}), 503, "has a fault (500)"),
    ("no JSON", _set(body={"metadata": b"<html>"}), 502, "cannot read"),
    ("no object", _set(body={"metadata": b"[1]"}), 502, "cannot read"),
    ("no JSON token", _set(body={"token": b"<html>"}), 502, "cannot read"),
    ("no keys", _set(body={"keys": b"{}"}), 502, "cannot read"),
    ("huge", _set(body={"metadata": b" " * (2**20 + 1)}), 502, "cannot read"),
    ("lacks endpoints", _set(metadata={"token_endpoint": None}), 502, "cannot read"),
    ("http endpoint", _set(metadata={"token_endpoint": "http://a.example/"}), 502, "cannot read"),
    ("file endpoint", _set(metadata={"jwks_uri": "file:///etc/passwd"}), 502, "cannot read"),
    ("other issuer", _set(metadata={"issuer": "https://evil.example"}), 502, "as the issuer"),
    ("iss", _set(claims={"iss": "https://evil.example"}), 502, "for another issuer"),
    ("aud", _set(claims={"aud": "other"}), 502, "for another portal"),
    ("aud list", _set(claims={"aud": ["other", "else"]}), 502, "for another portal"),
    ("nonce", _set(claims={"nonce": "old"}), 502, "for another time"),
    ("expired", _set(claims={"iat": 1, "exp": 1000}), 502, "has expired already"),
    ("future", _set(claims={"iat": 2**32, "exp": 2**32 + 9}), 502, "from the future"),
    ("clock ahead", _set(clock_ahead_s=720), 502, "portal are 12 minutes apart"),
    ("clock behind", _set(clock_ahead_s=-720), 502, "portal are 12 minutes apart"),
    ("no sub", _set(without={"sub"}), 502, "must know (sub)"),
    ("no iss", _set(without={"iss"}), 502, "must know (iss)"),
    ("no aud", _set(without={"aud"}), 502, "must know (aud)"),
    ("no exp", _set(without={"exp"}), 502, "must know (exp)"),
    ("no iat", _set(without={"iat"}), 502, "must know (iat)"),
    ("no nonce", _set(without={"nonce"}), 502, "must know (nonce)"),
    ("odd sub", _set(claims={"sub": 7}), 502, "AIST"),
    ("long sub", _set(claims={"sub": "x" * 256}), 502, "must know (sub)"),
    ("long name", _set(claims={"name": "x" * 501}), 502, "out of bounds: name is longer"),
    ("huge number", _set(claims={"email": 10**300}), 502, "out of bounds: email is a very long"),
    ("endless exp", _set(claims={"exp": 1e999}), 502, "AIST"),
    ("another key", LyingProvider.sign_with_another_key, 502, "not signed by AIST"),
    ("unsigned", _set(algorithm="none"), 502, "AIST"),
    ("client secret", _client_secret, 502, "AIST"),
    ("no client", _set(token_error="invalid_client"), 502, "client id or secret is wrong"),
    ("no grant", _set(token_error="invalid_grant"), 403, "used already or is too old"),
    ("odd error", _set(token_error="<b>x"), 502, "refused this portal's request"),
    ("later", _set(token_error="temporarily_unavailable"), 503, "has a fault"),
    ("other person", _set(without={"name"}, user_info={"sub": "wu"}), 502, "two different people"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "status", "words"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
async def test_every_fault_has_a_sentence(
    near: Gate, liar: LyingProvider, fault: Callable[[LyingProvider], None], status: int, words: str
) -> None:
    fault(liar)
    await is_refused(near, status, words)


@pytest.mark.parametrize("what", ["metadata", "token", "keys"])
async def test_one_that_never_answers_is_not_waited_for(
    tmp_path: Path, liar: LyingProvider, what: str
) -> None:
    liar.hang = {what}
    with gate(tmp_path, {"aist": liar.issuer}, limit_s=0.5) as at:
        await is_refused(at, 503, "takes too long")


async def is_refused(near: Gate, status: int, words: str) -> None:
    answer, browser = await try_it(near)
    said = html.unescape(answer.text)
    assert (answer.status_code, words in said) == (status, True), said
    assert "<h1>You are not signed in</h1>" in answer.text
    assert "Begin again" in answer.text
    assert "evil" not in answer.text
    assert COOKIE not in browser.cookies
    assert (await browser.get("/")).status_code == 401
    assert SECRET not in str(near.store.audit.latest())


async def test_it_recovers_as_soon_as_the_provider_does(near: Gate, liar: LyingProvider) -> None:
    liar.sign_with_another_key()
    assert (await try_it(near))[0].status_code == 502
    liar.key = liar.signing_key  # it has published the new key
    assert (await try_it(near))[0].status_code == 303
    liar.status["metadata"] = 500
    assert (await try_it(near))[0].status_code == 303, "what was read stays for an hour"


async def test_a_provider_that_is_down(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        issuer = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with gate(tmp_path, {"aist": issuer}) as at:
            answer = await at.browser().get("/signin/aist")
    assert answer.status_code == 503
    assert "AIST cannot be reached" in answer.text


async def test_claims_that_the_token_lacks_are_asked_for(near: Gate, liar: LyingProvider) -> None:
    liar.without = {"name"}
    liar.user_info = {"name": "Kato Ken", "groups": ["forest"], "extra": "private"}
    _, browser = await try_it(near)
    login = near.auth.logins.of_cookies(dict(browser.cookies))
    assert login is not None
    assert (login.user.name, login.user.groups) == ("Kato Ken", {"forest"})
    assert near.store.people.account(login.user.id).claims == {"groups": ["forest"]}


@pytest.mark.parametrize("error", ["<script>alert(1)</script>", "access_denied", "x" * 5000])
async def test_what_anybody_writes_into_the_address_is_not_shown(near: Gate, error: str) -> None:
    query = {"error": error, "error_description": "<img src=x> call 0123"}
    answer = await near.browser().get("/signin/aist/callback", params=query)
    assert answer.status_code in (403, 502)
    for text in ("<script", "<img", "0123", "xxxxx"):
        assert text not in answer.text
    assert query_of("http://x/?a=1") == {"a": "1"}
