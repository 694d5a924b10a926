"""STAC items to Scenes and back: one `Scene` type from STAC 0.7 to 1.1.

Real items differ: `eo:platform` or `platform`, "LANDSAT_8" or "landsat-8", path "5" or
"005", band names at the item, in `eo:bands` by number or inline, in `bands`, or only in
the asset's key. All of that is settled here, once; the rest of the project sees items of
STAC 1.1.0 with bands by `eo:common_name`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone

import shapely
from shapely.geometry import shape

from lib.errors import InvalidInput
from lib.imagery.outline import bbox_of, geojson, lonlat_polygon
from lib.model import BBox, JsonObject, JsonValue, Scene, SceneId, json_list, json_object
from lib.model.bounds import Within, outside
from lib.protocol.messages import ASSET_PATTERN, ITEM_BOUNDS, SCENE_ID_PATTERN

STAC_VERSION = "1.1.0"
EXTENSIONS = (
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/view/v1.1.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
)
LANDSAT_EXTENSION = "https://landsat.usgs.gov/stac/landsat-extension/v2.0.0/schema.json"
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"

#: The first pictures of the earth from orbit are of 1946.
_YEARS = (1946, 2100)
#: What bands are computed with.
_BAND_NUMBERS = {
    "raster:scale": Within(-1e9, 1e9),
    "raster:offset": Within(-1e9, 1e9),
    "nodata": Within(-(2**31), 2**32),
}

_LANDSAT_KEYS = {
    "B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "nir08", "B6": "swir16",
    "B7": "swir22", "B8": "pan", "B9": "cirrus", "B10": "lwir11", "B11": "lwir12",
}  # fmt: skip
_COMMON = frozenset(_LANDSAT_KEYS.values()) | {"nir"}
_OLD_NAMES = {
    "nir": "nir08",
    "swir1": "swir16",
    "swir2": "swir22",
    "tir11": "lwir11",
    "tir": "lwir11",
}
_OWN_FIELDS = ("eo:", "raster:", "landsat:", "formosat:")
_OLD_FIELDS = frozenset(
    {"eo:platform", "eo:instrument", "eo:bands", "eo:cloud_cover", "eo:off_nadir", "eo:gsd",
     "eo:sun_azimuth", "eo:sun_elevation", "proj:epsg", "collection"}
)  # fmt: skip
_QUALITY_KEYS = {"QA_PIXEL": "qa_pixel", "QA_RADSAT": "qa_radsat", "BQA": "qa_pixel"}
_LEVEL_IN_ID = re.compile(r"_(L1TP|L1GT|L1GS|L2SP|L2SR)_")
_RASTER_TYPE = re.compile(r"image/(tiff|vnd\.stac\.geotiff)")


def to_item(scene: Scene) -> dict[str, JsonValue]:
    """The scene's STAC 1.1.0 item as a new dictionary."""
    return dict(scene.item)


def from_item(item: JsonValue) -> Scene:
    """Read an item of STAC 0.7 to 1.1; `Scene.item` is its 1.1.0 form.

    Raises:
        InvalidInput: not an image of a platform with readable bands.
    """
    if not isinstance(item, Mapping) or item.get("type") != "Feature":
        raise InvalidInput("This is not a STAC item.")
    ident = str(item.get("id", ""))
    if not SCENE_ID_PATTERN.fullmatch(ident):
        raise InvalidInput(f"The STAC item's id {ident!r:.60} cannot be used as a name.")
    found = item.get("properties")
    properties = {k: v for k, v in found.items() if _known(v)} if isinstance(found, Mapping) else {}
    if problem := outside({**item, "properties": properties}, ITEM_BOUNDS, ident):
        raise InvalidInput(f"The STAC item is out of bounds: {problem}.")
    platform = _platform(properties)
    geometry = _geometry(item)
    assets = _assets(item, properties, platform)
    listed = [band for asset in assets.values() for band in _bands_of(asset)]
    bands = frozenset(str(b["eo:common_name"]) for b in listed if "eo:common_name" in b)
    if not platform or not bands:
        raise InvalidInput(f"The STAC item {ident} is not an image: it names no platform or bands.")
    time = _time(ident, properties)
    level = _level(ident, properties)
    cloud = _cloud(properties)
    synthetic = properties.get("scenebridge:synthetic") is True
    title = str(properties.get("title") or ident)[:200]
    bbox = bbox_of(geometry)
    collection = str(item.get("collection") or properties.get("collection") or platform)[:120]
    links = _collection_link(item)
    described = _properties(properties, platform, time, level, cloud, title, synthetic)
    normal: dict[str, JsonValue] = {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": _extensions(platform),
        "id": ident,
        "collection": collection,
        "geometry": geometry,
        "bbox": list(bbox),
        "properties": described,
        "links": links,
        "assets": assets,
    }
    if not links:  # STAC allows the field beside such a link only
        described["collection"] = normal.pop("collection")
    return Scene(SceneId(ident), collection, platform, time, geometry, bbox, cloud, level, bands,
                 synthetic, title, normal)  # fmt: skip


