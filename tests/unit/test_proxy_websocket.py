"""WebSockets through the proxy: messages, subprotocols, close codes, stalls, refusals."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
import tornado.web
import tornado.websocket
from aiohttp import WSMsgType, web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket

from lib.errors import Unavailable
from lib.model import SessionId, UserId, json_object
from lib.notebook_proxy.activity import REPORT_EVERY_S
from lib.notebook_proxy.main import CommandHandler, _obey
from lib.notebook_proxy.messages import Message, Open
from lib.notebook_proxy.upstream import Upstream
from lib.protocol.resumable import ALPN
from tests.contract.small_notebook import Stage, stage, stalled
from tests.folders import short_folder

SMALL = 2000


class Notebook:
    def __init__(self) -> None:
        self.closed: asyncio.Queue[tuple[int | None, str]] = asyncio.Queue()
        self.flooded = 0
        self.swallowed = 0
        self.app = web.Application()
        self.app.router.add_get("/echo", self.echo)
        self.app.router.add_get("/close/{code}", self.close)
        self.app.router.add_get("/flood", self.flood)
        self.app.router.add_get("/swallow", self.swallow)
        self.app.router.add_get("/hang", self.hang)
        self.app.router.add_get("/abort", self.abort)
        self.app.router.add_get("/refuse", self.refuse)
        self.app.router.add_get("/long/{size}", self.long)
        self.app.router.add_get("/no-code", self.no_code)
        self.app.router.add_get("/api/status", self.status)

    async def _prepared(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(protocols=("v1.kernel.example",), max_msg_size=0)
        await ws.prepare(request)
        return ws

    async def echo(self, request: web.Request) -> web.WebSocketResponse:
        ws = await self._prepared(request)
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await ws.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await ws.send_bytes(message.data)
        self.closed.put_nowait((ws.close_code, ""))
        return ws

    async def close(self, request: web.Request) -> web.WebSocketResponse:
        ws = await self._prepared(request)
        await ws.close(code=int(request.match_info["code"]), message=b"because")
        return ws

    async def flood(self, request: web.Request) -> web.WebSocketResponse:
        ws = await self._prepared(request)
        try:
            while not ws.closed:
                await ws.send_bytes(b"x" * 2**16)
                self.flooded += 2**16
        except (ConnectionError, asyncio.CancelledError):
            pass
        self.closed.put_nowait((ws.close_code, ""))
        return ws

    async def swallow(self, request: web.Request) -> web.WebSocketResponse:
        """Take one message, then none."""
        ws = await self._prepared(request)
        await ws.receive()
        await asyncio.Event().wait()
        return ws

    async def hang(self, request: web.Request) -> web.WebSocketResponse:
        await asyncio.Event().wait()
        return web.WebSocketResponse()

    async def abort(self, request: web.Request) -> web.WebSocketResponse:
        ws = await self._prepared(request)
        assert request.transport is not None
        request.transport.abort()
        return ws

    async def long(self, request: web.Request) -> web.WebSocketResponse:
        ws = await self._prepared(request)
        await ws.send_bytes(b"x" * int(request.match_info["size"]))
        await ws.receive()
        self.closed.put_nowait((ws.close_code, ""))
        return ws

    async def no_code(self, request: web.Request) -> web.WebSocketResponse:
        ws = await self._prepared(request)
        assert request.transport is not None
        request.transport.write(b"\x88\x00")
        await ws.receive()
        return ws

    async def status(self, request: web.Request) -> web.Response:
        return web.json_response({})

    async def refuse(self, request: web.Request) -> web.Response:
        return web.Response(status=403)


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
async def on(notebook: Notebook) -> AsyncIterator[Stage]:
    async with stage(notebook.app) as made:
        yield made


async def test_text_and_bytes_pass_both_ways(on: Stage) -> None:
    async with on.websocket("/echo") as ws:
        await ws.send_str("héllo")
        assert await ws.receive_str() == "héllo"
        for size in (0, 1, 125, 126, 2**16, 5 * 2**20):
            data = os.urandom(size)
            await ws.send_bytes(data)
            assert await ws.receive_bytes() == data


async def test_subprotocol_is_agreed_with_the_notebook(on: Stage) -> None:
    async with on.websocket("/echo", protocols=("other", "v1.kernel.example")) as ws:
        assert ws.protocol == "v1.kernel.example"
    async with on.websocket("/echo") as ws:
        assert ws.protocol is None


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
async def test_close_code_and_reason_reach_the_browser(on: Stage, code: int) -> None:
    async with on.websocket(f"/close/{code}") as ws:
        message = await ws.receive()
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, code, "because")


class Jupyters(tornado.websocket.WebSocketHandler):
    """Jupyter's own server, which says 1009 and closes with the rest of a message unread."""

    def check_origin(self, origin: str) -> bool:
        return True

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message, binary=True)


