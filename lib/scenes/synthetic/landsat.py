"""Write a synthetic Landsat 8 Collection 2 Level-1 product in its real layout."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.io import DatasetWriter
from rasterio.warp import transform as transform_points

from lib.imagery.raster import Grid, to_cog
from lib.scenes.landsat import SYNTHETIC_ORIGIN
from lib.scenes.synthetic import objects
from lib.scenes.synthetic.geometry import overpass, sun_angles, utm_epsg
from lib.scenes.synthetic.landscape import Floats, Landscape, Window
from lib.scenes.synthetic.objects import Planted

_PIXEL_M = 30.0
_STRIP = 256
_LOCAL_HOUR = 10.3
_SCALE, _OFFSET = 2e-5, -0.1
#: Radiance of the thermal bands: multiplier, addend, K1, K2, centre (um).
_THERMAL = {10: (774.8853, 1321.0789), 11: (480.8883, 1201.1442)}
_THERMAL_MULT, _THERMAL_ADD = 3.342e-4, 0.1
#: DN come in steps of this size: the sensor digitises 12 bits.
_STEP = 16
_NODATA = {"QA_PIXEL": 1, "QA_RADSAT": None}
_CLEAR, _WATER_BIT, _CLOUD, _DILATED = 21824, 1 << 7, 22280, 1 << 1


Counts = npt.NDArray[np.uint16]
#: What a field of the MTL holds.
_Value = str | float | date


@dataclass(frozen=True, slots=True)
class LandsatSpec:
    """A synthetic acquisition.

    Args:
        lon, lat: centre, degrees.
        ground: which landscape; two dates of one place share it.
        sea, cloud: fractions of the area.
        size: pixels (30 m) a side; 7,700 is a whole scene.
    """

    lon: float
    lat: float
    path: int
    row: int
    day: date
    ground: int
    sea: float = 0.45
    cloud: float = 0.03
    fires: int = 6
    ships: int = 12
    turbines: int = 9
    size: int = 800

    @property
    def product_id(self) -> str:
        """Named like a real product that was processed ten days later."""
        done = self.day + timedelta(days=10)
        return f"LC08_L1TP_{self.path:03d}{self.row:03d}_{self.day:%Y%m%d}_{done:%Y%m%d}_02_T1"

    @property
    def scene_id(self) -> str:
        """Id of the scene that it becomes."""
        return self.product_id


def write_landsat(folder: Path, spec: LandsatSpec) -> Path:
    """Write the product as `folder/PRODUCT_ID/`: band COGs, QA bands, MTL, truth.

    The same `spec` gives the same pixels. Needs memory for strips of 256 rows only.
    """
    product = folder / spec.product_id
    product.mkdir(parents=True)
    grid = _grid(spec)
    elevation, azimuth = sun_angles(spec.day, spec.lat, local_hour=_LOCAL_HOUR)
    sine = math.sin(math.radians(elevation))
    land = Landscape(spec.ground, spec.day.toordinal(), (spec.size, spec.size), _PIXEL_M,
                     sea=spec.sea, cloud=spec.cloud)  # fmt: skip
    rng = np.random.default_rng([spec.ground, spec.day.toordinal(), 4])
    planted = objects.plant(land, rng, _PIXEL_M, sine, fires=spec.fires, ships=spec.ships,
                            turbines=spec.turbines)  # fmt: skip
    cloudy = _write_bands(product, spec, grid, land, planted, sine)
    facts = _Facts(overpass(spec.day, spec.lon, local_hour=_LOCAL_HOUR), elevation, azimuth, cloudy)
    (product / f"{spec.product_id}_MTL.txt").write_text(_mtl(spec, grid, facts), encoding="ascii")
    truth = objects.truth(planted, lambda col, row: lonlat(grid, col, row))
    (product / "truth.geojson").write_text(json.dumps(truth), encoding="utf-8")
    return product


def lonlat(grid: Grid, col: float, row: float) -> tuple[float, float]:
    """Degrees of a place on the grid, in pixels from its upper left corner."""
    x, y = grid.transform @ (col, row)
    lons, lats = transform_points(f"EPSG:{grid.epsg}", "EPSG:4326", [x], [y])
    return float(lons[0]), float(lats[0])


def _grid(spec: LandsatSpec) -> Grid:
    epsg = utm_epsg(spec.lon, spec.lat)
    xs, ys = transform_points("EPSG:4326", f"EPSG:{epsg}", [spec.lon], [spec.lat])
    half = spec.size * _PIXEL_M / 2
    west = round((xs[0] - half) / 30) * 30 - _PIXEL_M / 2
    north = round((ys[0] + half) / 30) * 30 + _PIXEL_M / 2
    return Grid(epsg, Affine(_PIXEL_M, 0, west, 0, -_PIXEL_M, north), spec.size, spec.size)


def _write_bands(
    product: Path,
    spec: LandsatSpec,
    grid: Grid,
    land: Landscape,
    planted: list[Planted],
    sine: float,
) -> float:
    """Write all rasters strip by strip; returns the cloud cover in percent."""
    names = [*(f"B{n}" for n in range(1, 12)), "QA_PIXEL", "QA_RADSAT"]
    plain = {name: product / f"{name}.part" for name in names}
    cloudy = 0.0
    with ExitStack() as stack:
        sinks = {
            name: stack.enter_context(rasterio.open(path, "w", **_profile(grid, name)))
            for name, path in plain.items()
        }
        for top in range(0, spec.size, _STRIP):
            window = Window(top, min(spec.size, top + _STRIP), 0, spec.size)
            cloud = 0.0
            for name, data in _strip(window, land, planted, sine):
                if name == "QA_PIXEL":
                    cloud = float((data & 8 != 0).sum())
                _write(sinks[name], data, window, spec.size)
            cloudy += cloud
    for name, path in plain.items():
        target = product / f"{spec.product_id}_{name}.TIF"
        to_cog(path, target, categories=name.startswith("QA"))
        path.unlink()
    return 100 * cloudy / spec.size**2


def _strip(
    window: Window, land: Landscape, planted: list[Planted], sine: float
) -> Iterator[tuple[str, Counts]]:
    """The rows of every band: (name, uint16 array); pan is twice as fine."""
    reflectance, ground, cloud = land.reflectance(window)
    objects.stamp(reflectance, window, planted)
    bands = [_dn(band * sine) for band in reflectance]
    for number, band in enumerate(bands, start=1):
        yield f"B{number}", band
    fine = np.repeat(np.repeat(reflectance[1:4].mean(axis=0), 2, axis=0), 2, axis=1)
    yield "B8", _dn(fine * sine)
    yield "B9", _dn((0.0015 + 0.02 * cloud) * sine)
    warmth = 288.0 + 12 * ground - 30 * cloud
    for number, (k1, k2) in _THERMAL.items():
        radiance = k1 / np.expm1(k2 / _heated(warmth, window, planted))
        counts = np.clip((radiance - _THERMAL_ADD) / _THERMAL_MULT, 1, 65535)
        yield f"B{number}", (counts.astype(np.uint16) // _STEP) * _STEP
    yield "QA_PIXEL", _quality(ground, cloud)
    saturated = sum((band == 65535).astype(np.uint16) << bit for bit, band in enumerate(bands))
    yield "QA_RADSAT", saturated


def _dn(apparent: npt.NDArray[np.floating]) -> Counts:
    """Reflectance times the sine of the sun's elevation, to Level-1 counts."""
    counts = np.clip((apparent - _OFFSET) / _SCALE, _STEP, 65535)
    coarse = (counts / _STEP).astype(np.uint16) * _STEP
    return np.where(counts >= 65535, 65535, coarse).astype(np.uint16)


