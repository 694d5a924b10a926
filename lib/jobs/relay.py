"""TLS relay: from mutual TLS on a TCP port to a UNIX socket.

The port is bound before anything else happens, so it is never probed and lost. Only the
one pinned client certificate gets through the handshake; other users of the node cannot
even send a request. Data is relayed with backpressure both ways, and what one side wrote
before it closed reaches the other. A portal that asks for it in TLS gets streams that outlive
a connection (`lib.jobs.streams`); of any other the bytes are relayed as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import cast

from lib.jobs.sockets import connect_unix, unread_of
from lib.jobs.streams import Streams
from lib.loops import Loops
from lib.protocol.resumable import ALPN
from lib.protocol.stream_end import speaks_streams

_HIGH_WATER = 512 * 1024
_HANDSHAKE_TIMEOUT_S = 10.0
_BACKLOG = 512


def server_context(cert: Path, key: Path, client_cert: Path) -> ssl.SSLContext:
    """TLS 1.3 that shows `cert` and trusts only `client_cert`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(cert, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(client_cert)
    context.set_alpn_protocols([ALPN])
    return context


def bind(host: str) -> socket.socket:
    """A bound TCP socket on a free port, not yet listening.

    Args:
        host: address to bind to; "" for this node's own name.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.bind((host or socket.gethostname(), 0))
    except OSError:
        sock.close()
        raise
    return sock


class _Side(asyncio.Protocol):
    """One end of a relayed connection."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: _Side | None = None
        self._early = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)

    def join(self, peer: _Side) -> None:
        """Begin to relay, with what came already."""
        self.peer, peer.peer = peer, self
        for one, other in ((self, peer), (peer, self)):
            if one._early:
                other.write(bytes(one._early))
                one._early.clear()

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            self._early += data
        else:
            self.peer.write(data)

    def eof_received(self) -> bool:
        transport = self.peer.transport if self.peer else None
        if transport is None or not transport.can_write_eof():
            return False  # TLS of asyncio cannot stay half open: close after flushing
        transport.write_eof()
        return self.transport is not None and self.transport.can_write_eof()

    def pause_writing(self) -> None:
        if self.peer and self.peer.transport:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer and self.peer.transport:
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        peer, self.peer = self.peer, None
        plain = self.transport if exc is not None and not isinstance(self, _Inbound) else None
        unread = unread_of(plain)
        if peer is not None and unread:
            peer.write(unread)
        self.transport = None
        if peer is not None and peer.transport is not None:
            peer.transport.close()  # flushes first


class _Inbound(_Side):
    """The TLS end; makes its UNIX end once the client has proved itself."""

    def __init__(self, relay: Relay) -> None:
        super().__init__()
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if speaks_streams(transport):
            carrier = self._relay.streams.carrier()
            cast(asyncio.Transport, transport).set_protocol(carrier)
            carrier.connection_made(transport)
            return
        super().connection_made(transport)
        self._relay.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._relay.closed(self)


class Relay:
    """Serves `sock` until closed."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        target: Path,
        loops: Loops | None = None,
    ) -> None:
        self._loops = loops or Loops("The relay", logging.getLogger(__name__))
        self._sock = sock
        self._context = context
        self._target = target
        self._server: asyncio.Server | None = None
        self.streams = Streams(self._to_notebook, self._loops)
        self._open: set[_Inbound] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The bound port."""
        return int(self._sock.getsockname()[1])

    @property
    def host(self) -> str:
        """The bound address."""
        return str(self._sock.getsockname()[0])

    async def start(self) -> None:
        """Begin to accept connections."""
        loop = asyncio.get_running_loop()
        factory: Callable[[], asyncio.Protocol] = lambda: _Inbound(self)  # noqa: E731
        self._server = await loop.create_server(
            factory,
            sock=self._sock,
            ssl=self._context,
            backlog=_BACKLOG,
            ssl_handshake_timeout=_HANDSHAKE_TIMEOUT_S,
        )

    async def close(self) -> None:
        """Stop accepting and drop what is open."""
        if self._server is not None:
            self._server.close()
        else:
            self._sock.close()
        for side in list(self._open):
            if side.transport is not None:
                side.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.streams.close()

    def opened(self, side: _Inbound) -> None:
        self._open.add(side)
        task = asyncio.ensure_future(self._connect(side))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def closed(self, side: _Inbound) -> None:
        self._open.discard(side)

    async def _to_notebook(self) -> socket.socket:
        return await connect_unix(self._target)

    async def _connect(self, side: _Inbound) -> None:
        """Pauses the client until the notebook's socket took the connection."""
        if side.transport is None:
            return
        with contextlib.suppress(RuntimeError):
            side.transport.pause_reading()
        try:
            sock = await self._to_notebook()
            _, out = await asyncio.get_running_loop().create_unix_connection(_Side, sock=sock)
        except Exception as exc:  # of this connection; the others go on
            if not isinstance(exc, OSError):
                self._loops.note("a connection to the notebook", exc)
            side.transport.abort()
            return
        if side.transport is None or side.transport.is_closing():
            if out.transport is not None:
                out.transport.close()
            return
        side.join(out)
        side.transport.resume_reading()