@pytest.mark.parametrize(
    ("size", "alpn"), [(SMALL + 1, ALPN), (11 * 2**20, ALPN), (11 * 2**20, "an older script's")]
)
async def test_a_message_too_big_for_the_notebook_is_told_to_the_browser(
    size: int, alpn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.jobs.relay.ALPN", alpn)
    settings = {"websocket_max_message_size": SMALL}
    server = HTTPServer(tornado.web.Application([("/", Jupyters)], **settings))
    with short_folder() as folder:
        path = folder / "j.sock"
        server.add_socket(bind_unix_socket(str(path)))
        async with stage(path) as on, on.websocket("/") as ws:
            await ws.send_bytes(b"x" * SMALL)
            assert await ws.receive_bytes() == b"x" * SMALL
            sending = asyncio.ensure_future(ws.send_bytes(b"x" * size))
            message = await ws.receive()
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1009)
            assert message.extra == "message too big"
            await asyncio.gather(sending, return_exceptions=True)
        server.stop()


@pytest.mark.parametrize("over", [0, 1])
async def test_what_is_too_big_for_the_proxy_is_told_to_both(
    on: Stage, notebook: Notebook, monkeypatch: pytest.MonkeyPatch, over: int
) -> None:
    monkeypatch.setattr("lib.notebook_proxy.websocket.LARGEST_MESSAGE", SMALL)
    async with on.websocket(f"/long/{SMALL + over}") as ws:
        message = await ws.receive()
        if over:
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1009)
            assert (await notebook.closed.get())[0] == 1009
        else:
            assert message.data == b"x" * SMALL


async def test_a_close_without_a_code_is_no_fault(on: Stage) -> None:
    async with on.websocket("/no-code") as ws:
        message = await ws.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1000)


@pytest.mark.parametrize("code", [1000, 1001, 4321])
async def test_close_code_reaches_the_notebook(on: Stage, notebook: Notebook, code: int) -> None:
    async with on.websocket("/echo") as ws:
        await ws.close(code=code)
    assert (await notebook.closed.get())[0] == code


async def test_browser_that_vanishes_is_told_to_the_notebook(on: Stage, notebook: Notebook) -> None:
    async with on.websocket("/echo") as ws:
        ws._response.connection.transport.abort()
        await notebook.closed.get()  # uvicorn reports 1005 here, as for a close without code


async def test_notebook_that_vanishes_is_told_to_the_browser(on: Stage) -> None:
    async with on.websocket("/abort") as ws:
        message = await ws.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1011)


@pytest.mark.parametrize(("path", "status"), [("/absent", 404), ("/refuse", 403)])
async def test_refused_handshake_keeps_its_status(on: Stage, path: str, status: int) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await on.websocket(path)
    assert refused.value.status == status


async def test_stalled_browser_makes_the_notebook_wait(on: Stage, notebook: Notebook) -> None:
    async with on.websocket("/flood") as ws:
        await ws.receive_bytes()
        ws._response.connection.transport.pause_reading()
        assert await stalled(lambda: notebook.flooded) < 64 * 2**20
        ws._response.connection.transport.abort()
    await notebook.closed.get()


async def test_stalled_notebook_makes_the_browser_wait(on: Stage) -> None:
    sent = 0
    async with on.websocket("/swallow") as ws:

        async def endless() -> None:
            nonlocal sent
            while sent < 2**28:
                await ws.send_bytes(b"x" * 2**18)
                sent += 2**18

        sending = asyncio.ensure_future(endless())
        assert await stalled(lambda: sent) < 64 * 2**20
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        ws._response.connection.transport.abort()


async def test_closing_a_notebook_ends_its_websockets(on: Stage) -> None:
    async with on.websocket("/echo") as ws:
        await on.proxy.close(on.session, "Stopped.")
        message = await ws.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1008)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await on.websocket("/echo")
    assert refused.value.status == 503


async def test_signing_out_ends_its_websockets(on: Stage) -> None:
    async with on.websocket("/echo") as ws:
        on.proxy.sign_out("somebody else's")
        await ws.send_str("still here")
        assert await ws.receive_str() == "still here"
        on.proxy.sign_out("login-1")
        assert (await ws.receive()).data == 1008


