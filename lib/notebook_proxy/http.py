"""One HTTP request to a notebook and its answer, streamed both ways.

Nothing is collected: a chunk is read when the one before it was taken, so a browser that
stalls makes the notebook's server wait. When the browser leaves, the request upstream is
given up at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp

from lib.notebook_proxy import headers
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
        self._scheme = urlsplit(origin).scheme
        self._body_read = asyncio.Event()
        self._left = False
        self._started = False

    async def run(self, ended: asyncio.Future[None]) -> None:
        """Until the answer is complete, the browser has left, or `ended` completes.

        Raises:
            UpstreamError: the caller has to say so to the browser.
        """
        passing = asyncio.create_task(self._pass())
        leaving = asyncio.create_task(self._wait_for_leaving())
        waited: set[asyncio.Future[None]] = {passing, leaving, ended}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            finished = passing.done()
            passing.cancel()
            leaving.cancel()
            await asyncio.gather(passing, leaving, return_exceptions=True)
        if not finished or passing.cancelled():
            if ended.done() and not self._started and not self._left:
                raise UpstreamError(503, "This notebook was closed while it was asked.")
            return
        self._tell(passing.exception())

    def _tell(self, error: BaseException | None) -> None:
        """What an error means; returning leaves an answer that has begun incomplete."""
        if error is None or self._left:
            return
        if not isinstance(error, (aiohttp.ClientError, OSError, TimeoutError)):
            raise error
        log.info("%r: %s", self._upstream, type(error).__name__)
        if self._started:
            return
        if isinstance(error, (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)):
            raise UpstreamError(400, "This address is not valid.") from error
        if isinstance(error, aiohttp.SocketTimeoutError):
            raise UpstreamError(504, "The notebook did not answer in time.") from error
        if isinstance(error, aiohttp.ClientResponseError):
            raise UpstreamError(502, INVALID_ANSWER) from error
        raise UpstreamError(502, UNREACHABLE) from error

    async def _pass(self) -> None:
        scope = self._scope
        has_body = headers.has_body(scope)
        if not has_body:
            self._body_read.set()
        async with self._upstream.session.request(
            scope["method"],
            self._upstream.url(scope["raw_path"], scope["query_string"]),
            headers=headers.to_notebook(
                scope, token=self._upstream.token, scheme=self._scheme, plain=bool(self._tail)
            ),
            data=self._body() if has_body else None,
            allow_redirects=False,
        ) as answer:
            try:
                out = headers.to_browser(
                    answer.status, answer.raw_headers, portal_origin=self._portal_origin
                )
            except headers.InvalidAnswer as exc:
                log.info("%r: %s", self._upstream, exc)
                answer.close()
                raise UpstreamError(502, INVALID_ANSWER) from exc
            tail = self._tail if answer.status == 200 and headers.is_plain_html(out) else b""
            out = headers.lengthened(out, len(tail))
            self._started = True
            await self._send(
                {"type": "http.response.start", "status": answer.status, "headers": out}
            )
            async for chunk in answer.content.iter_any():
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send({"type": "http.response.body", "body": tail, "more_body": False})

    async def _body(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._left = True
                raise ConnectionError("the browser left")
            more = bool(message.get("more_body"))
            if message.get("body"):
                yield message["body"]
        self._body_read.set()

    async def _wait_for_leaving(self) -> None:
        await self._body_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
