"""Detections out of a module's events and files. Both were written by untrusted code:
numbers are checked, texts are cut, geometry is bounded, and nothing is followed."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from lib.errors import InvalidInput
from lib.model import Detection, RunId, SceneId

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

MAX_FILE_BYTES = 64 * 2**20
MAX_OBJECTS = 50_000
_MAX_TEXT = 200
_MAX_POINTS = 20_000
_MAX_PROPERTIES = 30


def from_event(event: Mapping[str, Any], run: RunId, time: datetime) -> Detection:
    """The detection of one `object` event; its geometry is the event's box.

    Raises:
        InvalidInput: the event lacks a field or holds nonsense.
    """
    west, south, east, north = (_number(v, -180, 180) for v in _list(event.get("bbox"), 4))
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    scene = SceneId(_text(event.get("scene")))
    return _detection(
        event,
        run,
        scene,
        time,
        geometry={"type": "Polygon", "coordinates": [ring]},
        lon=_number(event.get("lon"), -180, 180),
        lat=_number(event.get("lat"), -90, 90),
    )


def from_file(path: Path, run: RunId, scene: SceneId, time: datetime) -> list[Detection]:
    """All detections of a scene's `detections.geojson`.

    Raises:
        InvalidInput: it is too large, no GeoJSON, or holds nonsense.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InvalidInput(f"detections.geojson is larger than {MAX_FILE_BYTES // 2**20} MiB.")
    try:
        features = json.loads(path.read_bytes())["features"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise InvalidInput("detections.geojson is no GeoJSON feature collection.") from exc
    if not isinstance(features, list) or len(features) > MAX_OBJECTS:
        raise InvalidInput(f"detections.geojson holds more than {MAX_OBJECTS:,} objects.")
    return [_from_feature(f, run, scene, time) for f in features]


def _from_feature(feature: Any, run: RunId, scene: SceneId, time: datetime) -> Detection:
    if not isinstance(feature, dict) or not isinstance(feature.get("properties"), dict):
        raise InvalidInput("detections.geojson holds something that is no feature.")
    geometry, points = _geometry(feature.get("geometry"))
    properties = feature["properties"]
    lon = properties.get("lon", sum(p[0] for p in points) / len(points))
    lat = properties.get("lat", sum(p[1] for p in points) / len(points))
    return _detection(
        properties,
        run,
        scene,
        time,
        geometry=geometry,
        lon=_number(lon, -180, 180),
        lat=_number(lat, -90, 90),
    )


def _detection(
    fields: Mapping[str, Any],
    run: RunId,
    scene: SceneId,
    time: datetime,
    *,
    geometry: Mapping[str, Any],
    lon: float,
    lat: float,
) -> Detection:
    return Detection(
        run=run,
        scene=scene,
        n=int(_number(fields.get("n"), 1, 10_000_000)),
        klass=_text(fields.get("class")),
        score=_number(fields.get("score"), 0, 1),
        lon=lon,
        lat=lat,
        geometry=geometry,
        pixels=int(_number(fields.get("pixels", 0), 0, 1e12)),
        area_m2=_number(fields.get("area_m2", 0), 0, 1e15),
        time=time,
        has_chip=False,
        flags=tuple(_text(f) for f in _list(fields.get("flags", []))[:20]),
        properties=_properties(fields.get("properties", {})),
    )


def _geometry(value: Any) -> tuple[dict[str, Any], list[list[float]]]:
    """(the geometry with numbers only, all its points)."""
    kind = value.get("type") if isinstance(value, dict) else None
    depth = {"Point": 0, "Polygon": 2, "MultiPolygon": 3}.get(str(kind))
    if depth is None:
        raise InvalidInput("An outline is neither a point nor a polygon.")
    points: list[list[float]] = []

    def walk(node: Any, level: int) -> Any:
        if level == 0:
            point = [_number(node[0], -180, 180), _number(node[1], -90, 90)]
            points.append(point)
            if len(points) > _MAX_POINTS:
                raise InvalidInput(f"An outline has more than {_MAX_POINTS:,} points.")
            return point
        return [walk(child, level - 1) for child in _list(node)]

    try:
        coordinates = walk(value["coordinates"], depth)
    except (KeyError, TypeError, IndexError) as exc:
        raise InvalidInput("An outline has no proper coordinates.") from exc
    if not points:
        raise InvalidInput("An outline is empty.")
    return {"type": kind, "coordinates": coordinates}, points


def _number(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidInput(f"{value!r:.40} stands where a number belongs.")
    if not low <= value <= high:
        raise InvalidInput(f"{value!r:.40} is not between {low:g} and {high:g}.")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{value!r:.40} stands where a text belongs.")
    return value[:_MAX_TEXT]


def _list(value: Any, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or (length is not None and len(value) != length):
        raise InvalidInput(f"{value!r:.40} stands where a list belongs.")
    return value


def _properties(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput("The properties of an object are no object.")
    kept: dict[str, Any] = {}
    for name, item in list(value.items())[:_MAX_PROPERTIES]:
        if isinstance(item, str):
            kept[name[:60]] = item[:_MAX_TEXT]
        elif isinstance(item, (bool, int)) or (isinstance(item, float) and math.isfinite(item)):
            kept[name[:60]] = item
    return kept
