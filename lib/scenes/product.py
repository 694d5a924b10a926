"""What a reader found in a product folder, before anything is copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rasterio.control import GroundControlPoint

from lib.imagery.raster import Grid
from lib.model import JsonObject


def is_plain(path: Path) -> bool:
    """True for a regular file; a link in a product could lead anywhere."""
    return path.is_file() and not path.is_symlink()


@dataclass(frozen=True, slots=True)
class ProductFile:
    """One raster of a product, which becomes one asset of the item.

    Args:
        asset: key of the asset.
        bands: STAC band objects in the order of the raster's bands.
        grid: where the pixels lie; None only when `gcps` locate them.
        gcps: longitude, latitude; the raster is then warped to `warp_epsg`.
        categories: pixels are flags, not measurements.
    """

    asset: str
    source: Path
    bands: tuple[JsonObject, ...]
    roles: tuple[str, ...]
    grid: Grid | None
    nodata: int = 0
    categories: bool = False
    gcps: tuple[GroundControlPoint, ...] = ()
    warp_epsg: int = 0
    warp_resolution_m: float = 0.0


@dataclass(frozen=True, slots=True)
class Product:
    """A readable product. `sidecars` maps asset keys to small files that are kept with it."""

    id: str
    collection: str
    platform: str
    time: datetime
    title: str
    level: str
    synthetic: bool
    properties: JsonObject
    files: tuple[ProductFile, ...]
    outline_asset: str
    sidecars: Mapping[str, Path] = field(default_factory=dict)