def _heated(warmth: Floats, window: Window, planted: list[Planted]) -> Floats:
    """Brightness temperature with the warmth of the fires, roughly."""
    heated = warmth.copy()
    for fire in planted:
        rows, cols = fire.rows - window.top, fire.cols - window.left
        inside = (rows >= 0) & (rows < heated.shape[0]) & (cols >= 0) & (cols < heated.shape[1])
        if fire.kind == "fire":
            heated[rows[inside], cols[inside]] += np.minimum(60, 30 * fire.added[6, inside])
    return heated


def _quality(ground: Floats, cloud: Floats) -> Counts:
    """QA_PIXEL of Collection 2: clear land or water, dilated cloud, cloud."""
    clear = np.where(ground < 0.5, _CLEAR | _WATER_BIT, _CLEAR)
    near = np.where(cloud > 0.02, clear | _DILATED, clear)
    return np.where(cloud > 0.35, _CLOUD, near).astype(np.uint16)


def _profile(grid: Grid, name: str) -> dict[str, object]:
    side, pixel = (grid.width, _PIXEL_M) if name != "B8" else (2 * grid.width - 1, _PIXEL_M / 2)
    inset = (_PIXEL_M - pixel) / 2
    transform = Affine(pixel, 0, grid.transform.c + inset, 0, -pixel, grid.transform.f - inset)
    return {
        "driver": "GTiff", "width": side, "height": side, "count": 1, "dtype": "uint16",
        "crs": f"EPSG:{grid.epsg}", "transform": transform, "tiled": True, "blockxsize": 256,
        "blockysize": 256, "nodata": _NODATA.get(name, 0),
    }  # fmt: skip


def _write(sink: DatasetWriter, data: Counts, window: Window, size: int) -> None:
    scale = data.shape[1] // size
    top = window.top * scale
    rows = min(data.shape[0], sink.height - top)
    area = rasterio.windows.Window(0, top, sink.width, rows)
    sink.write(data[:rows, : sink.width], 1, window=area)


@dataclass(frozen=True, slots=True)
class _Facts:
    time: datetime
    elevation: float
    azimuth: float
    cloud: float


