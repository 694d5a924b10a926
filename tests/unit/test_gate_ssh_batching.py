"""The gate's quick way for channel data: the same bytes, also over an exchange of keys."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import asyncssh
import pytest

from lib.gate.ssh_batching import BatchingTransport, ReusedKeyGcm, send_in_batches

HERE = "127.0.0.1"
MIB = 2**20


class Quick(asyncssh.SSHServer):
    """Forwards anywhere on loopback, with the gate's sending."""

    made: list[asyncssh.SSHServerConnection] = []  # noqa: RUF012 (one test at a time)

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        send_in_batches(conn)
        self.made.append(conn)

    def begin_auth(self, username: str) -> bool:
        return False

    def connection_requested(self, *where: object) -> bool:
        return True


OPTIONS = {"known_hosts": None, "username": "x", "client_keys": None, "config": None}


async def listening(
    cipher: str = "aes128-gcm@openssh.com", rekey_bytes: int = 2**30
) -> asyncssh.SSHAcceptor:
    return await asyncssh.listen(
        HERE,
        0,
        server_factory=Quick,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        encryption_algs=[cipher],
        compression_algs=None,
        rekey_bytes=rekey_bytes,
    )


@pytest.mark.parametrize("rekey_bytes", [MIB, 2**30])
@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"])
async def test_what_goes_through_is_what_comes_out(cipher: str, rekey_bytes: int) -> None:
    Quick.made.clear()
    content = os.urandom(9 * MIB + 12_345)

    async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readexactly(4)
        assert asked == b"send"
        for start in range(0, len(content), 70_001):
            writer.write(content[start : start + 70_001])
            await writer.drain()
        writer.close()

    sender = await asyncio.start_server(source, HERE, 0)
    server = await listening(cipher, rekey_bytes)
    async with asyncssh.connect(HERE, server.get_port(), **OPTIONS) as client:
        port = sender.sockets[0].getsockname()[1]
        reader, writer = await client.open_connection(HERE, port)
        writer.write(b"send")
        got = await asyncio.wait_for(reader.read(), 300)
        inside = Quick.made[0]
        assert isinstance(inside._transport, BatchingTransport)
        assert isinstance(inside._send_encryption._cipher, ReusedKeyGcm), (
            "the quick way was not taken"
        )
    assert hashlib.sha256(got).digest() == hashlib.sha256(content).digest()
    server.close()
    await server.wait_closed()
    await inside.wait_closed()
    sender.close()
    await sender.wait_closed()


async def test_what_a_forward_still_sends_on_a_connection_that_is_over_goes_nowhere() -> None:
    Quick.made.clear()
    server = await listening()
    async with asyncssh.connect(HERE, server.get_port(), **OPTIONS):
        inside = Quick.made[0]
        inside.abort()
        await inside.wait_closed()
        assert inside._transport is None
        inside.send_packet(94, b"late")
    server.close()
    await server.wait_closed()


def test_asyncssh_is_the_version_that_this_was_written_for() -> None:
    """The quick way knows the inside of asyncssh; a new version has to be read again."""
    pinned = Path(__file__).resolve().parents[2] / "requirements.txt"
    assert f"asyncssh=={asyncssh.__version__}" in pinned.read_text()
    assert asyncssh.__version__ == "2.24.1"
