"""One HTTP request to a notebook and its answer, streamed both ways.

Nothing is collected: a chunk is read when the one before it was taken, so a browser that
stalls makes the notebook's server wait. When the browser leaves, the request upstream is
given up at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

from lib.http.departure import Departure
from lib.notebook_proxy import headers
from lib.notebook_proxy.client import Silent
from lib.notebook_proxy.headers import InvalidAnswer
from lib.notebook_proxy.upstream import Upstream

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

INVALID_ANSWER = "The notebook gave an answer that is not valid."
UNREACHABLE = "The notebook cannot be reached at the moment."


class UpstreamError(Exception):
    """The notebook gave no answer, and nothing has been sent to the browser yet."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence

    @property
    def line_away(self) -> bool:
        """Nothing answered at all: the way to the cluster is interrupted, or the node is gone."""
        return self.sentence == UNREACHABLE


class ProxiedRequest:
    """Use once: `await ProxiedRequest(...).run(ended)`."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        upstream: Upstream,
        *,
        origin: str,
        portal_origin: str,
        tail: bytes = b"",
    ) -> None:
        """
        Args:
            tail: added behind the end of the answer, where that is a whole HTML page.
        """
        self._tail = tail
        self._scope = scope
        self._receive = receive
        self._send = send
        self._upstream = upstream
        self._portal_origin = portal_origin
        self._scheme = origin.partition(":")[0]
        self._left = self._ended = self._started = False
        self._task: asyncio.Task[None] | None = None

    async def run(self, ended: asyncio.Future[None]) -> None:
        """Until the answer is complete, the browser has left, or `ended` completes.

        Raises:
            UpstreamError: the caller has to say so to the browser.
        """
        self._task = task = cast("asyncio.Task[None]", asyncio.current_task())
        departure = Departure.of(self._scope)
        if departure.gone:
            return
        departure.add(self._leave)
        ended.add_done_callback(self._end)
        try:
            await self._pass()
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            task.uncancel()
            if self._ended and not self._started and not self._left:
                raise UpstreamError(503, "This notebook was closed while it was asked.") from None
        except (InvalidAnswer, OSError) as exc:
            self._tell(exc)
        finally:
            self._task = None  # what ends it may be under way already
            departure.discard(self._leave)
            ended.remove_done_callback(self._end)

    @property
    def _interrupted(self) -> bool:
        return self._left or self._ended

    def _leave(self) -> None:
        self._interrupt()
        self._left = True

    def _end(self, _: asyncio.Future[None]) -> None:
        self._interrupt()
        self._ended = True

    def _interrupt(self) -> None:
        """As `asyncio.timeout` does; once."""
        if not self._interrupted and self._task is not None:
            self._task.cancel()

    def _tell(self, error: InvalidAnswer | OSError) -> None:
        """What an error means; returning leaves an answer that has begun incomplete."""
        if self._left:
            return
        log.info(
            "%r: %s",
            self._upstream,
            error if isinstance(error, InvalidAnswer) else type(error).__name__,
        )
        if self._started:
            return
        if isinstance(error, InvalidAnswer):
            raise UpstreamError(502, INVALID_ANSWER) from error
        if isinstance(error, Silent):
            raise UpstreamError(504, "The notebook did not answer in time.") from error
        raise UpstreamError(502, UNREACHABLE) from error

    async def _pass(self) -> None:
        scope, upstream = self._scope, self._upstream
        asked = headers.raw_to_notebook(
            scope, token=upstream.token, scheme=self._scheme, plain=bool(self._tail)
        )
        body = None
        if headers.has_body(scope):
            chunked = headers.count(scope, b"transfer-encoding") > 0
            if chunked:
                asked.append((b"Transfer-Encoding", b"chunked"))
            body = self._body(chunked=chunked)
        answer = await upstream.http.request(
            scope["method"], upstream.target(scope["raw_path"], scope["query_string"]), asked, body
        )
        try:
            out = headers.to_browser(
                answer.status, answer.headers, portal_origin=self._portal_origin
            )
            tail = self._tail if answer.status == 200 and headers.is_plain_html(out) else b""
            if tail:
                out = headers.lengthened(out, len(tail))
            self._started = True
            await self._send(
                {"type": "http.response.start", "status": answer.status, "headers": out}
            )
            more = True
            while more:
                chunk = await answer.read()
                more = not answer.at_end
                chunk = chunk if more else chunk + tail
                await self._send({"type": "http.response.body", "body": chunk, "more_body": more})
        finally:
            answer.finish()

    async def _body(self, *, chunked: bool) -> AsyncIterator[bytes]:
        """The body of the request, framed as its headers say."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the browser left")
            more = bool(message.get("more_body"))
            piece = message.get("body")
            if piece:
                yield b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
        if chunked:
            yield b"0\r\n\r\n"
