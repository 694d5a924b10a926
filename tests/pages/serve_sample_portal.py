"""A server of a portal for page tests.

python serve_sample_portal.py FOLDER PORT     scenes must be planted before
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import streamlit as st
import uvicorn
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lib.auth.oidc import SignInProviders
from lib.config.settings import Settings
from lib.http.security_headers import page_policies
from lib.portal import facade
from lib.web import api
from lib.web.auth_middleware import AuthMiddleware
from lib.web.change_feed import ChangeFeed
from lib.web.sign_in_routes import SignInRoutes
from tests.pages.sample_people import CAMPUS
from tests.pages.sample_portal import Site

NOTEBOOK = "/a-notebook"


class NoProxy:
    """Where the notebooks would be: one page of the portal's own."""

    def entry_url(self, session: str, user: str, login: str, onward: str) -> str:
        return NOTEBOOK


def application(site: Site, origin: str) -> Any:
    """The ASGI application around the real app.py as the page script."""

    async def notebook(request: Any) -> HTMLResponse:
        return HTMLResponse("<h1>a notebook</h1>")

    @asynccontextmanager
    async def lifespan(_app: object) -> Any:
        site.reconciler.loop = asyncio.get_running_loop()
        facade.use(site.portal)
        yield {}

    sign_in = SignInRoutes(
        site.auth,
        cast(Any, NoProxy()),
        SignInProviders([CAMPUS], lambda _: "a secret"),
        origin=origin,
        secret=b"s" * 32,
    )
    return st.App(
        ROOT / "app.py",
        lifespan=lifespan,
        routes=[
            *api.routes(),
            *sign_in.routes(),
            ChangeFeed().route(),
            Route(NOTEBOOK, notebook),
            Mount("/assets", StaticFiles(directory=ROOT / "assets", check_dir=False)),
        ],
        middleware=[
            Middleware(
                AuthMiddleware,
                origin=origin,
                auth=site.auth,
                access=site.access,
                policies=page_policies(
                    Settings(data=site.folder, runtime=site.folder, port=urlsplit(origin).port or 0)
                ),
                sign_in_page=sign_in.sign_in_page,
            )
        ],
    )


def serve(folder: Path, port: int) -> None:
    """Serve until the process is ended."""
    os.chdir(ROOT)
    uvicorn.run(
        application(Site(folder), f"http://localhost:{port}"),
        port=port,
        host="localhost",
        ws="websockets-sansio",
        log_level="warning",
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
