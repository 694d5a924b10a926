"""A resumable stream to a notebook, as a transport of asyncio: what speaks over it sees no cuts.

When the connection below is lost, others are tried over whatever leads to the notebook then,
for `KEEP_S`. Until then who reads waits, and who writes may write a window more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from lib.backoff import Backoff
from lib.protocol.resumable import KEEP_S, Greeting, Hello, Violation
from lib.protocol.stream_end import Carrier, StreamEnd, speaks_streams

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
#: For a connection, from its beginning to the session script's greeting.
_ANSWER_S = 10.0
#: For a notebook to take what was written before its stream was closed, while it is connected.
_LAST_WORDS_S = 10.0

#: Connects with that protocol; raises OSError.
Connect = Callable[[Callable[[], asyncio.Protocol]], Awaitable[asyncio.Transport]]


P = TypeVar("P", bound=asyncio.Protocol)


class Refused(Exception):
    """The session script does not know the stream (any more)."""


class StreamTransport(StreamEnd, asyncio.Transport):
    """See the module."""

    def __init__(self, connect: Connect, protocol: asyncio.Protocol, name: bytes) -> None:
        StreamEnd.__init__(self)
        asyncio.Transport.__init__(self)
        self._connect = connect
        self._protocol: asyncio.Protocol = protocol
        self._name = name
        self._told_lost = False
        self._closing: asyncio.TimerHandle | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self.forget: Callable[[], object] = lambda: None

    # --- what becomes of connections -------------------------------------------------------

    def attach(self, carrier: Carrier, received: int, first: bytes = b"") -> None:
        super().attach(carrier, received, first)
        self._bound_close()

    def detached(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self._reconnecting = self._loop.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        """The next connection, or the end of the stream."""
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        try:
            async with asyncio.timeout(KEEP_S):
                while not await self._resumed():  # noqa: ASYNC110 (the other side is not ours)
                    await asyncio.sleep(backoff.next_s())
        except (Refused, TimeoutError) as exc:
            # Who has closed and is not known any more has been understood.
            lost = None if self._stream.closed else ConnectionResetError(str(exc) or "given up")
            self.finish(lost)

    async def _resumed(self) -> bool:
        said = Greeting(Hello.RESUME, self._name, self.received)
        try:
            carrier, answer = await greet(self._connect, said)
        except OSError:
            return False
        if answer is None or answer.hello is not Hello.WELCOME or answer.id != self._name:
            carrier.abort()
            raise Refused("the notebook does not know the stream any more")
        if not carrier.alive:
            return False
        try:
            self.attach(carrier, answer.received)
        except Violation as exc:
            carrier.abort()
            raise Refused(str(exc)) from exc
        return True

    def _bound_close(self) -> None:
        """A notebook that takes nothing any more is not waited for."""
        if self._stream.closed and self.carried and not self.over:
            self._closing = self._loop.call_later(_LAST_WORDS_S, self.abort)

    def ended(self, exc: Exception | None) -> None:
        if self._closing is not None:
            self._closing.cancel()
        if self._reconnecting is not None and self._reconnecting is not asyncio.current_task():
            self._reconnecting.cancel()
        self.forget()
        self._tell_lost(exc)

    def _tell_lost(self, exc: Exception | None) -> None:
        if not self._told_lost:
            self._told_lost = True
            self._loop.call_soon(self._protocol.connection_lost, exc)

    # --- asyncio.Transport -----------------------------------------------------------------

    def deliver(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def hold(self, *, held: bool) -> None:
        if self._told_lost:
            return
        if held:
            self._protocol.pause_writing()
        else:
            self._protocol.resume_writing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.send(bytes(data))

    def close(self) -> None:
        if not self.is_closing():
            self.close_stream()
            self._bound_close()
            self._tell_lost(None)

    def abort(self) -> None:
        self.finish(ConnectionAbortedError("aborted"))

    def is_closing(self) -> bool:
        return self.over or self._stream.closed

    def pause_reading(self) -> None:
        self._takes = False

    def resume_reading(self) -> None:
        self._takes = True
        self._loop.call_soon(self.pump)

    def is_reading(self) -> bool:
        return self._takes and not self.is_closing()

    def get_write_buffer_size(self) -> int:
        return self._stream.kept

    def can_write_eof(self) -> bool:
        return False

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol  # type: ignore[assignment]

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002
        return default


async def open_stream(
    connect: Connect, factory: Callable[[], P]
) -> tuple[P, StreamTransport | None]:
    """A connection of that protocol; its stream, where the session script knows them.

    Raises:
        OSError: nothing answers.
    """
    carrier, answer = await greet(connect, Greeting(Hello.OPEN))
    protocol = factory()
    if answer is None:
        carrier.hand_over(protocol)
        return protocol, None
    if answer.hello is not Hello.WELCOME or not carrier.alive:
        carrier.abort()
        raise ConnectionResetError("the notebook takes no stream")
    stream = StreamTransport(connect, protocol, answer.id)
    protocol.connection_made(stream)
    stream.attach(carrier, 0)
    return protocol, stream


async def greet(connect: Connect, greeting: Greeting) -> tuple[Carrier, Greeting | None]:
    """A connection, and what the session script said on it; None where it knows no streams.

    Raises:
        OSError: nothing answers.
    """
    answered: asyncio.Future[Greeting] = asyncio.get_running_loop().create_future()

    def answer(_: Carrier, said: Greeting) -> None:
        if not answered.done():
            answered.set_result(said)

    def left(_: Carrier) -> None:
        if not answered.done():
            answered.set_exception(ConnectionResetError("no answer"))
            answered.exception()  # whoever waits gets it; nobody may

    carrier = Carrier(answer, left)
    try:
        async with asyncio.timeout(_ANSWER_S):
            if not speaks_streams(await connect(lambda: carrier)):
                return carrier, None
            carrier.write(greeting.encode())
            return carrier, await answered
    except BaseException:
        carrier.abort()
        raise
