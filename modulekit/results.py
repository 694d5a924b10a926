"""The result files of a scene and of a run: GeoJSON and STAC 1.1.0.

One result item per scene, not per object, with a `derived_from` link to the scene.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pystac
from pystac.utils import datetime_to_str, str_to_datetime

from modulekit.errors import SceneError
from modulekit.files import write_json
from modulekit.json_value import JsonObject, JsonValue, json_list, json_number, json_object
from modulekit.manifest import Manifest
from modulekit.objects import FoundObject, Outline, centre, lonlat_box
from modulekit.raster import SceneReader

EXTENSIONS = [
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
]
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
#: Result files of a scene: asset key, file name, media type, roles, title.
ASSETS = (
    ("detections", "detections.geojson", "application/geo+json", ["data"], "Detected objects"),
    ("mask", "mask.tif", _COG, ["data"], "Detector's mask, one bit per test"),
    ("overview", "overview.webp", "image/webp", ["overview"], "Scene with the objects ringed"),
    ("log", "log.txt", "text/plain", ["metadata"], "Log"),
)


@dataclass(frozen=True)
class Detection:
    """One object as the results tell it. `n` counts from 1, best first."""

    n: int
    found: FoundObject
    geometry: Outline
    area_m2: float
    flags: Sequence[str]

    def event(self, *, chip: bool) -> dict[str, JsonValue]:
        """The fields of its `object` event; lon and lat are the box's centre."""
        box = lonlat_box(self.geometry)
        lon, lat = centre(box)
        return {
            "n": self.n,
            "class": self.found.kind,
            "score": self.found.score,
            "lon": lon,
            "lat": lat,
            "bbox": box,
            "pixels": self.found.pixels,
            "area_m2": self.area_m2,
            "chip": chip,
            "flags": list(self.flags),
            "properties": dict(self.found.properties),
        }

    def feature(self, when: str) -> dict[str, JsonValue]:
        """The GeoJSON feature; `when` is the scene's time."""
        return {
            "type": "Feature",
            "id": self.n,
            "bbox": lonlat_box(self.geometry),
            "geometry": {
                "type": self.geometry["type"],
                "coordinates": self.geometry["coordinates"],
            },
            "properties": {
                "n": self.n,
                "class": self.found.kind,
                "score": self.found.score,
                "pixels": self.found.pixels,
                "area_m2": self.area_m2,
                "flags": list(self.flags),
                "datetime": when,
                "properties": dict(self.found.properties),
            },
        }


def feature_collection(
    scene: SceneReader,
    manifest: Manifest,
    params: JsonObject,
    detections: Sequence[Detection],
) -> dict[str, JsonValue]:
    """`detections.geojson`: all objects of one scene, with what made them."""
    return {
        "type": "FeatureCollection",
        "scene": scene.item.id,
        "module": manifest.id,
        "version": manifest.version,
        "params": dict(params),
        "features": [d.feature(scene.item.datetime) for d in detections],
    }


def write_item(
    folder: Path,
    scene: SceneReader,
    manifest: Manifest,
    params: JsonObject,
    detections: int,
    bits: tuple[str, ...],
) -> None:
    """Write `folder/SCENE_ID.json`, the result item, for the result files in `folder`.

    Raises:
        SceneError: the scene's time cannot be read.
    """
    source = scene.item
    try:
        when = str_to_datetime(source.datetime)
    except ValueError as exc:
        raise SceneError(f"The scene's time {source.datetime!r:.40} cannot be read.") from exc
    geometry, bbox = source.item.get("geometry"), source.item.get("bbox")
    item = pystac.Item(
        id=f"{source.id}.{manifest.id}",
        geometry=None if geometry is None else dict(json_object(geometry)),
        bbox=None if bbox is None else [json_number(v) for v in json_list(bbox)],
        datetime=when,
        properties=_properties(scene, manifest, params, detections),
        stac_extensions=list(EXTENSIONS),
    )
    for key, name, media_type, roles, title in ASSETS:
        extra = _file_fields(folder / name)
        if key == "mask":
            extra["classification:bitfields"] = _bitfields(bits)
        item.add_asset(key, pystac.Asset(f"./{name}", title, None, media_type, roles, extra))
    item.add_link(_link("derived_from", _source_href(scene, folder), "application/geo+json"))
    item.add_link(_link("root", "../catalog.json", "application/json"))
    item.add_link(_link("parent", "../catalog.json", "application/json"))
    write_json(folder / f"{source.id}.json", item.to_dict(include_self_link=False))


def write_catalog(folder: Path, manifest: Manifest, scenes: Sequence[str]) -> None:
    """Write `folder/catalog.json` with a link to the result item of each of `scenes`."""
    catalog = pystac.Catalog(
        id=f"{manifest.id}-results",
        title=f"{manifest.title}: results",
        description=f"What {manifest.id} {manifest.version} found, one item per scene.",
    )
    catalog.clear_links()
    catalog.add_link(_link("root", "./catalog.json", "application/json"))
    for scene in scenes:
        catalog.add_link(_link("item", f"./{scene}/{scene}.json", "application/geo+json"))
    write_json(folder / "catalog.json", catalog.to_dict(include_self_link=False))


def _properties(
    scene: SceneReader, manifest: Manifest, params: JsonObject, detections: int
) -> dict[str, JsonValue]:
    height, width = scene.shape
    epsg = scene.crs.to_epsg()
    return {
        "title": f"{manifest.title} in {scene.item.id}",
        "created": datetime_to_str(datetime.now(timezone.utc)),
        "platform": scene.item.platform,
        "proj:code": f"EPSG:{epsg}" if epsg else None,
        "proj:shape": [height, width],
        "proj:transform": list(scene.transform)[:6],
        "processing:software": {manifest.id: manifest.version},
        "scenebridge:params": dict(params),
        "scenebridge:objects": detections,
        "scenebridge:synthetic": bool(
            json_object(scene.item.item["properties"]).get("scenebridge:synthetic", False)
        ),
    }


def _bitfields(bits: tuple[str, ...]) -> list[dict[str, JsonValue]]:
    return [
        {
            "name": name,
            "offset": k,
            "length": 1,
            "classes": [
                {"value": 0, "name": "no", "description": f"not found by {name}"},
                {"value": 1, "name": "yes", "description": f"found by {name}"},
            ],
        }
        for k, name in enumerate(bits)
    ]


def _file_fields(path: Path) -> dict[str, JsonValue]:
    """Size and checksum (multihash: sha2-256, 32 bytes) for the file extension."""
    data = path.read_bytes()
    return {"file:size": len(data), "file:checksum": "1220" + hashlib.sha256(data).hexdigest()}


def _source_href(scene: SceneReader, folder: Path) -> str:
    for link in map(json_object, json_list(scene.item.item.get("links", []))):
        if link.get("rel") == "self" and str(link.get("href", "")).startswith("https://"):
            return str(link["href"])
    return os.path.relpath(scene.item.path.resolve(), folder.resolve())


def _link(rel: str, href: str, media_type: str) -> pystac.Link:
    return pystac.Link(rel, href, media_type)
