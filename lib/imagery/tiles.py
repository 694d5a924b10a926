"""Map tiles of a scene (Web Mercator, z/x/y), cut from its COGs."""

from __future__ import annotations

import math

from rasterio.errors import RasterioError

from lib.errors import InvalidInput, SceneUnavailable
from lib.imagery.composite import default_composite, sources
from lib.imagery.render import draw
from lib.model import BBox, Scene

MAX_ZOOM = 20
#: Half of the side of the Web Mercator square, metres: pi times the radius of EPSG:3857.
_HALF_M = math.pi * 6_378_137.0


def tile(
    scene: Scene, z: int, x: int, y: int, *, composite: str | None = None, size: int = 256
) -> bytes:
    """One tile as WebP, transparent outside of the scene; (0, 0) is in the north-west.

    Args:
        size: side in pixels, 256 or 512.
    Raises:
        InvalidInput: no such tile or composite.
        SceneUnavailable: the files are not on this computer, or are damaged.
    """
    if not (0 <= z <= MAX_ZOOM and 0 <= x < 2**z and 0 <= y < 2**z) or size not in (256, 512):
        raise InvalidInput(f"There is no tile {z}/{x}/{y} of {size} pixels.")
    name = composite or default_composite(scene)
    try:
        return draw(sources(scene, name), name, tile_bounds_m(z, x, y), size, size)
    except (RasterioError, OSError) as exc:
        raise SceneUnavailable(f"The files of {scene.id} cannot be read.") from exc


def tile_bounds_m(z: int, x: int, y: int) -> BBox:
    """West, south, east, north of a tile in Web Mercator metres."""
    side = 2 * _HALF_M / 2**z
    west, north = x * side - _HALF_M, _HALF_M - y * side
    return (west, north - side, west + side, north)
