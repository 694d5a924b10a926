"""Draw a composite of a scene on a Web Mercator frame.

The stretch belongs to the whole scene and never to the frame, so neighbouring tiles match.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from affine import Affine
from PIL import Image
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from lib.imagery.composite import BandSource
from lib.imagery.raster import opened
from lib.model import BBox

#: What a raster can hold (`lib.imagery.raster.DTYPES`).
Pixels = npt.NDArray[np.uint8 | np.uint16 | np.int16]
MERCATOR = "EPSG:3857"
GAMMA = 1.2
_OVERVIEW_SIDE = 1024
#: Flames reach far beyond land: the upper end of band 7 is fixed, as a reflectance.
_FIRE_TOP = 0.8
#: White clouds may burn out: where they reach beyond this reflectance, and well beyond
#: what three quarters of the scene reach, they do not decide how bright the land is.
_LAND_TOP = 0.25
_LAND_MARGIN = 1.6
_VISIBLE = ("blue", "green", "red")


def draw(
    bands: tuple[BandSource, ...], composite: str, bounds_m: BBox, width: int, height: int
) -> bytes:
    """Three bands as a WebP picture, transparent where any of them holds no data.

    Args:
        bounds_m: west, south, east, north in Web Mercator metres.
        width, height: pixels.
    """
    west, south, east, north = bounds_m
    transform = Affine((east - west) / width, 0, west, 0, (south - north) / height, north)
    planes, valid = [], np.ones((height, width), dtype=bool)
    for source in bands:
        values = _warped(source, transform, width, height)
        planes.append(brightness(values, stretch_limits(source, composite)))
        valid &= values != source.nodata
    return _webp(np.stack(planes), valid)


def _warped(source: BandSource, transform: Affine, width: int, height: int) -> Pixels:
    with opened(source.path) as ds, WarpedVRT(
        ds, crs=MERCATOR, transform=transform, width=width, height=height,
        src_nodata=source.nodata, nodata=source.nodata, resampling=Resampling.bilinear,
    ) as vrt:  # fmt: skip
        values: Pixels = vrt.read(source.index)
        return values


def stretch_limits(source: BandSource, composite: str | None) -> tuple[float, float]:
    """The pixel values that become black and white, for the whole scene, never per tile.

    2nd and 98th percentile of valid pixels of an overview, with two exceptions where the
    scale to reflectance is known: in the fire composite the upper end of band 7 is a
    reflectance of 0.8, so that flames stay apart from bare soil; in visible bands clouds
    do not darken the land.
    """
    stamp = source.path.stat().st_mtime_ns
    low, most, high = _percentiles(source.path, source.index, source.nodata, stamp)
    if math.isfinite(source.scale):
        if composite == "fire" and source.common_name == "swir22":
            high = max(high, (_FIRE_TOP - source.offset) / source.scale)
        elif source.common_name in _VISIBLE:
            top = max(_LAND_TOP, _LAND_MARGIN * (most * source.scale + source.offset))
            high = min(high, (top - source.offset) / source.scale)
    return low, max(high, low + 1)


@lru_cache(maxsize=4096)
def _percentiles(path: Path, index: int, nodata: int, stamp: int) -> tuple[float, float, float]:
    """2nd, 75th and 98th."""
    del stamp  # part of the key: a file that was replaced is read again
    with opened(path) as ds:
        step = max(1.0, max(ds.width, ds.height) / _OVERVIEW_SIDE)
        shape = (max(1, round(ds.height / step)), max(1, round(ds.width / step)))
        data = ds.read(index, out_shape=shape)
    valid = data[data != nodata]
    if valid.size == 0:
        return 0.0, 1.0, 1.0
    low, most, high = np.percentile(valid, (2, 75, 98))
    return float(low), float(most), float(high)


def brightness(values: Pixels, limits: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Pixel values to 0..255 between the limits, with gamma 1.2; any shape."""
    low, high = limits
    unit = np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)
    return np.asarray(unit ** np.float32(1 / GAMMA) * 255 + 0.5, dtype=np.uint8)


def _webp(rgb: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_], quality: int = 80) -> bytes:
    alpha = np.where(valid, 255, 0).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(np.dstack([*rgb, alpha])).save(sink, "WEBP", quality=quality, method=2)
    return sink.getvalue()
