"""Read Landsat 8 product folders: Collection 2 and earlier, Level 1 and Level 2.

A product may hold part of its bands only, as cropped ones do, but blue to swir22 (bands
2 to 7) must be there. Crops whose TIFFs carry no georeference take it from the MTL: its
CORNER_*_PROJECTION_* are the centres of the corner pixels (LSDS-1822, table 4-12).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from affine import Affine

from lib.errors import InvalidProduct
from lib.imagery.raster import Grid, RasterInfo, describe
from lib.model import JsonValue
from lib.scenes import mtl as mtl_files
from lib.scenes.mtl import Mtl
from lib.scenes.product import Product, ProductFile, is_plain

PLATFORM = "landsat-8"
COLLECTION = "landsat8"


@dataclass(frozen=True, slots=True)
class Band:
    """A band of OLI or TIRS. `centre_um` and `width_um` are micrometres."""

    number: int
    name: str
    centre_um: float
    width_um: float
    needed: bool = False


BANDS = (
    Band(1, "coastal", 0.44, 0.02),
    Band(2, "blue", 0.48, 0.06, needed=True),
    Band(3, "green", 0.56, 0.06, needed=True),
    Band(4, "red", 0.65, 0.04, needed=True),
    Band(5, "nir08", 0.86, 0.03, needed=True),
    Band(6, "swir16", 1.61, 0.08, needed=True),
    Band(7, "swir22", 2.20, 0.18, needed=True),
    Band(8, "pan", 0.59, 0.18),
    Band(9, "cirrus", 1.37, 0.02),
    Band(10, "lwir11", 10.9, 0.59),
    Band(11, "lwir12", 12.0, 1.01),
)
#: asset key -> names in the MTL, and how the file's name ends
_QUALITY = {
    "qa_pixel": (("FILE_NAME_QUALITY_L1_PIXEL", "FILE_NAME_BAND_QUALITY"), ("QA_PIXEL", "BQA")),
    "qa_radsat": (("FILE_NAME_QUALITY_L1_RADIOMETRIC_SATURATION",), ("QA_RADSAT",)),
}
_LEVELS = {
    "L1T": "L1TP",
    "L1TP": "L1TP",
    "L1GT": "L1GT",
    "L1GS": "L1GS",
    "L2SP": "L2SP",
    "L2SR": "L2SR",
}
_FILE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,120}")
SYNTHETIC_ORIGIN = "Synthetic scene made by SceneBridge"


def find_mtl(folder: Path) -> Path | None:
    """The MTL file of a product folder; txt before json before xml."""
    found = [p for p in sorted(folder.iterdir()) if mtl_files.is_mtl(p) and is_plain(p)]
    order = {".txt": 0, ".json": 1, ".xml": 2}
    return min(found, key=lambda p: order[p.suffix.lower()], default=None)


def read(folder: Path, mtl_path: Path) -> Product:
    """Read the product in `folder` as its MTL describes it.

    Raises:
        InvalidProduct: a needed field, band or georeference is missing or wrong.
    """
    mtl = mtl_files.read(mtl_path)
    spacecraft = mtl.text("SPACECRAFT_ID").replace("_", "-").lower()
    if spacecraft not in (PLATFORM, "landsat8"):
        raise InvalidProduct(f"{mtl.name} is of {spacecraft}; only Landsat 8 products can be read.")
    level = _level(mtl)
    files = tuple(_files(folder, mtl, level))
    synthetic = mtl.text("ORIGIN") == SYNTHETIC_ORIGIN
    truth = folder / "truth.geojson"
    path, row = int(mtl.number("WRS_PATH")), int(mtl.number("WRS_ROW"))
    time = _time(mtl)
    title = f"Landsat 8 {level}, path {path} row {row}, {time:%Y-%m-%d}"
    return Product(
        id=mtl.text("LANDSAT_PRODUCT_ID", "LANDSAT_SCENE_ID"),
        collection=COLLECTION,
        platform=PLATFORM,
        time=time,
        title=f"Synthetic {title}" if synthetic else title,
        level=level,
        synthetic=synthetic,
        properties=_properties(mtl, level, path, row),
        files=files,
        outline_asset="blue",
        sidecars={"mtl": mtl_path} | ({"truth": truth} if synthetic and is_plain(truth) else {}),
    )


def _level(mtl: Mtl) -> str:
    value = mtl.text("PROCESSING_LEVEL", "DATA_TYPE").upper()
    if value not in _LEVELS:
        raise InvalidProduct(f"{mtl.name}: the processing level {value!r:.20} cannot be read.")
    return _LEVELS[value]


def _time(mtl: Mtl) -> datetime:
    text = f"{mtl.text('DATE_ACQUIRED')}T{mtl.text('SCENE_CENTER_TIME')}"
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z?", text)
    try:
        if not found:
            raise ValueError(text)
        fraction = (found[2] or ".0")[:7].ljust(7, "0")
        return datetime.fromisoformat(f"{found[1]}{fraction}+00:00")
    except ValueError as exc:
        raise InvalidProduct(
            f"{mtl.name}: DATE_ACQUIRED and SCENE_CENTER_TIME are no time ({text!r:.60})."
        ) from exc


def _properties(mtl: Mtl, level: str, path: int, row: int) -> dict[str, JsonValue]:
    elevation = mtl.number("SUN_ELEVATION")
    if not -90 <= elevation <= 90:
        raise InvalidProduct(f"{mtl.name}: SUN_ELEVATION is not an angle ({elevation:g}).")
    found: dict[str, JsonValue] = {
        "instruments": ["oli", "tirs"],
        "view:sun_elevation": elevation,
        "view:sun_azimuth": mtl.number("SUN_AZIMUTH") % 360,
        "landsat:wrs_type": "2",
        "landsat:wrs_path": f"{path:03d}",
        "landsat:wrs_row": f"{row:03d}",
        "landsat:correction": level,
        "landsat:scene_id": mtl.find("LANDSAT_SCENE_ID"),
        "landsat:collection_number": mtl.find("COLLECTION_NUMBER"),
        "landsat:collection_category": mtl.find("COLLECTION_CATEGORY"),
    }
    for key, name in (
        ("eo:cloud_cover", "CLOUD_COVER"),
        ("landsat:cloud_cover_land", "CLOUD_COVER_LAND"),
    ):
        if mtl.find(name) is not None and 0 <= mtl.number(name) <= 100:
            found[key] = mtl.number(name)
    return {key: value for key, value in found.items() if value is not None}


def _files(folder: Path, mtl: Mtl, level: str) -> Iterator[ProductFile]:
    names = {p.name.lower(): p for p in folder.iterdir() if is_plain(p)}
    common: tuple[str, tuple[int, int]] | None = None
    for band in BANDS:
        named = (f"FILE_NAME_BAND_{band.number}", f"FILE_NAME_BAND_ST_B{band.number}")
        source = _source(names, mtl, named, (f"B{band.number}",))
        if source is None:
            _refuse_missing(mtl, band, named)
            continue
        info = _one_band(source)
        if band.name != "pan":
            common = _same_size(common, source, info)
        yield ProductFile(
            band.name, source, (_band_object(mtl, band, level, info),), ("data",),
            _place(mtl, source, info, pan=band.name == "pan"),
        )  # fmt: skip
    for asset, (keys, endings) in _QUALITY.items():
        source = _source(names, mtl, keys, endings)
        if source is None:
            continue
        info = _one_band(source)
        common = _same_size(common, source, info)
        fill = 1 if asset == "qa_pixel" else 0
        bands = ({"name": asset.upper(), "data_type": info.dtype},)
        yield ProductFile(asset, source, bands, ("metadata",), _place(mtl, source, info, pan=False),
                          nodata=fill, categories=True)  # fmt: skip


def _source(
    names: Mapping[str, Path], mtl: Mtl, keys: tuple[str, ...], endings: tuple[str, ...]
) -> Path | None:
    """The file that the MTL names, or the only one whose name ends alike (cropped products)."""
    for key in keys:
        name = mtl.find(key) or ""
        if name and not _FILE_NAME.fullmatch(name):
            raise InvalidProduct(f"{mtl.name}: {key} is not a plain file name ({name!r:.60}).")
        if name.lower() in names:
            return names[name.lower()]
    tails = tuple(f"_{e}{s}".lower() for e in endings for s in (".TIF", ".TIFF"))
    alike = [path for name, path in names.items() if name.endswith(tails)]
    if len(alike) > 1:
        raise InvalidProduct(
            f"The folder holds several files for band {endings[0]}: {alike[0].name} and "
            f"{alike[1].name}. Keep one product in a folder."
        )
    return alike[0] if alike else None


def _refuse_missing(mtl: Mtl, band: Band, keys: tuple[str, ...]) -> None:
    if band.needed:
        name = mtl.find(keys[0]) or f"..._B{band.number}.TIF"
        raise InvalidProduct(
            f"Band {band.number} ({band.name}) is missing: {mtl.name} names {name}, which is not "
            "there. Bands 2 to 7 are needed."
        )


def _one_band(source: Path) -> RasterInfo:
    info = describe(source)
    if info.count != 1:
        raise InvalidProduct(f"{source.name} holds {info.count} bands; one is expected.")
    return info


def _same_size(
    common: tuple[str, tuple[int, int]] | None, source: Path, info: RasterInfo
) -> tuple[str, tuple[int, int]]:
    size = (info.width, info.height)
    if common is not None and common[1] != size:
        raise InvalidProduct(
            f"{source.name} is {size[0]} x {size[1]} pixels, but {common[0]} is "
            f"{common[1][0]} x {common[1][1]}. The product is damaged or mixed."
        )
    return common or (source.name, size)


def _place(mtl: Mtl, source: Path, info: RasterInfo, *, pan: bool) -> Grid:
    if info.grid is not None:
        return info.grid
    if mtl.text("MAP_PROJECTION") != "UTM":
        raise InvalidProduct(
            f"{source.name} carries no georeference, and {mtl.name} is not in a UTM projection."
        )
    zone = int(mtl.number("UTM_ZONE"))
    if not 1 <= abs(zone) <= 60:
        raise InvalidProduct(f"{mtl.name}: UTM_ZONE is not a zone ({zone}).")
    west, north, east, south = (
        mtl.number(f"CORNER_{corner}_PROJECTION_{axis}_PRODUCT")
        for corner, axis in (("UL", "X"), ("UL", "Y"), ("LR", "X"), ("LR", "Y"))
    )
    cell = mtl.number(f"GRID_CELL_SIZE_{'PANCHROMATIC' if pan else 'REFLECTIVE'}")
    wide, high = (east - west) / cell + 1, (north - south) / cell + 1
    if abs(wide - info.width) > 0.01 or abs(high - info.height) > 0.01:
        raise InvalidProduct(
            f"{source.name} carries no georeference and is {info.width} x {info.height} pixels, "
            f"which does not fit the CORNER_UL/LR_PROJECTION fields of {mtl.name}."
        )
    transform = Affine(cell, 0, west - cell / 2, 0, -cell, north + cell / 2)
    return Grid(32600 + abs(zone), transform, info.width, info.height)


def _band_object(mtl: Mtl, band: Band, level: str, info: RasterInfo) -> dict[str, JsonValue]:
    thermal = band.number >= 10
    stem = f"BAND_{'ST_B' if thermal and level.startswith('L2') else ''}{band.number}"
    kind = "REFLECTANCE" if not thermal else "RADIANCE" if level.startswith("L1") else "TEMPERATURE"
    unit = {"REFLECTANCE": "1", "RADIANCE": "W.m-2.sr-1.um-1", "TEMPERATURE": "K"}[kind]
    found: dict[str, JsonValue] = {
        "name": f"B{band.number}",
        "eo:common_name": band.name,
        "eo:center_wavelength": band.centre_um,
        "eo:full_width_half_max": band.width_um,
        "data_type": info.dtype,
        "nodata": 0,
        "unit": unit,
        "raster:scale": mtl.number(f"{kind}_MULT_{stem}"),
        "raster:offset": mtl.number(f"{kind}_ADD_{stem}"),
    }
    if kind == "RADIANCE":
        found["landsat:k1"] = mtl.number(f"K1_CONSTANT_{stem}")
        found["landsat:k2"] = mtl.number(f"K2_CONSTANT_{stem}")
    return found
