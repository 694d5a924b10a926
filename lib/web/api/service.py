"""The API about itself and who asks: health, OpenAPI, me."""

# Every handler takes the request, needed or not.
# ruff: noqa: ARG001

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from lib.portal import facade
from lib.portal.facade import Portal
from lib.web.api.answers import ask, json_response

if TYPE_CHECKING:
    from starlette.requests import Request


_OPENAPI = Path(__file__).resolve().parents[3] / "docs" / "openapi.yaml"


async def healthz(request: Request) -> Response:
    """Alive, without saying anything about the inside."""
    facade.current()
    return JSONResponse({"status": "ok", "version": Portal.version})


async def openapi(request: Request) -> Response:
    return Response(await run_in_threadpool(_OPENAPI.read_bytes), media_type="application/yaml")


async def me(request: Request) -> Response:
    return json_response(await ask(request, Portal.me))
