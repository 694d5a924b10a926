"""Where a raster holds data, as GeoJSON in longitude and latitude."""

from __future__ import annotations

from pathlib import Path

import antimeridian
import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from rasterio.warp import transform as transform_points
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from lib.errors import InvalidProduct
from lib.imagery.raster import opened
from lib.model import BBox, JsonObject, JsonValue

_SAMPLES = 400
Bools = npt.NDArray[np.bool_]


def valid_outline(path: Path, *, nodata: int = 0) -> dict[str, JsonValue]:
    """Convex outline of the valid pixels of band 1, as GeoJSON (lon, lat).

    Computed at no more than 400 pixels a side, so it is right to about 1/200 of the
    scene. Outlines that cross the antimeridian become MultiPolygons (RFC 7946, 3.1.9).

    Raises:
        InvalidProduct: no pixel is valid.
    """
    with opened(path) as ds:
        step = max(1.0, max(ds.width, ds.height) / _SAMPLES)
        shape = (max(1, round(ds.height / step)), max(1, round(ds.width / step)))
        valid = ds.read(1, out_shape=shape) != nodata
        scale = (ds.width / shape[1], ds.height / shape[0])
        hull = _hull(valid, scale)
        if hull is None:
            raise InvalidProduct(f"{path.name} holds no valid pixel.")
        xs, ys = _to_map(ds.transform, hull)
        lons, lats = transform_points(ds.crs, "EPSG:4326", xs, ys)
    return lonlat_polygon(list(zip(lons, lats, strict=True)))


def lonlat_polygon(ring: list[tuple[float, float]]) -> dict[str, JsonValue]:
    """A GeoJSON Polygon, or MultiPolygon where `ring` (lon, lat) crosses the antimeridian."""
    polygon = shapely.Polygon(ring)
    lons = [lon for lon, _ in ring]
    crosses = max(lons) - min(lons) > 180
    whole: BaseGeometry = antimeridian.fix_polygon(polygon) if crosses else polygon
    return geojson(shapely.orient_polygons(shapely.set_precision(whole, 1e-6)))


def geojson(geometry: BaseGeometry) -> dict[str, JsonValue]:
    """The geometry as GeoJSON, in lists as JSON has them."""
    plain: JsonObject = mapping(geometry)
    return {"type": plain["type"], "coordinates": _lists(plain["coordinates"])}


def bbox_of(geometry: JsonObject) -> BBox:
    """(west, south, east, north); west > east where it crosses the antimeridian."""
    shape = shapely.geometry.shape(dict(geometry))
    if shape.geom_type == "MultiPolygon":
        west, south, east, north = antimeridian.bbox(shape)
    else:
        west, south, east, north = shape.bounds
    return (float(west), float(south), float(east), float(north))


def _hull(valid: Bools, scale: tuple[float, float]) -> list[tuple[float, float]] | None:
    rows = np.flatnonzero(valid.any(axis=1))
    if rows.size == 0:
        return None
    left = valid[rows].argmax(axis=1)
    right = valid.shape[1] - valid[rows, ::-1].argmax(axis=1)
    corners = np.concatenate(
        [np.stack([cols, rows + edge], axis=1) for cols in (left, right) for edge in (0, 1)]
    )
    hull = shapely.MultiPoint(corners * np.asarray(scale)).convex_hull
    hull = shapely.simplify(hull, 2 * max(scale)) if max(scale) > 1 else hull
    if not isinstance(hull, shapely.Polygon):
        raise TypeError(f"the hull of pixels has an area, not {hull.geom_type}")
    return [(float(c), float(r)) for c, r in hull.exterior.coords[:-1]]


def _to_map(
    transform: Affine, points: list[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    mapped = [transform @ p for p in points]
    return [x for x, _ in mapped], [y for _, y in mapped]


def _lists(value: JsonValue) -> JsonValue:
    return [_lists(v) for v in value] if isinstance(value, (tuple, list)) else value
