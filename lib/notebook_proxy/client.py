"""HTTP/1.1 to a notebook's server: one request at a time on connections that are kept.

`aiohttp.ClientSession` did this and took more of the processor (docs/decisions/0015).
llhttp (httptools) reads the answers, strictly: bare CR or LF, folded lines, two framings at once
and malformed chunks are its errors. What else would leave it open where an answer ends is refused
here. A connection is used again only after an answer that ended where its framing says, to a
request that was sent whole; whatever comes on a connection that waits ends it.

Memory of a connection: `_MOST_WAITING` and one read more, and `MAX_HEAD` of headers.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import cast

import httptools

from lib.notebook_proxy.headers import InvalidAnswer, check_status

CONNECT_TIMEOUT_S = 10.0
#: A server that says nothing for so long while an answer is due is given up.
SILENCE_S = 15 * 60.0
#: A connection waits for so long for its next request.
_KEEP_ALIVE_S = 30.0
#: A peer that stalls may not keep a connection that we are done with (default: 30).
_SHUTDOWN_TIMEOUT_S = 2.0
#: Bytes of an answer that wait to be read; with more the notebook has to wait.
_MOST_WAITING = 256 * 1024
#: Bytes of an answer that are not its body: headers, also of early answers.
MAX_HEAD = 128 * 1024
#: Of chunks, for each byte of the body (as `lib.http.hardening`).
_CHUNK_OVERHEAD = 16
#: May be asked again, where the connection had waited and the server ended it meanwhile.
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

RawHeaders = Sequence[tuple[bytes, bytes]]


class Lost(ConnectionError):
    """The connection ended before the answer did."""


class Silent(TimeoutError):
    """The server has said nothing for `SILENCE_S`."""


class Exchange(asyncio.Protocol):
    """A connection, and the answer to the request that it carries now."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._over = True
        self._reusable = False
        #: When it last heard something, or began to wait for it.
        self.heard = 0.0
        self.answered = False
        self._paused = False

    # --- one exchange ----------------------------------------------------------------------

    def ask(self, method: str, head: bytes, body: AsyncIterator[bytes] | None) -> None:
        """Send a request; then `headers_come` and `read`. Raises Lost where it is over already."""
        if not self.open:
            raise Lost
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._head_only = method == "HEAD"
        #: Something of the answer has come; its headers have; all of it has.
        self.answered = self._headed = self._complete = False
        self._until_closed = self._reusable = False
        self._pieces: list[bytes] = []
        self._waiting = self._raw_bytes = self._body_bytes = 0
        self._over = False
        self.write(head)
        if body is not None:
            self._sending = self._loop.create_task(self._send(body))
            self._sending.add_done_callback(self._sent)

    async def headers_come(self) -> None:
        """Until `status` and `headers` are those of the answer.

        Raises:
            InvalidAnswer, Lost, Silent.
        """
        while not self._headed:
            await self._wait()

    async def read(self) -> bytes:
        """What has come of the body since; nothing at its end. Raises as `headers_come`."""
        while not self._pieces:
            if self._complete:
                return b""
            await self._wait()
        pieces, self._pieces, self._waiting = self._pieces, [], 0
        if self._paused:
            self._paused = False
            if self._transport is not None and self.open:
                self._transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def at_end(self) -> bool:
        """Whether all of the answer has been read."""
        return self._complete and not self._pieces

    def finish(self) -> None:
        """Done with it: the connection waits for another request where it may, or ends."""
        whole = self._over and self.at_end and self._reusable
        if whole and self._sending is None and self.open:
            self._client.keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        self._reusable = False
        if self._sending is not None:
            self._sending.cancel()
        if self._transport is not None:
            self._transport.abort()

    def give_up_if_silent(self, now: float) -> None:
        if self._waiter is not None and now - self.heard > SILENCE_S:
            self._fail(Silent())

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self.heard = self._loop.time()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: BaseException) -> None:
        """The answer ends here, incomplete."""
        if not self._over:
            self._over = True
            self._error = error
            self._wake()
        self.abort()

    # --- the request -----------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    async def _send(self, body: AsyncIterator[bytes]) -> None:
        async for piece in body:
            self.write(piece)
            self.heard = self._loop.time()
            if self._writable is not None:
                await self._writable

    def _sent(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._sending = None
        else:
            self._fail(error)

    # --- asyncio.Protocol ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._client.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.resume_writing()
        if not self._over and self._until_closed and exc is None:
            self._end(reusable=False)
        else:
            self._fail(exc if isinstance(exc, OSError) else Lost())
        self._client.forget(self)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None

    def data_received(self, data: bytes) -> None:
        if self._over:  # nobody asked
            self.abort()
            return
        self.answered = True
        self.heard = self._loop.time()
        self._raw_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._fail(InvalidAnswer(str(exc) or type(exc).__name__))
            return
        around = self._raw_bytes - self._body_bytes
        if not self._over and around > MAX_HEAD + _CHUNK_OVERHEAD * self._body_bytes:
            self._fail(InvalidAnswer("too much that is no body"))
        elif self._waiting > _MOST_WAITING and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    # --- the parser ------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._over:
            raise InvalidAnswer("an answer without a question")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._headed:  # else a trailer, of which nothing is passed on
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            return
        check_status(status)
        version = self._parser.get_http_version()
        framing = _framing(self.headers, version)
        self.status = status
        self._headed = True
        empty = self._head_only or status in (204, 304)
        self._until_closed = not (framing or empty)
        if self._head_only:
            # httptools cannot tell llhttp so, and would wait for the body.
            self._end(reusable=False)
        else:
            self._wake()

    def on_body(self, body: bytes) -> None:
        if not self._headed:
            raise InvalidAnswer("an early answer with a body")
        if not self._over:
            self._pieces.append(body)
            self._waiting += len(body)
            self._body_bytes += len(body)
            self._wake()

    def on_message_complete(self) -> None:
        if not self._headed:  # of an early answer, such as 103
            self.headers.clear()
        elif not self._over:
            self._end(reusable=self._parser.should_keep_alive())

    def _end(self, *, reusable: bool) -> None:
        self._complete = self._over = True
        self._reusable = reusable
        self._wake()


class HttpClient:
    """The connections to one server, over the UNIX socket of its forward. Of one event loop."""

    def __init__(self, path: Path, context: ssl.SSLContext, server_name: str) -> None:
        """
        Args:
            context: proves the server, under `server_name`, and us.
        """
        self._path = str(path)
        self._context = context
        self._server_name = server_name
        self._connections: set[Exchange] = set()
        #: Those that wait, with when each began to; the youngest last.
        self._kept: dict[Exchange, float] = {}
        self._look: asyncio.TimerHandle | None = None

    async def request(
        self,
        method: str,
        target: bytes,
        headers: RawHeaders,
        body: AsyncIterator[bytes] | None = None,
    ) -> Exchange:
        """Ask; the answer's headers are there then. Call its `finish` whatever comes.

        A connection that had waited and turns out to be closed is replaced, once, where the
        request is safe to repeat and has no body.

        Args:
            headers: the framing of `body` among them; its bytes are sent as they are.
        Raises:
            InvalidAnswer: an answer, but not as HTTP says.
            Lost, Silent: none, or its beginning only.
            OSError, ssl.SSLError, TimeoutError: no connection.
        """
        head = _head(method, target, headers)
        kept = self._take()
        while True:
            exchange = kept or await self._connect()
            try:
                exchange.ask(method, head, body)
                await exchange.headers_come()
            except BaseException as exc:
                exchange.abort()
                if kept is None or body is not None or method not in _SAFE:
                    raise
                if exchange.answered or not isinstance(exc, OSError) or isinstance(exc, Silent):
                    raise
                kept = None
            else:
                return exchange

    def _take(self) -> Exchange | None:
        while self._kept:
            exchange, _ = self._kept.popitem()
            if exchange.open:
                return exchange
        return None

    async def _connect(self) -> Exchange:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, exchange = await loop.create_unix_connection(
                lambda: Exchange(self),
                self._path,
                ssl=self._context,
                server_hostname=self._server_name,
                ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
            )
        return exchange

    def opened(self, exchange: Exchange) -> None:
        """Its connection has been made."""
        self._connections.add(exchange)
        if self._look is None:
            loop = asyncio.get_running_loop()
            self._look = loop.call_later(_KEEP_ALIVE_S, self._look_through)

    def keep(self, exchange: Exchange) -> None:
        """It may carry another request."""
        self._kept[exchange] = asyncio.get_running_loop().time()

    def forget(self, exchange: Exchange) -> None:
        """Its connection is over."""
        self._connections.discard(exchange)
        self._kept.pop(exchange, None)

    def _look_through(self) -> None:
        """End what has waited for long; one timer for all, since each request would set one."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for exchange, since in list(self._kept.items()):
            if now - since >= _KEEP_ALIVE_S:
                del self._kept[exchange]
                exchange.abort()
        for exchange in list(self._connections):
            exchange.give_up_if_silent(now)
        again = self._connections
        self._look = loop.call_later(_KEEP_ALIVE_S, self._look_through) if again else None

    def close(self) -> None:
        """End every connection at once; the next request would make a new one."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        self._kept.clear()
        for exchange in list(self._connections):
            exchange.abort()


def _head(method: str, target: bytes, headers: RawHeaders) -> bytes:
    lines = [b"%b %b HTTP/1.1\r\n" % (method.encode("ascii"), target)]
    lines += [b"%b: %b\r\n" % field for field in headers]
    lines.append(b"\r\n")
    head = b"".join(lines)
    # Whatever let one through: no line may end but those made here.
    if not head.count(b"\n") == head.count(b"\r") == len(lines) or b"\0" in head:
        raise ValueError("a header with a line's end in it")
    return head


def _framing(headers: RawHeaders, version: str) -> bool:
    """Whether the headers say where the body ends. Raises InvalidAnswer where they do so twice."""
    if version not in ("1.0", "1.1"):
        raise InvalidAnswer(f"version {version}")
    lengths = codings = 0
    for name, value in headers:
        lowered = name.lower()
        if lowered == b"content-length":
            lengths += 1
        elif lowered == b"transfer-encoding":
            codings += 1
            if value.strip(b" \t").lower() != b"chunked" or version == "1.0":
                raise InvalidAnswer("a transfer coding that is not asked for")
    if lengths + codings > 1:
        raise InvalidAnswer("two framings")
    return bool(lengths or codings)
