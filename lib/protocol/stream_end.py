"""One side of a `ResumableStream` with its connections: what portal and session script share.

A subclass says what is at this side (an application, a socket) and what becomes of a stream
whose connection was lost. Belongs to one event loop. Standard library only, Python 3.10.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import cast

from lib.protocol.resumable import (
    ALPN,
    GREETING_BYTES,
    WINDOW,
    Greeting,
    ResumableStream,
    Violation,
)

#: After so long without a word the other side is asked, and after so long it is gone.
PING_S, SILENT_S = 15.0, 45.0


class Carrier(asyncio.Protocol):
    """One connection: a greeting first, then what belongs to the stream that it carries."""

    def __init__(
        self, greeted: Callable[[Carrier, Greeting], None], left: Callable[[Carrier], None]
    ) -> None:
        """
        Args:
            greeted: told of the other side's greeting, once.
            left: told that the connection is over.
        """
        self._greeted = greeted
        self._left = left
        self._early: bytearray | None = bytearray()
        self._transport: asyncio.Transport | None = None
        self._end: StreamEnd | None = None
        self.has_greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    @property
    def alive(self) -> bool:
        return self._transport is not None

    def data_received(self, data: bytes) -> None:
        if self._end is not None:
            self._end.take(data)
            return
        if self._early is None:
            return  # it was taken off its stream
        self._early += data
        if self.has_greeted or len(self._early) < GREETING_BYTES:
            return
        self.has_greeted = True
        self._pause(paused=True)
        try:
            greeting = Greeting.decode(bytes(self._early[:GREETING_BYTES]))
        except Violation:
            self.abort()
            return
        del self._early[:GREETING_BYTES]
        self._greeted(self, greeting)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        end, self._end = self._end, None
        if end is not None:
            end.lost(self)
        self._left(self)

    def hand_over(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """The connection, to be used without a stream. Raises ConnectionResetError."""
        if self._transport is None:
            raise ConnectionResetError("the connection is over")
        transport, self._transport = self._transport, None
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return transport

    def carry(self, end: StreamEnd) -> None:
        """From now on what comes is the stream's."""
        early, self._early = self._early, None
        self._end = end
        if early:
            end.take(bytes(early))
        self._pause(paused=False)

    def leave(self) -> None:
        """The stream has another connection."""
        self._end = None
        self.abort()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """After what was written."""
        self._end = None
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _pause(self, *, paused: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        with contextlib.suppress(RuntimeError):
            if paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()


def speaks_streams(transport: asyncio.BaseTransport | None) -> bool:
    """Whether TLS has agreed on these streams."""
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object") if transport else None
    return tls is not None and tls.selected_alpn_protocol() == ALPN


class StreamEnd:
    """See the module. Subclasses define what raises NotImplementedError here."""

    def __init__(self, window: int = WINDOW) -> None:
        self._stream = ResumableStream(window)
        self._window = window
        self._carrier: Carrier | None = None
        self._loop = asyncio.get_running_loop()
        self._beating: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._takes = True
        self._held = False
        self.over = False

    # --- for subclasses --------------------------------------------------------------------

    def deliver(self, data: bytes) -> None:
        """Hand bytes on, in order."""
        raise NotImplementedError

    def hold(self, *, held: bool) -> None:
        """Whether who writes here has to wait."""
        raise NotImplementedError

    def detached(self) -> None:
        """The connection was lost."""
        raise NotImplementedError

    def ended(self, exc: Exception | None) -> None:
        """The stream is over, for good. Called once."""
        raise NotImplementedError

    # --- the connection --------------------------------------------------------------------

    @property
    def received(self) -> int:
        return self._stream.received

    @property
    def carried(self) -> bool:
        """Whether there is a connection."""
        return self._carrier is not None

    def attach(self, carrier: Carrier, received: int, first: bytes = b"") -> None:
        """Go on over this connection, which replaces any other.

        Args:
            received: what the other side has, as it says.
            first: written before anything of the stream.
        Raises:
            Violation: it cannot have that; nothing has changed.
        """
        self._stream.attach(received)
        old, self._carrier = self._carrier, carrier
        if old is not None:
            old.leave()
        if first:
            carrier.write(first)
        self._heard = self._loop.time()
        if self._beating is None:
            self._beating = self._loop.call_later(PING_S, self._beat)
        carrier.carry(self)
        self.pump()

    def lost(self, carrier: Carrier) -> None:
        """That connection is over."""
        if carrier is self._carrier:
            self._carrier = None
            self._stream.detach()
            self._rest()
            if not self.over:
                self.detached()

    def take(self, data: bytes) -> None:
        """What the connection brought."""
        self._heard = self._loop.time()
        try:
            self._stream.feed(data)
        except Violation as exc:
            self.finish(ConnectionAbortedError(str(exc)))
            return
        self.pump()

    def _beat(self) -> None:
        self._beating = None
        if self._carrier is None:
            return
        silent = self._loop.time() - self._heard
        if silent >= SILENT_S:
            self._carrier.abort()
            return
        if silent >= PING_S:
            self._stream.ping()
            self._flush()
        self._beating = self._loop.call_later(PING_S, self._beat)

    def _rest(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            self._beating = None

    # --- bytes -----------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write to the other side."""
        if not self.over:
            self._stream.write(data)
            self._flush()

    def pump(self) -> None:
        """Hand on what came, send what may be sent, and see whether it is over."""
        while not self.over and (self._takes or self._stream.closed):
            data = self._stream.read()
            if not data:
                break
            if not self._stream.closed:  # who closed does not listen any more
                self.deliver(data)
        self._flush()
        if self.over:
            return
        if self._stream.was_reset:
            self.finish(ConnectionResetError("the other side has ended the stream"), tell=False)
        elif self._stream.ended or self._stream.finished:
            self.finish(None)

    def _flush(self) -> None:
        if self._carrier is not None and (out := self._stream.outgoing()):
            self._carrier.write(b"".join(out))
        held = self._stream.kept > (self._window // 2 if self._held else self._window)
        if held != self._held and not self.over:
            self._held = held
            self.hold(held=held)

    def close_stream(self) -> None:
        """Nothing more will be written; it is over when all of it has arrived."""
        self._stream.close()
        self.pump()

    def finish(self, exc: Exception | None, *, tell: bool = True) -> None:
        """It is over, now.

        Args:
            exc: what went wrong; None where it has simply come to its end.
            tell: the other side too, where something went wrong.
        """
        if self.over:
            return
        self.over = True
        self._rest()
        carrier, self._carrier = self._carrier, None
        self._stream.detach()
        if carrier is not None:
            if exc is not None and tell:
                carrier.write(b"X")
            carrier.close()
        self.ended(exc)
