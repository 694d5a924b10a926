"""Which bands make a picture, and how their values become brightness."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import numpy.typing as npt

from lib.errors import InvalidInput, SceneUnavailable
from lib.imagery.raster import opened
from lib.model import Scene

GAMMA = 1.2
_OVERVIEW_SIDE = 1024
#: Flames reach far beyond land: the upper end of band 7 is fixed, as a reflectance.
_FIRE_TOP = 0.8


@dataclass(frozen=True, slots=True)
class Composite:
    """Three bands as red, green, blue, by `eo:common_name`."""

    name: str
    title: str
    bands: tuple[str, str, str]


COMPOSITES = (
    Composite("natural", "Natural colour", ("red", "green", "blue")),
    Composite("fire", "Fire (7-5-4)", ("swir22", "nir08", "red")),
    Composite("water", "Water and ships (5-4-3)", ("nir08", "red", "green")),
    Composite("solar", "Solar plants (7-6-4)", ("swir22", "swir16", "red")),
    Composite("infrared", "Infrared (NIR-R-G)", ("nir", "red", "green")),
    Composite("pan", "Panchromatic", ("pan", "pan", "pan")),
)


@dataclass(frozen=True, slots=True)
class BandSource:
    """One band of a local raster. `index` counts from 1; `scale`, `offset` give reflectance."""

    path: Path
    index: int
    nodata: int
    scale: float
    offset: float
    common_name: str


def composites(scene: Scene) -> tuple[Composite, ...]:
    """The composites that the scene's bands allow."""
    return tuple(c for c in COMPOSITES if set(c.bands) <= scene.bands)


def default_composite(scene: Scene) -> str:
    """The name of the composite to show first.

    Raises:
        SceneUnavailable: no composite fits the scene's bands.
    """
    found = composites(scene)
    if not found:
        raise SceneUnavailable(f"The bands of {scene.id} make no picture.")
    return found[0].name


def sources(scene: Scene, composite: str | None) -> tuple[BandSource, BandSource, BandSource]:
    """Where the composite's bands are.

    Raises:
        InvalidInput: the scene's bands do not make this composite.
        SceneUnavailable: a band's file is not on this computer.
    """
    name = composite or default_composite(scene)
    chosen = next((c for c in composites(scene) if c.name == name), None)
    if chosen is None:
        raise InvalidInput(f"The bands of {scene.id} do not make the picture {name!r:.40}.")
    red, green, blue = (_source(scene, band) for band in chosen.bands)
    return (red, green, blue)


def _source(scene: Scene, common_name: str) -> BandSource:
    for asset in scene.item["assets"].values():
        for index, band in enumerate(asset.get("bands", ()), start=1):
            if band.get("eo:common_name") == common_name:
                return _band_source(scene, asset, index, band)
    raise SceneUnavailable(f"{scene.id} has no band {common_name}.")


def _band_source(
    scene: Scene, asset: Mapping[str, Any], index: int, band: Mapping[str, Any]
) -> BandSource:
    href = str(asset["href"])
    path = Path(href)
    if urlparse(href).scheme or not path.is_absolute() or not path.is_file():
        raise SceneUnavailable(
            f"The files of {scene.id} are not on this computer, so it has no preview here."
        )
    reflectance = band.get("unit") == "1"
    return BandSource(
        path, index, int(band.get("nodata", 0)),
        float(band["raster:scale"]) if reflectance else math.nan,
        float(band["raster:offset"]) if reflectance else math.nan,
        str(band["eo:common_name"]),
    )  # fmt: skip


def stretch_limits(source: BandSource, composite: str | None) -> tuple[float, float]:
    """The pixel values that become black and white, for the whole scene, never per tile.

    2nd and 98th percentile of valid pixels of an overview; in the fire composite the
    upper end of band 7 is a reflectance of 0.8, so that flames stay apart from bare soil.
    """
    low, high = _percentiles(
        source.path, source.index, source.nodata, source.path.stat().st_mtime_ns
    )
    if composite == "fire" and source.common_name == "swir22" and math.isfinite(source.scale):
        high = max(high, (_FIRE_TOP - source.offset) / source.scale)
    return low, max(high, low + 1)


@lru_cache(maxsize=4096)
def _percentiles(path: Path, index: int, nodata: int, stamp: int) -> tuple[float, float]:
    del stamp  # part of the key: a file that was replaced is read again
    with opened(path) as ds:
        step = max(1.0, max(ds.width, ds.height) / _OVERVIEW_SIDE)
        shape = (max(1, round(ds.height / step)), max(1, round(ds.width / step)))
        data = ds.read(index, out_shape=shape)
    valid = data[data != nodata]
    if valid.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(valid, (2, 98))
    return float(low), float(high)


def brightness(values: npt.NDArray[Any], limits: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Pixel values to 0..255 between the limits, with gamma 1.2; any shape."""
    low, high = limits
    unit = np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)
    return np.asarray(unit ** np.float32(1 / GAMMA) * 255 + 0.5, dtype=np.uint8)


def webp(rgb: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_], *, quality: int = 80) -> bytes:
    """Encode (3, rows, columns) as WebP, transparent where not `valid` (rows, columns)."""
    import io

    from PIL import Image

    alpha = np.where(valid, 255, 0).astype(np.uint8)
    image = Image.fromarray(np.dstack([*rgb, alpha]))
    sink = io.BytesIO()
    image.save(sink, "WEBP", quality=quality, method=2)
    return sink.getvalue()
