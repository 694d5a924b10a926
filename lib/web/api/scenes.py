"""Scenes: search, footprints, quicklooks and map tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from lib.model import SceneId
from lib.portal.facade import Portal
from lib.web.api.answers import PICTURE_HEADERS, ask, json_response
from lib.web.api.queries import number_in_path, scene_query, whole

if TYPE_CHECKING:
    from starlette.requests import Request

    from lib.model import Scene


async def scenes(request: Request) -> Response:
    hits = await ask(request, Portal.search, scene_query(request, default_limit=100))
    return json_response(
        {
            "type": "FeatureCollection",
            "numberMatched": hits.total,
            "numberReturned": len(hits.scenes),
            "features": [_feature(s) for s in hits.scenes],
        }
    )


async def scene(request: Request) -> Response:
    found = await ask(request, Portal.scene, SceneId(request.path_params["scene"]))
    return json_response(_feature(found))


async def footprints(request: Request) -> Response:
    found = await ask(request, Portal.footprints, scene_query(request, default_limit=20_000))
    return Response(
        found.geojson,
        media_type="application/geo+json",
        headers={"X-Total-Count": str(found.total), "Cache-Control": "private, max-age=5"},
    )


async def quicklook(request: Request) -> Response:
    size = whole(request, "size", 256, 32, 2048)
    picture = await ask(request, Portal.quicklook, SceneId(request.path_params["scene"]), size)
    return Response(picture.webp, media_type="image/webp", headers=PICTURE_HEADERS)


async def tile(request: Request) -> Response:
    z, x, y = (number_in_path(request, name) for name in "zxy")
    content = await ask(request, Portal.tile, SceneId(request.path_params["scene"]), z, x, y)
    return Response(content, media_type="image/webp", headers=PICTURE_HEADERS)


def _feature(scene: Scene) -> dict[str, object]:
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
