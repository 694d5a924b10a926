"""Which bands make a picture, and where they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from lib.errors import InvalidInput, SceneUnavailable
from lib.model import JsonObject, Scene, json_list, json_number, json_object


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
    for asset in map(json_object, json_object(scene.item["assets"]).values()):
        bands = map(json_object, json_list(asset.get("bands", ())))
        for index, band in enumerate(bands, start=1):
            if band.get("eo:common_name") == common_name:
                return _band_source(scene, asset, index, band)
    raise SceneUnavailable(f"{scene.id} has no band {common_name}.")


def _band_source(scene: Scene, asset: JsonObject, index: int, band: JsonObject) -> BandSource:
    href = str(asset["href"])
    path = Path(href)
    if urlparse(href).scheme or not path.is_absolute() or not path.is_file():
        raise SceneUnavailable(
            f"The files of {scene.id} are not on this computer, so it has no preview here."
        )
    reflectance = band.get("unit") == "1" and {"raster:scale", "raster:offset"} <= band.keys()
    nodata = band.get("nodata")
    return BandSource(
        path, index, int(nodata) if isinstance(nodata, (int, float)) else 0,
        float(json_number(band["raster:scale"])) if reflectance else math.nan,
        float(json_number(band["raster:offset"])) if reflectance else math.nan,
        str(band["eo:common_name"]),
    )  # fmt: skip
