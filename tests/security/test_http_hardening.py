"""What one connection may send: raw bytes to a server with the settings of portal and proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn

from lib.http.hardening import Limits, StrictProtocol
from lib.http.server_settings import LARGEST_MESSAGE, SERVER_SETTINGS, server_settings
from lib.notebook_proxy.asgi import NotebookProxy
from lib.notebook_proxy.main import _server_config
from lib.server.uvicorn_server import PortalServer
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
    #: The protocol of each connection, in the order in which they came.
    made: list[Any] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
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

    async def open(
        self, client: str = "127.0.0.1"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that the server knows of, from that address of this computer."""
        before = len(self.made)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(client, 0)
        )
        self._opened.append(writer)
        await until(lambda: len(self.made) > before)
        return reader, writer

    async def leave(self) -> None:
        for writer in self._opened:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def refused(self, request: bytes) -> list[int]:
        """The statuses of the answers, after which the server ends the connection."""
        reader, writer = await self.open()
        writer.write(request)
        return statuses(await reader.read())

    async def taken(self, request: bytes, answers: int = 1) -> list[int]:
        """The statuses of so many answers, after which the connection goes on."""
        reader, writer = await self.open()
        writer.write(request)
        return await self.answered(reader, answers)

    async def answered(self, reader: asyncio.StreamReader, answers: int = 1) -> list[int]:
        found = [statuses(await reader.readuntil(b"\r\n\r\nok")) for _ in range(answers)]
        assert not reader.at_eof()
        return [status for one in found for status in one]

    async def send(self, writer: asyncio.StreamWriter, data: bytes, pieces: int = 1) -> None:
        """Write to the connection that was opened last, each piece once the last has come."""
        protocol = self.made[-1]
        step = -(-len(data) // pieces)
        for begin in range(0, len(data), step):
            piece = data[begin : begin + step]
            wanted = protocol.got + len(piece)
            writer.write(piece)
            await until(lambda: protocol.got >= wanted or protocol.lost)  # noqa: B023

    def time_is_up(self) -> None:
        """What the last connection is given time for has not come in time."""
        self.made[-1].late()


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 (it is about one event loop, and cheap)
        await asyncio.sleep(0.001)


def statuses(answer: bytes) -> list[int]:
    parts = answer.split(b"HTTP/1.1 ")
    return [int(part[:3]) for part in parts[1:]]


@asynccontextmanager
async def place(
    *, slower: float = 1e4, front_servers: tuple[str, ...] = (), **limits: Any
) -> AsyncIterator[Place]:
    """A server whose times are so much longer than `limits` say: `time_is_up` ends them."""
    made = Place()
    made.go.set()

    class ByHand(server_settings(front_servers)["http"]):  # type: ignore[misc]
        """Its time for headers and bodies is up when `late` is called."""

        got, lost = 0, False
        late: Callable[[], None]

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            made.made.append(self)

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost = True
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.got += len(data)

        def _wait(self, seconds: float, act: Callable[[], None]) -> None:
            self._stop_waiting()
            self._deadline = self.loop.call_later(slower * seconds, act)
            self.late = act

    ByHand.limits = Limits(**limits)
    settings = {**SERVER_SETTINGS, "http": ByHand, "timeout_graceful_shutdown": 1}
    config = uvicorn.Config(
        made,
        port=0,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=10**6,
        **settings,
    )
    server = Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    made.port = server.servers[0].sockets[0].getsockname()[1]
    made.connections = server.server_state.connections
    try:
        yield made
    finally:
        made.go.set()
        await made.leave()
        server.should_exit = True
        server.force_exit = True
        await task


async def test_portal_and_proxy_use_it() -> None:
    of_proxy = _server_config(NotebookProxy.__new__(NotebookProxy), ["192.0.2.1"])
    for config in (of_proxy, PortalServer(["192.0.2.1"]).config):
        assert isinstance(config.http, type)
        assert issubclass(config.http, StrictProtocol)
        assert config.http.front_servers == {"192.0.2.1"}
    assert issubclass(SERVER_SETTINGS["http"], StrictProtocol)
    assert StrictProtocol.front_servers == frozenset()
    assert StrictProtocol.limits.headers_s == 15


# --- what is taken, and beside it what is not ---------------------------------------------


async def test_taken_and_refused() -> None:
    wrong = []
    async with place() as on:
        for name, request in TAKEN.items():
            on.seen.clear()
            answered = await on.taken(request)
            if answered != [200] or len(on.seen) != 1:
                wrong.append((name, answered, on.seen[:]))
        for name, request in REFUSED.items():
            on.seen.clear()
            answered = await on.refused(request)
            if answered != [400] or on.seen:
                wrong.append((name, answered, on.seen[:]))
        for name, request in REFUSED_LATER.items():
            on.seen.clear()
            answered = await on.refused(request)
            await until(lambda: bool(on.seen))
            if answered != [400] or [what for what, _ in on.seen] != ["left"]:
                wrong.append((name, answered, on.seen[:]))
    assert wrong == []


async def test_nothing_of_a_request_is_taken_for_another() -> None:
    hidden = get(line=b"GET /hidden HTTP/1.1")
    async with place() as on:
        for request in (*REFUSED.values(), *REFUSED_LATER.values()):
            await on.refused(request + hidden)
        assert "GET /hidden" not in [what for what, _ in on.seen]
        upgrade = get(b"Connection: Upgrade", b"Upgrade: h2c") + hidden
        assert await on.refused(upgrade) == [200], "answered, and then ended"
        assert "GET /hidden" not in [what for what, _ in on.seen]
        on.seen.clear()
        body = post(b"Content-Length: %d" % len(hidden), body=hidden)
        assert await on.taken(body + hidden, 2) == [200, 200]
        assert on.seen == [("POST /", hidden), ("GET /hidden", b"")]


async def test_refusal_never_stands_for_an_earlier_answer() -> None:
    async with place() as on:
        on.go.clear()
        assert await on.refused(get() + get(b"X A: 1")) == []
        on.go.set()
        assert await on.taken(get() + get(), 2) == [200, 200]


async def test_websocket_opens() -> None:
    async with place() as on:
        reader, writer = await on.open()
        writer.write(WEBSOCKET + b"\r\n")
        assert statuses(await reader.readuntil(b"\r\n\r\n")) == [101]
        assert not reader.at_eof()


# --- size ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 7])
async def test_headers_too_large(pieces: int) -> None:
    large = get(*[b"X-A: " + b"a" * 1000] * 70)
    one = get(b"X-A: " + b"a" * 70_000)
    async with place() as on:
        for request in (large, one):
            reader, writer = await on.open()
            await on.send(writer, request, pieces)
            assert statuses(await reader.read()) == [431]
        reader, writer = await on.open()
        await on.send(writer, TAKEN["many headers"], pieces)
        assert await on.answered(reader) == [200]
        assert len(on.seen) == 1


async def test_headers_that_never_end_are_cut() -> None:
    async with place() as on:
        reader, writer = await on.open()
        await on.send(writer, b"GET / HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 100_000, 10)
        assert statuses(await reader.read()) == [431]


async def test_address_too_long() -> None:
    async with place() as on:
        for length in (17_000, 200_000):
            assert await on.refused(get(line=b"GET /" + b"a" * length + b" HTTP/1.1")) == [414]


async def test_chunks_that_carry_nothing_are_refused() -> None:
    async with place() as on:
        reader, writer = await on.open()
        await on.send(writer, CHUNKED + b"3;")
        await on.send(writer, b"a" * 100_000, 10)
        assert statuses(await reader.read()) == [400]
        reader, writer = await on.open()
        await on.send(writer, CHUNKED + b"1\r\na\r\n" * 30_000 + b"0\r\n\r\n", 20)
        assert await on.answered(reader) == [200]


async def test_body_that_begins_in_the_piece_that_ended_another_is_taken() -> None:
    """A client that was answered early sends its next request behind the rest of a body."""
    size = 1_000_000
    first = post(b"Content-Length: %d" % size, body=bytes(size))
    second = CHUNKED + b"c350\r\n" + bytes(50_000) + b"\r\n0\r\n\r\n"
    async with place() as on:
        reader, writer = await on.open()
        await on.send(writer, first[:-10_000])
        await on.send(writer, first[-10_000:] + second[:20_000])
        writer.write(second[20_000:])
        assert await on.answered(reader, 2) == [200, 200]
        assert [len(body) for _, body in on.seen] == [size, 50_000]


# --- time ---------------------------------------------------------------------------------


async def test_silent_connection_is_closed() -> None:
    async with place() as on:
        reader, _writer = await on.open()
        on.time_is_up()
        assert await reader.read() == b""
    async with place(slower=1, headers_s=0.05) as on:  # the limit itself
        reader, _writer = await on.open()
        assert await reader.read() == b""


@pytest.mark.parametrize("first", [b"", get()])
async def test_dripped_headers_are_not_waited_for(first: bytes) -> None:
    """Also on a connection that was used already."""
    async with place() as on:
        reader, writer = await on.open()
        if first:
            writer.write(first)
            assert await on.answered(reader) == [200]
        await on.send(writer, b"GET / HTTP/1.1\r\n" + HOST * 20, 50)
        on.time_is_up()
        assert statuses(await reader.read()) == [408]
        reader, writer = await on.open()
        await on.send(writer, get(), 15)
        assert await on.answered(reader) == [200]


async def test_empty_lines_keep_no_connection_open() -> None:
    async with place() as on:
        reader, writer = await on.open()
        writer.write(get())
        assert await on.answered(reader) == [200]
        await on.send(writer, b"\r\n")
        on.time_is_up()
        await reader.read()


async def test_long_answer_is_not_cut_by_the_time_for_headers() -> None:
    async with place() as on:
        on.go.clear()
        reader, writer = await on.open()
        await on.send(writer, get() + b"GET")
        for _ in range(3):
            on.time_is_up()
        on.go.set()
        assert await on.answered(reader) == [200]


@pytest.mark.parametrize("more", [0, 12])
async def test_body_that_stalls_or_drips_is_given_up(more: int) -> None:
    async with place() as on:
        reader, writer = await on.open()
        await on.send(writer, post(b"Content-Length: 100000", body=b"abc"))
        if more:
            await on.send(writer, b"a" * more, more)
        on.time_is_up()
        assert statuses(await reader.read()) == [408]
        await until(lambda: bool(on.seen))
        assert [what for what, _ in on.seen] == ["left"]


async def test_slow_body_that_gets_on_is_taken() -> None:
    async with place() as on:
        reader, writer = await on.open()
        await on.send(writer, post(b"Content-Length: 100000"))
        for _ in range(9):
            await on.send(writer, b"a" * 10_000)
            on.time_is_up()
        writer.write(b"a" * 10_000)
        assert await on.answered(reader) == [200]


async def test_body_that_we_do_not_read_is_waited_for() -> None:
    async with place() as on:
        on.reads = False
        on.go.clear()
        reader, writer = await on.open()
        writer.write(post(b"Content-Length: 10000000", body=b"a" * 1_000_000))
        await until(lambda: on.made[-1].flow.read_paused)
        for _ in range(3):
            on.time_is_up()
        on.go.set()
        assert await on.answered(reader) == [200]


# --- WebSockets -------------------------------------------------------------------------


async def too_long(on: Place) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The beginning of a message that is one byte too long."""
    reader, writer = await on.open()
    writer.write(WEBSOCKET + b"\r\n")
    assert statuses(await reader.readuntil(b"\r\n\r\n")) == [101]
    writer.write(b"\x82\xff" + (LARGEST_MESSAGE + 1).to_bytes(8, "big") + bytes(4))
    return reader, writer


async def test_a_client_in_the_middle_of_a_message_reads_why_it_is_refused() -> None:
    async with place() as on:
        reader, writer = await too_long(on)
        for _ in range(100):  # as a browser that reads when it has sent what it has
            writer.write(bytes(2**18))
            await writer.drain()
        answer = await reader.read()
        assert answer[0] == 0x88
        assert int.from_bytes(answer[2:4], "big") == 1009
        writer.close()
        await until(lambda: not on.connections)


async def test_a_client_that_goes_on_with_such_a_message_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SERVER_SETTINGS["ws"], "linger_s", 0.01)
    async with place() as on:
        await too_long(on)
        await until(lambda: not on.connections)


# --- number -------------------------------------------------------------------------------


async def busy(on: Place, count: int) -> list[asyncio.StreamReader]:
    """So many connections whose requests are being answered."""
    on.go.clear()
    readers = []
    for _ in range(count):
        reader, writer = await on.open()
        writer.write(get())
        readers.append(reader)
    await until(lambda: len(on.seen) == count)
    return readers


async def idle(on: Place, count: int, client: str = "127.0.0.1") -> list[asyncio.StreamReader]:
    return [(await on.open(client))[0] for _ in range(count)]


async def ended(reader: asyncio.StreamReader) -> bool:
    with suppress(ConnectionError):
        assert await reader.read() == b""
    return True


async def test_too_many_connections_that_are_in_use_are_told_so() -> None:
    async with place(connections=5, linger_s=0.01) as on:
        held = await busy(on, 5)
        assert await on.refused(get()) == [503]
        assert len(on.seen) == 5
        on.go.set()
        assert [await on.answered(reader) for reader in held] == [[200]] * 5
        assert await on.taken(get()) == [200]


async def test_a_flood_of_refused_ones_ends_and_hurts_nobody() -> None:
    async with place(connections=5, linger_s=600) as on:
        held = await busy(on, 5)
        flood = await idle(on, 120)
        assert len(on.connections) == 6
        for reader in flood[:-1]:
            with suppress(ConnectionError):
                assert statuses(await reader.read()) in ([503], [])
        on.go.set()
        assert [await on.answered(reader) for reader in held] == [[200]] * 5


async def test_of_one_client_s_idle_connections_the_oldest_give_way() -> None:
    async with place(idle_per_client=3) as on:
        [in_use] = await busy(on, 1)
        others = await idle(on, 3, "127.0.0.2")
        mine = await idle(on, 3)
        mine[0]._transport.write(b"GET / HT")  # begun is not asked  # type: ignore[attr-defined]
        fresh = await idle(on, 2)
        assert await ended(mine[0])
        assert await ended(mine[1])
        on.go.set()
        assert await on.answered(in_use) == [200]  # and waits for more, as a fourth
        assert await ended(mine[2])
        assert await on.taken(get()) == [200]
        assert not any(reader.at_eof() for reader in [*others, fresh[1]])


async def test_a_body_that_nobody_waits_for_is_no_request() -> None:
    async with place(idle_per_client=1) as on:
        on.reads = False
        reader, writer = await on.open()
        writer.write(post(b"Content-Length: 100", body=b"begun"))
        assert await on.answered(reader) == [200]
        fresh, _ = await on.open()
        assert await ended(reader)
        assert not fresh.at_eof()


async def test_a_stranger_s_idle_connections_keep_nobody_out() -> None:
    async with place(connections=5, idle_per_client=4) as on:
        [his] = await idle(on, 1, "127.0.0.3")
        strangers = await idle(on, 4, "127.0.0.2")
        for gone in strangers[:3]:
            reader, writer = await on.open()
            assert await ended(gone)
            writer.write(get())
            assert await on.answered(reader) == [200]
        assert len(on.connections) == 5
        assert not his.at_eof()
        assert not strangers[3].at_eof()


async def test_one_address_of_our_own_is_not_kept_out_by_its_own_idle_ones() -> None:
    """Without a front server all that one person has comes from this address."""
    async with place() as on:
        strangers = await idle(on, 1200)
        assert await on.taken(get()) == [200]
        assert await ended(strangers[0])
        assert len(on.connections) <= StrictProtocol.limits.idle_per_client + 1


async def test_behind_a_front_server_a_client_is_who_it_says() -> None:
    async with place(front_servers=("127.0.0.1",), idle_per_client=2) as on:
        unasked = await idle(on, 4)

        async def kept(client: bytes) -> asyncio.StreamReader:
            reader, writer = await on.open()
            writer.write(get(b"X-Forwarded-For: 192.0.2.9, " + client))
            assert await on.answered(reader) == [200]
            return reader

        one, other, net = b"198.51.100.1", b"198.51.100.2", [b"2001:db8::1", b"2001:db8::2"]
        first, second, theirs = await kept(one), await kept(one), await kept(other)
        of_net = [await kept(net[0]), await kept(net[1]), await kept(net[0])]
        assert not first.at_eof()
        await kept(one)
        assert await ended(first)
        assert await ended(of_net[0])
        assert not any(r.at_eof() for r in [*unasked, second, theirs, *of_net[1:]])

        direct = [await on.open("127.0.0.2") for _ in range(2)]
        for reader, writer in direct:  # whoever is no front server may say what they like
            writer.write(get(b"X-Forwarded-For: 198.51.100.7"))
            assert await on.answered(reader) == [200]
        await on.open("127.0.0.2")
        assert await ended(direct[0][0])
