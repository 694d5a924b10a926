"""What one connection may send: raw bytes to a server with the settings of portal and proxy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn

from lib.http.hardening import Limits, StrictProtocol
from lib.notebook_proxy.port_listeners import SERVER_SETTINGS
from tests.contract.small_notebook import Server
from tests.security.http_requests import (
    CHUNKED,
    HOST,
    REFUSED,
    REFUSED_LATER,
    TAKEN,
    WEBSOCKET,
    get,
    post,
)


@dataclass
class Place:
    """A server, and what reached the application behind it."""

    port: int = 0
    seen: list[tuple[str, bytes]] = field(default_factory=list)
    #: The application answers when this is set.
    go: asyncio.Event = field(default_factory=asyncio.Event)
    reads: bool = True
    _opened: list[asyncio.StreamWriter] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            return
        body, more = b"", True
        while more and self.reads:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.seen.append(("left", body))
                return
            body += message["body"]
            more = message["more_body"]
        self.seen.append((scope["method"] + " " + scope["path"], body))
        await self.go.wait()
        length = (b"content-length", b"2")
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._opened.append(writer)
        return reader, writer

    async def leave(self) -> None:
        for writer in self._opened:
            writer.transport.abort()
        await asyncio.sleep(0.01)

    async def ask(self, request: bytes, *, wait_s: float = 0.1) -> tuple[list[int], bool]:
        """The statuses of the answers, and whether the server then ended the connection."""
        reader, writer = await self.open()
        writer.write(request)
        answer, ended = await read(reader, wait_s)
        return statuses(answer), ended


async def read(reader: asyncio.StreamReader, wait_s: float) -> tuple[bytes, bool]:
    """All that comes until nothing does for that time, and whether it was the end."""
    answer = b""
    try:
        while piece := await asyncio.wait_for(reader.read(2**16), wait_s):
            answer += piece
    except TimeoutError:
        return answer, False
    return answer, True


def statuses(answer: bytes) -> list[int]:
    parts = answer.split(b"HTTP/1.1 ")
    return [int(part[:3]) for part in parts[1:]]


@asynccontextmanager
async def place(**limits: Any) -> AsyncIterator[Place]:
    class Quick(SERVER_SETTINGS["http"]):  # type: ignore[misc]
        pass

    Quick.limits = Limits(**limits)
    made = Place()
    made.go.set()
    settings = {**SERVER_SETTINGS, "http": Quick, "timeout_graceful_shutdown": 1}
    config = uvicorn.Config(
        made, port=0, lifespan="off", log_config=None, access_log=False, **settings
    )
    server = Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    made.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        made.go.set()
        await made.leave()
        server.should_exit = True
        server.force_exit = True
        await task


def test_portal_and_proxy_use_it() -> None:
    from lib.server.uvicorn_server import SERVER_SETTINGS as OF_PORTAL

    assert OF_PORTAL is SERVER_SETTINGS
    assert issubclass(SERVER_SETTINGS["http"], StrictProtocol)
    assert StrictProtocol.limits.headers_s == 15


# --- what is taken, and beside it what is not ---------------------------------------------


async def test_taken_and_refused() -> None:
    wrong = []
    async with place() as on:
        for name, request in TAKEN.items():
            on.seen.clear()
            answered = (await on.ask(request))[0]
            if answered != [200] or len(on.seen) != 1:
                wrong.append((name, answered, on.seen[:]))
        for name, request in REFUSED.items():
            on.seen.clear()
            answer = await on.ask(request)
            if answer != ([400], True) or on.seen:
                wrong.append((name, answer, on.seen[:]))
        for name, request in REFUSED_LATER.items():
            on.seen.clear()
            answer = await on.ask(request)
            await asyncio.sleep(0)
            if answer != ([400], True) or [what for what, _ in on.seen] != ["left"]:
                wrong.append((name, answer, on.seen[:]))
    assert wrong == []


async def test_nothing_of_a_request_is_taken_for_another() -> None:
    hidden = get(line=b"GET /hidden HTTP/1.1")
    async with place() as on:
        for request in (*REFUSED.values(), *REFUSED_LATER.values()):
            await on.ask(request + hidden, wait_s=0.05)
        assert "GET /hidden" not in [what for what, _ in on.seen]
        upgrade = get(b"Connection: Upgrade", b"Upgrade: h2c") + hidden
        assert await on.ask(upgrade) == ([200], True)
        assert "GET /hidden" not in [what for what, _ in on.seen]
        on.seen.clear()
        body = post(b"Content-Length: %d" % len(hidden), body=hidden)
        assert await on.ask(body + hidden) == ([200, 200], False)
        assert on.seen == [("POST /", hidden), ("GET /hidden", b"")]


async def test_refusal_never_stands_for_an_earlier_answer() -> None:
    async with place() as on:
        on.go.clear()
        reader, writer = await on.open()
        writer.write(get() + get(b"X A: 1"))
        assert await read(reader, 0.3) == (b"", True)
        on.go.set()
        assert await on.ask(get() + get()) == ([200, 200], False)


async def test_websocket_opens() -> None:
    async with place() as on:
        assert await on.ask(WEBSOCKET + b"\r\n") == ([101], False)


# --- size ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 7])
async def test_headers_too_large(pieces: int) -> None:
    large = get(*[b"X-A: " + b"a" * 1000] * 70)
    one = get(b"X-A: " + b"a" * 70_000)
    async with place() as on:
        for request in (large, one):
            assert await _in_pieces(on, request, pieces) == ([431], True)
        assert await _in_pieces(on, TAKEN["many headers"], pieces) == ([200], False)
        assert len(on.seen) == 1


async def test_headers_that_never_end_are_cut() -> None:
    async with place() as on:
        reader, writer = await on.open()
        writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"X-A: ")
        for _ in range(10):
            writer.write(b"a" * 10_000)
            await asyncio.sleep(0.005)
        answer, ended = await read(reader, 0.5)
        assert (statuses(answer), ended) == ([431], True)


async def test_address_too_long() -> None:
    async with place() as on:
        assert await on.ask(get(line=b"GET /" + b"a" * 17_000 + b" HTTP/1.1")) == ([414], True)
        assert await on.ask(get(line=b"GET /" + b"a" * 200_000 + b" HTTP/1.1")) == ([414], True)


async def test_chunks_that_carry_nothing_are_refused() -> None:
    async with place() as on:
        reader, writer = await on.open()
        writer.write(CHUNKED + b"3;")
        for _ in range(10):
            writer.write(b"a" * 10_000)
            await asyncio.sleep(0.005)
        assert statuses((await read(reader, 0.5))[0]) == [400]
        small = CHUNKED + b"1\r\na\r\n" * 30_000 + b"0\r\n\r\n"
        assert await _in_pieces(on, small, 20) == ([200], False)


async def test_body_that_begins_in_the_piece_that_ended_another_is_taken() -> None:
    """A client that was answered early sends its next request behind the rest of a body."""
    size = 1_000_000
    first = post(b"Content-Length: %d" % size, body=bytes(size))
    second = CHUNKED + b"c350\r\n" + bytes(50_000) + b"\r\n0\r\n\r\n"
    async with place() as on:
        reader, writer = await on.open()
        writer.write(first[:-10_000])
        await asyncio.sleep(0.1)
        writer.write(first[-10_000:] + second[:20_000])
        await asyncio.sleep(0.1)
        writer.write(second[20_000:])
        assert statuses((await read(reader, 0.5))[0]) == [200, 200]
        assert [len(body) for _, body in on.seen] == [size, 50_000]


async def _in_pieces(on: Place, request: bytes, pieces: int) -> tuple[list[int], bool]:
    reader, writer = await on.open()
    step = -(-len(request) // pieces)
    for begin in range(0, len(request), step):
        writer.write(request[begin : begin + step])
        await asyncio.sleep(0.005 if pieces > 1 else 0)
    answer, ended = await read(reader, 0.3)
    return statuses(answer), ended


# --- time ---------------------------------------------------------------------------------


async def test_silent_connection_is_closed() -> None:
    async with place(headers_s=0.3) as on:
        reader, _writer = await on.open()
        began = time.monotonic()
        assert await read(reader, 2) == (b"", True)
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("first", [b"", get()])
async def test_dripped_headers_are_not_waited_for(first: bytes) -> None:
    """Also on a connection that was used already."""
    async with place(headers_s=0.4) as on:
        reader, writer = await on.open()
        writer.write(first)
        await asyncio.sleep(0.1)
        began = time.monotonic()
        for byte in b"GET / HTTP/1.1\r\n" + HOST * 20:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
            if time.monotonic() - began > 0.7:
                break
        answer, ended = await read(reader, 0.2)
        assert (statuses(answer), ended) == ([200] * bool(first) + [408], True)
        slow_but_in_time = await _in_pieces(on, get(), 15)
        assert slow_but_in_time == ([200], False)


async def test_empty_lines_keep_no_connection_open() -> None:
    async with place(headers_s=0.3) as on:
        reader, writer = await on.open()
        writer.write(get())
        await asyncio.sleep(0.1)
        writer.write(b"\r\n")
        assert (await read(reader, 1))[1]


async def test_long_answer_is_not_cut_by_the_time_for_headers() -> None:
    async with place(headers_s=0.2) as on:
        on.go.clear()
        reader, writer = await on.open()
        writer.write(get() + b"GET")
        await asyncio.sleep(0.5)
        on.go.set()
        assert statuses((await read(reader, 0.05))[0]) == [200]


@pytest.mark.parametrize("every_s", [None, 0.05])
async def test_body_that_stalls_or_drips_is_given_up(every_s: float | None) -> None:
    async with place(body_s=0.3) as on:
        reader, writer = await on.open()
        writer.write(post(b"Content-Length: 100000", body=b"abc"))
        for _ in range(12 if every_s else 0):
            writer.write(b"a")
            await asyncio.sleep(every_s or 0)
        answer, ended = await read(reader, 1)
        assert (statuses(answer), ended) == ([408], True)
        assert [what for what, _ in on.seen] == ["left"]


async def test_slow_body_that_gets_on_is_taken() -> None:
    async with place(body_s=0.2) as on:
        reader, writer = await on.open()
        writer.write(post(b"Content-Length: 100000"))
        for _ in range(10):
            await asyncio.sleep(0.05)
            writer.write(b"a" * 10_000)
        assert statuses((await read(reader, 0.3))[0]) == [200]


async def test_body_that_we_do_not_read_is_waited_for() -> None:
    async with place(body_s=0.1) as on:
        on.reads = False
        on.go.clear()
        reader, writer = await on.open()
        writer.write(post(b"Content-Length: 10000000", body=b"a" * 1_000_000))
        await asyncio.sleep(0.5)
        on.go.set()
        assert statuses((await read(reader, 0.3))[0]) == [200]


# --- number -------------------------------------------------------------------------------


async def test_too_many_connections_are_told_so() -> None:
    async with place(connections=5, linger_s=0.2) as on:
        held = [await on.open() for _ in range(5)]
        assert await on.ask(get(), wait_s=0.5) == ([503], True)
        assert on.seen == []
        held.pop()[1].close()
        await asyncio.sleep(0.3)
        assert await on.ask(get()) == ([200], False)


async def test_flood_of_connections_ends() -> None:
    async with place(connections=5, linger_s=5) as on:
        held = [await on.open() for _ in range(120)]
        first, last = held[0], held[-1]
        first[1].write(get())
        assert statuses((await read(first[0], 0.2))[0]) == [200]
        with suppress(ConnectionError):
            assert await read(last[0], 1) == (b"", True)
