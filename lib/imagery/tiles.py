"""Map tiles of a scene (Web Mercator, z/x/y), cut from its COGs."""

from __future__ import annotations

import numpy as np
from rasterio.errors import RasterioError
from rio_tiler.errors import TileOutsideBounds
from rio_tiler.io import Reader

from lib.errors import InvalidInput, SceneUnavailable
from lib.imagery.composite import (
    BandSource,
    brightness,
    default_composite,
    sources,
    stretch_limits,
    webp,
)
from lib.imagery.raster import opened
from lib.model import Scene

MAX_ZOOM = 20


def tile(
    scene: Scene, z: int, x: int, y: int, *, composite: str | None = None, size: int = 256
) -> bytes:
    """One tile as WebP, transparent outside of the scene; (x, y) counts from the north-west.

    The stretch belongs to the whole scene, so neighbouring tiles match.

    Args:
        size: side in pixels, 256 or 512.
    Raises:
        InvalidInput: no such tile or composite.
        SceneUnavailable: the files are not on this computer, or are damaged.
    """
    if not (0 <= z <= MAX_ZOOM and 0 <= x < 2**z and 0 <= y < 2**z) or size not in (256, 512):
        raise InvalidInput(f"There is no tile {z}/{x}/{y} of {size} pixels.")
    name = composite or default_composite(scene)
    planes, valid = [], np.ones((size, size), dtype=bool)
    for source in sources(scene, name):
        try:
            values, inside = _read(source, z, x, y, size)
        except (RasterioError, OSError) as exc:
            raise SceneUnavailable(f"The files of {scene.id} cannot be read.") from exc
        planes.append(brightness(values, stretch_limits(source, name)))
        valid &= inside
    return webp(np.stack(planes), valid)


def _read(
    source: BandSource, z: int, x: int, y: int, size: int
) -> tuple[
    np.ndarray[tuple[int, int], np.dtype[np.generic]],
    np.ndarray[tuple[int, int], np.dtype[np.bool_]],
]:
    with opened(source.path) as ds, Reader(None, dataset=ds) as reader:
        try:
            found = reader.tile(x, y, z, tilesize=size, indexes=source.index, nodata=source.nodata)
        except TileOutsideBounds:
            return np.zeros((size, size), np.uint8), np.zeros((size, size), dtype=bool)
    return found.array.data[0], ~np.ma.getmaskarray(found.array)[0]
