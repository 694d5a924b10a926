"""Framing of requests and answers: a line of JSON, then as many bytes as its `bytes` says."""

from __future__ import annotations

import json
from typing import BinaryIO, Protocol

from lib.errors import ProtocolError
from lib.model.json_value import JsonValue

MAX_LINE = 4 * 2**20
MAX_BODY = 256 * 2**20


#: One line of JSON; what is in it is checked where it is used.
Message = dict[str, JsonValue]


class ByteReader(Protocol):
    """Where frames come from."""

    def readline(self, limit: int = ..., /) -> bytes: ...

    def read(self, size: int = ..., /) -> bytes: ...


def pack_frame(message: Message, body: bytes = b"") -> bytes:
    """One frame."""
    return json.dumps({**message, "bytes": len(body)}).encode("ascii") + b"\n" + body


def read_frame(source: ByteReader) -> tuple[Message, bytes] | None:
    """The next frame; None where the other side has closed.

    Raises:
        ProtocolError: it is no frame, or breaks off.
    """
    line = source.readline(MAX_LINE)
    if not line:
        return None
    try:
        message = json.loads(line)
        size = message.pop("bytes")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as exc:
        raise ProtocolError("The other side sent what is no message.") from exc
    if not isinstance(size, int) or not 0 <= size <= MAX_BODY:
        raise ProtocolError("The other side sent a message of an impossible size.")
    body = source.read(size)
    if len(body) < size:
        raise ProtocolError("The connection broke in the middle of a message.")
    return message, body


def write_frame(out: BinaryIO, message: Message, body: bytes = b"") -> None:
    """Write one frame at once."""
    out.write(pack_frame(message, body))
    out.flush()
