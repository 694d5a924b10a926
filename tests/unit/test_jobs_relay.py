"""The TLS relay before a notebook: only the pinned client gets in, and no byte is lost."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lib.gate.certificates import KeyPair, make_pair
from lib.jobs.relay import Relay, bind, server_context
from lib.protocol.resumable import (
    ALPN,
    GREETING_BYTES,
    ID_BYTES,
    WINDOW,
    Greeting,
    Hello,
    ResumableStream,
)
from tests.contract.small_notebook import stalled

NAME = "s-00000000-0000-4000-8000-000000000001"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Site:
    """A relay to a UNIX socket server, and TLS contexts that do or do not fit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writers: list[asyncio.StreamWriter] = []
        self.server, self.client = make_pair(NAME, server=True), make_pair("portal", server=False)
        for name, pair in (("server", self.server), ("client", self.client)):
            self.write(name, pair)

    def write(self, name: str, pair: KeyPair) -> tuple[Path, Path]:
        cert, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert.write_bytes(pair.cert)
        key.write_bytes(pair.key)
        return cert, key

    def context(self, client: str | None = "client", trust: str = "server") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.folder / f"{trust}.crt")
        if client:
            context.load_cert_chain(self.folder / f"{client}.crt", self.folder / f"{client}.key")
        return context

    @asynccontextmanager
    async def relay(self, handler: Handler) -> AsyncIterator[int]:
        path = self.folder / "n.sock"
        handling: set[asyncio.Task[Any] | None] = set()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            handling.add(asyncio.current_task())
            try:
                await handler(reader, writer)
            finally:
                handling.discard(asyncio.current_task())

        upstream = await asyncio.start_unix_server(handle, path)
        context = server_context(
            self.folder / "server.crt", self.folder / "server.key", self.folder / "client.crt"
        )
        relay = self.last = Relay(bind("127.0.0.1"), context, path)
        await relay.start()
        try:
            yield relay.port
        finally:
            for writer in self.writers:
                writer.transport.abort()
            await relay.close()
            upstream.close()
            path.unlink(missing_ok=True)
            while handling:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def ask(port: int, context: ssl.SSLContext, data: bytes = b"hello\n") -> bytes:
    """What comes back until the other side closes."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=NAME
    )
    try:
        writer.write(data)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), 300)
    finally:
        writer.close()


async def turned_away(port: int, context: ssl.SSLContext) -> bool:
    """Whether nothing comes back; TLS 1.3 tells a client only after its own handshake."""
    try:
        return await ask(port, context) == b""
    except (ssl.SSLError, ConnectionError):
        return True


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    line = await reader.readline()
    writer.write(b"you said " + line)
    writer.close()


async def test_the_pinned_client_gets_through(site: Site) -> None:
    async with site.relay(greet) as port:
        assert await ask(port, site.context()) == b"you said hello\n"


async def test_anybody_else_does_not(site: Site) -> None:
    reached = []

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(await reader.readline())
        writer.close()

    site.write("other", make_pair("portal", server=False))
    async with site.relay(record) as port:
        for client in (None, "other"):
            assert await turned_away(port, site.context(client))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
    assert reached == []


async def test_a_certificate_signed_by_the_client_is_no_client(site: Site) -> None:
    """The pinned certificate is no authority: what it signs counts for nothing."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    issuer = x509.load_pem_x509_certificate(site.client.cert)
    issuer_key = serialization.load_pem_private_key(site.client.key, None)
    key = ec.generate_private_key(ec.SECP256R1())
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    cert = (
        x509.CertificateBuilder()
        .subject_name(issuer.subject)
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_after_utc)
        .sign(issuer_key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    site.write("forged", KeyPair(cert.public_bytes(serialization.Encoding.PEM), pem))
    async with site.relay(greet) as port:
        assert await turned_away(port, site.context("forged"))


async def test_the_client_notices_another_server_or_name(site: Site) -> None:
    site.write("stranger", make_pair(NAME, server=True))
    async with site.relay(greet) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(port, site.context(trust="stranger"))
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(
                "127.0.0.1", port, ssl=site.context(), server_hostname="s-other"
            )


async def test_large_transfers_both_ways_are_whole(site: Site) -> None:
    data = os.urandom(6 * 2**20)

    async def echo_hash(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = await reader.readexactly(len(data))
        writer.write(hashlib.sha256(got).digest() + got)
        writer.close()  # at once: what was written before must still arrive

    async with site.relay(echo_hash) as port:
        answer = await ask(port, site.context(), data)
    assert answer[:32] == hashlib.sha256(data).digest()
    assert answer[32:] == data


async def test_a_slow_reader_holds_the_notebook_back(site: Site) -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            while True:
                writer.write(bytes(65536))
                await writer.drain()
                sent += 65536
        except ConnectionError:
            left.set()

    left = asyncio.Event()
    async with site.relay(flood) as port:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=site.context(), server_hostname=NAME, limit=65536
        )
        before = await stalled(lambda: sent)
        assert before < 40 * 2**20
        for _ in range(40):  # more than waits on the way
            await reader.readexactly(2**20)
        assert sent > before  # it went on
        writer.transport.abort()
        await left.wait()


async def test_a_notebook_that_is_not_there_ends_the_connection(site: Site) -> None:
    async with site.relay(greet) as port:
        (site.folder / "n.sock").unlink()
        assert await turned_away(port, site.context())


async def test_a_fault_of_one_connection_is_logged_once_and_the_others_go_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with site.relay(greet) as port:
        with monkeypatch.context() as patch:
            patch.setattr("lib.jobs.relay.connect_unix", _strange)
            for _ in range(2):
                assert await turned_away(port, site.context())
        assert await ask(port, site.context()) == b"you said hello\n"
    assert [r.levelname for r in caplog.records].count("ERROR") == 1


async def _strange(_target: Path) -> None:
    raise RuntimeError("planted")


@pytest.mark.skipif(sys.platform != "linux", reason="needs O_PATH")
async def test_what_stands_in_for_the_notebooks_socket_is_not_connected(site: Site) -> None:
    """A container may put a link to another socket of the node there."""
    async with site.relay(greet) as port:
        path, other = site.folder / "n.sock", site.folder / "bus.sock"
        path.rename(other)
        for target in (other, Path("/proc/self/root"), site.folder / "none"):
            path.symlink_to(target)
            assert await turned_away(port, site.context())
            path.unlink()
        path.write_text("a file")
        assert await turned_away(port, site.context())
        path.unlink()
        other.rename(path)
        assert await ask(port, site.context()) == b"you said hello\n"


async def test_closing_the_relay_ends_what_is_open(site: Site) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        came.set()
        await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        left.set()

    came, left = asyncio.Event(), asyncio.Event()
    async with site.relay(hang) as port:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=site.context(), server_hostname=NAME
        )
        writer.write(b"x")
        await came.wait()
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    await left.wait()
    writer.close()


