"""One notebook's origin as an ASGI application: entry, checks, then the notebook itself."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote

from lib.errors import ProtocolError, Refused, SceneBridgeError, Unavailable
from lib.model import SessionId
from lib.notebook_proxy import csrf, headers, lab_bar, websocket
from lib.notebook_proxy.activity import SignInActivity
from lib.notebook_proxy.error_pages import ErrorPages
from lib.notebook_proxy.http import ProxiedRequest, UpstreamError
from lib.notebook_proxy.open_notebooks import ActiveRequests, OpenNotebooks
from lib.notebook_proxy.origins import Addresses
from lib.notebook_proxy.tickets import Cookies, Grant, NotebookAccessCheck, Tickets, local_path

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

#: Everything below belongs to the proxy, whatever the notebook's server has there.
OWN_PATHS = "/_portal/"
ENTER = "/_portal/enter"
ENTERED = "/_portal/entered"
NOTHING_HERE = "There is nothing at this address."
OPEN_AGAIN = "Open this notebook from the portal again."


class NotebookApp:
    """Serves every notebook; which one is said by the caller."""

    def __init__(
        self,
        addresses: Addresses,
        notebooks: OpenNotebooks,
        requests: ActiveRequests,
        tickets: Tickets,
        cookies: Cookies,
        access_check: NotebookAccessCheck,
        activity: SignInActivity,
    ) -> None:
        self._addresses = addresses
        self._notebooks = notebooks
        self._requests = requests
        self._tickets = tickets
        self._cookies = cookies
        self._access_check = access_check
        self._activity = activity
        self._pages = ErrorPages(addresses.portal_origin)

    async def serve(self, session: SessionId, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or WebSocket to the notebook of `session`."""
        if scope["type"] == "websocket":
            await receive()  # "websocket.connect" comes before anything may be said
        own = self._addresses.origin(session)
        if headers.size(scope) > csrf.MAX_HEADER_BYTES:
            await self._pages.send(scope, send, 431, "The request's headers are too large.")
        elif not _raw_path(scope).startswith(b"/"):
            await self._pages.send(scope, send, 400, "This address is not valid.")
        elif (refused := csrf.refusal(scope, own)) is not None:
            await self._pages.send(scope, send, 403, refused)
        elif scope["path"] in lab_bar.METHODS:
            await self._bar(session, scope, send)
        elif scope["path"].startswith(OWN_PATHS):
            await self._own(session, scope, send)
        else:
            await self._visit(session, own, scope, receive, send)

    async def _visit(
        self, session: SessionId, own: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            grant = await self._grant(session, scope)
        except SceneBridgeError as exc:
            await self._pages.send(scope, send, 503, exc.message, refresh_s=5)
            return
        if grant is None:
            await self._send_to_portal(session, scope, send)
            return
        upstream = self._notebooks.get(session)
        if upstream is None:
            again = 0 if self._notebooks.closed(session) else 5
            sentence = self._notebooks.closed_reason(session)
            await self._pages.send(scope, send, 503, sentence, refresh_s=again)
            return
        try:
            with self._requests.track(grant) as ended:
                if scope["type"] == "websocket":
                    heard = self._heard(receive, grant)
                    await websocket.join(scope, heard, send, upstream, origin=own, ended=ended)
                else:
                    portal = self._addresses.portal_origin
                    bar = lab_bar.tail(portal, session) if lab_bar.belongs_to(scope) else b""
                    if scope["method"] not in csrf.SAFE_METHODS:
                        self._activity.note(grant.login)
                    await ProxiedRequest(
                        scope,
                        receive,
                        send,
                        upstream,
                        origin=own,
                        portal_origin=portal,
                        tail=bar,
                    ).run(ended)
                    self._notebooks.note(session, away=False)
        except UpstreamError as error:
            still_open = self._notebooks.get(session) is not None
            if still_open:
                self._notebooks.note(session, away=error.line_away)
            sentence = error.sentence if still_open else self._notebooks.closed_reason(session)
            again = 5 if still_open and error.status == 502 else 0
            await self._pages.send(scope, send, error.status, sentence, refresh_s=again)

    def _heard(self, receive: Receive, grant: Grant) -> Receive:
        """`receive`, where each message of the browser counts as use of the sign-in."""

        async def heard() -> Message:
            message = await receive()
            if message["type"] == "websocket.receive":
                self._activity.note(grant.login)
            return message

        return heard

    async def _grant(self, session: SessionId, scope: Scope) -> Grant | None:
        """The grant in the cookie, while the portal lets them."""
        sent = [value for name, value in scope["headers"] if name == b"cookie"]
        grant = self._cookies.read(session, sent) if sent else None
        if grant is None:
            return None
        allowed = await self._access_check.may_open(session, grant.user, grant.login)
        return grant if allowed else None

    async def _send_to_portal(self, session: SessionId, scope: Scope, send: Send) -> None:
        """Somebody without a valid cookie: the portal knows who they are, we do not."""
        if not csrf.is_navigation(scope):
            await self._pages.send(scope, send, 401, OPEN_AGAIN)
            return
        query = scope["query_string"].decode("latin-1")
        wanted = _raw_path(scope).decode("latin-1") + (f"?{query}" if query else "")
        await self._pages.redirect(scope, send, self._portal_url(session, local_path(wanted)))

    async def _bar(self, session: SessionId, scope: Scope, send: Send) -> None:
        """What the bar in JupyterLab's page is made of, and asks."""
        path = scope["path"]
        if scope.get("method") != lab_bar.METHODS[path]:
            await self._pages.send(scope, send, 404, NOTHING_HERE)
            return
        if path == lab_bar.SCRIPT:
            await self._pages.own(scope, send, b"text/javascript; charset=utf-8", lab_bar.script())
            return
        try:
            grant = await self._grant(session, scope)
            if grant is None:
                await self._pages.send(scope, send, 401, OPEN_AGAIN)
                return
            said = await (self._keep(grant) if path == lab_bar.KEEP else self._state(session))
        except SceneBridgeError as exc:
            await self._pages.send(scope, send, 503, exc.message)
            return
        await self._pages.own(scope, send, b"application/json", json.dumps(said).encode())

    async def _state(self, session: SessionId) -> dict[str, float | str | None]:
        """The times that are left, as the portal has them, and what is wrong with the line."""
        return {
            "now": time.time(),
            "ends_at": await self._access_check.ends_at(session),
            "idle_at": self._notebooks.idle_at(session),
            "line": await self._line(session),
        }

    async def _line(self, session: SessionId) -> str:
        """One sentence on why the notebook cannot be reached; empty where it can."""
        upstream = self._notebooks.get(session)
        if upstream is None:
            return self._notebooks.closed_reason(session)
        if self._notebooks.away(session):  # until it is seen to be there again
            try:
                await upstream.probe(timeout_s=2.0)
            except (Unavailable, ProtocolError):
                return lab_bar.LINE_AWAY
            self._notebooks.note(session, away=False)
        return ""

    async def _keep(self, grant: Grant) -> dict[str, float | str | None]:
        """Somebody says in the notebook's page that they work there."""
        upstream = self._notebooks.get(grant.session)
        if upstream is None:
            raise Unavailable(self._notebooks.closed_reason(grant.session))
        await upstream.keep()
        self._activity.note(grant.login)
        self._notebooks.idle(grant.session, None)
        return {}

    async def _own(self, session: SessionId, scope: Scope, send: Send) -> None:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if not csrf.is_navigation(scope) or scope["method"] != "GET":
            await self._pages.send(scope, send, 404, NOTHING_HERE)
        elif scope["path"] == ENTER:
            await self._enter(session, query.get("t", [""])[0], scope, send)
        elif scope["path"] == ENTERED:
            await self._entered(session, local_path(query.get("next", ["/"])[0]), scope, send)
        else:
            await self._pages.send(scope, send, 404, NOTHING_HERE)

    async def _enter(self, session: SessionId, ticket: str, scope: Scope, send: Send) -> None:
        """Change a ticket into the cookie."""
        again = (self._portal_url(session, "/"), "Open this notebook from the portal")
        try:
            grant, onward = self._tickets.redeem(ticket, session)
            if not await self._access_check.may_open(session, grant.user, grant.login):
                raise Refused("The portal does not let you use this notebook.")
        except SceneBridgeError as exc:
            await self._pages.send(scope, send, 403, exc.message, link=again)
            return
        cookie = (b"set-cookie", self._cookies.set(grant).encode("ascii"))
        check = f"{ENTERED}?next={quote(onward, safe='/')}"
        await self._pages.redirect(scope, send, check, cookie)

    async def _entered(self, session: SessionId, onward: str, scope: Scope, send: Send) -> None:
        """Go on, once the cookie has come back: without this step a browser that keeps
        no cookies would go round between portal and notebook for ever."""
        if await self._grant(session, scope) is not None:
            await self._pages.redirect(scope, send, onward)
            return
        await self._pages.send(
            scope,
            send,
            403,
            "Your browser did not keep the notebook's cookie. Allow cookies for this address, "
            "or open the notebook in a tab of its own.",
            link=(self._portal_url(session, "/"), "Open it in a new tab"),
        )

    def _portal_url(self, session: SessionId, onward: str) -> str:
        """Where the portal checks who is asking and sends them back with a ticket."""
        return f"{self._addresses.portal_origin}/open/{session}?next={quote(onward, safe='/')}"


def _raw_path(scope: Scope) -> bytes:
    return bytes(scope.get("raw_path") or scope["path"].encode())
