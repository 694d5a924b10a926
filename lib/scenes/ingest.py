"""From a product on disk to a scene's folder: detect, read, copy as COGs, write the item."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from lib.errors import InvalidProduct, StorageFull
from lib.imagery.outline import bbox_of, valid_outline
from lib.imagery.raster import Grid, store_cog, store_warped
from lib.model import JsonObject, JsonValue
from lib.protocol.messages import SCENE_ID_PATTERN
from lib.scenes import formosat, landsat, limits
from lib.scenes.product import Product, ProductFile
from lib.scenes.stac import COG_TYPE, EXTENSIONS, LANDSAT_EXTENSION, STAC_VERSION

_SIDECAR_TYPES = {".txt": "text/plain", ".xml": "application/xml", ".json": "application/json",
                  ".dim": "application/xml", ".geojson": "application/geo+json"}  # fmt: skip


def read_product(folder: Path) -> Product:
    """Detect what lies in `folder`, or in its only sub-folder, and read its metadata.

    Raises:
        InvalidProduct: neither a Landsat 8 nor a FORMOSAT product, or a broken one.
    """
    if not folder.is_dir():
        raise InvalidProduct(f"{folder.name} is neither a folder nor a .tar or .tar.gz archive.")
    for place in _places(folder):
        if mtl := landsat.find_mtl(place):
            return _checked(landsat.read(place, mtl))
        if dims := formosat.find_dims(place):
            return _checked(formosat.read(dims))
    raise InvalidProduct(
        f"{folder.name} holds no product that can be read: a Landsat 8 product has an MTL file, a "
        "FORMOSAT product a METADATA.DIM."
    )


def store_product(product: Product, folder: Path) -> dict[str, JsonValue]:
    """Write the product's rasters as COGs, its metadata and `item.json` into `folder`.

    Returns:
        the STAC item; its asset hrefs are relative to `folder`.
    Raises:
        InvalidProduct: a raster is damaged.
        StorageFull: no space is left.
    """
    grids = {f.asset: _store(f, folder / f"{f.asset}.tif") for f in product.files}
    assets = {f.asset: _asset(f, grids[f.asset]) for f in product.files}
    for key, source in product.sidecars.items():
        name = f"{key}{source.suffix.lower()}"
        _copy_text(source, folder / name)
        kind = _SIDECAR_TYPES[source.suffix.lower()]
        assets[key] = {"href": f"./{name}", "type": kind, "roles": ["metadata"]}
    item = _item(product, folder, grids[product.outline_asset], assets)
    write_json(folder / "item.json", item)
    return item


def write_json(path: Path, value: JsonValue) -> None:
    """Write JSON by a temporary file and a rename."""
    draft = path.with_name(path.name + ".part")
    try:
        with draft.open("w", encoding="utf-8") as stream:
            json.dump(value, stream, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except OSError as exc:
        raise StorageFull(f"{path.name} could not be written. Free some disk space.") from exc


def _places(folder: Path) -> Iterable[Path]:
    names = sorted(folder.iterdir())
    if len(names) > limits.MAX_FILES:
        raise InvalidProduct(f"{folder.name} holds more than {limits.MAX_FILES} files.")
    inner = [p for p in names if p.is_dir() and not p.is_symlink()]
    return [folder, inner[0]] if len(inner) == 1 else [folder]


def _checked(product: Product) -> Product:
    if not SCENE_ID_PATTERN.fullmatch(product.id):
        raise InvalidProduct(f"The product's id {product.id!r:.60} cannot be used as a name.")
    return product


def _store(file: ProductFile, target: Path) -> Grid:
    if file.grid is None:
        return store_warped(
            file.source, target, file.gcps, epsg=file.warp_epsg, resolution_m=file.warp_resolution_m
        )
    store_cog(file.source, target, file.grid, nodata=file.nodata, categories=file.categories)
    return file.grid


def _asset(file: ProductFile, grid: Grid) -> dict[str, JsonValue]:
    return {
        "href": f"./{file.asset}.tif",
        "type": COG_TYPE,
        "roles": list(file.roles),
        "bands": [dict(band) for band in file.bands],
        "gsd": abs(grid.transform.a),
        **grid.properties(),
    }


def _item(product: Product, folder: Path, grid: Grid, assets: JsonObject) -> dict[str, JsonValue]:
    outline = valid_outline(folder / f"{product.outline_asset}.tif")
    extensions = [*EXTENSIONS, *([LANDSAT_EXTENSION] if product.collection == "landsat8" else [])]
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": extensions,
        "id": product.id,
        "collection": product.collection,
        "geometry": outline,
        "bbox": list(bbox_of(outline)),
        "properties": {
            "title": product.title,
            "datetime": product.time.isoformat().replace("+00:00", "Z"),
            "platform": product.platform,
            "processing:level": product.level,
            "scenebridge:synthetic": product.synthetic,
            "gsd": abs(grid.transform.a),
            "proj:code": f"EPSG:{grid.epsg}",
            **product.properties,
        },
        "links": [
            {
                "rel": "collection",
                "href": f"../{product.collection}.json",
                "type": "application/json",
            }
        ],
        "assets": assets,
    }


def _copy_text(source: Path, target: Path) -> None:
    if source.stat().st_size > limits.MAX_TEXT_BYTES:
        raise InvalidProduct(f"{source.name} is too large.")
    try:
        shutil.copyfile(source, target, follow_symlinks=False)
    except OSError as exc:
        raise StorageFull(f"{target.name} could not be written. Free some disk space.") from exc
