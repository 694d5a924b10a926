"""Putting one portal process together: which part gets which, and in what order they
start and stop. Nothing here decides anything else."""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from lib.auth import auth_of
from lib.auth.authorization import Access, Act
from lib.auth.oidc import SignInProviders
from lib.config.data_dir import make_data_folder
from lib.config.offerings import load_offerings, offered
from lib.config.runtime_dir import make_runtime_folder
from lib.config.settings import PROJECT
from lib.config.site_paths import tunnel_folder
from lib.errors import NotFound, Refused
from lib.http.security_headers import page_policies
from lib.notebook_proxy.messages import Start
from lib.notebook_proxy.supervisor import NotebookProcess
from lib.portal import facade
from lib.portal.tunnels import OuterTunnels
from lib.reconciler.reconciler import Reconciler
from lib.results.folder import ResultFolder
from lib.scenes.local_catalog import LocalCatalog
from lib.server.cluster_files import ClusterFiles
from lib.server.gate_links import links
from lib.store import Store
from lib.web import api
from lib.web.auth_middleware import AuthMiddleware
from lib.web.change_feed import ChangeFeed
from lib.web.sign_in_routes import SignInRoutes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from lib.config.settings import Settings
    from lib.model import ClusterId, UserId


class Assembly:
    """One portal. Routes and middleware are for the application that serves it; the rest
    exists from the start of `lifespan` to its end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        make_data_folder(settings.data)
        make_runtime_folder(settings.runtime)
        self._offerings = offered(load_offerings(PROJECT), settings)
        self._store = Store(settings.data / "portal.sqlite")
        self.auth = auth_of(settings, self._store)
        tunnels = OuterTunnels(tunnel_folder())
        self.access = Access(self.auth, self._offerings, self._store.audit, tunnels.of)
        self._results = ResultFolder(settings.data / "results")
        self._catalog = LocalCatalog(settings.data / "scenes")
        self.proxy = NotebookProcess(
            Start(
                portal_origin=settings.origin,
                portal_port=settings.port,
                notebooks=settings.notebooks.value,
                base=settings.base_of_notebooks,
                ports=settings.notebook_ports,
                secret=_lasting_secret(settings.data / "secrets" / "notebook-cookies").hex(),
            ),
            settings.data,
            settings.port_of_notebooks,
        )
        self._reconciler = Reconciler(
            links(settings, self._offerings, tunnels),
            self._store,
            self._results,
            self.proxy,
            self._offerings.modules,
            settings.origin,
            self._refusal,
        )
        self._cluster_files = ClusterFiles(
            PROJECT, settings, self._offerings, tunnels, self._reconciler, self._store
        )
        self.portal = facade.Portal(
            self._store,
            self.auth,
            self.access,
            self._offerings,
            self._catalog,
            self._results,
            self._reconciler,
        )
        providers = SignInProviders(
            settings.provider,
            settings.client_secret,
            needed=self.auth.membership.claims_of,
        )
        self._sign_in = SignInRoutes(
            self.auth,
            self.proxy,
            providers,
            origin=settings.origin,
            secret=_lasting_secret(settings.data / "secrets" / "sign-in-way"),
        )

    def _refusal(self, owner: UserId, cluster: ClusterId) -> str:
        """Why that person may not start work there now, in nobody's browser; "" if they may."""
        try:
            user = self.auth.membership.user(self._store.people.account(owner))
            self.access.require(user, Act.LAUNCH, self._offerings.cluster(cluster))
        except (NotFound, Refused) as exc:
            return exc.message
        return ""

    def routes(self) -> list[BaseRoute]:
        """The portal's own routes, before Streamlit's."""
        assets = PROJECT / "assets"
        return [
            *api.routes(),
            *self._sign_in.routes(),
            Route("/explore", _explore, methods=["GET"]),
            ChangeFeed().route(),
            Mount("/assets", StaticFiles(directory=assets, check_dir=False), name="assets"),
        ]

    def middleware(self) -> list[Middleware]:
        """What every request to the portal goes through; notebooks have a process of their own."""
        return [
            Middleware(
                AuthMiddleware,
                origin=self.settings.origin,
                auth=self.auth,
                access=self.access,
                policies=page_policies(self.settings),
                sign_in_page=self._sign_in.sign_in_page,
                trusted_proxies=self.settings.trusted_proxies,
            ),
        ]

    @asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncIterator[None]:
        """Run the reconciler while the server runs. Jobs, gates and masters go on after it."""
        loop = asyncio.get_running_loop()

        def end_visits(logins: frozenset[str]) -> None:
            for login in logins:
                loop.call_soon_threadsafe(self.proxy.sign_out, login)

        self.auth.logins.on_end(end_visits)
        await self.proxy.start()
        self._reconciler.start()
        self._cluster_files.start()
        facade.use(self.portal)
        try:
            yield
        finally:
            facade.use(None)
            await self._cluster_files.close()
            await self._reconciler.close()
            await self.proxy.aclose()
            self._store.close()


def _lasting_secret(file: Path) -> bytes:
    """32 random bytes that are made once and stay."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as new:
            new.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    return file.read_bytes()


async def _explore(request: Request) -> RedirectResponse:
    """Explore is the first page, at /; who types its name as those of the others gets there."""
    query = request.url.query
    return RedirectResponse("/" + (f"?{query}" if query else ""), status_code=303)
