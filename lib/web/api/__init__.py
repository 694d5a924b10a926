"""The HTTP API for programs, and what the pages fetch. Same rules, same `Portal`.

`docs/openapi.yaml` documents it; a test holds the two against each other.
"""

# Every handler takes the request, needed or not.
# ruff: noqa: ARG001

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lib.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    Refused,
    SceneBridgeError,
    SignInEnded,
    Unavailable,
)
from lib.model import LaunchRequest, Resources, RunId, SceneId, SessionId
from lib.portal import facade
from lib.portal.facade import Portal
from lib.protocol.messages import ArtifactKind
from lib.web.api.queries import audit_query, no_constant, scene_query, whole

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from lib.model import Scene, User

P = ParamSpec("P")
T = TypeVar("T")

_STATUS = (
    (SignInEnded, 401),
    (NotFound, 404),
    (Refused, 403),
    (Conflict, 409),
    (InvalidInput, 422),
    (Unavailable, 503),
)
_MAX_BODY = 2**20
_OPENAPI = Path(__file__).resolve().parents[3] / "docs" / "openapi.yaml"
_PICTURE_HEADERS = {"Cache-Control": "private, max-age=3600", "Content-Security-Policy": "sandbox"}


def routes() -> list[Route]:
    """All routes of the API, for the portal's own origin."""
    table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/healthz", healthz),
        ("GET", "/api/openapi.yaml", openapi),
        ("GET", "/api/me", me),
        ("GET", "/api/scenes", scenes),
        ("GET", "/api/scenes/{scene}", scene),
        ("GET", "/api/scenes/{scene}/quicklook.webp", quicklook),
        ("GET", "/api/scenes/{scene}/tiles/{z}/{x}/{y}.webp", tile),
        ("GET", "/api/footprints", footprints),
        ("GET", "/api/modules", modules),
        ("GET", "/api/clusters", clusters),
        ("GET", "/api/sessions", sessions),
        ("POST", "/api/sessions", open_session),
        ("GET", "/api/sessions/{session}", session),
        ("DELETE", "/api/sessions/{session}", stop_session),
        ("GET", "/api/runs", runs),
        ("POST", "/api/runs", start_run),
        ("GET", "/api/runs/{run}", run),
        ("DELETE", "/api/runs/{run}", stop_run),
        ("GET", "/api/runs/{run}/detections", detections),
        ("GET", "/api/runs/{run}/scenes/{scene}/chips/{n}.webp", chip),
        ("GET", "/api/runs/{run}/scenes/{scene}/overview.webp", overview),
        ("GET", "/api/audit.jsonl", audit),
    ]
    return [Route(path, _guarded(handler), methods=[method]) for method, path, handler in table]