# --- resumable streams --------------------------------------------------------------------------


class Visitor:
    """The portal's side of one stream, with one connection at a time."""

    def __init__(self, site: Site, port: int, *, client: str | None = "client") -> None:
        self.site = site
        self.port = port
        self.context = site.context(client)
        self.context.set_alpn_protocols([ALPN])
        self.stream = ResumableStream()
        self.id = bytes(ID_BYTES)
        self.got = b""

    async def come(self, hello: Hello = Hello.RESUME, **claims: Any) -> Hello:
        """On a new connection; what the session script says to it."""
        said = {"id": self.id, "received": self.stream.received, **claims}
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context, server_hostname=NAME
        )
        self.site.writers.append(self.writer)
        self.writer.write(Greeting(hello, **said).encode())
        answer = Greeting.decode(await self.reader.readexactly(GREETING_BYTES))
        if answer.hello is Hello.WELCOME:
            self.id = answer.id
            self.stream.attach(answer.received)
        return answer.hello

    def go(self) -> None:
        self.writer.transport.abort()
        self.stream.detach()

    def say(self, data: bytes) -> None:
        self.stream.write(data)
        self.writer.write(b"".join(self.stream.outgoing()))

    async def hear(self, count: int) -> bytes:
        """What the notebook has said in all, when it is so much."""
        while len(self.got) < count and await self.more():
            pass
        return self.got

    async def more(self) -> bool:
        """Take what the connection brings; False when it has ended."""
        data = await self.reader.read(2**16)
        self.stream.feed(data)
        while part := self.stream.read():
            self.got += part
        self.writer.write(b"".join(self.stream.outgoing()))
        return bool(data)


@asynccontextmanager
async def visiting(site: Site, handler: Handler, **how: Any) -> AsyncIterator[Visitor]:
    async with site.relay(handler) as port:
        visitor = Visitor(site, port, **how)
        assert await visitor.come(Hello.OPEN) is Hello.WELCOME
        yield visitor
        visitor.go()


