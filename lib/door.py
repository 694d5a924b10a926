"""The portal's front door: nothing behind it answers a stranger.

Pure ASGI. For every HTTP request and WebSocket on the portal's own origin it checks

1. Host: one of the portal's names (a page on another name, rebound to this address,
   gets nothing);
2. Origin: on WebSockets and on requests that change something, it must be the portal's
   own, unless a program authenticates with a token;
3. who asks: a login cookie, or, below /api, a bearer token.

The user is then in `scope["state"]["user"]`.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from lib.errors import SceneBridgeError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from lib.auth import Auth, Login
    from lib.model import User

OPEN_PATHS = frozenset({"/healthz", "/signin"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'self'; object-src 'none'; base-uri 'self'",
}
_STRANGER = (
    "You are not signed in. Open the link that ./run printed, "
    "or get a new one with: python admin.py link"
)


class FrontDoor:
    """Wraps the portal's application.

    Args:
        origin: e.g. "http://localhost:8501"; the only origin whose pages may act.
        auth: who is signed in.
    """

    def __init__(self, app: ASGIApp, *, origin: str, auth: Auth) -> None:
        self._app = app
        self._origin = origin
        self._auth = auth
        parts = urlsplit(origin)
        self._host = parts.netloc
        port = f":{parts.port}" if parts.port else ""
        self._hosts = {self._host}
        if parts.hostname == "localhost":
            self._hosts |= {name + port for name in _LOOPBACK_NAMES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            refusal = await self._refuse(scope)
        except SceneBridgeError as exc:  # the store cannot say who this is
            refusal = _plain(503, exc.message)
        if refusal is None:
            await self._app(scope, receive, _with_security_headers(send))
        elif scope["type"] == "websocket":
            await _refuse_websocket(refusal, receive, send)
        else:
            await refusal(scope, receive, _with_security_headers(send))

    async def _refuse(self, scope: Scope) -> Response | None:
        """None where the request may pass."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return _plain(421, "This address is not the portal's.")
        path = scope["path"]
        token_user = await _user_of_token(self._auth, headers, path)
        if token_user is not None:
            scope.setdefault("state", {})["user"] = token_user
            return None
        if _is_navigation(scope, headers) and hosts[0].lower() != self._host:
            query = scope["query_string"].decode("latin-1")
            target = self._origin + "/" + quote(path.lstrip("/"), safe="/:@!$&'()*+,;=~")
            return RedirectResponse(target + (f"?{query}" if query else ""), 307)
        if not self._origin_allowed(scope, headers):
            return _plain(403, "A page of another site may not do this.")
        if path in OPEN_PATHS:
            return None
        cookies = "; ".join(headers.getlist("cookie"))
        login: Login | None = await run_in_threadpool(self._auth.login_of_header, cookies)
        if login is None:
            return _stranger(scope, headers)
        scope.setdefault("state", {})["user"] = login.user
        scope["state"]["login"] = login
        return None

    def _origin_allowed(self, scope: Scope, headers: Headers) -> bool:
        origins = headers.getlist("origin")
        if scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS:
            return origins == [self._origin]
        site = headers.get("sec-fetch-site", "none")
        return site in ("same-origin", "none") or _is_navigation(scope, headers)


async def _user_of_token(auth: Auth, headers: Headers, path: str) -> User | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not path.startswith("/api/"):
        return None
    return await run_in_threadpool(auth.user_of_token, token.strip())


def _is_navigation(scope: Scope, headers: Headers) -> bool:
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    mode = headers.get("sec-fetch-mode")
    if mode is not None:
        return mode == "navigate"
    return "text/html" in headers.get("accept", "")


def _stranger(scope: Scope, headers: Headers) -> Response:
    if scope["path"].startswith("/api/"):
        return JSONResponse(
            {"error": {"code": "not-signed-in", "message": "Send a token; see docs/api.md."}},
            401,
            {"WWW-Authenticate": "Bearer"},
        )
    if _is_navigation(scope, headers):
        return HTMLResponse(page("Please sign in", _STRANGER), 401, {"Cache-Control": "no-store"})
    return _plain(401, _STRANGER)


def page(title: str, text: str) -> str:
    """A small page of the portal's own, outside Streamlit."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)} · SceneBridge</title>"
        "<style>:root{color-scheme:light dark}body{font:17px/1.6 system-ui,sans-serif;"
        "max-width:34rem;margin:18vh auto;padding:0 1.5rem}h1{font-size:1.5rem}</style>"
        f"<main><h1>{html.escape(title)}</h1><p>{html.escape(text)}</p></main></html>"
    )


def _plain(status: int, text: str) -> Response:
    return Response(text + "\n", status, media_type="text/plain")


def _with_security_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return wrapped


async def _refuse_websocket(refusal: Response, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 4000 + refusal.status_code})
