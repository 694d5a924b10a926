"""Runs: listed, started, stopped; their detections and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from lib.model import RunId, SceneId
from lib.portal.facade import Portal
from lib.protocol.messages import ArtifactKind
from lib.web.api.answers import PICTURE_HEADERS, ask, json_response
from lib.web.api.launch_request import launch_request
from lib.web.api.queries import number_in_path

if TYPE_CHECKING:
    from starlette.requests import Request


async def runs(request: Request) -> Response:
    return json_response(await ask(request, Portal.runs))


async def run(request: Request) -> Response:
    return json_response(await ask(request, Portal.run, RunId(request.path_params["run"])))


async def start_run(request: Request) -> Response:
    started = await ask(request, Portal.start_run, await launch_request(request))
    return json_response(started, 201, {"Location": f"/api/runs/{started.id}"})


async def stop_run(request: Request) -> Response:
    run_id = RunId(request.path_params["run"])
    await ask(request, Portal.run, run_id)
    await ask(request, Portal.stop, run_id)
    return json_response(await ask(request, Portal.run, run_id), 202)


async def detections(request: Request) -> Response:
    run_id = RunId(request.path_params["run"])
    content = await ask(request, Portal.export_geojson, run_id)
    headers = {}
    if request.query_params.get("download"):
        headers["Content-Disposition"] = f'attachment; filename="detections-{run_id[:8]}.geojson"'
    return Response(content, media_type="application/geo+json", headers=headers)


async def chip(request: Request) -> Response:
    return await _picture(request, ArtifactKind.CHIP, number_in_path(request, "n"))


async def overview(request: Request) -> Response:
    return await _picture(request, ArtifactKind.OVERVIEW, 0)


async def _picture(request: Request, kind: ArtifactKind, n: int) -> Response:
    at = request.path_params
    content = await ask(request, Portal.picture, RunId(at["run"]), SceneId(at["scene"]), kind, n)
    return Response(content, media_type="image/webp", headers=PICTURE_HEADERS)
