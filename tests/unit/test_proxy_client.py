"""Where an answer of a notebook ends, and which connection may carry another request.

Each answer comes whole and cut into two at every byte: what is read may not depend on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lib.http.joined_writes import JoinedWrites
from lib.model import SessionId
from lib.notebook_proxy import client as http
from lib.notebook_proxy.client import Exchange, HttpClient, Lost, Silent
from lib.notebook_proxy.headers import InvalidAnswer
from lib.notebook_proxy.upstream import tls_context
from tests.contract.small_notebook import relayed

OK = b"HTTP/1.1 200 OK\r\n"
TWO = OK + b"Content-Length: 2\r\n\r\n{}"
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport whose other side is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.over = self.paused = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.written.append(data)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.over

    def abort(self) -> None:
        self.over = True

    close = abort


class Line:
    """One connection on a wire; a request has been asked on it."""

    def __init__(self, method: str = "GET", body: AsyncIterator[bytes] | None = None) -> None:
        self.client = HttpClient(Path("/nowhere"), TLS, "nobody")
        self.wire = Wire()
        self.exchange = Exchange(self.client)
        self.exchange.connection_made(self.wire)
        self.exchange.ask(method, b"%b / HTTP/1.1\r\n\r\n" % method.encode(), body)

    def hear(self, *pieces: bytes) -> None:
        for piece in pieces:
            if piece and not self.wire.over:
                self.exchange.data_received(piece)

    def lose(self, exc: Exception | None = None) -> None:
        self.wire.over = True
        self.exchange.connection_lost(exc)

    async def answer(self) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """What has been heard, as the proxy reads it."""
        async with asyncio.timeout(60):
            await self.exchange.headers_come()
            body = b""
            while piece := await self.exchange.read():
                body += piece
        return self.exchange.status, self.exchange.headers, body

    @property
    def kept(self) -> bool:
        """Whether the connection may carry another request, now that this one is done with."""
        self.exchange.finish()
        return not self.wire.over and self.client._take() is self.exchange


def cuts(data: bytes) -> list[tuple[bytes, ...]]:
    """Whole, in two at every byte, and each byte by itself."""
    ways = [(data[:at], data[at:]) for at in range(len(data))]
    return [*ways, tuple(data[at : at + 1] for at in range(len(data)))]


@pytest.mark.parametrize(
    ("said", "status", "body"),
    [
        (TWO, 200, b"{}"),
        (OK + b"Content-Length: 0\r\n\r\n", 200, b""),
        (CHUNKED + b"1\r\n{\r\n1;x=y\r\n}\r\n0\r\nX-Late: 1\r\n\r\n", 200, b"{}"),
        (b"HTTP/1.1 204 None\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n", 304, b""),
        (b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 100 Go on\r\n\r\n" + TWO, 200, b"{}"),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_an_answer_is_read_the_same_wherever_it_is_cut(
    said: bytes, status: int, body: bytes
) -> None:
    for pieces in cuts(said):
        line = Line()
        line.hear(*pieces)
        found = await line.answer()
        assert (found[0], found[2]) == (status, body), pieces
        assert not {b"Link", b"X-Late"} & {name for name, _ in found[1]}
        assert line.kept, pieces


@pytest.mark.parametrize(
    "said",
    [
        OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: identity\r\n\r\n{}",
        OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        OK + b"Content-Length: +2\r\n\r\n{}",
        OK + b"Content-Length: 99999999999999999999\r\n\r\n{}",
        OK + b"X: a\r\n folded: b\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"X: a\nContent-Length: 2\r\n\r\n{}",
        OK + b"X: a\rContent-Length: 2\r\n\r\n{}",
        OK + b"X: a\0\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + TWO,
        b"HTTP/1.1 199 Odd\r\nContent-Length: 2\r\n\r\n{}" + TWO,
        b"ICY 200 OK\r\n\r\n",
    ],
    ids=lambda said: str(said)[:90],
)
async def test_an_answer_with_two_readings_is_none(said: bytes) -> None:
    for pieces in cuts(said):
        line = Line()
        line.hear(*pieces)
        with pytest.raises(InvalidAnswer):
            await line.answer()
        assert line.wire.over, pieces


@pytest.mark.parametrize(
    "rest",
    [
        b"+1\r\n{\r\n0\r\n\r\n",
        b"0x1\r\n{\r\n0\r\n\r\n",
        b"1 \r\n{\r\n0\r\n\r\n",
        b"1\n{\r\n0\r\n\r\n",
        b"1\r\n{}\r\n0\r\n\r\n",
        b"1\r\n{0\r\n\r\n",
        b"ffffffffffffffff1\r\n{",
        b"-1\r\n{",
    ],
)
async def test_a_malformed_chunk_ends_the_answer(rest: bytes) -> None:
    for pieces in cuts(CHUNKED + rest):
        line = Line()
        line.hear(*pieces)
        with pytest.raises(InvalidAnswer):
            await line.answer()
        assert not line.kept


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (OK + b"X: ", b"x" * 1000),
        (OK, b"X: " + b"x" * 1000 + b"\r\n"),
        (b"HTTP/1.1 200 ", b"x" * 1000),
        (b"", b"HTTP/1.1 103 Early\r\nX: " + b"x" * 1000 + b"\r\n\r\n"),
        (CHUNKED + b"1\r\n{\r\n0\r\n", b"X: " + b"x" * 1000 + b"\r\n"),
        (CHUNKED + b"1\r\n{\r\n1;", b"x" * 1000),
    ],
)
async def test_what_is_no_body_is_bounded(begin: bytes, more: bytes) -> None:
    line = Line()
    line.hear(begin)
    heard = 0
    while not line.wire.over:
        assert heard < 2 * http.MAX_HEAD
        line.hear(more)
        heard += len(more)
    with pytest.raises(InvalidAnswer):
        await line.answer()


@pytest.mark.parametrize("said", [TWO, CHUNKED + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"])
async def test_an_answer_cut_short_is_lost(said: bytes) -> None:
    for at in range(len(said)):
        line = Line()
        line.hear(said[:at])
        line.lose()
        with pytest.raises(Lost):
            await line.answer()


async def test_an_answer_without_a_length_ends_with_its_connection_alone() -> None:
    said = OK + b"X: 1\r\n\r\n{}"
    line = Line()
    line.hear(said)
    line.lose()
    assert (await line.answer())[2] == b"{}"
    line = Line()
    line.hear(said)
    line.lose(ConnectionResetError("reset"))
    with pytest.raises(ConnectionResetError):
        await line.answer()


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("GET", TWO + TWO),
        ("GET", TWO + b"rubbish"),
        ("GET", b"HTTP/1.1 204 None\r\nContent-Length: 2\r\n\r\n{}"),
        ("GET", OK + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}"),
        ("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("HEAD", OK + b"Content-Length: 2\r\n\r\n"),
        ("HEAD", TWO + TWO),
    ],
)
async def test_only_a_connection_with_a_clear_end_is_used_again(method: str, said: bytes) -> None:
    for pieces in cuts(said):
        line = Line(method)
        line.hear(*pieces)
        body = (await line.answer())[2]
        assert body == (b"" if method == "HEAD" or b" 204 " in said else b"{}"), pieces
        line.exchange.finish()
        line.hear(b"x")  # the rest of what was cut may come now
        assert line.wire.over, pieces


async def test_what_comes_on_a_connection_that_waits_ends_it() -> None:
    line = Line()
    line.hear(TWO)
    await line.answer()
    line.exchange.finish()
    line.hear(TWO)
    assert line.wire.over
    assert line.client._take() is None


async def test_a_request_that_was_not_sent_whole_leaves_no_connection() -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    line = Line("PUT", endless())
    line.hear(b"HTTP/1.1 413 Large\r\nContent-Length: 2\r\n\r\n{}")
    assert (await line.answer())[0] == 413
    assert not line.kept


async def test_a_reader_that_stalls_makes_the_notebook_wait() -> None:
    line = Line()
    line.hear(OK + b"Content-Length: 1000000\r\n\r\n")
    line.hear(b"x" * 200_000)
    assert not line.wire.paused
    line.hear(b"x" * 100_000)
    assert line.wire.paused
    assert len(await line.exchange.read()) == 300_000
    assert not line.wire.paused


async def test_only_who_waits_in_vain_is_given_up() -> None:
    line = Line()
    later = asyncio.get_running_loop().time() + http.SILENCE_S + 1
    line.exchange.give_up_if_silent(later)
    assert not line.wire.over, "nobody waits: it is the browser that stalls"
    answer = asyncio.create_task(line.answer())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    line.exchange.give_up_if_silent(later - 10)
    assert not line.wire.over
    line.exchange.give_up_if_silent(later + 10)
    with pytest.raises(Silent):
        await answer
    assert line.wire.over


@pytest.mark.parametrize("bad", [b"a\r\nX: b", b"a\nb", b"a\rb", b"a\0b"])
async def test_no_header_of_a_request_holds_the_end_of_a_line(bad: bytes) -> None:
    client = HttpClient(Path("/nowhere"), TLS, "nobody")
    for headers in ([(b"X", bad)], [(bad, b"x")]):
        with pytest.raises(ValueError, match="line's end"):
            await client.request("GET", b"/", headers)


# --- over real connections ----------------------------------------------------------------

Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[HttpClient]:
    under_way: set[asyncio.Task[Any]] = set()

    async def noted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        under_way.add(task)
        try:
            await server(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    with tempfile.TemporaryDirectory(prefix="sb-", dir="/tmp") as name:
        folder = Path(name)
        listening = await asyncio.start_unix_server(noted, str(folder / "n.sock"))
        async with relayed(folder / "n.sock", folder, SessionId(str(uuid.uuid4()))) as endpoint:
            client = HttpClient(folder / "f.sock", tls_context(endpoint, folder), endpoint.name)
            yield client
            client.close()
            listening.close()
            await asyncio.gather(*under_way)


class Counting:
    """Answers the first request of each connection; then does with the next as it is told."""

    def __init__(self, then: bytes | None) -> None:
        self.then = then
        self.connections = 0
        self.asked: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        again = False
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            self.asked.append(head.split(b" ")[0])
            if again and self.then is not None:
                writer.write(self.then)
                break
            writer.write(TWO)
            again = True


async def get(client: HttpClient, method: str = "GET") -> bytes:
    answer = await client.request(method, b"/", [(b"Host", b"x")])
    try:
        body = b""
        while piece := await answer.read():
            body += piece
        return body
    finally:
        answer.finish()


async def test_a_connection_is_used_again() -> None:
    server = Counting(then=None)
    async with serving(server) as client:
        for _ in range(3):
            assert await get(client) == b"{}"
        assert server.connections == 1
        client.close()
        assert await get(client) == b"{}"
        assert server.connections == 2


@pytest.mark.parametrize(
    ("method", "then", "again"),
    [("GET", b"", True), ("POST", b"", False), ("DELETE", b"", False), ("GET", b"HTTP", False)],
)
async def test_only_a_safe_request_without_any_answer_is_asked_again(
    method: str, then: bytes, again: bool
) -> None:
    server = Counting(then)
    async with serving(server) as client:
        await get(client)
        if again:
            assert await get(client, method) == b"{}"
        else:
            with pytest.raises(OSError):  # noqa: PT011 (which one the system says)
                await get(client, method)
    assert server.asked.count(method.encode()) == (3 if again else 1 + (method == "GET"))


async def test_a_request_that_is_cancelled_ends_its_connection() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        left.set()

    async with serving(silent) as client:
        asking = asyncio.create_task(get(client))
        await asked.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await left.wait()
        assert client._take() is None


# --- what the browser is told, in one piece -----------------------------------------------


async def test_headers_go_out_with_the_beginning_of_the_body_or_a_turn_later() -> None:
    wire, loop = Wire(), asyncio.get_running_loop()
    writes = JoinedWrites(wire, loop)
    for piece in (b"head", b"body", b"more"):
        writes.write(piece)
    assert wire.written == [b"headbody", b"more"]
    wire.written.clear()
    writes = JoinedWrites(wire, loop)
    writes.write(b"head")
    assert wire.written == []
    await asyncio.sleep(0)
    assert wire.written == [b"head"]
    writes = JoinedWrites(wire, loop)
    writes.write(b"last")
    writes.close()
    assert wire.written == [b"head", b"last"]
    assert wire.over