async def parrot(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(2**16):
            writer.write(data)
    writer.close()


async def test_a_stream_goes_on_over_another_connection(site: Site) -> None:
    """Also when the first one has not ended for the session script; the last one counts."""
    async with visiting(site, parrot) as visitor:
        said = b""
        for word in (b"one ", b"two ", b"three "):
            visitor.say(word)  # and does not wait for it
            said += word
            first = visitor.writer
            assert await visitor.come() is Hello.WELCOME
            first.transport.abort()
        assert await visitor.hear(len(said)) == said
        visitor.go()
        visitor.stream.write(b"four")
        assert await visitor.come() is Hello.WELCOME
        visitor.say(b"")
        assert await visitor.hear(len(said) + 4) == said + b"four"


async def test_two_that_resume_one_stream_at_once_are_one(site: Site) -> None:
    async with visiting(site, parrot) as visitor:
        visitor.say(b"once")
        await visitor.hear(4)
        one, two = (Visitor(site, visitor.port) for _ in range(2))
        for each in (one, two):
            each.id, each.stream._received, each.stream._position = visitor.id, 4, 4
            each.stream._arrived = each.stream._written = 4
        answers = await asyncio.gather(one.come(), two.come(), return_exceptions=True)
        assert Hello.WELCOME in answers
        ended = [asyncio.ensure_future(each.reader.read()) for each in (visitor, one, two)]
        done, left = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 2:
            more, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert len(left) == 1
        for task in left:
            task.cancel()


async def test_an_id_is_of_no_use_to_anybody_else(site: Site, tmp_path: Path) -> None:
    """Without the certificate; in another session; when it is made up, or over."""
    ended = asyncio.Event()

    async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await parrot(reader, writer)
        ended.set()

    site.write("other", make_pair("portal", server=False))
    (tmp_path / "b").mkdir()
    elsewhere = Site(tmp_path / "b")
    async with visiting(site, told) as visitor, visiting(elsewhere, told) as other:
        for client in (None, "other"):
            thief = Visitor(site, visitor.port, client=client)
            thief.id = visitor.id
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await thief.come()
        near = visitor.id[:-1] + bytes([visitor.id[-1] ^ 1])
        for wrong in (os.urandom(ID_BYTES), bytes(ID_BYTES), other.id, near):
            assert await Visitor(site, visitor.port).come(id=wrong) is Hello.UNKNOWN
        for claim in (5, 2**64 - 1):
            guess = Visitor(site, visitor.port)
            assert await guess.come(id=visitor.id, received=claim) is Hello.UNKNOWN
        visitor.say(b"still here")
        assert await visitor.hear(10) == b"still here"
        visitor.stream.close()
        visitor.say(b"")
        await ended.wait()
        while await visitor.more():
            pass
        assert await Visitor(site, visitor.port).come(id=visitor.id) is Hello.UNKNOWN


async def test_who_does_not_come_back_in_time_is_forgotten(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await parrot(reader, writer)
        ended.set()

    monkeypatch.setattr("lib.jobs.streams.KEEP_S", 0.2)
    async with visiting(site, told) as visitor:
        visitor.go()
        await ended.wait()
        assert await visitor.come() is Hello.UNKNOWN


async def test_who_never_says_what_it_has_holds_the_notebook_back(site: Site) -> None:
    sent = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(bytes(65536))
                await writer.drain()
                sent += 65536

    async with visiting(site, flood) as visitor:
        reading = asyncio.ensure_future(visitor.reader.read())  # all of it, and no answer
        assert await stalled(lambda: sent) < 4 * WINDOW
        reading.cancel()


BEYOND = b"D" + (WINDOW + 1).to_bytes(4, "big")


@pytest.mark.parametrize("bad", [b"A" + (9).to_bytes(8, "big"), BEYOND, b"?", b"FF"])
async def test_who_breaks_the_rules_loses_that_stream_and_no_other(site: Site, bad: bytes) -> None:
    ended = asyncio.Event()

    async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1) != b"g":
            ended.set()
        await parrot(reader, writer)

    async with visiting(site, told) as good:
        good.say(b"good")
        assert await good.hear(3) == b"ood"
        breaker = Visitor(site, good.port)
        assert await breaker.come(Hello.OPEN) is Hello.WELCOME
        breaker.writer.write(bad)
        await ended.wait()
        assert (await breaker.reader.read()).endswith(b"X")
        assert await breaker.come() is Hello.UNKNOWN
        good.say(b"!")
        assert await good.hear(4) == b"ood!"


async def test_many_streams_take_the_place_of_those_without_a_connection(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.jobs.streams.MOST", 2)
    async with visiting(site, parrot) as first:
        second, third, fourth = (Visitor(site, first.port) for _ in range(3))
        assert await second.come(Hello.OPEN) is Hello.WELCOME
        with pytest.raises(asyncio.IncompleteReadError):
            await third.come(Hello.OPEN)
        first.go()
        while all(end.carried for end in site.last.streams._ends.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await fourth.come(Hello.OPEN) is Hello.WELCOME
        assert await first.come() is Hello.UNKNOWN
        second.say(b"still here")
        assert await second.hear(10) == b"still here"


async def test_who_proves_itself_and_says_nothing_is_not_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.jobs.streams._GREETING_S", 0.05)
    async with site.relay(parrot) as port:
        silent = Visitor(site, port)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=silent.context, server_hostname=NAME
        )
        writer.write(b"O")
        assert await reader.read() == b""
        writer.close()


async def test_a_dead_connection_is_noticed_and_its_stream_kept(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.protocol.stream_end.PING_S", 0.05)
    monkeypatch.setattr("lib.protocol.stream_end.SILENT_S", 0.2)
    async with visiting(site, parrot) as visitor:
        assert set(await visitor.reader.read()) <= set(b"PA\0")  # asked, and then cut
        monkeypatch.setattr("lib.protocol.stream_end.SILENT_S", 3600.0)
        assert await visitor.come() is Hello.WELCOME
        for _ in range(5):
            await visitor.more()  # answers
        visitor.say(b"here")
        assert await visitor.hear(4) == b"here"
