"""What can be chosen beside scenes: modules and clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.portal.facade import Portal
from lib.web.api.answers import ask, json_response
from lib.web.api.queries import whole

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


async def modules(request: Request) -> Response:
    return json_response(await ask(request, Portal.modules))


async def clusters(request: Request) -> Response:
    every = whole(request, "all", 0, 0, 1)
    return json_response(await ask(request, Portal.all_clusters if every else Portal.clusters))
