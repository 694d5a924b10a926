"""The input of a run: a STAC catalog, its items, and their bands.

Items of STAC 0.7 to 1.1 are understood; they differ in where bands are described:

* 1.1: `bands` of the asset, `eo:common_name` and `raster:scale` in each;
* 1.0: `eo:bands` of the asset (`common_name`) and `raster:bands` beside it;
* before: `eo:bands` of the asset are positions in `properties["eo:bands"]`.

What no item says (older Landsat items have no scale) comes from the platform's product
definition: Landsat Collection 2 Level-1 reflectance is 2e-5 DN - 0.1 before the sun
correction, Level-2 surface reflectance 2.75e-5 DN - 0.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from modulekit.errors import SceneError, UsageError
from modulekit.files import read_json
from modulekit.json_value import (
    JsonObject,
    JsonValue,
    json_list,
    json_number,
    json_object,
    json_text,
)

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,119}")
_LEVEL_IN_ID = re.compile(r"^L[COTEM]\d\d_(L\d[A-Z]{2})_")
_REFLECTIVE = frozenset({"coastal", "blue", "green", "red", "nir08", "swir16", "swir22"})
_QUALITY = ("qa_pixel", "qa_radsat")
_ALIASES = {"nir": "nir08", "swir1": "swir16", "swir2": "swir22", "aerosol": "coastal"}
_LANDSAT_8_KEYS = {
    "B1": "coastal",
    "B2": "blue",
    "B3": "green",
    "B4": "red",
    "B5": "nir08",
    "B6": "swir16",
    "B7": "swir22",
}


@dataclass(frozen=True)
class Band:
    """One band of one file.

    `index` counts the bands of the file from 1. Reflectance is `scale * DN + offset`
    (Landsat Level-1: before the division by the sine of the sun's elevation).
    """

    name: str
    href: str
    index: int = 1
    scale: float = 1.0
    offset: float = 0.0
    calibrated: bool = False


@dataclass(frozen=True)
class SceneItem:
    """One scene of the input.

    `bands` maps `eo:common_name` (and "qa_pixel", "qa_radsat") to where it is read.
    `sun_elevation` is in degrees, None where the item does not say it. `folder` is
    where relative hrefs start.
    """

    id: str
    platform: str
    level: str
    datetime: str
    sun_elevation: float | None
    bands: Mapping[str, Band]
    folder: Path
    path: Path
    item: JsonObject = field(repr=False)

    def band(self, name: str) -> Band:
        """The band `name`.

        Raises:
            SceneError: the scene has no such band.
        """
        try:
            return self.bands[name]
        except KeyError:
            have = ", ".join(sorted(self.bands)) or "none"
            raise SceneError(
                f"The scene has no band {name}; its item describes these bands: {have}."
            ) from None


@dataclass(frozen=True)
class SceneLink:
    """A scene that the catalog names; its item is read when its turn comes."""

    id: str
    path: Path


def read_catalog(folder: Path) -> list[SceneLink]:
    """The scenes that `folder/catalog.json` links to, in its order.

    Raises:
        UsageError: there is no such catalog, it links to no item, to an item outside
            the folder, or to two of the same id.
    """
    path = folder / "catalog.json"
    data = read_json(path)
    links = data.get("links") if isinstance(data, dict) else None
    if not isinstance(links, list):
        raise UsageError("catalog.json is not a STAC catalog: it has no list of links.")
    scenes = [
        _scene_link(folder, link.get("href"))
        for link in links
        if isinstance(link, dict) and link.get("rel") == "item"
    ]
    if not scenes:
        raise UsageError("catalog.json has no item links, so there is no scene to work on.")
    if len({s.id for s in scenes}) != len(scenes):
        raise UsageError("catalog.json names the same scene twice; name each scene once.")
    return scenes


def _scene_link(folder: Path, href: JsonValue) -> SceneLink:
    if not isinstance(href, str) or urlsplit(href).scheme:
        raise UsageError("An item link of catalog.json is not a file below its folder.")
    path = folder / href
    name = path.stem
    if not path.resolve().is_relative_to(folder.resolve()) or not _ID.fullmatch(name):
        raise UsageError(f"The item link {href[:80]!r} of catalog.json leads outside its folder.")
    return SceneLink(name, path)


def read_item(link: SceneLink) -> SceneItem:
    """Read and normalise one item.

    Raises:
        SceneError: the item cannot be read or is not the scene that the catalog names.
    """
    try:
        found = read_json(link.path)
    except UsageError as exc:
        raise SceneError(exc.message) from exc
    try:
        item = json_object(found)
        properties, assets = json_object(item["properties"]), json_object(item["assets"])
        if item["id"] != link.id:
            raise SceneError(f"{link.path.name} describes another scene ({item['id']!r:.80}).")
        platform = _platform(properties)
        level = _level(link.id, properties)
        bands = {b.name: b for b in _bands(assets, properties, platform, level)}
        elevation = _sun_elevation(properties)
        when = str(properties.get("datetime") or properties["start_datetime"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as exc:
        raise SceneError(
            f"{link.path.name} is not a usable STAC item: {type(exc).__name__} at {exc}."
        ) from exc
    return SceneItem(
        id=link.id,
        platform=platform,
        level=level,
        datetime=when,
        sun_elevation=elevation,
        bands=bands,
        folder=link.path.parent,
        path=link.path,
        item=item,
    )


def _platform(properties: JsonObject) -> str:
    name = properties.get("platform") or properties.get("eo:platform") or ""
    return str(name).lower().replace("_", "-")


def _level(scene_id: str, properties: JsonObject) -> str:
    named = _LEVEL_IN_ID.match(scene_id)
    level = properties.get("processing:level") or properties.get("landsat:correction")
    return str(level or (named.group(1) if named else ""))


def _real(value: JsonValue) -> float:
    """A number, also one that old items write as text."""
    return float(value if isinstance(value, str) else json_number(value))


def _sun_elevation(properties: JsonObject) -> float | None:
    for key in ("view:sun_elevation", "landsat:sun_elevation", "eo:sun_elevation"):
        if key in properties and properties[key] is not None:
            return _real(properties[key])
    return None


def _bands(assets: JsonObject, properties: JsonObject, platform: str, level: str) -> Iterator[Band]:
    for key, asset in ((k, json_object(a)) for k, a in assets.items()):
        plain = re.sub(r"\.tiff?$", "", key, flags=re.IGNORECASE)
        if plain.lower() in _QUALITY:
            yield Band(plain.lower(), json_text(asset["href"]))
            continue
        for position, described in enumerate(_described(asset, properties)):
            name = _common_name(described, plain, platform)
            if name:
                scale, offset = _scaling(asset, described, position, name, platform, level)
                calibrated = scale is not None
                href = json_text(asset["href"])
                yield Band(name, href, position + 1, scale or 1.0, offset, calibrated)


def _described(asset: JsonObject, properties: JsonObject) -> list[JsonObject]:
    """The band objects of an asset, whatever version of STAC wrote it."""
    listed = json_list(asset.get("bands") or asset.get("eo:bands") or [])
    everywhere = json_list(properties.get("eo:bands", []))
    found = [json_object(everywhere[b] if isinstance(b, int) else b) for b in listed]
    is_image = "tif" in str(asset.get("type", "")) or "tif" in str(asset["href"]).lower()[-5:]
    return found if found or not is_image else [{}]


def _common_name(described: JsonObject, key: str, platform: str) -> str:
    name = described.get("eo:common_name") or described.get("common_name")
    if not name and platform == "landsat-8":
        name = _LANDSAT_8_KEYS.get(key.upper().removeprefix("SR_"))
    name = str(name or "")
    if platform.startswith("landsat"):
        name = _ALIASES.get(name, name)
    return name


def _scaling(
    asset: JsonObject,
    described: JsonObject,
    position: int,
    name: str,
    platform: str,
    level: str,
) -> tuple[float | None, float]:
    beside = json_list(asset.get("raster:bands") or [])
    older = json_object(beside[position]) if position < len(beside) else {}
    scale = described.get("raster:scale", older.get("scale", asset.get("raster:scale")))
    offset = described.get("raster:offset", older.get("offset", asset.get("raster:offset")))
    if scale is not None:
        return _real(scale), _real(offset or 0.0)
    if platform == "landsat-8" and name in _REFLECTIVE:
        return (2.75e-5, -0.2) if level.startswith("L2") else (2e-5, -0.1)
    return None, 0.0