def _known(value: JsonValue) -> bool:
    """Some catalogues write NaN for what they do not know."""
    return not isinstance(value, float) or math.isfinite(value)


def _collection_link(item: JsonObject) -> list[dict[str, str]]:
    links = item.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, Mapping) and link.get("rel") == "collection":
            return [
                {"rel": "collection", "href": str(link.get("href")), "type": "application/json"}
            ]
    return []


def _extensions(platform: str) -> list[str]:
    return [*EXTENSIONS, LANDSAT_EXTENSION] if platform.startswith("landsat") else list(EXTENSIONS)


def _platform(properties: JsonObject) -> str:
    name = str(properties.get("platform") or properties.get("eo:platform") or "")
    name = name.strip().lower().replace("_", "-").replace(" ", "-")
    return re.sub(r"^(landsat|formosat)-?(\d)$", r"\1-\2", name)[:40]


def _time(ident: str, properties: JsonObject) -> datetime:
    text = properties.get("datetime") or properties.get("start_datetime")
    try:
        if not isinstance(text, str):
            raise ValueError("no text")
        text = re.sub(r"(\.\d{6})\d+", r"\1", text.strip().replace("Z", "+00:00"))
        time = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidInput(f"The STAC item {ident} has no readable datetime.") from exc
    if not _YEARS[0] <= time.year <= _YEARS[1]:
        raise InvalidInput(f"The datetime of the STAC item {ident} is not of {_YEARS[0]} or later.")
    return time.replace(tzinfo=time.tzinfo or timezone.utc).astimezone(timezone.utc)


def _level(ident: str, properties: JsonObject) -> str:
    value = properties.get("landsat:correction") or properties.get("processing:level")
    if isinstance(value, str) and value:
        return value[:20]
    found = _LEVEL_IN_ID.search(ident)
    return found[1] if found else ""


def _cloud(properties: JsonObject) -> float | None:
    value = properties.get("eo:cloud_cover")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) and 0 <= value <= 100 else None


def _geometry(item: JsonObject) -> dict[str, JsonValue]:
    """The item's footprint; a ring that runs the wrong way around the world is mended."""
    try:
        found = shape(dict(json_object(item["geometry"])))
        if found.is_empty or found.geom_type not in ("Polygon", "MultiPolygon"):
            raise ValueError(found.geom_type)
        if not all(math.isfinite(v) for v in found.bounds):
            raise ValueError("not finite")
        west, south, east, north = found.bounds
        if west < -180.001 or east > 180.001 or south < -90.001 or north > 90.001:
            raise ValueError("not on the globe")
    except (KeyError, TypeError, ValueError, AttributeError, shapely.errors.ShapelyError) as exc:
        raise InvalidInput("The STAC item has no footprint in longitude and latitude.") from exc
    if isinstance(found, shapely.Polygon) and east - west > 180:
        return lonlat_polygon([(x, y) for x, y, *_ in found.exterior.coords[:-1]])
    return geojson(shapely.force_2d(found))


def _assets(
    item: JsonObject, properties: JsonObject, platform: str
) -> dict[str, dict[str, JsonValue]]:
    listed = item.get("assets")
    shared = properties.get("eo:bands")
    assets: dict[str, dict[str, JsonValue]] = {}
    for key, asset in listed.items() if isinstance(listed, Mapping) else ():
        if not isinstance(asset, Mapping) or not isinstance(asset.get("href"), str):
            continue
        bands = _bands(str(key), asset, shared if isinstance(shared, list) else [], platform)
        name = _asset_key(str(key), bands)
        if ASSET_PATTERN.fullmatch(name) and name not in assets:
            assets[name] = _asset(asset, bands)
    return assets


def _bands_of(asset: JsonObject) -> Iterator[JsonObject]:
    """The band objects that `_asset` wrote."""
    return map(json_object, json_list(asset.get("bands", ())))


def _asset_key(key: str, bands: list[dict[str, JsonValue]]) -> str:
    stem = re.sub(r"\.(tiff?|TIFF?)$", "", key)
    quality = _QUALITY_KEYS.get(stem.upper())
    if quality:
        return quality
    if len(bands) == 1 and "eo:common_name" in bands[0]:
        return str(bands[0]["eo:common_name"])
    return stem.lower()


