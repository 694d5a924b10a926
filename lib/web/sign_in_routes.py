"""Signing in and out, and the way from the portal to a notebook's own origin."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from lib.auth import COOKIE
from lib.errors import NotFound, Refused, SceneBridgeError, Unavailable
from lib.http.html_pages import PLAIN_POLICY, page, sign_in_page
from lib.model import SessionId, SessionState
from lib.notebook_proxy.tickets import local_path
from lib.portal import facade

if TYPE_CHECKING:
    from starlette.requests import Request

    from lib.auth import Auth, Login
    from lib.auth.oidc import SignInProviders
    from lib.notebook_proxy.supervisor import NotebookProcess

#: Between leaving for a provider and coming back.
WAY_COOKIE = "__Host-sb-signin"
_WAY_S = 600
_NEVER_KEEP = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": PLAIN_POLICY,
}
_ONWARD = "onward"


class SignInRoutes:
    """The portal's own routes that are neither pages nor API."""

    def __init__(
        self,
        auth: Auth,
        proxy: NotebookProcess,
        providers: SignInProviders,
        *,
        origin: str,
        secret: bytes,
    ) -> None:
        """
        Args:
            origin: the portal as browsers see it.
            secret: signs what a browser remembers while it is at a provider.
        """
        self._auth = auth
        self._proxy = proxy
        self._providers = providers
        self._origin = origin
        self._secret = secret

    def routes(self) -> list[Route]:
        remembered = [
            Middleware(
                SessionMiddleware,
                secret_key=self._secret.hex(),
                session_cookie=WAY_COOKIE,
                max_age=_WAY_S,
                same_site="lax",
                https_only=True,
            )
        ]
        return [
            Route("/signin", self.sign_in, methods=["GET"]),
            Route("/signin/{provider}", self.begin, methods=["GET"], middleware=remembered),
            Route(
                "/signin/{provider}/callback",
                self.finish,
                methods=["GET"],
                middleware=remembered,
            ),
            Route("/signout", self.sign_out, methods=["POST"]),
            Route("/open/{session}", self.open_notebook, methods=["GET"]),
        ]

    def sign_in_page(self, onward: str) -> str:
        """The page for a browser that is not signed in."""
        return sign_in_page(self._providers.titles, onward)

    # --- signing in ---------------------------------------------------------------

    async def sign_in(self, request: Request) -> Response:
        """The ways to sign in; or change a one-time link for a login cookie."""
        if "key" not in request.query_params:
            onward = local_path(request.query_params.get("next", "/"))
            why = request.query_params.get("why", "")
            return HTMLResponse(sign_in_page(self._providers.titles, onward, why), 200, _NEVER_KEEP)
        if request.method == "HEAD" or "prefetch" in request.headers.get("sec-purpose", ""):
            return Response(status_code=405, headers=_NEVER_KEEP)
        try:
            secret = await run_in_threadpool(
                self._auth.sign_in, request.query_params["key"], *_whence(request)
            )
        except SceneBridgeError as exc:
            return HTMLResponse(page("This link no longer works", exc.message), 403, _NEVER_KEEP)
        return await self._let_in(request, secret, "/")

    async def begin(self, request: Request) -> Response:
        """Leave for a provider."""
        provider = request.path_params["provider"]
        onward = local_path(request.query_params.get("next", "/"))
        if request.method == "HEAD" or "prefetch" in request.headers.get("sec-purpose", ""):
            return Response(status_code=405, headers=_NEVER_KEEP)
        request.session.clear()  # one way at a time
        request.session[_ONWARD] = onward
        callback = f"{self._origin}/signin/{quote(provider, safe='')}/callback"
        try:
            response = await self._providers.begin(request, provider, callback)
        except SceneBridgeError as exc:
            return self._failed(exc, provider, onward)
        response.headers.update({"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
        return response

    async def finish(self, request: Request) -> Response:
        """Come back from a provider."""
        provider = request.path_params["provider"]
        onward = local_path(str(request.session.get(_ONWARD, "/")))
        client, browser = _whence(request)
        try:
            who = await self._providers.finish(request, provider)
        except SceneBridgeError as exc:
            await run_in_threadpool(
                self._auth.log_refusal, f"/signin/{provider}", exc.message, client
            )
            request.session.clear()
            return self._failed(exc, provider, onward)
        request.session.clear()
        try:
            secret = await run_in_threadpool(
                lambda: self._auth.admit(
                    who.provider,
                    who.subject,
                    name=who.name,
                    claims=who.claims,
                    issuer=who.issuer,
                    client=client,
                    browser=browser,
                )
            )
        except SceneBridgeError as exc:
            return self._failed(exc, provider, onward)
        return await self._let_in(request, secret, onward)

    async def _let_in(self, request: Request, secret: str, onward: str) -> Response:
        """Hand the cookie out; what this browser was before ends."""
        before = await run_in_threadpool(
            self._auth.logins.of_header, "; ".join(request.headers.getlist("cookie"))
        )
        if before is not None:
            await run_in_threadpool(self._auth.logins.sign_out, before)
        response = RedirectResponse(onward, 303, _NEVER_KEEP)
        response.set_cookie(
            COOKIE,
            secret,
            max_age=int(self._auth.logins.lifetime_s),
            httponly=True,
            samesite="lax",
            secure=True,
        )
        return response

    def _failed(self, exc: SceneBridgeError, provider: str, onward: str) -> Response:
        status = (
            403 if isinstance(exc, Refused)
            else 404 if isinstance(exc, NotFound)
            else 503 if isinstance(exc, Unavailable)
            else 502
        )  # fmt: skip
        links = {"Choose how to sign in": f"/signin?next={quote(onward, safe='/')}"}
        if provider in self._providers.titles:
            again = f"/signin/{provider}?next={quote(onward, safe='/')}"
            links = {"Begin again": again, **links}
        content = page("You are not signed in", exc.message, links)
        return HTMLResponse(content, status, _NEVER_KEEP)

    # --- signing out ----------------------------------------------------------------

    async def sign_out(self, request: Request) -> Response:
        """End this login; its pages and notebooks close within a second."""
        login: Login | None = getattr(request.state, "login", None)
        if login is not None:
            await run_in_threadpool(self._auth.logins.sign_out, login)
        response = RedirectResponse("/signin?why=out", 303, _NEVER_KEEP)
        response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="lax")
        return response

    # --- notebooks --------------------------------------------------------------------

    async def open_notebook(self, request: Request) -> Response:
        """A stable address for links and frames: checks who asks, then hops with a
        one-time ticket to the notebook's own origin."""
        session_id = SessionId(request.path_params["session"])
        login: Login | None = getattr(request.state, "login", None)
        if login is None:  # a program with a token opens no notebook
            return HTMLResponse(page("Please sign in", "Open the portal first."), 401, _NEVER_KEEP)
        try:
            here = facade.current()
            session = await run_in_threadpool(here.notebook, request.state.user, session_id)
            if session.state is not SessionState.READY:
                return HTMLResponse(_not_ready(session.state, session.reason), 409, _NEVER_KEEP)
            onward = request.query_params.get("next", "/")
            target = await self._proxy.entry_url(session.id, login.user.id, login.id, onward)
        except SceneBridgeError as exc:
            status = 403 if isinstance(exc, Refused) else 404
            return HTMLResponse(
                page("This notebook cannot be opened", exc.message), status, _NEVER_KEEP
            )
        return RedirectResponse(target, 303, _NEVER_KEEP)


def _whence(request: Request) -> tuple[str, str]:
    """The network address, and what the browser calls itself."""
    return request.state.client, request.headers.get("user-agent", "")


def _not_ready(state: SessionState, reason: str) -> str:
    title = "This notebook has ended" if state is SessionState.ENDED else "Not ready yet"
    return page(title, reason)
