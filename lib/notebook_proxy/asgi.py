"""`Proxy`, what the portal holds of this package, and the middleware it goes through."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from lib.errors import NotFound, SceneBridgeError
from lib.model import SessionId, UserId
from lib.notebook_proxy.activity import Active, Activity
from lib.notebook_proxy.error_pages import Answers, Receive, Send
from lib.notebook_proxy.notebook_site import ENTER, NotebookSite
from lib.notebook_proxy.open_notebooks import Notebooks, Visits
from lib.notebook_proxy.origins import Addresses, HostAddresses, PortAddresses, Scope
from lib.notebook_proxy.port_listeners import App, Doors
from lib.notebook_proxy.tickets import Cookies, Gatekeeper, Tickets, Visitor, local_path
from lib.notebook_proxy.upstream import Upstream


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """How notebooks are addressed.

    Args:
        portal_origin: the portal as browsers see it, e.g. ``http://localhost:8501``.
        secret: signs the notebooks' cookies; at least 32 random bytes, kept over restarts.
        notebooks: ``host`` for ``nb-ID.BASE``, ``port`` for a port per notebook.
        base: with ``host``: ``host[:port]`` below which notebooks live; the portal's
            own by default. A production site gives a registrable domain of its own.
        ports: with ``port``: first and last port to use; any where both are 0.
    """

    portal_origin: str
    secret: bytes = field(repr=False)
    notebooks: Literal["host", "port"] = "host"
    base: str = ""
    ports: tuple[int, int] = (0, 0)


class Proxy:
    """The notebooks that are open, and the way in. Belongs to one event loop."""

    def __init__(
        self, settings: ProxySettings, gatekeeper: Gatekeeper, active: Active | None = None
    ) -> None:
        """
        Args:
            active: told of sign-ins that are in use, at most once a minute each.
        """
        self._notebooks = Notebooks()
        self._visits = Visits(gatekeeper)
        self._tickets = Tickets()
        self._doors: Doors | None = None
        cookies = Cookies(settings.secret)
        parts = (
            *(self._notebooks, self._visits, self._tickets),
            *(cookies, gatekeeper, Activity(active)),
        )
        self.addresses: Addresses
        if settings.notebooks == "port":
            ports = PortAddresses(settings.portal_origin)
            self.addresses = ports
            self.site = NotebookSite(ports, *parts)
            self._doors = Doors(NotebookProxy(_nothing, self), ports, settings.ports)
        else:
            self.addresses = HostAddresses(settings.portal_origin, settings.base)
            self.site = NotebookSite(self.addresses, *parts)

    async def open(self, session: SessionId, upstream: Upstream, *, port: int = 0) -> None:
        """Let visitors in; safe to repeat, the newer upstream counts (the older is closed).

        Args:
            port: one that the notebook had before (setting ``port``).
        Raises:
            Unavailable: no port could be opened (setting ``port``).
        """
        if self._doors is not None:
            await self._doors.open(session, port)
        previous = self._notebooks.add(session, upstream)
        if previous is not None and previous is not upstream:
            self._visits.end(session=session)
            await previous.aclose()

    async def close(self, session: SessionId, reason: str = "") -> None:
        """End its requests and WebSockets; from now on `reason` is what visitors read."""
        upstream = self._notebooks.remove(session, reason)
        self._visits.end(session=session)
        if self._doors is not None:
            await self._doors.close(session)
        if upstream is not None:
            await upstream.aclose()

    def get(self, session: SessionId) -> Upstream | None:
        """The upstream of an open notebook."""
        return self._notebooks.get(session)

    def port(self, session: SessionId) -> int:
        """The notebook's own port; 0 where it has none."""
        found = self.addresses.ports if isinstance(self.addresses, PortAddresses) else {}
        return found.get(session, 0)

    def counts(self) -> dict[str, int]:
        """How many notebooks are open, and visits to them under way."""
        return {"notebooks": len(self._notebooks.sessions()), "visits": len(self._visits)}

    def sign_out(self, login: str) -> None:
        """End whatever is open under that sign-in at once; the gatekeeper refuses the rest."""
        self._visits.end(login=login)

    def origin(self, session: SessionId) -> str:
        """The notebook's origin. Raises Conflict while it has none (setting ``port``)."""
        return self.addresses.origin(session)

    def entry_url(self, session: SessionId, user: UserId, login: str, onward: str = "/") -> str:
        """An address that lets this visitor in once, within 30 seconds.

        To be given as a redirect, after the portal has checked who asks.

        Args:
            login: names the sign-in; handed to the gatekeeper at every request.
            onward: local path to open; anything else becomes ``/``.
        Raises:
            Conflict: the notebook is not open (setting ``port``).
        """
        ticket = self._tickets.issue(Visitor(session, user, login), local_path(onward))
        return f"{self.origin(session)}{ENTER}?t={ticket}"

    async def aclose(self) -> None:
        """Close everything; visitors of a portal that stops see their connections end."""
        self._visits.close()
        await asyncio.gather(*(self.close(session) for session in self._notebooks.sessions()))


class NotebookProxy:
    """Pure ASGI middleware, to be the outermost: notebooks' addresses never go further in."""

    def __init__(self, app: App, proxy: Proxy) -> None:
        self._app = app
        self._proxy = proxy
        self._answers = Answers(proxy.addresses.portal_origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            session = self._proxy.addresses.session_of(scope)
        except SceneBridgeError as exc:
            status = 404 if isinstance(exc, NotFound) else 400
            if scope["type"] == "websocket":
                await receive()
            await self._answers.say(scope, send, status, exc.message)
            return
        if session is None:
            await self._app(scope, receive, send)
        else:
            await self._proxy.site.serve(session, scope, receive, send)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    """Behind a notebook's own port there is nothing but the notebook, which is closing."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b""})
