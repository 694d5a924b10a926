"""The notebooks' process as the portal runs it: real process, real store, a real relay behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio
from aiohttp import web

from lib.auth import COOKIE, OWNER
from lib.errors import Conflict, InvalidInput, Unavailable
from lib.model import Endpoint, SessionId, SessionState, UserId
from lib.notebook_proxy import supervisor
from lib.notebook_proxy.messages import Start
from lib.notebook_proxy.origins import PortAddresses
from lib.notebook_proxy.port_listeners import PortListeners
from lib.notebook_proxy.supervisor import NotebookProcess
from lib.store.changes import SessionChange
from tests.contract.small_notebook import relayed
from tests.folders import short_folder
from tests.pages import sample_portal
from tests.running import PROJECT, free_port, wait_for


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
    return ws


def small_server() -> web.Application:
    app = web.Application()
    app.router.add_get("/api/status", hello)
    app.router.add_get("/api/kernels", hello)
    app.router.add_get("/hello", hello)
    app.router.add_post("/hello", hello)
    app.router.add_get("/echo", echo)
    return app


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sample_portal.Site]:
    folder = tmp_path_factory.mktemp("data")
    sample_portal.plant_scene(folder, "LC08_A", rasters=False)
    made = sample_portal.Site(folder)
    yield made
    made.store.close()


@dataclass
class Stage:
    site: sample_portal.Site
    process: NotebookProcess
    session: SessionId
    login: str
    socket: Path
    endpoint: Endpoint
    http: aiohttp.ClientSession
    port: int

    async def open(self) -> None:
        await self.process.open(self.session, self.socket, self.endpoint)

    def sign_in(self) -> str:
        """A fresh sign-in of the owner."""
        login = self.site.auth.logins.of_secret(self.site.cookie()[COOKIE])
        assert login is not None
        return login.id

    async def enter(self, login: str = "") -> dict[str, str]:
        """The headers of the notebook's own page."""
        entry = await self.process.entry_url(self.session, OWNER.id, login or self.login)
        status, kept = await self.redeem(entry)
        assert status == 303
        origin = entry.partition("/_portal/")[0]
        return {
            "Host": origin.removeprefix("http://"),
            "Origin": origin,
            "Sec-Fetch-Site": "same-origin",
            "Cookie": kept,
        }

    async def redeem(self, entry: str) -> tuple[int, str]:
        origin, _, rest = entry.partition("/_portal/")
        host = origin.removeprefix("http://")
        self.port = int(host.rpartition(":")[2])
        headers = {"Host": host, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        async with self.http.get(
            self.url(f"/_portal/{rest}"), headers=headers, allow_redirects=False
        ) as answer:
            return answer.status, answer.headers.get("Set-Cookie", "").partition(";")[0]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def status(self, headers: dict[str, str], path: str = "/hello") -> int:
        async with self.http.get(self.url(path), headers=headers, allow_redirects=False) as answer:
            return answer.status

    async def state(self, headers: dict[str, str]) -> dict[str, Any]:
        """What the bar in JupyterLab's page is told."""
        async with self.http.get(self.url("/_portal/state"), headers=headers) as answer:
            assert answer.status == 200
            told: dict[str, Any] = await answer.json()
            return told

    def websocket(self, headers: dict[str, str]) -> Any:
        return self.http.ws_connect(self.url("/echo"), headers=headers)


def start_of(origin_port: int, port: int, notebooks: str) -> Start:
    base = f"localhost:{port}"
    origin = f"http://localhost:{origin_port}"
    return Start(origin, origin_port, notebooks, base, (0, 0), (b"s" * 32).hex())


@asynccontextmanager
async def stage(site: sample_portal.Site, notebooks: str = "host") -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(short_folder())
        runner = web.AppRunner(small_server(), shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.UnixSite(runner, str(folder / "n.sock")).start()
        session = site.add_session(["LC08_A"], SessionState.READY).id
        endpoint = await stack.enter_async_context(relayed(folder / "n.sock", folder, session))
        port = free_port()
        process = NotebookProcess(start_of(8501, port, notebooks), site.folder, port)
        await process.start()
        stack.push_async_callback(process.aclose)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        )
        made = Stage(site, process, session, "", folder / "f.sock", endpoint, http, port)
        made.login = made.sign_in()
        await made.open()
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(site: sample_portal.Site) -> AsyncIterator[Stage]:
    """For tests that leave it as it is: one notebook, open."""
    async with stage(site) as made:
        yield made


in_its_loop = pytest.mark.asyncio(loop_scope="module")


async def ends(ws: aiohttp.ClientWebSocketResponse) -> bool:
    """Whether the next that comes is its end."""
    message = await ws.receive()
    return message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


async def goes_on(ws: aiohttp.ClientWebSocketResponse) -> bool:
    await ws.send_str("still there")
    return await ws.receive_str() == "still there"


@in_its_loop
async def test_a_visitor_comes_in_with_a_ticket_of_one_use(shared: Stage) -> None:
    on = shared
    entry = await on.process.entry_url(on.session, OWNER.id, on.login)
    assert (await on.redeem(entry))[0] == 303
    assert (await on.redeem(entry))[0] == 403
    inside = await on.enter()
    assert await on.status(inside) == 200
    assert await on.status({**inside, "Cookie": "x=1"}) == 401
    assert await on.status({"Host": f"localhost:{on.port}"}) == 404
    async with on.websocket(inside) as ws:
        await ws.send_str("x")
        assert await ws.receive_str() == "x"
        assert await on.process.probe() == {"notebooks": 1, "requests": 1}


@in_its_loop
async def test_a_notebook_is_told_that_somebody_works_there(shared: Stage) -> None:
    await shared.process.keep(shared.session)
    with pytest.raises(Conflict, match="not open"):
        await shared.process.keep(SessionId("0f0e0d0c-0b0a-0908-0706-050403020100"))


@in_its_loop
async def test_a_notebook_s_page_is_told_how_long_it_has(shared: Stage) -> None:
    on = shared
    inside = await on.enter()
    told = await on.state(inside)
    assert (told["ends_at"], told["idle_at"]) == (None, None)
    ends, idle = int(time.time()) + 3600.0, int(time.time()) + 300.0
    on.site.store.work.update_session(on.session, SessionChange(ends_at=ends))
    on.process.idle(on.session, idle)
    while (told := await on.state(inside))["idle_at"] != idle:
        pass
    assert told["ends_at"] == ends
    assert told["line"] == ""
    async with on.http.post(on.url("/_portal/keep"), headers=inside) as answer:
        assert answer.status == 200
    assert (await on.state(inside))["idle_at"] is None
    assert await on.status({**inside, "Cookie": "x=1"}, "/_portal/state") == 401


@in_its_loop
async def test_who_the_store_does_not_let_in_stays_out(shared: Stage) -> None:
    on = shared
    stranger = await on.process.entry_url(on.session, UserId("somebody"), on.login)
    assert (await on.redeem(stranger))[0] == 403
    invented = await on.process.entry_url(on.session, OWNER.id, "no-such-login")
    assert (await on.redeem(invented))[0] == 403
    assert await on.status(await on.enter()) == 200


@in_its_loop
async def test_signing_out_cuts_at_once(shared: Stage) -> None:
    on = shared
    login = on.sign_in()
    async with on.websocket(await on.enter(login)) as ws:
        on.process.sign_out("somebody else's")
        await on.process.probe()  # it has taken that order, too
        assert await goes_on(ws)
        on.process.sign_out(login)
        assert await ends(ws)


@in_its_loop
async def test_what_another_process_writes_cuts_an_open_page(shared: Stage) -> None:
    on = shared
    login = on.sign_in()
    inside = await on.enter(login)
    async with on.websocket(inside) as ws:
        assert await goes_on(ws)
        on.site.store.people.revoke_login(login)
        assert await ends(ws)
    assert await on.status(inside) == 401


@in_its_loop
async def test_closing_cuts_and_says_why(shared: Stage) -> None:
    on = shared
    inside = await on.enter()
    async with on.websocket(inside) as ws:
        await on.process.close(on.session, "It was stopped.")
        assert await ends(ws)
    async with on.http.get(on.url("/hello"), headers=inside) as answer:
        assert (answer.status, (await answer.json())["message"]) == (503, "It was stopped.")
    await on.process.close(on.session, "It was stopped.")
    await on.open()
    assert await on.status(inside) == 200


@in_its_loop
async def test_a_notebook_that_does_not_answer_is_not_opened(shared: Stage) -> None:
    on = shared
    await on.process.close(on.session)
    with pytest.raises(Unavailable):
        await on.process.open(on.session, on.socket.with_name("none"), on.endpoint)
    assert (await on.process.probe())["notebooks"] == 0
    await on.open()
    assert (await on.process.probe())["notebooks"] == 1


@in_its_loop
async def test_closing_overtakes_an_opening(shared: Stage) -> None:
    on = shared
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()
        left.set()

    left = asyncio.Event()

    await on.process.close(on.session)
    path = on.socket.with_name("silent")
    server = await asyncio.start_unix_server(silent, path)
    opening = asyncio.create_task(on.process.open(on.session, path, on.endpoint))
    await asked.wait()
    await on.process.close(on.session)
    with pytest.raises(Conflict):
        await opening
    assert (await on.process.probe())["notebooks"] == 0
    await left.wait()
    server.close()
    await on.open()


@pytest.mark.parametrize("notebooks", ["host", "port"])
async def test_a_process_that_died_is_started_again_and_told_all(
    site: sample_portal.Site, notebooks: str
) -> None:
    async with stage(site, notebooks) as on:
        inside = await on.enter()
        other = site.add_session(["LC08_A"], SessionState.READY).id
        await on.process.close(other, "It was stopped.")
        idle = int(time.time()) + 300.0
        on.process.idle(on.session, idle)
        before, port = on.process.pid, on.port
        async with on.websocket(inside) as ws:
            os.kill(before or 0, signal.SIGKILL)
            assert await ends(ws)
        if notebooks == "port":  # nobody listens meanwhile
            again = lambda: on.process.pid not in (None, before)  # noqa: E731
            await asyncio.to_thread(wait_for, "the process", again)
        assert await on.status(inside) == 200
        assert on.process.pid not in (None, before)
        assert on.port == port
        assert await on.status(await on.enter()) == 200
        assert (await on.state(inside))["idle_at"] == idle
        assert on.process._closed[other] == "It was stopped."
        last = on.process.pid or 0
        assert psutil.pid_exists(last)
    assert not psutil.pid_exists(last), "it ends with us"


async def test_notebooks_with_a_port_each_get_the_ports_of_the_settings(
    site: sample_portal.Site,
) -> None:
    with socket.socket() as taken:
        first = free_port()
        taken.bind(("127.0.0.1", first))
        listeners = PortListeners(
            no_app, addresses := PortAddresses("http://localhost:1"), (first, first + 1)
        )
        await listeners.open(SessionId("a"))
        assert addresses.ports == {"a": first + 1}
        with pytest.raises(Unavailable):
            await listeners.open(SessionId("b"))
        await listeners.close(SessionId("a"))


async def no_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nobody asks")


async def test_a_process_that_hangs_is_replaced(
    site: sample_portal.Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PROBE_EVERY_S", 0.2)
    monkeypatch.setattr(supervisor, "_STOP_S", 0.2)
    async with stage(site) as on:
        inside, before, hung = await on.enter(), on.process.pid, on.process._channel
        assert hung is not None
        with monkeypatch.context() as short:  # the one that comes next may be slow
            short.setattr(supervisor, "CALL_S", 0.5)
            os.kill(before or 0, signal.SIGSTOP)
            with pytest.raises(Unavailable):
                await on.process.probe()
            await hung.ended.wait()
        assert await on.status(inside) == 200
        assert on.process.pid != before


async def test_a_fault_of_the_portal_s_side_starts_it_again(
    site: sample_portal.Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = 0
    real = NotebookProcess._restore

    async def restore(self: NotebookProcess, channel: Any) -> None:
        nonlocal faults
        faults += 1
        if faults < 3:
            raise KeyError("planted")
        await real(self, channel)

    monkeypatch.setattr(NotebookProcess, "_restore", restore)
    async with stage(site) as on:
        assert (await on.process.probe())["notebooks"] == 1
    assert [r.levelname for r in caplog.records].count("ERROR") == 1


@in_its_loop
async def test_an_unknown_order_is_refused(shared: Stage) -> None:
    on = shared
    with pytest.raises(InvalidInput):
        await on.process._call("dance")
    assert (await on.process.probe())["notebooks"] == 1


async def test_a_port_in_use_is_said(site: sample_portal.Site) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        process = NotebookProcess(start_of(8501, port, "host"), site.folder, port)
        with pytest.raises(Conflict, match=str(port)):
            await process.start()


_PORTAL = """
import asyncio, sys
from pathlib import Path
from lib.notebook_proxy.supervisor import NotebookProcess
from lib.notebook_proxy.messages import Start
from lib.notebook_proxy.origins import PortAddresses
from lib.notebook_proxy.port_listeners import PortListeners

async def main():
    data, port = Path(sys.argv[1]), int(sys.argv[2])
    start = Start("http://localhost:1", 8501, "host", f"localhost:{port}", (0, 0), "00" * 32)
    process = NotebookProcess(start, data, port)
    await process.start()
    print(process.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_it_ends_when_the_portal_is_killed(site: sample_portal.Site) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PORTAL, str(site.folder), str(free_port())],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    ) as portal:
        assert portal.stdout is not None
        pid = int(portal.stdout.readline())
        assert psutil.pid_exists(pid)
        portal.kill()
    wait_for("its end", lambda: not psutil.pid_exists(pid))
