"""`NotebookProxy`: the reverse proxy as an ASGI application, with what is open behind it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from lib.errors import NotFound, SceneBridgeError
from lib.loops import Loops
from lib.model import SessionId, UserId
from lib.notebook_proxy.activity import OnSignInUse, SignInActivity
from lib.notebook_proxy.error_pages import ErrorPages
from lib.notebook_proxy.notebook_app import ENTER, NotebookApp
from lib.notebook_proxy.open_notebooks import ActiveRequests, OpenNotebooks
from lib.notebook_proxy.origins import Addresses, HostAddresses, PortAddresses
from lib.notebook_proxy.port_listeners import PortListeners
from lib.notebook_proxy.tickets import Cookies, Grant, NotebookAccessCheck, Tickets, local_path
from lib.notebook_proxy.upstream import Upstream

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


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


class NotebookProxy:
    """The notebooks that are open, and the ASGI application that serves their addresses.

    Belongs to one event loop.
    """

    def __init__(
        self,
        settings: ProxySettings,
        access_check: NotebookAccessCheck,
        active: OnSignInUse | None = None,
    ) -> None:
        """
        Args:
            active: told of sign-ins that are in use, at most once a minute each.
        """
        self._notebooks = OpenNotebooks()
        self._requests = ActiveRequests(access_check)
        self._tickets = Tickets()
        self._listeners: PortListeners | None = None
        cookies = Cookies(settings.secret)
        parts = (
            *(self._notebooks, self._requests, self._tickets),
            *(cookies, access_check, SignInActivity(active)),
        )
        self.addresses: Addresses
        if settings.notebooks == "port":
            ports = PortAddresses(settings.portal_origin)
            self.addresses = ports
            self._app = NotebookApp(ports, *parts)
            self._listeners = PortListeners(self, ports, settings.ports)
        else:
            self.addresses = HostAddresses(settings.portal_origin, settings.base)
            self._app = NotebookApp(self.addresses, *parts)
        self._error_pages = ErrorPages(self.addresses.portal_origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket. At these ports there are notebooks and nothing else."""
        try:
            session = self.addresses.session_of(scope)
        except SceneBridgeError as exc:
            status = 404 if isinstance(exc, NotFound) else 400
            await self._refuse(scope, receive, send, status, exc.message)
            return
        if session is not None:
            await self._app.serve(session, scope, receive, send)
        elif self._listeners is not None:  # its own port, which is being closed
            await self._refuse(scope, receive, send, 503, "This notebook is not open.")
        else:
            await self._refuse(scope, receive, send, 404, "There is no notebook at this address.")

    async def _refuse(
        self, scope: Scope, receive: Receive, send: Send, status: int, sentence: str
    ) -> None:
        if scope["type"] == "websocket":
            await receive()  # "websocket.connect" comes before anything may be said
        await self._error_pages.send(scope, send, status, sentence)

    async def open(self, session: SessionId, upstream: Upstream, *, port: int = 0) -> None:
        """Let visitors in; safe to repeat, the newer upstream counts (the older is closed).

        Args:
            port: one that the notebook had before (setting ``port``).
        Raises:
            Unavailable: no port could be opened (setting ``port``).
        """
        if self._listeners is not None:
            await self._listeners.open(session, port)
        previous = self._notebooks.add(session, upstream)
        if previous is not None and previous is not upstream:
            self._requests.end(session=session)
            await previous.aclose()

    async def close(self, session: SessionId, reason: str = "") -> None:
        """End its requests and WebSockets; from now on `reason` is what visitors read."""
        upstream = self._notebooks.remove(session, reason)
        self._requests.end(session=session)
        if self._listeners is not None:
            await self._listeners.close(session)
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
        """How many notebooks are open, and requests to them under way."""
        return {"notebooks": len(self._notebooks.sessions()), "requests": len(self._requests)}

    @property
    def loops(self) -> Loops:
        """Those of this process, for whoever asks whether they turn."""
        return self._requests.loops

    def idle(self, session: SessionId, at: float | None) -> None:
        """When it is ended because nobody works in it, once that is near: its page says so."""
        self._notebooks.idle(session, at)

    def sign_out(self, login: str) -> None:
        """End whatever is open under that sign-in at once; the access check refuses the rest."""
        self._requests.end(login=login)

    def origin(self, session: SessionId) -> str:
        """The notebook's origin. Raises Conflict while it has none (setting ``port``)."""
        return self.addresses.origin(session)

    def entry_url(self, session: SessionId, user: UserId, login: str, onward: str = "/") -> str:
        """An address that lets this visitor in once, within 30 seconds.

        To be given as a redirect, after the portal has checked who asks.

        Args:
            login: names the sign-in; handed to the access check at every request.
            onward: local path to open; anything else becomes ``/``.
        Raises:
            Conflict: the notebook is not open (setting ``port``).
        """
        ticket = self._tickets.issue(Grant(session, user, login), local_path(onward))
        return f"{self.origin(session)}{ENTER}?t={ticket}"

    async def aclose(self) -> None:
        """Close everything; visitors of a portal that stops see their connections end."""
        self._requests.close()
        await asyncio.gather(*(self.close(session) for session in self._notebooks.sessions()))