def _mtl(spec: LandsatSpec, grid: Grid, facts: _Facts) -> str:
    groups = {
        "PRODUCT_CONTENTS": _contents(spec),
        "IMAGE_ATTRIBUTES": _attributes(spec, facts),
        "PROJECTION_ATTRIBUTES": _projection(grid),
        "LEVEL1_RADIOMETRIC_RESCALING": _rescaling(),
        "LEVEL1_THERMAL_CONSTANTS": _thermal_constants(),
    }
    lines = ["GROUP = LANDSAT_METADATA_FILE"]
    for title, fields in groups.items():
        lines.append(f"  GROUP = {title}")
        lines += [f"    {key} = {_odl(value)}" for key, value in fields.items()]
        lines.append(f"  END_GROUP = {title}")
    return "\n".join([*lines, "END_GROUP = LANDSAT_METADATA_FILE", "END", ""])


def _odl(value: _Value) -> str:
    if isinstance(value, (date, int, float)):
        return str(value)
    return f'"{value}"'


def _contents(spec: LandsatSpec) -> dict[str, _Value]:
    name = spec.product_id
    return {
        "ORIGIN": SYNTHETIC_ORIGIN,
        "LANDSAT_PRODUCT_ID": name,
        "PROCESSING_LEVEL": "L1TP",
        "COLLECTION_NUMBER": "02",
        "COLLECTION_CATEGORY": "T1",
        "OUTPUT_FORMAT": "GEOTIFF",
        **{f"FILE_NAME_BAND_{n}": f"{name}_B{n}.TIF" for n in range(1, 12)},
        "FILE_NAME_QUALITY_L1_PIXEL": f"{name}_QA_PIXEL.TIF",
        "FILE_NAME_QUALITY_L1_RADIOMETRIC_SATURATION": f"{name}_QA_RADSAT.TIF",
        "FILE_NAME_METADATA_ODL": f"{name}_MTL.txt",
    }


def _attributes(spec: LandsatSpec, facts: _Facts) -> dict[str, _Value]:
    return {
        "SPACECRAFT_ID": "LANDSAT_8",
        "SENSOR_ID": "OLI_TIRS",
        "WRS_TYPE": 2,
        "WRS_PATH": spec.path,
        "WRS_ROW": spec.row,
        "NADIR_OFFNADIR": "NADIR",
        "DATE_ACQUIRED": facts.time.date(),
        "SCENE_CENTER_TIME": f"{facts.time:%H:%M:%S.%f}0Z",
        "CLOUD_COVER": round(facts.cloud, 2),
        "SUN_AZIMUTH": round(facts.azimuth, 8),
        "SUN_ELEVATION": round(facts.elevation, 8),
        "ROLL_ANGLE": 0.0,
    }


def _projection(grid: Grid) -> dict[str, _Value]:
    found: dict[str, _Value] = {
        "MAP_PROJECTION": "UTM",
        "DATUM": "WGS84",
        "ELLIPSOID": "WGS84",
        "UTM_ZONE": grid.epsg % 100,
        "GRID_CELL_SIZE_PANCHROMATIC": 15.0,
        "GRID_CELL_SIZE_REFLECTIVE": 30.0,
        "GRID_CELL_SIZE_THERMAL": 30.0,
        "PANCHROMATIC_LINES": 2 * grid.height - 1,
        "PANCHROMATIC_SAMPLES": 2 * grid.width - 1,
        "ORIENTATION": "NORTH_UP",
    }
    for kind in ("REFLECTIVE", "THERMAL"):
        found |= {f"{kind}_LINES": grid.height, f"{kind}_SAMPLES": grid.width}
    for name, col, row in (("UL", 0, 0), ("UR", 1, 0), ("LL", 0, 1), ("LR", 1, 1)):
        place = (col * (grid.width - 1) + 0.5, row * (grid.height - 1) + 0.5)
        x, y = grid.transform @ place
        lon, lat = lonlat(grid, *place)
        found |= {
            f"CORNER_{name}_LAT_PRODUCT": round(lat, 5),
            f"CORNER_{name}_LON_PRODUCT": round(lon, 5),
        }
        found |= {
            f"CORNER_{name}_PROJECTION_{a}_PRODUCT": round(v, 3) for a, v in (("X", x), ("Y", y))
        }
    return found


def _rescaling() -> dict[str, _Value]:
    found: dict[str, _Value] = {}
    for number in _THERMAL:
        found[f"RADIANCE_MULT_BAND_{number}"] = _THERMAL_MULT
        found[f"RADIANCE_ADD_BAND_{number}"] = _THERMAL_ADD
    for number in range(1, 10):
        found[f"REFLECTANCE_MULT_BAND_{number}"] = _SCALE
        found[f"REFLECTANCE_ADD_BAND_{number}"] = _OFFSET
    return found


def _thermal_constants() -> dict[str, _Value]:
    found: dict[str, _Value] = {}
    for number, (k1, k2) in _THERMAL.items():
        found |= {f"K1_CONSTANT_BAND_{number}": k1, f"K2_CONSTANT_BAND_{number}": k2}
    return found
