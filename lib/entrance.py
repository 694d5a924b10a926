"""Signing in, and the way from the portal to a notebook's own origin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from lib import portal
from lib.auth import COOKIE, LOGIN_LIFETIME_S
from lib.door import page
from lib.errors import SceneBridgeError
from lib.model import SessionId, SessionState

if TYPE_CHECKING:
    from starlette.requests import Request

    from lib.auth import Auth, Login
    from lib.notebooks import NotebookProcess

_NEVER_KEEP = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


class Entrance:
    """The portal's own routes that are neither pages nor API."""

    def __init__(self, auth: Auth, proxy: NotebookProcess, *, secure: bool) -> None:
        """
        Args:
            secure: browsers reach the portal by https only.
        """
        self._auth = auth
        self._proxy = proxy
        self._secure = secure

    def routes(self) -> list[Route]:
        return [
            Route("/signin", self.sign_in, methods=["GET"]),
            Route("/signout", self.sign_out, methods=["POST"]),
            Route("/open/{session}", self.open_notebook, methods=["GET"]),
        ]

    async def sign_in(self, request: Request) -> Response:
        """Change a one-time link for a login cookie."""
        if request.method == "HEAD" or "prefetch" in request.headers.get("sec-purpose", ""):
            return Response(status_code=405, headers=_NEVER_KEEP)
        client = request.client.host if request.client else ""
        try:
            secret = await run_in_threadpool(
                self._auth.sign_in, request.query_params.get("key", ""), client
            )
        except SceneBridgeError as exc:
            return HTMLResponse(page("This link no longer works", exc.message), 403, _NEVER_KEEP)
        response = RedirectResponse("/", 303, _NEVER_KEEP)
        response.set_cookie(
            COOKIE,
            secret,
            max_age=LOGIN_LIFETIME_S,
            httponly=True,
            samesite="lax",
            secure=self._secure,
        )
        return response

    async def sign_out(self, request: Request) -> Response:
        """End this login; notebooks opened with it close within a second."""
        login: Login | None = getattr(request.state, "login", None)
        if login is not None:
            await run_in_threadpool(self._auth.sign_out, login)
            self._proxy.sign_out(login.id)
        response = RedirectResponse("/", 303, _NEVER_KEEP)
        response.delete_cookie(COOKIE)
        return response

    async def open_notebook(self, request: Request) -> Response:
        """A stable address for links and frames: checks who asks, then hops with a
        one-time ticket to the notebook's own origin."""
        session_id = SessionId(request.path_params["session"])
        login: Login | None = getattr(request.state, "login", None)
        if login is None:
            return HTMLResponse(page("Please sign in", "Open the portal first."), 401)
        try:
            session = await run_in_threadpool(portal.current().session, login.user, session_id)
            if session.state is not SessionState.READY:
                return HTMLResponse(_not_ready(session.state, session.reason), 409, _NEVER_KEEP)
            onward = request.query_params.get("next", "/")
            target = await self._proxy.entry_url(session.id, login.user.id, login.id, onward)
        except SceneBridgeError as exc:
            return HTMLResponse(page("This notebook cannot be opened", exc.message), 404)
        return RedirectResponse(target, 303, _NEVER_KEEP)


def _not_ready(state: SessionState, reason: str) -> str:
    title = "This notebook has ended" if state is SessionState.ENDED else "Not ready yet"
    return page(title, reason)
