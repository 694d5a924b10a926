"""Where a detection is: its bounding box across the antimeridian, and the box's centre.

The one definition (`lib.model.Detection` says it): longitude and latitude in degrees,
EPSG:4326. `modulekit.objects`, which knows nothing of `lib`, defines the same;
tests/unit/test_positions.py compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lib.model.ids import BBox
from lib.model.json_value import JsonValue

#: Decimals of a degree that positions are told with (about a centimetre).
DECIMALS = 7


def centre(box: BBox) -> tuple[float, float]:
    """(lon, lat) of a box's middle; -180 <= lon < 180, also where west > east."""
    west, south, east, north = box
    span = east - west if east >= west else east + 360 - west
    lon = round((west + span / 2 + 180) % 360 - 180, DECIMALS)
    return (-180.0 if lon == 180 else lon), round((south + north) / 2, DECIMALS)


def box_geometry(box: BBox) -> dict[str, JsonValue]:
    """The box as GeoJSON; two polygons where it crosses the antimeridian (RFC 7946, 3.1.9)."""
    west, south, east, north = box
    if west > east:
        parts = [_ring(west, south, 180.0, north), _ring(-180.0, south, east, north)]
        return {"type": "MultiPolygon", "coordinates": [[part] for part in parts]}
    return {"type": "Polygon", "coordinates": [_ring(west, south, east, north)]}


def box_of(geometry: Mapping[str, JsonValue]) -> BBox:
    """The bounding box of a GeoJSON Point, Polygon or MultiPolygon whose coordinates are
    numbers; west > east where its parts lie on both sides of the antimeridian.

    No part crosses the antimeridian itself (RFC 7946, 3.1.9: it would be cut there), so
    the box leaves out the widest stretch of longitudes without a part.
    """
    parts = [list(_points(part)) for part in _parts(geometry)]
    lats = [lat for points in parts for _, lat in points]
    spans = sorted((min(p[0] for p in part), max(p[0] for p in part)) for part in parts)
    west, east = spans[0]
    widest, box = 0.0, (west, max(e for _, e in spans))
    for next_west, next_east in spans[1:]:
        if next_west - east > widest:
            widest, box = next_west - east, (next_west, east)
        east = max(east, next_east)
    if west + 360 - east >= widest:
        box = (west, east)
    return box[0], min(lats), box[1], max(lats)


def _ring(west: float, south: float, east: float, north: float) -> JsonValue:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def _parts(geometry: Mapping[str, JsonValue]) -> list[JsonValue]:
    coordinates = geometry["coordinates"]
    if geometry["type"] == "MultiPolygon" and isinstance(coordinates, list):
        return coordinates
    return [coordinates]


def _points(node: JsonValue) -> Iterator[tuple[float, float]]:
    if not isinstance(node, list):
        return
    lon, lat = (node[0], node[1]) if len(node) > 1 else (None, None)
    if isinstance(lon, (int, float)) and isinstance(lat, (int, float)):
        yield float(lon), float(lat)
        return
    for child in node:
        yield from _points(child)
