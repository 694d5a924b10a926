"""A stream of bytes that outlives the connection that carries it: its numbers, without I/O.

Portal and session script keep one `ResumableStream` each. What is written has numbers (bytes,
counted from 0; the end of a direction counts as one more) and is kept until the other side
says that it has arrived. A connection that ends takes nothing along: each side says on the
next one what it has, and the other goes on from there. So nothing is lost or comes twice,
wherever the connection was cut.

A connection begins with one `Greeting` from each side. After that come frames:

====  =======================  ================================================================
kind  with                     means
====  =======================  ================================================================
D     length (u32), bytes      the next bytes of the stream
A     number (u64)             everything below it was handed on: forget it, and send as much more
F                              nothing comes after this
X                              the stream is over at once, whatever was under way
P                              are you there? An A answers
====  =======================  ================================================================

A side sends at most `WINDOW` bytes beyond the last A, so it can make no other keep more, and
a reader that stalls makes the writer wait. Who speaks is proved before, by TLS on both sides:
an id opens nothing by itself, and is known only to the two that agreed on it.

Standard library only, Python 3.10 or newer.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from enum import Enum

#: What the portal asks for in TLS (ALPN). A session script without it relays plain bytes.
ALPN = "scenebridge-stream/1"
#: Most bytes of a direction that are on their way or wait to be handed on.
WINDOW = 2 * 2**20
#: A stream without a connection is kept for so long, by both sides.
KEEP_S = 120.0

_GREETING = struct.Struct(">c16sQ")
GREETING_BYTES = _GREETING.size
ID_BYTES = 16
_DATA = struct.Struct(">cI")
_IS_DATA = ord("D")
_ACK = struct.Struct(">cQ")
_SIZES = {b"D": _DATA.size, b"A": _ACK.size, b"F": 1, b"X": 1, b"P": 1}
#: So much of the window is handed on before the other side is told without being asked.
_TELL = 16
#: Pieces shorter than this are put together, to pieces about so long.
_SMALL, _TOGETHER = 4096, 65536


class Violation(Exception):
    """The other side does what no side that keeps the rules does."""


class Hello(Enum):
    """What a greeting says."""

    OPEN = b"O"
    RESUME = b"R"
    WELCOME = b"W"
    UNKNOWN = b"U"


@dataclass(frozen=True, slots=True)
class Greeting:
    """The first bytes of a connection, in each direction.

    Args:
        id: of the stream; zeros where it has none (yet).
        received: how much of the stream has arrived on this side.
    """

    hello: Hello
    id: bytes = bytes(ID_BYTES)
    received: int = 0

    def encode(self) -> bytes:
        return _GREETING.pack(self.hello.value, self.id, self.received)

    @classmethod
    def decode(cls, data: bytes) -> Greeting:
        """Raises Violation."""
        kind, stream, received = _GREETING.unpack(data)
        try:
            return cls(Hello(kind), stream, received)
        except ValueError as exc:
            raise Violation("no greeting") from exc


class _Pieces:
    """Bytes in order. Small ones are put together, so that none costs much more than itself."""

    def __init__(self) -> None:
        self._pieces: deque[bytes | memoryview] = deque()
        self._small = bytearray()

    def __bool__(self) -> bool:
        return bool(self._pieces or self._small)

    def append(self, data: bytes | memoryview) -> None:
        if len(data) < _SMALL and self:
            self._small += data
            if len(self._small) >= _TOGETHER:
                self._put_together()
        else:
            self._put_together()
            self._pieces.append(data)

    def take(self, most: int) -> bytes | memoryview:
        """The first piece, or so much of it."""
        if not self._pieces:
            self._put_together()
        piece = self._pieces.popleft()
        if len(piece) > most:
            view = memoryview(piece)
            self._pieces.appendleft(view[most:])
            return view[:most]
        return piece

    def prepend(self, others: _Pieces) -> None:
        """Take all of these, to be before what is here."""
        others._put_together()
        self._pieces.extendleft(reversed(others._pieces))
        others._pieces.clear()

    def _put_together(self) -> None:
        if self._small:
            self._pieces.append(bytes(self._small))
            self._small.clear()


class ResumableStream:
    """One side of one stream. Between `attach` and `detach` a connection carries it."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        # Ours: bytes from `_arrived` to `_position` lie in `_sent`, those after in `_waiting`.
        self._sent = _Pieces()
        self._waiting = _Pieces()
        self._arrived = 0
        self._position = 0
        self._written = 0
        self._handed_on = 0
        self._closed = False
        # Theirs.
        self._unread = _Pieces()
        self._received = 0
        self._read = 0
        self._told = 0
        self._end_received = False
        self._reset = False
        # Of the connection.
        self._attached = False
        self._head = bytearray()
        self._left = 0
        self._tell = False
        self._ask = False

    # --- what we write ---------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Take bytes; `outgoing` has them when they may be sent."""
        if data and not self._closed:
            self._waiting.append(data)
            self._written += len(data)

    def close(self) -> None:
        """Nothing more will be written."""
        self._closed = True

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def kept(self) -> int:
        """How many bytes are kept because they may be needed again."""
        return max(self._written - self._arrived, 0)

    @property
    def finished(self) -> bool:
        """Whether we closed, and the other side has all of it."""
        return self._closed and self._arrived > self._written

    def ping(self) -> None:
        """Ask whether the other side is there."""
        self._ask = True

    def outgoing(self) -> list[bytes | memoryview]:
        """What has to go onto the connection now."""
        out: list[bytes | memoryview] = []
        if not self._attached:
            return out
        if self._tell:
            out.append(_ACK.pack(b"A", self._read))
            self._told, self._tell = self._read, False
        if self._ask:
            out.append(b"P")
            self._ask = False
        room = self._handed_on + self._window - self._position
        while self._waiting and room > 0:
            chunk = self._waiting.take(room)
            out += (_DATA.pack(b"D", len(chunk)), chunk)
            self._sent.append(chunk)
            self._position += len(chunk)
            room -= len(chunk)
        if self._closed and self._position == self._written:
            out.append(b"F")
            self._position += 1
        return out

    # --- what we read ----------------------------------------------------------------------

    @property
    def received(self) -> int:
        """How much has arrived; what a `Greeting` says."""
        return self._received

    @property
    def ended(self) -> bool:
        """Whether the other side has closed, and all before that was read."""
        return self._end_received and not self._unread

    @property
    def was_reset(self) -> bool:
        return self._reset

    def read(self) -> bytes:
        """The next bytes in order; b"" where there are none now."""
        if not self._unread:
            return b""
        chunk = self._unread.take(self._window)
        self._read += len(chunk)
        if self._read - self._told >= self._window // _TELL:
            self._tell = True
        self._read_end()
        return bytes(chunk)

    def feed(self, data: bytes) -> None:
        """Bytes of the connection. Raises Violation."""
        at, size = 0, len(data)
        while at < size and not self._reset:
            if self._left:
                part = data if at == 0 and size <= self._left else data[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                self._received += len(part)
                self._unread.append(part)
                continue
            if size - at >= _DATA.size and data[at] == _IS_DATA and not self._head:
                self._announced(_DATA.unpack_from(data, at)[1])
                at += _DATA.size
                continue
            kind = bytes(self._head[:1]) or data[at : at + 1]
            if kind not in _SIZES:
                raise Violation("no frame")
            missing = _SIZES[kind] - len(self._head)
            self._head += data[at : at + missing]
            at += missing
            if len(self._head) == _SIZES[kind]:
                frame = bytes(self._head)
                self._head.clear()
                self._take(kind, frame)
        self._read_end()

    def _take(self, kind: bytes, frame: bytes) -> None:
        if kind == b"D":
            self._announced(_DATA.unpack(frame)[1])
        elif kind == b"A":
            self._handed_on_to(_ACK.unpack(frame)[1])
        elif kind == b"F":
            if self._end_received:
                raise Violation("a second end")
            self._end_received = True
            self._received += 1
        elif kind == b"P":
            self._tell = True
        else:
            self._reset = True

    def _announced(self, length: int) -> None:
        if self._end_received or not length:
            raise Violation("bytes after the end, or none")
        if self._received - self._read + length > self._window:
            raise Violation("more than the window")
        self._left = length

    def _handed_on_to(self, number: int) -> None:
        if not self._handed_on <= number <= self._position:
            raise Violation("handed on what was never sent")
        self._handed_on = number
        if number > self._arrived:
            self._forget_before(number)

    def _forget_before(self, number: int) -> None:
        over = min(number, self._written) - self._arrived
        while over > 0:
            over -= len(self._sent.take(over))
        self._arrived = number

    def _read_end(self) -> None:
        if self.ended and self._read < self._received:
            self._read += 1
            self._tell = True

    # --- connections -----------------------------------------------------------------------

    def attach(self, received: int) -> None:
        """A connection carries it from now on, in the place of any other.

        Args:
            received: what the other side said that it has.
        Raises:
            Violation: that is less than it had said before, or more than was sent.
        """
        if not self._arrived <= received <= self._position:
            raise Violation("has what was never sent")
        self._forget_before(received)
        self._waiting.prepend(self._sent)
        self._position = received
        self._attached = self._tell = True
        self._head.clear()
        self._left = 0

    def detach(self) -> None:
        """No connection carries it."""
        self._attached = False
