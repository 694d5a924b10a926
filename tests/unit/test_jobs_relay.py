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

import pytest

from lib.gate.certificates import KeyPair, make_pair
from lib.jobs.relay import Relay, bind, server_context
from tests.contract.small_notebook import stalled

NAME = "s-00000000-0000-4000-8000-000000000001"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Site:
    """A relay to a UNIX socket server, and TLS contexts that do or do not fit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
        upstream = await asyncio.start_unix_server(handler, path)
        context = server_context(
            self.folder / "server.crt", self.folder / "server.key", self.folder / "client.crt"
        )
        relay = Relay(bind("127.0.0.1"), context, path)
        await relay.start()
        try:
            yield relay.port
        finally:
            await relay.close()
            upstream.close()
            path.unlink(missing_ok=True)


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
