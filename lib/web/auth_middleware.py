"""Authentication middleware: nothing behind it answers a stranger.

Pure ASGI. For every HTTP request and WebSocket on the portal's own origin it checks

1. Host: one of the portal's names (a page on another name, rebound to this address,
   gets nothing);
2. Origin: on WebSockets and on requests that change something, it must be the portal's
   own, unless a program authenticates with a token;
3. who asks: a login cookie, or, below /api, a bearer token;
4. whether they may be here (`Access`).

The user is then in `scope["state"]["user"]`. A WebSocket ends with its sign-in.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response

from lib.auth import CLIENT_HEADER, COOKIE, LOGIN_HEADER
from lib.auth.authorization import Act
from lib.errors import Refused, SceneBridgeError
from lib.http.client_address import client_of
from lib.http.html_pages import PLAIN_POLICY
from lib.http.security_headers import portal_headers
from lib.web import change_feed
from lib.web.api.answers import error_answer
from lib.web.websocket_sessions import WebSocketSessions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from lib.auth import Auth
    from lib.auth.authorization import Access
    from lib.model import User

OPEN_PATHS = frozenset({"/healthz", "/signin"})
_WAY_IN = re.compile(r"/signin/[a-z0-9-]{1,32}(?:/callback)?")
#: Streamlit's own ways to sign in, to take files and to serve programs: the portal has its own.
CLOSED_PATHS = ("/auth/", "/oauth2callback", "/_stcore/upload_file", "/_stcore/agent")
#: The largest body that anything of the portal reads.
LARGEST_BODY = 2**20
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class AuthMiddleware:
    """Wraps the portal's application.

    Args:
        origin: e.g. "http://localhost:8501"; the only origin whose pages may act.
        access: who may be here, and `auth` who that is.
        policies: the Content-Security-Policy by the beginning of the path; the first counts.
        sign_in_page: the page for a browser that is not signed in, by the path it asked for.
        trusted_proxies: addresses whose X-Forwarded-For counts.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        origin: str,
        auth: Auth,
        access: Access,
        policies: Mapping[str, str],
        sign_in_page: Callable[[str], str],
        trusted_proxies: Iterable[str] = (),
    ) -> None:
        self._app = app
        self._origin = origin
        self._auth = auth
        self._access = access
        self._sign_in_page = sign_in_page
        self._trusted = frozenset(trusted_proxies)
        self._websockets = WebSocketSessions(auth)
        parts = urlsplit(origin)
        self._policies = dict(policies)
        self._headers = portal_headers(secure=parts.scheme == "https")
        self._host = parts.netloc
        port = f":{parts.port}" if parts.port else ""
        self._hosts = {self._host}
        if parts.hostname == "localhost":
            self._hosts |= {name + port for name in _LOOPBACK_NAMES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        peer = scope.get("client")
        state["client"] = client_of(peer[0] if peer else "", scope["headers"], self._trusted)
        _tell_pages(scope, {CLIENT_HEADER: state["client"], LOGIN_HEADER: ""})
        try:
            refusal = await self._refuse(scope)
        except SceneBridgeError as exc:  # the store cannot say who this is
            refusal = _told(scope, 503, exc.message)
        if refusal is not None and scope["type"] == "websocket":
            await _refuse_websocket(refusal, receive, send)
        elif refusal is not None:
            await refusal(scope, receive, self._with_headers(scope, send))
        elif scope["type"] == "websocket":
            await self._websockets.run(self._app, scope, receive, send, state["login"].id)
        else:
            await self._app(scope, receive, self._with_headers(scope, send))

    async def _refuse(self, scope: Scope) -> Response | None:
        """None where the request may pass."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return _told(scope, 421, "This address is not the portal's.")
        path: str = scope["path"]
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and scope["type"] == "http" and path not in OPEN_PATHS:
            return await self._program(scope, headers, token.strip())
        if _is_navigation(scope, headers) and hosts[0].lower() != self._host:
            return RedirectResponse(self._origin + _onward(scope), 307)
        if not self._origin_allowed(scope, headers):
            await self._log(scope, "another site's page")
            return _told(scope, 403, "A page of another site may not do this.")
        if path.startswith(CLOSED_PATHS):
            return _told(scope, 404, "There is nothing here.")
        if _too_large(headers):
            return _told(scope, 413, "The request is too large.")
        if path in OPEN_PATHS or _WAY_IN.fullmatch(path):
            return None
        return await self._browser(scope, headers)

    async def _program(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        """A request with an access token; cookies do not count beside it."""
        if scope["path"].startswith("/api/"):
            client = scope["state"]["client"]
            user = await run_in_threadpool(self._auth.tokens.user_of, token, client)
            if user is not None:
                if _too_large(headers):
                    return _told(scope, 413, "The request is too large.")
                return await self._enter(scope, user)
        await self._log(scope, "a token that does not count")
        return _no_token()

    async def _browser(self, scope: Scope, headers: Headers) -> Response | None:
        cookies = "; ".join(headers.getlist("cookie"))
        login = await run_in_threadpool(
            self._auth.logins.of_header, cookies, scope["state"]["client"]
        )
        if login is None:
            return self._not_signed_in(scope, headers)
        refusal = await self._enter(scope, login.user)
        if refusal is None:
            scope["state"]["login"] = login
            _tell_pages(scope, {LOGIN_HEADER: login.id})
            if _is_act(scope, headers):
                await run_in_threadpool(self._auth.logins.touch, login.id)
        return refusal

    async def _enter(self, scope: Scope, user: User) -> Response | None:
        try:
            scope["state"]["user"] = await run_in_threadpool(self._access.require, user, Act.ENTER)
        except Refused as exc:
            return _told(scope, 403, exc.message)
        return None

    def _origin_allowed(self, scope: Scope, headers: Headers) -> bool:
        origins = headers.getlist("origin")
        if scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS:
            return origins == [self._origin]
        site = headers.get("sec-fetch-site", "none")
        return site in ("same-origin", "none") or _is_navigation(scope, headers)

    def _not_signed_in(self, scope: Scope, headers: Headers) -> Response:
        response: Response
        if scope["path"].startswith("/api/"):
            response = _no_token()
        elif _is_navigation(scope, headers):
            never_keep = {"Cache-Control": "no-store", "Content-Security-Policy": PLAIN_POLICY}
            response = HTMLResponse(self._sign_in_page(_onward(scope)), 401, never_keep)
        else:
            response = _told(scope, 401, "You are not signed in.")
        if COOKIE in headers.get("cookie", ""):  # it counts no more
            response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="lax")
        return response

    async def _log(self, scope: Scope, why: str) -> None:
        await run_in_threadpool(
            self._auth.log_refusal, scope["path"], why, scope["state"]["client"]
        )

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        path: str = scope["path"]
        policy = next(
            (p for b, p in self._policies.items() if path.startswith(b)), self._policies["/"]
        )

        async def wrapped(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                headers.setdefault("Content-Security-Policy", policy)
            await send(message)

        return wrapped


def _tell_pages(scope: Scope, said: Mapping[str, str]) -> None:
    """Pages see headers alone: what they must know goes there, and only ours."""
    ours = {name.lower().encode(): value.encode("latin-1") for name, value in said.items()}
    others = [(name, value) for name, value in scope["headers"] if name not in ours]
    scope["headers"] = [*others, *ours.items()]


def _onward(scope: Scope) -> str:
    """The path and query that were asked for, as a local address."""
    query = scope["query_string"].decode("latin-1")
    path = "/" + quote(scope["path"].lstrip("/"), safe="/:@!$&'()*+,;=~")
    return path + (f"?{query}" if query else "")


def _too_large(headers: Headers) -> bool:
    length = headers.get("content-length", "0")
    return not length.isdigit() or int(length[:20]) > LARGEST_BODY


def _is_navigation(scope: Scope, headers: Headers) -> bool:
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    mode = headers.get("sec-fetch-mode")
    if mode is not None:
        return mode == "navigate"
    return "text/html" in headers.get("accept", "")


def _is_act(scope: Scope, headers: Headers) -> bool:
    """Whether a person did something: what pages fetch by themselves does not count."""
    if scope["type"] == "websocket":
        return bool(scope["path"] != change_feed.PATH)
    return scope["method"] not in _SAFE_METHODS or _is_navigation(scope, headers)


def _no_token() -> Response:
    return error_answer(
        401,
        "not-signed-in",
        "Send a token that counts; see docs/api.md.",
        {"WWW-Authenticate": "Bearer"},
    )


#: The `code` of a refusal below /api, by its status.
_CODES = {403: "refused", 404: "not-found", 503: "unavailable"}


def _told(scope: Scope, status: int, text: str) -> Response:
    """A refusal: as every error of the API below /api, else as plain text."""
    if scope["path"].startswith("/api/"):
        return error_answer(status, _CODES.get(status, "invalid"), text)
    return Response(text + "\n", status, media_type="text/plain")


async def _refuse_websocket(refusal: Response, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 4000 + refusal.status_code})
