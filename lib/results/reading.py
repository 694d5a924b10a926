"""Detections out of a module's events and files. Both were written by untrusted code:
values are checked by the events' schema, geometry is bounded, and nothing is followed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from lib.errors import InvalidInput
from lib.model import Detection, JsonValue, RunId, SceneId
from lib.model.position import box_geometry, box_of, centre
from lib.protocol.events import MAX_FLAGS, MAX_KEYS, finding, in_range, table_number

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from lib.model import BBox
    from lib.protocol.events import Finding, ObjectFound

MAX_FILE_BYTES = 64 * 2**20
MAX_OBJECTS = 50_000
_MAX_POINTS = 20_000


def from_event(event: ObjectFound, run: RunId, time: datetime) -> Detection:
    """The detection of one `object` event; its geometry is the event's box."""
    found = replace(event.finding, properties=_scalars(event.finding.properties))
    geometry = box_geometry(event.bbox)
    return _detection(found, run, event.scene, time, geometry, event.bbox)


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


def _from_feature(feature: JsonValue, run: RunId, scene: SceneId, time: datetime) -> Detection:
    fields = feature.get("properties") if isinstance(feature, dict) else None
    if not isinstance(feature, dict) or not isinstance(fields, dict):
        raise InvalidInput("detections.geojson holds something that is no feature.")
    geometry = _geometry(feature.get("geometry"))
    found = finding(_trimmed(fields))
    return _detection(found, run, scene, time, geometry, box_of(geometry))


def _trimmed(fields: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """What a file may leave out filled in, and what is only too much left out: one long
    list does not cost a scene all its outlines."""
    told: dict[str, JsonValue] = {"pixels": 0, "area_m2": 0, **fields}
    flags, properties = told.get("flags"), told.get("properties")
    if isinstance(flags, list):
        told["flags"] = flags[:MAX_FLAGS]
    if isinstance(properties, dict):
        told["properties"] = _scalars(properties)
    return told


def _scalars(properties: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The properties that a table can show; a number that is out of bounds becomes null."""
    few = list(properties.items())[:MAX_KEYS]
    return {
        name: None if isinstance(value, (int, float)) and not table_number(value) else value
        for name, value in few
        if isinstance(value, (str, bool, int, float))
    }


def _detection(
    found: Finding,
    run: RunId,
    scene: SceneId,
    time: datetime,
    geometry: Mapping[str, JsonValue],
    bbox: BBox,
) -> Detection:
    lon, lat = centre(bbox)
    return Detection(
        run=run,
        scene=scene,
        n=found.n,
        kind=found.kind,
        score=found.score,
        lon=lon,
        lat=lat,
        geometry=geometry,
        pixels=found.pixels,
        area_m2=found.area_m2,
        time=time,
        has_chip=False,
        flags=found.flags,
        properties=found.properties,
    )


def _geometry(value: JsonValue) -> dict[str, JsonValue]:
    """The geometry with numbers only."""
    kind = value.get("type") if isinstance(value, dict) else None
    depth = {"Point": 0, "Polygon": 2, "MultiPolygon": 3}.get(str(kind))
    if not isinstance(value, dict) or depth is None:
        raise InvalidInput("An outline is neither a point nor a polygon.")
    points = 0

    def walk(node: JsonValue, level: int) -> JsonValue:
        nonlocal points
        if not isinstance(node, list) or (level == 0 and len(node) < 2):
            raise InvalidInput("An outline has no proper coordinates.")
        if level > 0:
            return [walk(child, level - 1) for child in node]
        points += 1
        if points > _MAX_POINTS:
            raise InvalidInput(f"An outline has more than {_MAX_POINTS:,} points.")
        return [in_range(node[0], "longitude", -180, 180), in_range(node[1], "latitude", -90, 90)]

    coordinates = walk(value.get("coordinates"), depth)
    if not points:
        raise InvalidInput("An outline is empty.")
    return {"type": kind, "coordinates": coordinates}
