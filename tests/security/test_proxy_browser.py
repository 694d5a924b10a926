"""A notebook in a stock Chromium: in a tab, in a frame of the portal, and out of reach."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from aiohttp import WSMsgType, web
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from lib.model import SessionId
from lib.notebook_proxy.asgi import NotebookProxy
from tests.chromium import connected, fresh_context
from tests.contract.small_notebook import LOGIN, USER, Stage, stage

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

_ECHO = """() => new Promise((resolve, reject) => {
  const ws = new WebSocket(location.origin.replace('http', 'ws') + '/echo');
  ws.onopen = () => ws.send('hello');
  ws.onmessage = (event) => resolve(event.data);
  ws.onerror = () => reject('refused');
})"""
_REACH = """async (origin) => {
  const tried = {};
  for (const mode of ['cors', 'no-cors'])
    tried[mode] = await fetch(origin + '/secret', {mode, credentials: 'include'})
      .then((answer) => answer.type === 'opaque' ? 'opaque' : answer.text(), () => 'failed');
  tried.post = await fetch(origin + '/secret', {method: 'POST', mode: 'no-cors',
    credentials: 'include', body: 'x'}).then(() => 'sent', () => 'failed');
  tried.ws = await new Promise((resolve) => {
    const ws = new WebSocket(origin.replace('http', 'ws') + '/echo');
    ws.onopen = () => resolve('open');
    ws.onerror = () => resolve('failed');
  });
  tried.image = await new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve('loaded');
    image.onerror = () => resolve('failed');
    image.src = origin + '/secret';
  });
  return tried;
}"""


class Notebook:
    """Counts what reaches it."""

    def __init__(self) -> None:
        self.secrets = 0
        self.app = web.Application()
        self.app.router.add_get("/echo", self.echo)
        self.app.router.add_route("*", "/secret", self.secret)
        self.app.router.add_get("/sw.js", self.worker)
        self.app.router.add_get("/{rest:.*}", self.page)

    async def page(self, request: web.Request) -> web.Response:
        response = web.Response(text="<h1>the notebook</h1>", content_type="text/html")
        response.set_cookie("plain", "1")
        return response

    async def secret(self, request: web.Request) -> web.Response:
        self.secrets += 1
        return web.Response(text="secret")

    async def worker(self, request: web.Request) -> web.Response:
        return web.Response(text="", content_type="text/javascript")

    async def echo(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await ws.send_str(message.data)
        return ws


def portal(proxy: NotebookProxy, session: SessionId) -> Starlette:
    """A portal with a page that shows the notebook and links to it."""

    async def page(request: Request) -> Response:
        way = f"/open/{session}?next=/lab"
        return HTMLResponse(
            f'<a href="{way}" target="_blank" rel="opener">open</a><iframe src="{way}"></iframe>'
        )

    async def enter(request: Request) -> Response:
        onward = request.query_params.get("next", "/")
        return RedirectResponse(proxy.entry_url(session, USER, LOGIN, onward), 303)

    return Starlette(routes=[Route("/", page), Route("/open/{session}", enter)])


class Driver:
    """One browser for all tests; Playwright's objects belong to the thread that made them."""

    def __init__(self, address: str) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._stack = ExitStack()
        driven = self._thread.submit(self._stack.enter_context, connected(address))
        self._browser: Browser = driven.result()

    async def __call__(self, on: Stage, visit: Callable[[Page, str], None]) -> None:
        """Run `visit(page, portal_origin)` with an empty profile."""

        def run() -> None:
            with fresh_context(self._browser) as context:
                visit(context.new_page(), on.proxy.addresses.portal_origin)

        await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def close(self) -> None:
        self._thread.submit(self._stack.close).result()
        self._thread.shutdown()


@pytest.fixture(scope="module")
def browse(chromium_address: str) -> Iterator[Driver]:
    driver = Driver(chromium_address)
    yield driver
    driver.close()


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture(params=["host", "port"])
async def on(request: pytest.FixtureRequest, notebook: Notebook) -> AsyncIterator[Stage]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with stage(
            notebook.app, notebooks=request.param, portal=portal, listener=listener
        ) as made:
            yield made


def open_tab(page: Page, origin: str) -> Page:
    page.goto(origin)
    with page.context.expect_page() as opened:
        page.click("text=open")
    tab = opened.value
    tab.wait_for_selector("text=the notebook")
    return tab


async def test_tab_and_frame_show_the_notebook(browse: Driver, on: Stage) -> None:
    own = on.origin

    def visit(page: Page, origin: str) -> None:
        page.goto(origin)
        frame = page.frame_locator("iframe")
        frame.locator("text=the notebook").wait_for()
        (inside,) = (f for f in page.frames if f != page.main_frame)
        assert inside.url == f"{own}/lab"
        assert inside.evaluate(_ECHO) == "hello"
        tab = open_tab(page, origin)
        assert tab.url == f"{own}/lab"
        assert tab.evaluate(_ECHO) == "hello"
        assert tab.evaluate("document.cookie") == "plain=1"
        assert tab.evaluate("window.opener") is None
        assert tab.reload().status == 200
        assert tab.goto(f"{own}/other").status == 200

    await browse(on, visit)


async def test_lost_cookie_leads_through_the_portal_and_back(browse: Driver, on: Stage) -> None:
    own = on.origin

    def visit(page: Page, origin: str) -> None:
        tab = open_tab(page, origin)
        tab.context.clear_cookies()
        tab.goto(f"{own}/lab/tree/a.ipynb?x=1")
        tab.wait_for_selector("text=the notebook")
        assert tab.url == f"{own}/lab/tree/a.ipynb?x=1"

    await browse(on, visit)


async def test_pages_of_other_origins_reach_nothing(
    browse: Driver, on: Stage, notebook: Notebook
) -> None:
    own = on.origin

    def visit(page: Page, origin: str) -> None:
        tab = open_tab(page, origin)
        assert tab.evaluate("fetch('/secret').then((answer) => answer.text())") == "secret"
        refused = page.evaluate(_REACH, own)
        assert refused["cors"] == refused["ws"] == refused["image"] == "failed"

    await browse(on, visit)
    assert notebook.secrets == 1, "only the notebook's own page got through"


async def test_only_the_portal_can_frame(browse: Driver, on: Stage) -> None:
    own = on.origin

    async def evil(request: web.Request) -> web.Response:
        page = f'<h1>evil</h1><iframe src="{own}/lab"></iframe>'
        return web.Response(text=page, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", evil)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://evil.localhost:{runner.addresses[0][1]}/"

    def visit(page: Page, origin: str) -> None:
        tab = open_tab(page, origin)
        tab.goto(address)
        tab.wait_for_selector("text=evil")
        tab.wait_for_timeout(500)
        (inside,) = (f for f in tab.frames if f != tab.main_frame)
        assert "the notebook" not in inside.content()

    await browse(on, visit)
    await runner.cleanup()


async def test_service_worker_cannot_be_installed(browse: Driver, on: Stage) -> None:
    def visit(page: Page, origin: str) -> None:
        tab = open_tab(page, origin)
        said = tab.evaluate(
            "navigator.serviceWorker.register('/sw.js').then(() => 'installed', () => 'refused')"
        )
        assert said == "refused"

    await browse(on, visit)
