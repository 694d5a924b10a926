"""Detections out of a module's events and files. Both were written by untrusted code:
numbers are checked, texts are cut, geometry is bounded, and nothing is followed."""

from __future__ import annotations

import json
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
_MAX_NUMBER = 1e15
_MAX_FLAGS = 20


def from_event(event: Mapping[str, Any], run: RunId, time: datetime) -> Detection:
    """The detection of one `object` event; its geometry is the event's box.

    Raises:
        InvalidInput: the event lacks a field or holds nonsense.
    """
    corners = _list(event.get("bbox"), 4)
    west, east = (_number(corners[i], -180, 180) for i in (0, 2))
    south, north = (_number(corners[i], -90, 90) for i in (1, 3))
    scene = SceneId(_text(event.get("scene")))
    return _detection(
        event,
        run,
        scene,
        time,
        geometry=_box(west, south, east, north),
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
    except (ValueError, LookupError, TypeError, RecursionError) as exc:
        raise InvalidInput("detections.geojson is no GeoJSON feature collection.") from exc
    if not isinstance(features, list):
        raise InvalidInput("detections.geojson is no GeoJSON feature collection.")
    if len(features) > MAX_OBJECTS:
        raise InvalidInput(f"detections.geojson holds more than {MAX_OBJECTS:,} objects.")
    return [_from_feature(f, run, scene, time) for f in features]


def plain_text(value: Any, longest: int) -> str:
    """`value` on one line without characters that cannot be printed or stored; "" where
    it is no text."""
    if not isinstance(value, str):
        return ""
    return "".join(c if c.isprintable() else " " for c in value[:longest]).strip()


def searched(event: Mapping[str, Any]) -> dict[str, Any]:
    """What the module says it looked at, bounded; {} where it says nothing proper."""
    value = event.get("searched")
    found: dict[str, Any] = _small(value, 4) if isinstance(value, dict) else {}
    return found


def count(value: Any) -> int:
    """A number of objects; 0 where it is none."""
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**9
    return value if good else 0


def fraction(value: Any) -> float | None:
    """A share from 0 to 1; None where it is no number."""
    try:
        return _number(value, 0, 1)
    except InvalidInput:
        return None


def is_webp(content: bytes, longest_side: int) -> bool:
    """Whether these bytes begin as a WebP picture of at most so many pixels a side.

    Source: RFC 9649, sections 2.4 to 2.7 (VP8, VP8L and VP8X headers).
    """
    if len(content) < 30 or content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return False
    kind, head = content[12:16], content[20:30]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(head[4:7], "little")
        height = 1 + int.from_bytes(head[7:10], "little")
    elif kind == b"VP8L" and head[0] == 0x2F:
        bits = int.from_bytes(head[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and head[3:6] == b"\x9d\x01\x2a":
        width = int.from_bytes(head[6:8], "little") & 0x3FFF
        height = int.from_bytes(head[8:10], "little") & 0x3FFF
    else:
        return False
    return 0 < width <= longest_side and 0 < height <= longest_side


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
        flags=tuple(_text(f) for f in _list(fields.get("flags", []))[:_MAX_FLAGS]),
        properties=_properties(fields.get("properties", {})),
    )


def _box(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    """A GeoJSON box; two where it crosses the antimeridian (RFC 7946, section 3.1.9)."""
    if west > east:
        parts = [_ring(west, south, 180.0, north), _ring(-180.0, south, east, north)]
        return {"type": "MultiPolygon", "coordinates": [[ring] for ring in parts]}
    return {"type": "Polygon", "coordinates": [_ring(west, south, east, north)]}


def _ring(west: float, south: float, east: float, north: float) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


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
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidInput(f"{_shown(value)} stands where a number belongs.")
    if not low <= value <= high:  # false for NaN, and safe for integers of any length
        raise InvalidInput(f"{_shown(value)} is not between {low:g} and {high:g}.")
    return float(value)


def _text(value: Any) -> str:
    text = plain_text(value, _MAX_TEXT)
    if not text:
        raise InvalidInput(f"{_shown(value)} stands where a text belongs.")
    return text


def _list(value: Any, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or (length is not None and len(value) != length):
        raise InvalidInput(f"{_shown(value)} stands where a list belongs.")
    return value


def _properties(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput("The properties of an object are no object.")
    return {
        plain_text(name, 60): _small(item, 0)
        for name, item in list(value.items())[:_MAX_PROPERTIES]
        if isinstance(item, (str, bool, int, float))
    }


def _small(value: Any, depth: int) -> Any:
    """JSON of bounded depth, width and size; what is more becomes null."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return plain_text(value, _MAX_TEXT)
    if isinstance(value, (int, float)):
        return value if -_MAX_NUMBER <= value <= _MAX_NUMBER else None
    if depth > 0 and isinstance(value, list):
        return [_small(v, depth - 1) for v in value[:_MAX_PROPERTIES]]
    if depth > 0 and isinstance(value, dict):
        items = list(value.items())[:_MAX_PROPERTIES]
        return {plain_text(k, 60): _small(v, depth - 1) for k, v in items}
    return None


def _shown(value: Any) -> str:
    """A short form for a message (the text of a very long integer is refused by Python)."""
    if isinstance(value, int) and value.bit_length() > 100:
        return "a very long number"
    return plain_text(repr(value), 40)
