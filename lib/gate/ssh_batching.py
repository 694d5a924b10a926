"""Batched SSH writes: fewer system calls and fewer copies per byte of a forward.

For each 32 KiB of a forward asyncssh 2.24 sends two packets, each with a system call of
its own, and copies the data nine times on its way. Here

* the empty `MSG_IGNORE` before each packet is left out: it defends CBC ciphers (RFC 4251,
  section 9.3.1), and the gate offers AES-GCM only;
* packets of one turn of the event loop are written at once;
* channel data is put together once and sealed with a cipher object that is kept. Keys,
  nonces and the time for new keys stay asyncssh's: whatever is not plain channel data on
  an established connection takes its own way.

benchmarks/gate.py measures the effect against OpenSSH's sshd.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Protocol, cast

import asyncssh
from asyncssh.crypto.cipher import GCMCipher
from asyncssh.encryption import GCMEncryption
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

if TYPE_CHECKING:
    from asyncssh.encryption import Encryption
    from asyncssh.packet import SSHPacketLogger

_MSG_IGNORE = 2
_MSG_CHANNEL_DATA = 94
_BLOCK = 16
#: Written at once when so much has come together, without waiting for the turn's end.
_MOST_BYTES = 512 * 1024


class ReusedKeyGcm(GCMCipher):
    """AES-GCM whose key is set up once; takes over the nonce where the other one is."""

    def __init__(self, cipher: GCMCipher) -> None:
        self._cipher = cipher._cipher
        self._key = cipher._key
        self._iv = cipher._iv
        self._aead = AESGCM(self._key)

    def encrypt_and_sign(self, header: bytes, data: bytes) -> tuple[bytes, bytes]:
        """The two pieces whose concatenation goes on the wire, as asyncssh's callers do."""
        sealed = self._aead.encrypt(self._iv, data, header)
        self._update_iv()
        return header, sealed


class BatchingTransport:
    """A transport whose writes are joined; everything else is the transport's own."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Keep `data` until the turn of the event loop ends, or much has come together."""
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _MOST_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand over what was kept."""
        if self._pieces:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            self._size = 0
            self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._pieces.clear()
        self._size = 0
        self._transport.abort()


class _SendPacket(Protocol):
    def __call__(
        self, pkttype: int, /, *args: bytes, handler: SSHPacketLogger | None = None
    ) -> None: ...


class _Connection(Protocol):
    """What is touched of the inside of asyncssh's `SSHConnection` (2.24)."""

    send_packet: _SendPacket
    _transport: asyncio.Transport | BatchingTransport | None
    _auth_complete: bool
    _kex_complete: bool
    _compressor: object | None
    _rekey_bytes: int
    _rekey_bytes_sent: int
    _rekey_seconds: float
    _rekey_time: float
    _send_encryption: Encryption | None
    _send_seq: int


def send_in_batches(connection: asyncssh.SSHServerConnection) -> None:
    """Change how this connection, which has just been made, sends its packets."""
    inside = cast(_Connection, connection)
    transport, send_packet = inside._transport, inside.send_packet
    assert isinstance(transport, asyncio.Transport)  # noqa: S101 - it has just been made
    inside._transport = BatchingTransport(transport)

    def send(pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None) -> None:
        line = inside._transport  # None once the connection is over
        encryption = _plain_encryption(inside) if line and pkttype == _MSG_CHANNEL_DATA else None
        if line and encryption:
            _send_data(inside, line, encryption, args)
        elif pkttype != _MSG_IGNORE:
            send_packet(pkttype, *args, handler=handler)

    inside.send_packet = send


def _plain_encryption(inside: _Connection) -> GCMEncryption | None:
    """That of a connection that is established, by AES-GCM, not compressed, and whose time for
    new keys has not come; else None."""
    if not (inside._auth_complete and inside._kex_complete) or inside._compressor:
        return None
    if inside._rekey_bytes_sent >= inside._rekey_bytes:
        return None
    if inside._rekey_seconds and time.monotonic() >= inside._rekey_time:
        return None
    encryption = inside._send_encryption
    if not isinstance(encryption, GCMEncryption):
        return None
    if type(encryption._cipher) is GCMCipher:  # after each exchange of keys
        encryption._cipher = ReusedKeyGcm(encryption._cipher)
    return encryption


def _send_data(
    inside: _Connection,
    line: asyncio.Transport | BatchingTransport,
    encryption: GCMEncryption,
    args: tuple[bytes, ...],
) -> None:
    """One channel data packet (RFC 4253, section 6; RFC 5647, section 7.2)."""
    size = 1 + sum(map(len, args))
    padding = -(1 + size) % _BLOCK
    if padding < 4:
        padding += _BLOCK
    packet = b"".join((bytes((padding, _MSG_CHANNEL_DATA)), *args, os.urandom(padding)))
    header = len(packet).to_bytes(4, "big")
    seq = inside._send_seq
    for piece in encryption.encrypt_packet(seq, header, packet):
        line.write(piece)
    inside._send_seq = (seq + 1) & 0xFFFFFFFF
    inside._rekey_bytes_sent += len(packet)