# --- cuts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 300_000])
async def test_cuts_lose_and_double_no_message(on: Stage, size: int) -> None:
    """In the middle of whatever is under way, and also while another connection is made."""
    sent = [f"{number:06}" * (size // 6) for number in range(60)]
    cut_at = {10, 11, 30, 45}
    async with on.websocket("/echo") as ws:

        async def send() -> None:
            for text in sent:
                await ahead.acquire()
                await ws.send_str(text)

        ahead = asyncio.Semaphore(4)
        sending = asyncio.ensure_future(send())
        for number, text in enumerate(sent):
            if number in cut_at:
                on.forward.cut()
                await asyncio.sleep(0)
                await on.forward.open()
            assert await ws.receive_str() == text, number
            ahead.release()
        await sending
    assert on.forward.made > 3


async def test_what_is_said_while_the_line_is_cut_arrives_after_it(
    on: Stage, notebook: Notebook
) -> None:
    """Also that the browser has closed."""
    async with on.websocket("/echo") as ws, on.websocket("/echo") as leaving:
        for each in (ws, leaving):
            await each.send_str("before")
            await each.receive_str()
        on.forward.cut()
        await ws.send_str("meanwhile")
        await leaving.close(code=4321)
        assert notebook.closed.empty()
        await on.forward.open()
        assert await ws.receive_str() == "meanwhile"
        assert (await notebook.closed.get())[0] == 4321
    assert (await on.get("/absent"))[0] == 404


async def test_a_line_that_stays_cut_is_told_to_browser_and_notebook(
    on: Stage, notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    for end in ("lib.notebook_proxy.streams", "lib.jobs.streams"):
        monkeypatch.setattr(f"{end}.KEEP_S", 0.3)
    async with on.websocket("/flood") as ws:
        on.forward.cut()
        while (message := await ws.receive()).type is WSMsgType.BINARY:
            pass
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1011)
        await notebook.closed.get()


async def test_a_notebook_that_ends_while_the_line_is_cut_ends_its_websockets(on: Stage) -> None:
    async with on.websocket("/echo") as ws:
        on.forward.cut()
        await on.proxy.close(on.session, "Stopped.")
        assert (await ws.receive()).data == 1008
    names = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}
    assert not [name for name in names if "_reconnect" in name]


async def test_a_forward_that_was_made_anew_leaves_websockets_open(on: Stage) -> None:
    """And what the portal orders then: to prove the notebook again."""
    handler = CommandHandler(on.proxy)
    wanted = Open(on.session, str(on.socket), on.endpoint)

    async def prove() -> Message:
        return await handler.handle({"n": 1, "do": "open", **wanted.values()})

    async with on.websocket("/echo") as ws:
        on.forward.cut()
        answer = await prove()
        assert json_object(answer["error"])["code"] == "unavailable"
        await ws.send_str("still here")
        await on.forward.open()
        assert "ok" in await prove()
        assert await ws.receive_str() == "still here"
        on.forward.cut()
        await on.forward.open()
        assert "ok" in await prove()
        await ws.send_str("and here")
        assert await ws.receive_str() == "and here"


async def test_a_session_script_that_knows_no_streams_is_spoken_to_as_before(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was begun by an older gate. A cut is the end of its WebSockets."""
    monkeypatch.setattr("lib.jobs.relay.ALPN", "another")
    async with stage(notebook.app) as on, on.websocket("/echo") as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
        on.forward.cut()
        assert (await ws.receive()).data == 1011
        await on.forward.open()
        upstream = on.proxy.get(on.session)
        assert upstream is not None
        async with on.websocket("/echo") as again:
            await upstream.renew()
            assert (await again.receive()).data == 1011, "its forward is not there any more"


async def test_visitor_who_may_no_longer_is_cut_off(
    on: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.notebook_proxy.open_notebooks.RECHECK_S", 0.1)
    async with on.websocket("/echo") as ws:
        await ws.send_str("x")
        assert await ws.receive_str() == "x"
        on.porter.asked.clear()
        while not on.porter.asked:  # noqa: ASYNC110 (it is asked again and again)
            await asyncio.sleep(0.01)
        on.porter.allowed = False
        assert (await ws.receive()).data == 1008


async def test_visits_end_when_nobody_can_be_asked_for_long(
    on: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def cannot(*_: object) -> bool:
        asked.set()
        raise Unavailable("The store is busy.")

    monkeypatch.setattr("lib.notebook_proxy.open_notebooks.RECHECK_S", 0.05)
    async with on.websocket("/echo") as ws:
        monkeypatch.setattr(on.porter, "may_open", cannot)
        await asked.wait()
        await ws.send_str("x")
        assert await ws.receive_str() == "x"
        monkeypatch.setattr("lib.notebook_proxy.open_notebooks._UNASKED_S", 0.01)
        assert (await ws.receive()).data == 1008


async def test_a_fault_about_one_visitor_is_logged_once_and_the_others_are_checked(
    on: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lib.notebook_proxy.open_notebooks.RECHECK_S", 0.02)
    faults, checked = 0, asyncio.Event()
    real = on.porter.may_open

    async def may_open(session: SessionId, user: UserId, login: str) -> bool:
        nonlocal faults
        if login == "login-1":
            faults += 1
            raise OverflowError("planted")
        if faults >= 3:
            checked.set()
        return await real(session, user, login)

    async with on.websocket("/echo") as bad:
        await on.enter("login-2")
        async with on.websocket("/echo") as good:
            monkeypatch.setattr(on.porter, "may_open", may_open)
            rechecking = on.proxy._requests._rechecking
            assert rechecking is not None
            looks = asyncio.ensure_future(checked.wait())
            await asyncio.wait({looks, rechecking}, return_when=asyncio.FIRST_COMPLETED)
            looks.cancel()
            assert not rechecking.done()
            for ws in (bad, good):
                await ws.send_str("still here")
                assert await ws.receive_str() == "still here"
            errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
            assert [e.partition(":")[0] for e in errors] == [on.session]
            monkeypatch.setattr("lib.notebook_proxy.open_notebooks._UNASKED_S", 0.01)
            assert (await bad.receive()).data == 1008, "nobody can say that it may stay"
            await good.send_str("still here")
            assert await good.receive_str() == "still here"
            on.porter.allowed = False
            assert (await good.receive()).data == 1008


async def test_a_process_whose_checks_do_not_turn_says_so(on: Stage) -> None:
    probe = CommandHandler(on.proxy).handle({"n": 1, "do": "probe"})
    assert "ok" in await probe
    async with on.websocket("/echo"):
        clock = on.proxy.loops.clock
        on.proxy.loops.clock = lambda: clock() + 61.0
        answer = await CommandHandler(on.proxy).handle({"n": 2, "do": "probe"})
        said = json_object(answer["error"])
        assert str(said["message"]).startswith("The notebooks' process has not checked again")
        on.proxy.loops.clock = clock


async def test_what_is_no_order_costs_one_order(
    on: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=theirs, limit=2**16)
    answers, orders = await asyncio.open_unix_connection(sock=ours)
    obeying = asyncio.ensure_future(_obey(CommandHandler(on.proxy), reader, writer, on.proxy.loops))
    for line in (b"{", b"[" * 5000, b"x" * 2**18, b"[]", b'{"n": 7, "do": "probe"}'):
        orders.write(line + b"\n")
    assert json.loads(await answers.readline())["n"] == 7
    orders.close()
    await obeying
    writer.close()
    errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert all(e.startswith("an order of the portal:") for e in errors)


async def test_messages_of_the_browser_are_use_of_the_sign_in(on: Stage) -> None:
    async with on.websocket("/echo") as ws:
        assert on.porter.in_use == []
        for _ in range(3):
            await ws.send_str("x")
            await ws.receive_str()
        assert on.porter.in_use == ["login-1"]
        on.proxy._app._activity._told.expire(time.monotonic() + REPORT_EVERY_S)
        await ws.send_str("x")
        await ws.receive_str()
        assert on.porter.in_use == ["login-1"] * 2


async def test_unreachable_notebook_refuses_the_handshake(on: Stage) -> None:
    on.socket.unlink()
    await on.proxy.open(on.session, Upstream(on.socket, on.endpoint))
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await on.websocket("/echo")
    assert refused.value.status == 502


async def false_upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
    writer.write(b"Connection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n")
    writer.close()


def refusing(status: bytes) -> Callable[..., Awaitable[None]]:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %s \r\nContent-Length: 0\r\n\r\n" % status)
        writer.close()

    return server


@pytest.mark.parametrize(
    ("server", "status"),
    [
        (false_upgrade, 502),
        *((refusing(said), 502) for said in (b"000", b"099", b"200", b"600", b"999")),
        *((refusing(said), int(said)) for said in (b"302", b"418", b"599")),
    ],
)
async def test_handshake_that_is_none_is_not_passed_on(
    server: Callable[..., Awaitable[None]], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(server) as on:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await on.websocket("/echo")
        assert refused.value.status == status
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_hanging_handshake_is_given_up(on: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.notebook_proxy.websocket._HANDSHAKE_TIMEOUT_S", 0.3)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await on.websocket("/hang")
    assert refused.value.status == 502
