"""Resumable streams to the notebook, at the session script's side of the TLS relay.

Each has a connection of its own to the notebook's socket, which stays while the connection to
the portal is away, for `KEEP_S`. Ids are made here, live in memory only, and end with the job.
Who comes has shown the one client certificate; without it no id is of any use.

Memory of a stream: `WINDOW` in each direction, and what the notebook's socket takes at once. At
most `MOST` streams are kept; of those without a connection the eldest goes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from socket import socket
from typing import cast

from lib.jobs.sockets import unread_of
from lib.loops import Loops
from lib.protocol.resumable import ID_BYTES, KEEP_S, Greeting, Hello, Violation
from lib.protocol.stream_end import Carrier, StreamEnd

MOST = 256
_GREETING_S = 10.0
_HIGH_WATER = 512 * 1024


class Streams:
    """The streams of one notebook."""

    def __init__(self, connect: Callable[[], Awaitable[socket]], loops: Loops) -> None:
        """
        Args:
            connect: a connected socket of the notebook; raises OSError.
        """
        self._connect = connect
        self._loops = loops
        self._ends: dict[bytes, _NotebookEnd] = {}
        self._carriers: set[Carrier] = set()
        self._opening: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._ends)

    def carrier(self) -> Carrier:
        """The protocol of a connection whose client has proved itself."""
        carrier = Carrier(self._greeted, self._carriers.discard)
        self._carriers.add(carrier)
        asyncio.get_running_loop().call_later(_GREETING_S, _still_silent, carrier)
        return carrier

    async def close(self) -> None:
        """End everything that is open."""
        for end in list(self._ends.values()):
            end.finish(ConnectionAbortedError("the session ends"))
        for carrier in list(self._carriers):
            carrier.abort()
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _greeted(self, carrier: Carrier, greeting: Greeting) -> None:
        if greeting.hello is Hello.RESUME:
            self._resume(carrier, greeting)
        elif greeting.hello is Hello.OPEN:
            task = asyncio.ensure_future(self._open(carrier))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        else:
            carrier.abort()

    def _resume(self, carrier: Carrier, greeting: Greeting) -> None:
        end = self._ends.get(greeting.id)
        if end is not None:
            answer = Greeting(Hello.WELCOME, greeting.id, end.received).encode()
            with contextlib.suppress(Violation):
                end.attach(carrier, greeting.received, answer)
                return
        carrier.write(Greeting(Hello.UNKNOWN).encode())
        carrier.close()

    async def _open(self, carrier: Carrier) -> None:
        try:
            if not self._make_room():
                raise OSError("too many streams")
            sock = await self._connect()
            loop = asyncio.get_running_loop()
            _, end = await loop.create_unix_connection(_NotebookEnd, sock=sock)
        except Exception as exc:  # of this connection; the others go on
            if not isinstance(exc, OSError):
                self._loops.note("a stream to the notebook", exc)
            carrier.abort()
            return
        if not carrier.alive:
            end.finish(None)
            return
        name = secrets.token_bytes(ID_BYTES)
        self._ends[name] = end
        end.forget = lambda: self._ends.pop(name, None)
        end.attach(carrier, 0, Greeting(Hello.WELCOME, name).encode())

    def _make_room(self) -> bool:
        if len(self._ends) + len(self._opening) <= MOST:  # with this one
            return True
        away = [end for end in self._ends.values() if not end.carried]
        if away:
            away[0].finish(ConnectionAbortedError("too many streams"))
        return bool(away)


def _still_silent(carrier: Carrier) -> None:
    if not carrier.has_greeted:
        carrier.abort()


class _NotebookEnd(StreamEnd, asyncio.Protocol):
    """A stream with its connection to the notebook."""

    def __init__(self) -> None:
        super().__init__()
        self._notebook: asyncio.Transport | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self.forget: Callable[[], object] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._notebook = cast(asyncio.Transport, transport)
        self._notebook.set_write_buffer_limits(high=_HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        self.send(data)

    def pause_writing(self) -> None:
        self._takes = False

    def resume_writing(self) -> None:
        self._takes = True
        # Not from here: asyncio loses count of a transport whose write fails meanwhile.
        self._loop.call_soon(self.pump)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and (unread := unread_of(self._notebook)):
            self.send(unread)
        self._notebook = None
        self.close_stream()

    def attach(self, carrier: Carrier, received: int, first: bytes = b"") -> None:
        super().attach(carrier, received, first)
        self._keep()

    def deliver(self, data: bytes) -> None:
        if self._notebook is not None:
            self._notebook.write(data)

    def hold(self, *, held: bool) -> None:
        if self._notebook is None or self._notebook.is_closing():
            return
        if held:
            self._notebook.pause_reading()
        else:
            self._notebook.resume_reading()

    def detached(self) -> None:
        self._keep()
        gone = ConnectionAbortedError("nobody came back")
        self._expiry = self._loop.call_later(KEEP_S, self.finish, gone)

    def _keep(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def ended(self, exc: Exception | None) -> None:
        self._keep()
        self.forget()
        if self._notebook is not None and exc is None:
            self._notebook.close()  # flushes first
        elif self._notebook is not None:
            self._notebook.abort()
