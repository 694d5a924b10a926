"""From a whole-scene mask to objects: labelling, per-object pixels, outlines.

Labelling works on runs (stretches of pixels in a row), not on a label image, so its
memory follows the number of detected pixels and not the size of the scene.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from rasterio import features, warp
from rasterio.crs import CRS
from rasterio.transform import Affine

from modulekit.arrays import Bits, Integers, Strengths
from modulekit.compiled import compiled
from modulekit.detector import ObjectPixels, SceneDetector
from modulekit.json_value import JsonObject

#: The rings of a polygon, each of [lon, lat] or of places in the scene's coordinates.
Ring = list[list[float]]
Polygon = list[Ring]


class _OnePart(TypedDict):
    type: Literal["Polygon"]
    coordinates: Polygon


class _Parts(TypedDict):
    type: Literal["MultiPolygon"]
    coordinates: list[Polygon]


#: As GeoJSON has it.
Outline = _OnePart | _Parts


@dataclass(frozen=True)
class FoundObject:
    """One object in the scene's pixels.

    `box` is (row0, column0, row1, column1), exclusive at the end; `outline` is in the
    scene's coordinates until `to_lonlat`.
    """

    kind: str
    score: float
    properties: JsonObject
    flags: tuple[str, ...]
    pixels: int
    box: tuple[int, int, int, int]
    outline: Outline


@compiled
def label_runs(rows: Integers, columns: Integers) -> Integers:
    """Label pixels that touch at edges or corners: int64, one label per pixel, from 0.

    `rows` and `columns` are in row-major order. Union-find over the pixels of this row
    and the row above; labels are numbered in order of first appearance.
    """
    n = rows.size
    parent = np.arange(n)
    above = 0
    row_start = 0
    previous_start = 0
    previous_end = 0
    for p in range(n):
        if p == 0 or rows[p] != rows[p - 1]:
            previous_start, previous_end = row_start, p
            row_start = p
            if p > 0 and rows[p - 1] != rows[p] - 1:
                previous_start = previous_end
            above = previous_start
        if p > row_start and columns[p - 1] == columns[p] - 1:
            _union(parent, p - 1, p)
        while above < previous_end and columns[above] < columns[p] - 1:
            above += 1
        q = above
        while q < previous_end and columns[q] <= columns[p] + 1:
            _union(parent, q, p)
            q += 1
    labels = np.empty(n, np.int64)
    found = 0
    for p in range(n):
        root = _root(parent, p)
        if root == p:
            labels[p] = found
            found += 1
        else:
            labels[p] = labels[root]
    return labels


@compiled
def _root(parent: Integers, p: int) -> int:
    while parent[p] != p:
        parent[p] = parent[parent[p]]
        p = parent[p]
    return p


@compiled
def _union(parent: Integers, p: int, q: int) -> None:
    """Join two sets; the earlier pixel stays the root."""
    a, b = _root(parent, p), _root(parent, q)
    if a < b:
        parent[b] = a
    else:
        parent[a] = b


def object_pixels(mask: Bits, strength: Strengths, object_bits: int) -> Iterator[ObjectPixels]:
    """The objects of a whole-scene mask, one after the other.

    Args:
        mask: uint8 (height, width).
        object_bits: pixels that share a bit with it belong to objects.
        strength: a value, or a row of them, for each of those pixels, in row-major order.
    """
    at = np.flatnonzero(mask & np.uint8(object_bits))
    if not at.size:
        return
    rows, columns = np.divmod(at, mask.shape[1])
    labels = label_runs(rows, columns)
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels))
    for start, end in zip(np.concatenate([[0], ends[:-1]]), ends, strict=True):
        own = order[start:end]
        values = mask[rows[own], columns[own]]
        yield ObjectPixels(rows[own], columns[own], values, strength[own])


def find_objects(
    mask: Bits, strength: Strengths, detector: SceneDetector, transform: Affine
) -> list[FoundObject]:
    """Objects that the detector accepts, best score first; ties by place in the scene.

    `transform` is the scene's affine. Arguments else as in `object_pixels`.
    """
    found = []
    for pixels in object_pixels(mask, strength, detector.object_bits):
        described = detector.describe(pixels)
        if described is None:
            continue
        row0, column0 = int(pixels.rows.min()), int(pixels.columns.min())
        row1, column1 = int(pixels.rows.max()) + 1, int(pixels.columns.max()) + 1
        found.append(
            FoundObject(
                kind=described.kind,
                score=round(min(max(float(described.score), 0.0), 1.0), 4),
                properties=described.properties,
                flags=described.flags,
                pixels=len(pixels.rows),
                box=(row0, column0, row1, column1),
                outline=_outline(pixels, (row0, column0, row1, column1), transform),
            )
        )
    found.sort(key=lambda o: (-o.score, -o.pixels, o.box))
    return found


def _outline(pixels: ObjectPixels, box: tuple[int, int, int, int], transform: Affine) -> Outline:
    """The pixel outline as a (Multi)Polygon in the scene's coordinates.

    Parts that touch at a corner become polygons of their own, since a ring that
    touches itself is not valid GeoJSON.
    """
    row0, column0, row1, column1 = box
    patch = np.zeros((row1 - row0, column1 - column0), np.uint8)
    patch[pixels.rows - row0, pixels.columns - column0] = 1
    local = transform @ Affine.translation(column0, row0)
    parts = [
        geometry["coordinates"]
        for geometry, _ in features.shapes(patch, mask=patch, connectivity=4, transform=local)
    ]
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "MultiPolygon", "coordinates": parts}


def to_lonlat(outlines: Sequence[Outline], crs: CRS) -> list[Outline]:
    """Outlines of one scene in longitude and latitude (EPSG:4326), rings right-handed.

    One that crosses the antimeridian is cut there into a MultiPolygon (RFC 7946, 3.1.9).
    """
    if not outlines:
        return []
    rings = [ring for o in outlines for polygon in _polygons(o) for ring in polygon]
    lengths = [len(r) for r in rings]
    x, y = np.array([point[:2] for ring in rings for point in ring]).T
    lon, lat = warp.transform(crs, "EPSG:4326", x, y)
    points = np.round(np.column_stack([lon, lat]), 7).tolist()
    pieces = iter(np.split(np.arange(len(points)), np.cumsum(lengths)[:-1]))
    result = []
    for outline in outlines:
        polygons = [
            [_wound([points[i] for i in next(pieces)], outer=k == 0) for k in range(len(polygon))]
            for polygon in _polygons(outline)
        ]
        result.append(_geometry(polygons))
    return result


def _polygons(outline: Outline) -> list[Polygon]:
    if outline["type"] == "Polygon":
        return [outline["coordinates"]]
    return outline["coordinates"]


def _wound(ring: Ring, *, outer: bool) -> Ring:
    """Outer rings counter-clockwise, holes clockwise (RFC 7946, 3.1.6)."""
    lon, lat = np.array(ring).T
    if lon.max() - lon.min() > 180:
        lon = lon % 360
    twice_area = float(np.sum(lon[:-1] * lat[1:] - lon[1:] * lat[:-1]))
    return ring if (twice_area > 0) == outer else ring[::-1]


def _geometry(polygons: list[Polygon]) -> Outline:
    if any(_crosses(polygon[0]) for polygon in polygons):
        polygons = [part for polygon in polygons for part in _cut(polygon)]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _crosses(ring: Ring) -> bool:
    return max(p[0] for p in ring) - min(p[0] for p in ring) > 180


def _cut(polygon: Polygon) -> list[Polygon]:
    """Split a polygon of pixels at 180 degrees; both sides keep the holes they hold."""
    if not _crosses(polygon[0]):
        return [polygon]
    import shapely

    turned = [[(lon % 360, lat) for lon, lat in ring] for ring in polygon]
    whole = shapely.Polygon(turned[0], turned[1:])
    parts: list[Polygon] = []
    for west, shift in ((0.0, 0.0), (180.0, -360.0)):
        side = whole.intersection(shapely.box(west, -90, west + 180, 90))
        for piece in getattr(side, "geoms", [side]):
            if isinstance(piece, shapely.Polygon) and not piece.is_empty:
                rings = (piece.exterior, *piece.interiors)
                moved = [[[lon + shift, lat] for lon, lat in ring.coords] for ring in rings]
                parts.append([_wound(ring, outer=k == 0) for k, ring in enumerate(moved)])
    return parts


def centre(box: Sequence[float]) -> tuple[float, float]:
    """(lon, lat) of the middle of a [west, south, east, north]: an object's position.

    To 7 decimals, -180 <= lon < 180, also where west > east.
    """
    west, south, east, north = box
    span = east - west if east >= west else east + 360 - west
    lon = round((west + span / 2 + 180) % 360 - 180, 7)
    return (-180.0 if lon == 180 else lon), round((south + north) / 2, 7)


def lonlat_box(geometry: Outline) -> list[float]:
    """[west, south, east, north] of an outline; west > east over the antimeridian."""
    points = np.array([p for polygon in _polygons(geometry) for p in polygon[0]])
    south, north = float(points[:, 1].min()), float(points[:, 1].max())
    lon = points[:, 0]
    if lon.max() - lon.min() > 180:
        west, east = float(lon[lon > 0].min()), float(lon[lon <= 0].max())
    else:
        west, east = float(lon.min()), float(lon.max())
    return [west, south, east, north]