def _asset(asset: JsonObject, bands: list[dict[str, JsonValue]]) -> dict[str, JsonValue]:
    dropped = {"eo:bands", "raster:bands", "bands", "proj:epsg"}
    kept = {k: v for k, v in asset.items() if k not in dropped}
    if isinstance(asset.get("proj:epsg"), int):
        kept["proj:code"] = f"EPSG:{asset['proj:epsg']}"
    return {**kept, "bands": bands} if bands else kept


def _bands(
    key: str, asset: JsonObject, shared: Sequence[JsonValue], platform: str
) -> list[dict[str, JsonValue]]:
    if not _RASTER_TYPE.match(str(asset.get("type", "image/tiff"))):
        return []
    inline = asset.get("bands") or asset.get("eo:bands") or []
    listed = [_shared(b, shared) for b in inline] if isinstance(inline, list) else []
    if not listed and (named := _name_of_key(key)):
        listed = [{"name": named[0], "common_name": named[1]}]
    raster = asset.get("raster:bands")
    values = raster if isinstance(raster, list) else []
    bands = [
        _band(b, values[i] if i < len(values) else {}, platform)
        for i, b in enumerate(listed)
        if isinstance(b, Mapping)
    ]
    useful = "bands" in asset or any("eo:common_name" in b for b in bands)
    return bands if useful else []


def _shared(band: JsonValue, shared: Sequence[JsonValue]) -> JsonValue:
    """Before STAC 1.0 an asset named its bands by their index in the item's list."""
    if isinstance(band, int) and not isinstance(band, bool) and 0 <= band < len(shared):
        return shared[band]
    return band


def _name_of_key(key: str) -> tuple[str, str] | None:
    found = re.fullmatch(r"(?:[SL][RT]_)?(B\d{1,2})(?:\.TIFF?)?", key, re.IGNORECASE)
    name = found[1].upper() if found else ""
    return (name, _LANDSAT_KEYS[name]) if name in _LANDSAT_KEYS else None


def _band(band: JsonObject, raster: JsonValue, platform: str) -> dict[str, JsonValue]:
    known = {k: v for k, v in band.items() if k.startswith(_OWN_FIELDS)}
    for key in ("name", "data_type", "nodata", "unit", "description"):
        value = band.get(key, raster.get(key) if isinstance(raster, Mapping) else None)
        if value is not None:
            known[key] = value
    for key in ("scale", "offset"):
        if isinstance(raster, Mapping) and key in raster:
            known[f"raster:{key}"] = raster[key]
    for key, bound in _BAND_NUMBERS.items():
        _check_number(known, key, bound)
    common = str(band.get("eo:common_name") or band.get("common_name") or "")
    if platform.startswith("landsat"):
        common = _OLD_NAMES.get(common, common)
    if common in _COMMON:
        known["eo:common_name"] = common
    for old, new in (("center_wavelength", "eo:center_wavelength"),
                     ("full_width_half_max", "eo:full_width_half_max")):  # fmt: skip
        if old in band:
            known[new] = band[old]
    return known


def _check_number(band: JsonObject, key: str, bound: Within) -> None:
    """A field that a picture is computed with: no number (nodata "nan") is none, and left."""
    value = band.get(key)
    if isinstance(value, (int, float)) and not bound.holds(value):
        raise InvalidInput(f"A band of the STAC item is out of bounds: {key} must be {bound}.")


def _properties(
    properties: JsonObject, platform: str, time: datetime, level: str,
    cloud: float | None, title: str, synthetic: bool,
) -> dict[str, JsonValue]:  # fmt: skip
    kept = {k: v for k, v in properties.items() if k not in _OLD_FIELDS}
    kept.update(
        {
            "datetime": time.isoformat().replace("+00:00", "Z"),
            "platform": platform,
            "title": title,
            "scenebridge:synthetic": synthetic,
        }
    )
    if level:
        kept["processing:level"] = level
    kept.pop("eo:cloud_cover", None)
    if cloud is not None:
        kept["eo:cloud_cover"] = cloud
    for angle in ("sun_azimuth", "sun_elevation"):
        if f"eo:{angle}" in properties:
            kept[f"view:{angle}"] = properties[f"eo:{angle}"]
    if isinstance(properties.get("proj:epsg"), int):
        kept["proj:code"] = f"EPSG:{properties['proj:epsg']}"
    for key in ("landsat:wrs_path", "landsat:wrs_row"):
        if str(kept.get(key, "")).isdigit():
            kept[key] = str(kept[key]).zfill(3)
    return kept


def bbox_parts(box: BBox) -> Iterable[BBox]:
    """The box as one box, or two where it crosses the antimeridian."""
    west, south, east, north = box
    if west <= east:
        return ((west, south, east, north),)
    return ((west, south, 180.0, north), (-180.0, south, east, north))
