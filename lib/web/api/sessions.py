"""Sessions: listed, opened, looked at, kept running, stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.model import SessionId
from lib.portal.facade import Portal
from lib.web.api.answers import ask, json_response
from lib.web.api.launch_request import launch_request

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


async def sessions(request: Request) -> Response:
    return json_response(await ask(request, Portal.sessions))


async def session(request: Request) -> Response:
    return json_response(
        await ask(request, Portal.session, SessionId(request.path_params["session"]))
    )


async def open_session(request: Request) -> Response:
    opened = await ask(request, Portal.open_notebook, await launch_request(request))
    return json_response(opened, 201, {"Location": f"/api/sessions/{opened.id}"})


async def keep_session(request: Request) -> Response:
    session_id = SessionId(request.path_params["session"])
    await ask(request, Portal.session, session_id)
    await ask(request, Portal.keep, session_id)
    return json_response(await ask(request, Portal.session, session_id))


async def stop_session(request: Request) -> Response:
    session_id = SessionId(request.path_params["session"])
    await ask(request, Portal.session, session_id)
    await ask(request, Portal.stop, session_id)
    return json_response(await ask(request, Portal.session, session_id), 202)
