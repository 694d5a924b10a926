"""One WebSocket between browser and notebook: handshake, messages, close codes.

Each direction takes the next message only when the one before it was accepted, so a side
that stalls makes the other wait.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
from aiohttp import ClientWebSocketResponse, WSMsgType

from lib.http.server_settings import LARGEST_MESSAGE
from lib.notebook_proxy import headers
from lib.notebook_proxy.error_pages import refuse_handshake
from lib.notebook_proxy.http import INVALID_ANSWER, UNREACHABLE, UpstreamError
from lib.notebook_proxy.upstream import Upstream

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

_HEARTBEAT_S = 30.0
_HANDSHAKE_TIMEOUT_S = 30.0
_CLOSE_TIMEOUT_S = 2.0
#: RFC 6455 section 7.4: what may be sent in a close frame.
_SENDABLE = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})
#: What aiohttp and uvicorn say of a close frame without one.
_NO_CODE = (0, 1005)
_GOING_AWAY = 1001
_INTERNAL_ERROR = 1011


async def connect(scope: Scope, upstream: Upstream, *, origin: str) -> ClientWebSocketResponse:
    """The handshake with the notebook.

    Raises:
        aiohttp.WSServerHandshakeError: the notebook answered with another status.
        UpstreamError: it cannot be reached.
    """
    try:
        async with asyncio.timeout(_HANDSHAKE_TIMEOUT_S):
            return await upstream.websockets.ws_connect(
                upstream.url(scope["raw_path"], scope["query_string"]),
                headers=headers.to_notebook(
                    scope, token=upstream.token, scheme=urlsplit(origin).scheme
                ),
                protocols=tuple(scope.get("subprotocols") or ()),
                max_msg_size=LARGEST_MESSAGE + 1,  # aiohttp's is the first that is too large
                compress=0,
                heartbeat=_HEARTBEAT_S,
                autoclose=True,
                autoping=True,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),
            )
    except aiohttp.WSServerHandshakeError as exc:
        if not 300 <= exc.status <= 599:  # it said yes, but not as RFC 6455 asks, or nothing
            raise UpstreamError(502, INVALID_ANSWER) from exc
        raise
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        log.info("%r: %s", upstream, type(exc).__name__)
        raise UpstreamError(502, UNREACHABLE) from exc


async def join(
    scope: Scope,
    receive: Receive,
    send: Send,
    upstream: Upstream,
    *,
    origin: str,
    ended: asyncio.Future[None],
) -> None:
    """Pass messages until one side closes or `ended` completes.

    Raises:
        UpstreamError: before the browser's handshake was answered.
    """
    try:
        notebook = await connect(scope, upstream, origin=origin)
    except aiohttp.WSServerHandshakeError as exc:
        await refuse_handshake(scope, send, exc.status, [], b"")
        return
    try:
        await send({"type": "websocket.accept", "subprotocol": notebook.protocol})
        await _both_ways(receive, send, notebook, ended)
    finally:
        await notebook.close(code=_GOING_AWAY)


async def _both_ways(
    receive: Receive, send: Send, notebook: ClientWebSocketResponse, ended: asyncio.Future[None]
) -> None:
    down = asyncio.create_task(_to_browser(send, notebook))
    up = asyncio.create_task(_to_notebook(receive, notebook))
    waited: set[asyncio.Future[None]] = {down, up, ended}
    try:
        done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if up in done and up.exception() is not None and ended not in done:
            # It does not listen any more; what it said last is still on its way.
            await asyncio.wait({down, ended}, timeout=_CLOSE_TIMEOUT_S)
        if ended in done:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await send({"type": "websocket.close", "code": 1008, "reason": "closed"})
    except TimeoutError:
        pass
    finally:
        for task in (down, up):
            task.cancel()
        await asyncio.gather(down, up, return_exceptions=True)


async def _to_browser(send: Send, notebook: ClientWebSocketResponse) -> None:
    while True:
        message = await notebook.receive()
        if message.type is WSMsgType.TEXT:
            await send({"type": "websocket.send", "text": message.data})
        elif message.type is WSMsgType.BINARY:
            await send({"type": "websocket.send", "bytes": message.data})
        else:
            break
    closed = message.type is WSMsgType.CLOSE
    # Of a notebook that closed and went, aiohttp's own `close_code` is that of the failed reply.
    code = message.data if closed else notebook.close_code or _INTERNAL_ERROR
    reason = message.extra if closed else ""
    await send(
        {
            "type": "websocket.close",
            "code": code if code in _SENDABLE else 1000 if code in _NO_CODE else _INTERNAL_ERROR,
            "reason": reason or "",
        }
    )


async def _to_notebook(receive: Receive, notebook: ClientWebSocketResponse) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            code = message.get("code") or 1005
            reason = (message.get("reason") or "").encode()
            known = code if code in _SENDABLE else 1000 if code in _NO_CODE else _GOING_AWAY
            await notebook.close(code=known, message=reason)
            return
        if message.get("text") is not None:
            await notebook.send_str(message["text"])
        elif message.get("bytes") is not None:
            await notebook.send_bytes(message["bytes"])
