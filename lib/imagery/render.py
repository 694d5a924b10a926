"""Draw a composite of a scene on a Web Mercator frame.

The stretch belongs to the whole scene and never to the frame, so neighbouring tiles match. It makes
a dark scene readable: what half of the scene lies below is shown as a middle grey.
`modulekit.pictures`, which knows nothing of `lib`, does the same; tests compare them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
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
#: Of a scene that is not dark, and of the darkest.
GAMMA, MOST_GAMMA = 1.2, 4.0
#: How bright the middle of a dark scene becomes, 0..1.
MIDDLE = 0.4
_OVERVIEW_SIDE = 1024
#: Flames reach far beyond land: the upper end of band 7 is fixed, as a reflectance.
_FIRE_TOP = 0.8
#: White clouds may burn out: where they reach beyond this reflectance, and well beyond
#: what three quarters of the scene reach, they do not decide how bright the land is.
_LAND_TOP = 0.25
_LAND_MARGIN = 1.6
_VISIBLE = ("blue", "green", "red")


@dataclass(frozen=True, slots=True)
class Stretch:
    """From pixel values to brightness: for each band black and white, and for all the gamma."""

    limits: tuple[tuple[float, float], ...]
    gamma: float


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
    stretch = stretch_of(bands, composite)
    for source, limits in zip(bands, stretch.limits, strict=True):
        values = _warped(source, transform, width, height)
        planes.append(brightness(values, limits, stretch.gamma))
        valid &= values != source.nodata
    return _webp(np.stack(planes), valid)


def _warped(source: BandSource, transform: Affine, width: int, height: int) -> Pixels:
    with opened(source.path) as ds, WarpedVRT(
        ds, crs=MERCATOR, transform=transform, width=width, height=height,
        src_nodata=source.nodata, nodata=source.nodata, resampling=Resampling.bilinear,
    ) as vrt:  # fmt: skip
        values: Pixels = vrt.read(source.index)
        return values


def stretch_of(bands: Sequence[BandSource], composite: str | None) -> Stretch:
    """The stretch of the whole scene in this composite."""
    limits = tuple(stretch_limits(band, composite) for band in bands)
    middles = [_statistics(band)[1] for band in bands]
    return Stretch(limits, gamma_for(limits, middles))


def gamma_for(limits: Sequence[tuple[float, float]], middles: Sequence[float]) -> float:
    """The gamma that lifts a dark scene until its middle is `MIDDLE` bright.

    Args:
        limits: black and white of each band.
        middles: the median of each band's valid pixels.
    """
    units = [
        min(1.0, max(0.0, (middle - low) / (high - low)))
        for (low, high), middle in zip(limits, middles, strict=True)
    ]
    unit = sum(units) / len(units)
    if unit <= 0:
        return MOST_GAMMA
    return min(MOST_GAMMA, max(GAMMA, math.log(unit) / math.log(MIDDLE)))


def stretch_limits(source: BandSource, composite: str | None) -> tuple[float, float]:
    """The pixel values that become black and white, for the whole scene, never per tile.

    2nd and 98th percentile of valid pixels of an overview, with two exceptions where the
    scale to reflectance is known: in the fire composite the upper end of band 7 is a
    reflectance of 0.8, so that flames stay apart from bare soil; in visible bands clouds
    do not darken the land.
    """
    low, _, most, high = _statistics(source)
    if math.isfinite(source.scale):
        if composite == "fire" and source.common_name == "swir22":
            high = max(high, (_FIRE_TOP - source.offset) / source.scale)
        elif source.common_name in _VISIBLE:
            top = max(_LAND_TOP, _LAND_MARGIN * (most * source.scale + source.offset))
            high = min(high, (top - source.offset) / source.scale)
    return low, max(high, low + 1)


def _statistics(source: BandSource) -> tuple[float, float, float, float]:
    stamp = source.path.stat().st_mtime_ns
    return _percentiles(source.path, source.index, source.nodata, stamp)


@lru_cache(maxsize=4096)
def _percentiles(
    path: Path, index: int, nodata: int, stamp: int
) -> tuple[float, float, float, float]:
    """2nd, 50th, 75th and 98th, the outer ones half a count further out: a band of one value is
    a middle grey, not black."""
    del stamp  # part of the key: a file that was replaced is read again
    with opened(path) as ds:
        step = max(1.0, max(ds.width, ds.height) / _OVERVIEW_SIDE)
        shape = (max(1, round(ds.height / step)), max(1, round(ds.width / step)))
        data = ds.read(index, out_shape=shape)
    valid = data[data != nodata]
    if valid.size == 0:
        return 0.0, 0.0, 0.0, 1.0
    low, middle, most, high = map(float, np.percentile(valid, (2, 50, 75, 98)))
    return low - 0.5, middle, most, high + 0.5


def brightness(
    values: Pixels, limits: tuple[float, float], gamma: float = GAMMA
) -> npt.NDArray[np.uint8]:
    """Pixel values to 0..255 between the limits; any shape."""
    low, high = limits
    unit = np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)
    return np.asarray(unit ** np.float32(1 / gamma) * 255 + 0.5, dtype=np.uint8)


def _webp(rgb: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_], quality: int = 80) -> bytes:
    alpha = np.where(valid, 255, 0).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(np.dstack([*rgb, alpha])).save(sink, "WEBP", quality=quality, method=2)
    return sink.getvalue()
