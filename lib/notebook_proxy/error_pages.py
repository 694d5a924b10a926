"""Error pages of the proxy itself: a small page for people, JSON for programs."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from lib.http.html_pages import page
from lib.notebook_proxy import csrf, headers

if TYPE_CHECKING:
    from starlette.types import Scope, Send


class ErrorPages:
    """Answers of our own, in the name of a notebook's origin."""

    def __init__(self, portal_origin: str) -> None:
        self._portal = portal_origin

    async def send(
        self,
        scope: Scope,
        send: Send,
        status: int,
        sentence: str,
        *,
        title: str = "",
        link: tuple[str, str] | None = None,
        refresh_s: int = 0,
    ) -> None:
        """Answer with one plain sentence; a WebSocket's handshake is refused with it.

        Args:
            link: address and label of where to go on; the portal by default.
            refresh_s: after how long a page asks again by itself; 0 for never.
        """
        if csrf.is_navigation(scope):
            address, label = link or (f"{self._portal}/", "Go to the portal")
            heading = title or "This notebook cannot be shown"
            links = {label: address}
            body = page(heading, sentence, links, new_window=True, refresh_s=refresh_s).encode()
            kind = b"text/html; charset=utf-8"
        else:
            body = json.dumps({"message": sentence, "reason": None}).encode()
            kind = b"application/json"
        await self._send(scope, send, status, [(b"content-type", kind)], body)

    async def own(self, scope: Scope, send: Send, kind: bytes, body: bytes) -> None:
        """200, with something of ours of that media type."""
        await self._send(scope, send, 200, [(b"content-type", kind)], body)

    async def redirect(
        self, scope: Scope, send: Send, location: str, *extra: tuple[bytes, bytes]
    ) -> None:
        """303 See Other."""
        await self._send(scope, send, 303, [(b"location", location.encode("ascii")), *extra], b"")

    async def _send(
        self,
        scope: Scope,
        send: Send,
        status: int,
        extra: list[tuple[bytes, bytes]],
        body: bytes,
    ) -> None:
        fixed = [
            (name, value + (b"; default-src 'none'; style-src 'unsafe-inline'"))
            if name == b"content-security-policy"
            else (name, b"no-referrer")
            if name == b"referrer-policy"
            else (name, value)
            for name, value in headers.of_every_answer(self._portal)
        ]
        length = (b"content-length", str(len(body)).encode())
        all_headers = [*extra, length, (b"cache-control", b"no-store"), *fixed]
        if scope["type"] == "websocket":
            await refuse_handshake(scope, send, status, all_headers, body)
            return
        await send({"type": "http.response.start", "status": status, "headers": all_headers})
        await send({"type": "http.response.body", "body": body})


async def refuse_handshake(
    scope: Scope, send: Send, status: int, raw: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """Answer a WebSocket's handshake with a status instead of accepting it."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": HTTPStatus(status).phrase})
        return
    await send({"type": "websocket.http.response.start", "status": status, "headers": raw})
    await send({"type": "websocket.http.response.body", "body": body})