def error_response(error: SceneBridgeError) -> JSONResponse:
    """The one table from errors to HTTP statuses."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    headers = {"Retry-After": "5"} if error.transient else None
    return JSONResponse({"error": {"code": error.code, "message": error.message}}, status, headers)


def _guarded(handler: Callable[[Request], Awaitable[Response]]) -> Any:
    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except SceneBridgeError as exc:
            return error_response(exc)

    return endpoint


# --- what is asked ------------------------------------------------------------


async def healthz(request: Request) -> Response:
    """Alive, without saying anything about the inside."""
    facade.current()
    return JSONResponse({"status": "ok", "version": Portal.version})


async def openapi(request: Request) -> Response:
    return Response(await run_in_threadpool(_OPENAPI.read_bytes), media_type="application/yaml")


async def me(request: Request) -> Response:
    return _json(await _ask(request, Portal.me))


async def scenes(request: Request) -> Response:
    hits = await _ask(request, Portal.search, scene_query(request, default_limit=100))
    return _json(
        {
            "type": "FeatureCollection",
            "numberMatched": hits.total,
            "numberReturned": len(hits.scenes),
            "features": [_feature(s) for s in hits.scenes],
        }
    )


async def scene(request: Request) -> Response:
    found = await _ask(request, Portal.scene, SceneId(request.path_params["scene"]))
    return _json(_feature(found))


async def footprints(request: Request) -> Response:
    found = await _ask(request, Portal.footprints, scene_query(request, default_limit=20_000))
    return Response(
        found.geojson,
        media_type="application/geo+json",
        headers={"X-Total-Count": str(found.total), "Cache-Control": "private, max-age=5"},
    )


async def quicklook(request: Request) -> Response:
    size = whole(request, "size", 256, 32, 2048)
    picture = await _ask(request, Portal.quicklook, SceneId(request.path_params["scene"]), size)
    return Response(picture.webp, media_type="image/webp", headers=_PICTURE_HEADERS)


async def tile(request: Request) -> Response:
    z, x, y = (_number_in_path(request, name) for name in "zxy")
    content = await _ask(request, Portal.tile, SceneId(request.path_params["scene"]), z, x, y)
    return Response(content, media_type="image/webp", headers=_PICTURE_HEADERS)


async def modules(request: Request) -> Response:
    return _json(await _ask(request, Portal.modules))


async def clusters(request: Request) -> Response:
    every = whole(request, "all", 0, 0, 1)
    return _json(await _ask(request, Portal.all_clusters if every else Portal.clusters))


async def sessions(request: Request) -> Response:
    return _json(await _ask(request, Portal.sessions))


async def session(request: Request) -> Response:
    return _json(await _ask(request, Portal.session, SessionId(request.path_params["session"])))


async def open_session(request: Request) -> Response:
    opened = await _ask(request, Portal.open_notebook, await _launch_request(request))
    return _json(opened, 201, {"Location": f"/api/sessions/{opened.id}"})


async def stop_session(request: Request) -> Response:
    session_id = SessionId(request.path_params["session"])
    await _ask(request, Portal.session, session_id)
    await _ask(request, Portal.stop, session_id)
    return _json(await _ask(request, Portal.session, session_id), 202)


async def runs(request: Request) -> Response:
    return _json(await _ask(request, Portal.runs))


async def run(request: Request) -> Response:
    return _json(await _ask(request, Portal.run, RunId(request.path_params["run"])))


async def start_run(request: Request) -> Response:
    started = await _ask(request, Portal.start_run, await _launch_request(request))
    return _json(started, 201, {"Location": f"/api/runs/{started.id}"})


async def stop_run(request: Request) -> Response:
    run_id = RunId(request.path_params["run"])
    await _ask(request, Portal.run, run_id)
    await _ask(request, Portal.stop, run_id)
    return _json(await _ask(request, Portal.run, run_id), 202)


async def detections(request: Request) -> Response:
    run_id = RunId(request.path_params["run"])
    content = await _ask(request, Portal.export_geojson, run_id)
    headers = {}
    if request.query_params.get("download"):
        headers["Content-Disposition"] = f'attachment; filename="detections-{run_id[:8]}.geojson"'
    return Response(content, media_type="application/geo+json", headers=headers)


async def chip(request: Request) -> Response:
    return await _picture(request, ArtifactKind.CHIP, _number_in_path(request, "n"))


async def overview(request: Request) -> Response:
    return await _picture(request, ArtifactKind.OVERVIEW, 0)


async def audit(request: Request) -> Response:
    query, user = audit_query(request), request.state.user
    lines = await run_in_threadpool(facade.current().administration.audit_export, user, query)
    headers = {
        "Content-Disposition": 'attachment; filename="audit.jsonl"',
        "Cache-Control": "no-store",
    }
    return StreamingResponse(lines, media_type="application/jsonl", headers=headers)


async def _picture(request: Request, kind: ArtifactKind, n: int) -> Response:
    at = request.path_params
    content = await _ask(request, Portal.picture, RunId(at["run"]), SceneId(at["scene"]), kind, n)
    return Response(content, media_type="image/webp", headers=_PICTURE_HEADERS)


# --- in and out ---------------------------------------------------------------


async def _ask(
    request: Request,
    method: Callable[Concatenate[Portal, User, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Call a method of the Portal in a worker thread, in the name of who asks."""
    user: User = request.state.user
    return await run_in_threadpool(method, facade.current(), user, *args, **kwargs)


async def _launch_request(request: Request) -> LaunchRequest:
    body = b""
    async for block in request.stream():
        body += block
        if len(body) > _MAX_BODY:
            raise InvalidInput("The request is too large.")
    try:
        data = json.loads(body, parse_constant=no_constant)
        json.dumps(data, ensure_ascii=False).encode()  # a lone surrogate cannot be stored
        resources = data["resources"]
        launch = LaunchRequest(
            scenes=tuple(_typed(data["scenes"], list)),
            module=_typed(data["module"], str),
            params=_typed(data.get("params", {}), dict),
            cluster=_typed(data["cluster"], str),
            resources=Resources(
                _typed(resources["preset"], str), _typed(resources["walltime_s"], int)
            ),
            title=_typed(data.get("title", ""), str),
        )
        for scene_id in launch.scenes:
            _typed(scene_id, str)
    except KeyError as exc:
        raise InvalidInput(f"The request lacks {exc.args[0]!r}. See /api/openapi.yaml.") from exc
    except (ValueError, TypeError, RecursionError) as exc:
        raise InvalidInput(
            "The request is not the JSON object that /api/openapi.yaml describes: "
            "not JSON, or a field of the wrong type."
        ) from exc
    return launch


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError
    return value


def _number_in_path(request: Request, name: str) -> int:
    text: str = request.path_params[name]
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise NotFound("There is no such picture.")
    return int(text)


def _feature(scene: Scene) -> dict[str, Any]:
    """A scene as a GeoJSON feature, without the addresses of its files."""
    return {
        "type": "Feature",
        "id": scene.id,
        "bbox": list(scene.bbox),
        "geometry": dict(scene.footprint),
        "properties": {
            "title": scene.title,
            "collection": scene.collection,
            "platform": scene.platform,
            "datetime": scene.time,
            "cloud_cover": scene.cloud_cover,
            "level": scene.level,
            "bands": sorted(scene.bands),
            "synthetic": scene.synthetic,
        },
    }


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    content = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))
    return Response(content, status, headers, media_type="application/json")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    return value
