"""A preview of a whole scene that lies straight on a web map."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rasterio.errors import RasterioError
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds

from lib.errors import InvalidInput, SceneUnavailable
from lib.files.atomic import write_atomic
from lib.imagery.composite import BandSource, default_composite, sources
from lib.imagery.raster import opened
from lib.imagery.render import MERCATOR, draw
from lib.model import BBox, Scene

__all__ = ["Quicklook", "default_composite", "quicklook"]

MAX_SIZE = 4096
#: Part of a kept preview's name: another one when previews are drawn otherwise.
_DRAWING = 2


@dataclass(frozen=True, slots=True)
class Quicklook:
    """A WebP picture in the Web Mercator projection, transparent outside of the scene.

    `bounds` is (west, south, east, north) in degrees: as an image overlay on a web map
    between these corners it is not distorted. `width` and `height` are pixels.
    """

    webp: bytes
    bounds: BBox
    width: int
    height: int


def quicklook(scene: Scene, *, max_size: int = 512, composite: str | None = None) -> Quicklook:
    """The preview of a local scene, kept beside its files once it was drawn.

    Args:
        max_size: longest side, pixels.
        composite: a name of `lib.imagery.composite.COMPOSITES`; natural colour, or what
            the bands allow, when None.
    Raises:
        SceneUnavailable: the files are not on this computer, or are damaged.
        InvalidInput: the scene's bands do not make this composite.
    """
    if not 16 <= max_size <= MAX_SIZE:
        raise InvalidInput(f"A preview is between 16 and {MAX_SIZE} pixels large.")
    name = composite or default_composite(scene)
    bands = sources(scene, name)
    try:
        bounds, width, height = _frame(bands[0].path, max_size)
        kept = bands[0].path.parent / f"quicklook-{name}-{max_size}-{_DRAWING}.webp"
        data = _kept(kept, bands, (width, height))
        if data is None:
            data = draw(bands, name, bounds, width, height)
            _keep(kept, data)
    except (RasterioError, OSError) as exc:
        raise SceneUnavailable(f"The files of {scene.id} cannot be read.") from exc
    west, south = _to_lonlat(bounds[0], bounds[1])
    east, north = _to_lonlat(bounds[2], bounds[3])
    return Quicklook(data, (west, south, east, north), width, height)


def _frame(path: Path, max_size: int) -> tuple[BBox, int, int]:
    """Bounds in Web Mercator metres, and the size in pixels."""
    with opened(path) as ds:
        west, south, east, north = transform_bounds(ds.crs, MERCATOR, *ds.bounds)
        longest = max(ds.width, ds.height)
    scale = min(max_size, longest) / max(east - west, north - south)
    width, height = (max(1, round(side * scale)) for side in (east - west, north - south))
    return (west, south, east, north), width, height


def _kept(path: Path, bands: tuple[BandSource, ...], size: tuple[int, int]) -> bytes | None:
    with suppress(OSError):
        if path.stat().st_mtime_ns >= max(b.path.stat().st_mtime_ns for b in bands):
            data = path.read_bytes()
            with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
                if image.size == size:
                    return data
    return None


def _keep(path: Path, data: bytes) -> None:
    """A preview that cannot be kept (read-only folder, full disk) is drawn again next time."""
    with suppress(OSError):
        write_atomic(path, data)


def _to_lonlat(x: float, y: float) -> tuple[float, float]:
    lons, lats = transform_points(MERCATOR, "EPSG:4326", [x], [y])
    return float(lons[0]), float(lats[0])
