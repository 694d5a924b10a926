"""HTTP/1.1 on a connection as the portal and the notebooks' servers take it: strictly.

llhttp, the parser below uvicorn, refuses by itself (0.9.0 of httptools; all of it is held by
tests/security/test_http_hardening.py): bare CR or LF, folded lines, spaces before a colon, NUL, two
framings at once, repeated or signed lengths, and malformed chunks. What it lets through and
what it does not know of is refused here, before the application sees the request:

* a client that sends its headers or its body too slowly, or too much of a header, or that keeps
  more connections open without a request than it can need;
* transfer codings other than one plain ``chunked``, lengths under other spellings, trailers
  (uvicorn would append them to the headers of the request that is being answered);
* a missing, repeated or malformed Host, a target that names another host, other versions;
* CONNECT and TRACE, and handshakes of WebSockets that carry more than a handshake.

A refusal ends the connection: after a framing that two programs may read differently nothing
that follows can be trusted.
"""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lib.http.client_address import client_of, network_of
from lib.http.departure import Departure
from lib.http.idle_connections import PerServer
from lib.http.joined_writes import JoinedWrites

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from uvicorn._types import ASGI3Application
    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

#: Bytes around the content of chunks: a few per byte at worst, unless somebody plays.
_CHUNK_OVERHEAD = 16
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
#: Many systems allow 1,024 until asked for more.
_FILES = 4096
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_LOOKS_LIKE_FRAMING = frozenset({b"content_length", b"transfer_encoding"})


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may take.

    Args:
        headers_s: from the connection, or from the first byte of a further request, until
            its headers are complete.
        header_bytes: of the request line and all headers together.
        target_bytes: of the address in the request line.
        body_s: in each such time at least `body_bytes` of a body have to arrive. Time in
            which we do not read, because the one behind us stalls, does not count.
        connections: of one server. Where one more comes, the oldest that waits for a request
            gives way, of the client that has most of those; where none waits, it is told 503.
        idle_per_client: of those that wait for a request; with one more the oldest gives way.
        linger_s: how long a refused client may go on sending before it is cut: closing at
            once would reset the connection, and the refusal with it.
    """

    headers_s: float = 15.0
    header_bytes: int = 64 * 1024
    target_bytes: int = 16 * 1024
    body_s: float = 30.0
    body_bytes: int = 1024
    connections: int = 1000
    idle_per_client: int = 100
    linger_s: float = 1.0


class _Refusal(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


class StrictProtocol(HttpToolsProtocol):
    """uvicorn's protocol with `limits`; give the class to `uvicorn.Config(http=...)`."""

    limits = Limits()
    #: Addresses whose X-Forwarded-For says who the client is (`behind`).
    front_servers: frozenset[str] = frozenset()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._idle = _IDLE.of(server_state)
        self._client = ""
        self._departure = Departure()
        self._deadline: asyncio.TimerHandle | None = None
        self._refused = False
        self._in_body = False
        self._active: RequestResponseCycle | None = None
        self._writes: JoinedWrites | None = None
        self._header_bytes = 0
        self._raw_bytes = 0
        self._ended = False
        self._body_bytes = 0
        self._body_mark = 0
        self._overhead = 0
        self._messages = 0

    # --- the connection ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = self.client[0] if self.client else ""
        self._client = network_of(peer)
        while len(self.connections) > self.limits.connections:
            oldest = self._idle.oldest_of_most()
            if oldest is None:
                self._refuse(503, "Too many connections are open. Try again in a moment.")
                return
            oldest.give_way()
        self._idle.add(self._client, self)
        self._wait(self.limits.headers_s, self._headers_are_late)
        if peer not in self.front_servers:  # a request will say for whom it is
            self._bound_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._idle.discard(self._client, self)
        super().connection_lost(exc)
        self._departure.tell()

    def give_way(self) -> None:
        """End it at once, without a word: nobody waits for one."""
        self._stop_waiting()
        self._idle.discard(self._client, self)
        self.connections.discard(self)
        self.transport.abort()

    def _bound_idle(self) -> None:
        oldest = self._idle.surplus(self._client, self.limits.idle_per_client)
        if oldest is not None:
            oldest.give_way()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        in_body, body_before, message = self._in_body, self._body_bytes, self._messages
        self._ended = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as exc:
            found = exc.__context__
            known = found if isinstance(found, _Refusal) else _Refusal(400, _INVALID)
            self._refuse(known.status, known.why)
            return
        if in_body and self._in_body and message == self._messages:
            self._overhead += len(data) - (self._body_bytes - body_before)
            if self._overhead > self.limits.header_bytes + _CHUNK_OVERHEAD * self._body_bytes:
                self._refuse(400, "The chunks of the request carry too little.")
        elif not self._in_body and not self.transport.is_closing():
            self._between_messages(len(data))

    def _between_messages(self, fresh: int) -> None:
        """A request has ended, or the headers of the next are incomplete."""
        if self._deadline is None and self._is_idle():
            if self.timeout_keep_alive_task is None:
                # Bytes that begin no request, such as an empty line, end uvicorn's own wait.
                self._wait(self.limits.headers_s, self._headers_are_late)
            return
        if self._deadline is None:
            return
        # What came in one piece with the end of the request before is not told apart from it.
        self._raw_bytes += 0 if self._ended else fresh
        if self._raw_bytes > self.limits.header_bytes:
            self._refuse(431, "The headers of the request are too large.")

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    # --- one request -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = self._departure.extension()  # type: ignore[typeddict-item]
        self._messages += 1
        self._header_bytes = self._raw_bytes = 0
        if self._deadline is None:
            self._wait(self.limits.headers_s, self._headers_are_late)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.target_bytes:
            raise _Refusal(414, "The address of the request is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            raise _Refusal(400, "Headers after the body are not taken.")
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > self.limits.header_bytes:
            raise _Refusal(431, "The headers of the request are too large.")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        upgrading = self.parser.should_upgrade()
        websocket = upgrading and self._should_upgrade()
        has_body = _check(
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version(),
            self.headers,
            websocket=websocket,
        )
        self._idle.discard(self._client, self)
        peer = self.client[0] if self.client else ""
        self._client = network_of(client_of(peer, self.headers, self.front_servers))
        super().on_headers_complete()
        if websocket:
            return
        if upgrading:
            # Answered as a plain request; what was meant to follow in another protocol is not.
            self.cycle.keep_alive = False
        self._in_body = True
        self._body_bytes = self._body_mark = self._overhead = 0
        if has_body:
            self._wait(self.limits.body_s, self._body_is_late)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._in_body:
            self._in_body = False
            self._stop_waiting()
        self._ended = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_idle():
            self._idle.add(self._client, self)
            self._bound_idle()

    def _upgrade(self, rest: bytes) -> None:
        if not self._should_upgrade():
            return
        if rest:
            self._refuse(400, "A WebSocket begins when its handshake was answered.")
        else:
            self.handle_websocket_upgrade()

    # --- time --------------------------------------------------------------------------

    def _wait(self, seconds: float, act: Callable[[], None]) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(seconds, act)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _headers_are_late(self) -> None:
        if not self._is_idle():  # a further request was begun while one is being answered
            self._wait(self.limits.headers_s, self._headers_are_late)
        elif self._raw_bytes:
            self._refuse(408, "The request did not arrive in time.")
        else:
            self.transport.close()

    def _body_is_late(self) -> None:
        progress = self._body_bytes - self._body_mark
        waits_for_us = self.flow.read_paused or self.cycle.waiting_for_100_continue
        if waits_for_us or progress >= self.limits.body_bytes:
            self._body_mark = self._body_bytes
            self._wait(self.limits.body_s, self._body_is_late)
        else:
            self._refuse(408, "The body of the request did not arrive in time.")

    # --- refusing ----------------------------------------------------------------------

    def _refuse(self, status: int, why: str) -> None:
        """Say so where nothing else is being said, and end the connection."""
        self._refused = True
        self._stop_waiting()
        if self._writes is not None:
            self._writes.flush()
        self._idle.add(self._client, self)
        unanswered = self._owed()
        self.pipeline.clear()
        for cycle in unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        self._departure.tell()
        # With requests unanswered a refusal would be taken for the answer to the first.
        first_is_refused = len(unanswered) == int(self._in_body)
        begun = any(cycle.response_started for cycle in unanswered)
        if not first_is_refused or begun or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.flow.resume_reading()
        self.transport.write(_answer(status, why))
        self.transport.write_eof()
        self._deadline = self.loop.call_later(self.limits.linger_s, self.transport.close)

    def _owed(self) -> list[RequestResponseCycle]:
        """Requests that were taken and not answered in full."""
        active = [self._active] if self._active is not None else []
        cycles = [*active, *(cycle for cycle, _ in self.pipeline)]
        return [cycle for cycle in cycles if not cycle.response_complete]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if self._writes is not None:
            self._writes.flush()
        self._active = cycle
        self._writes = JoinedWrites(self.transport, self.loop)
        cycle.transport = cast("asyncio.Transport", self._writes)
        super()._start_asgi_task(cycle, app)


_IDLE: PerServer[StrictProtocol] = PerServer()


def behind(front_servers: Iterable[str]) -> type[StrictProtocol]:
    """The protocol of a server that these hand requests on to."""

    class Behind(StrictProtocol):
        pass

    Behind.front_servers = frozenset(front_servers)
    return Behind


def allow_many_files() -> None:
    """Let this process have a descriptor for each of `Limits.connections`, and one behind it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


_INVALID = "The request is not valid."


def _answer(status: int, why: str) -> bytes:
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        "content-type: text/plain; charset=utf-8\r\n"
        f"content-length: {len(why)}\r\n"
        "connection: close\r\n"
        "cache-control: no-store\r\n\r\n"
    )
    return (head + why).encode("ascii")


def _check(
    method: bytes,
    target: bytes,
    version: str,
    headers: list[tuple[bytes, bytes]],
    *,
    websocket: bool,
) -> bool:
    """Whether a body follows. Raises `_Refusal`."""
    if version not in ("1.0", "1.1"):
        raise _Refusal(400, "This version of HTTP is not spoken here.")
    if method in (b"CONNECT", b"TRACE"):
        raise _Refusal(400, "This method is not taken.")
    has_body = _check_framing(headers, version)
    if websocket and (has_body or method != b"GET" or version != "1.1"):
        raise _Refusal(400, "This is not the handshake of a WebSocket.")
    _check_host(headers, target, absolute_allowed=not websocket)
    return has_body


def _check_framing(headers: list[tuple[bytes, bytes]], version: str) -> bool:
    names = {name for name, _ in headers}
    if not names.isdisjoint(_LOOKS_LIKE_FRAMING):
        raise _Refusal(400, _INVALID)
    if names.isdisjoint(_FRAMING):  # as most are
        return False
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings:
        if version != "1.1" or len(codings) != 1 or codings[0].strip(b" \t").lower() != b"chunked":
            raise _Refusal(400, "This transfer coding is not taken.")
        return True
    return any(name == b"content-length" and value.strip(b"0 \t") for name, value in headers)


def _check_host(
    headers: list[tuple[bytes, bytes]], target: bytes, *, absolute_allowed: bool
) -> None:
    hosts = [value.strip(b" \t") for name, value in headers if name == b"host"]
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        raise _Refusal(400, "The request must name exactly one host.")
    if b"#" in target:
        raise _Refusal(400, _INVALID)
    if target.startswith(b"/"):
        return
    absolute = _ABSOLUTE.match(target)
    if absolute is None or not absolute_allowed or absolute[1].lower() != hosts[0].lower():
        raise _Refusal(400, "The address and the host of the request differ.")
