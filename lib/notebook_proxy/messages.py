"""What the portal and the notebooks' process say to each other.

Lines of JSON over a pair of sockets that only the two have: nobody else can connect, and
the end of one is seen by the other at once, however it ended.

The portal asks ``{"n": 1, "do": "open", ...}``; the answer is ``{"n": 1, "ok": ...}`` or
``{"n": 1, "error": {"code", "message"}}`` with a code of `lib.errors`. Answers come in any
order. What is asked:

========  ====================================  =================================================
do        with                                  answer
========  ====================================  =================================================
start     `Start`                               ``{}`` when it listens; first, once
restore   open: [`Open`], closed: {id: reason}  ports: {id: port}; nothing is proved
          idle: {id: time}
open      `Open`                                port, when the notebook has answered a request
close     session, reason                       ``{}``
keep      session                               ``{}`` when the notebook knows that it is in use
idle      session, at                           ``{}``; its page says when it is ended, None: never
ticket    session, user, login, onward          url, of one use
sign_out  login                                 ``{}``
probe                                           notebooks, requests: how many are open
========  ====================================  =================================================
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lib.errors import ProtocolError
from lib.model import Endpoint, JsonValue, SessionId, json_list, json_number, json_text
from lib.protocol.codec import from_plain

#: One line of JSON; what is in it is checked where it is used.
Message = Mapping[str, JsonValue]
#: Longest line: a few KiB per notebook in `restore`.
LINE_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Start:
    """What the process has to know before it can serve.

    Args:
        portal_port: of the portal, as its settings were told; wins over the file.
        notebooks: `ProxySettings.notebooks`.
        base, ports: `ProxySettings.base` and `.ports`.
        secret: `ProxySettings.secret`, in hexadecimal.
    """

    portal_origin: str
    portal_port: int
    notebooks: str
    base: str
    ports: tuple[int, int]
    secret: str = field(repr=False)

    @classmethod
    def of(cls, values: Message) -> Start:
        """Raises `TypeError` or `KeyError` where they are not such values."""
        first, last = (int(json_number(port)) for port in json_list(values["ports"]))
        return cls(
            json_text(values["portal_origin"]),
            int(json_number(values["portal_port"])),
            json_text(values["notebooks"]),
            json_text(values["base"]),
            (first, last),
            json_text(values["secret"]),
        )


@dataclass(frozen=True, slots=True)
class Open:
    """A notebook to let visitors into.

    Args:
        socket: path of its forward.
        port: the port that it had before, with a port per notebook; 0 for any.
    """

    session: SessionId
    socket: str
    endpoint: Endpoint = field(repr=False)
    port: int = 0

    @classmethod
    def of(cls, values: Message) -> Open:
        """Raises `TypeError`, `KeyError` or InvalidInput where they are not such values."""
        return cls(
            SessionId(json_text(values["session"])),
            str(Path(json_text(values["socket"]))),
            from_plain(Endpoint, values["endpoint"]),
            int(json_number(values["port"])),
        )

    def values(self) -> Message:
        return {
            "session": self.session,
            "socket": self.socket,
            "endpoint": asdict(self.endpoint),
            "port": self.port,
        }


async def read(reader: asyncio.StreamReader) -> Message | None:
    """The next message; None when the other side has ended.

    Raises:
        ProtocolError: it is not a message; the next call reads the one after it.
    """
    try:
        line = await reader.readuntil(b"\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    except asyncio.LimitOverrunError as exc:
        if not await _skip_line(reader, exc):
            return None
        raise ProtocolError("A line between portal and notebooks is too long.") from exc
    try:
        message: JsonValue = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError("A line between portal and notebooks is not JSON.") from exc
    if not isinstance(message, dict):
        raise ProtocolError("A line between portal and notebooks is not an object.")
    return message


async def _skip_line(reader: asyncio.StreamReader, overrun: asyncio.LimitOverrunError) -> bool:
    """Pass over a line that is too long. Returns whether it came to an end."""
    while True:
        try:
            await reader.readexactly(max(overrun.consumed, 1))
            await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as exc:
            overrun = exc
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        else:
            return True


def encode_line(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
