"""Open rasters from outside safely, and turn each into a georeferenced COG.

Everything goes through one explicit GDAL driver, without sidecar files (`.aux.xml`,
`.ovr`, world files) and without any path taken from data.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rasterio
import rasterio.shutil
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.warp import calculate_default_transform, reproject
from rasterio.windows import Window

from lib.errors import InvalidProduct, StorageFull
from lib.model import JsonValue

#: GDAL settings for every file that the project opens.
SAFE_ENV: Mapping[str, str | int] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_CACHEMAX": 64 * 2**20,  # bytes: rasterio takes whole numbers so
}
#: The largest real rasters: Landsat 8 panchromatic 240 Mpx, FORMOSAT-5 144 Mpx.
MAX_SIDE = 40_000
MAX_PIXELS = 400_000_000
MAX_BANDS = 8
DTYPES = frozenset({"uint8", "uint16", "int16"})
_STRIP = 512


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the pixels of a raster lie.

    `transform` maps (column, row) of a pixel's upper left corner to metres (or degrees)
    of the coordinate system `epsg`.
    """

    epsg: int
    transform: Affine
    width: int
    height: int

    def properties(self) -> dict[str, JsonValue]:
        """As STAC projection 2.0 fields; shape is (rows, columns)."""
        return {
            "proj:code": f"EPSG:{self.epsg}",
            "proj:shape": [self.height, self.width],
            "proj:transform": [float(v) for v in self.transform[:6]],
        }


@dataclass(frozen=True, slots=True)
class RasterInfo:
    """What a GeoTIFF says about itself. `grid` is None when it has no georeference."""

    width: int
    height: int
    count: int
    dtype: str
    grid: Grid | None
    is_cog: bool


@contextmanager
def opened(path: Path) -> Iterator[DatasetReader]:
    """Open a GeoTIFF for reading: (band, row, column) arrays.

    Raises:
        rasterio.errors.RasterioIOError: no readable GeoTIFF.
    """
    with rasterio.Env(**SAFE_ENV), rasterio.open(os.fspath(path.absolute()), driver="GTiff") as ds:
        yield ds


def describe(path: Path) -> RasterInfo:
    """Read the header of a raster from outside and check it against the limits.

    Raises:
        InvalidProduct: not a GeoTIFF, too large, or of an unusual type.
    """
    with _damaged(path), without_georeference(), opened(path) as ds:
        info = RasterInfo(
            ds.width, ds.height, ds.count, str(ds.dtypes[0]), _grid(ds, path), _is_cog(ds)
        )
        mixed = len(set(ds.dtypes)) > 1
    sides_ok = max(info.width, info.height) <= MAX_SIDE and info.width * info.height <= MAX_PIXELS
    if not sides_ok or info.count > MAX_BANDS:
        raise InvalidProduct(
            f"{path.name} is too large: {info.width} x {info.height} pixels in {info.count} bands."
        )
    if info.dtype not in DTYPES or mixed:
        raise InvalidProduct(
            f"{path.name} holds {info.dtype} pixels; 8-bit and 16-bit whole numbers can be read."
        )
    return info


def store_cog(
    source: Path, target: Path, grid: Grid, *, nodata: int | None, categories: bool
) -> None:
    """Write `source` as a georeferenced Cloud Optimized GeoTIFF with overviews.

    A file that is one already, on this grid, is copied unchanged. Every pixel is read
    once, so a truncated file is found here and not by a module.

    Args:
        categories: pixels are flags; overviews then take the nearest pixel.
    Raises:
        InvalidProduct: `source` cannot be read to its end.
        StorageFull: no space is left.
    """
    info = describe(source)
    if info.is_cog and info.grid == grid:
        with _damaged(source), opened(source) as ds:
            for window in _strips(ds):
                ds.read(window=window)
        with _disk():
            shutil.copyfile(source, target)
        return
    plain = target.with_name(target.name + ".part")
    with rasterio.Env(**SAFE_ENV), without_georeference():
        _copy(source, plain, _profile(grid, info, nodata))
        to_cog(plain, target, categories=categories)
    plain.unlink()


def store_warped(
    source: Path,
    target: Path,
    gcps: Sequence[GroundControlPoint],
    *,
    epsg: int,
    resolution_m: float,
) -> Grid:
    """Warp a raster that is located by ground control points to a north-up COG; nodata 0.

    Args:
        gcps: longitude as x, latitude as y, EPSG:4326.
        epsg: a UTM zone.
    Returns:
        the grid of the result.
    Raises:
        InvalidProduct: the points do not describe an image, or `source` is damaged.
    """
    info = describe(source)
    lonlat, crs = CRS.from_epsg(4326), CRS.from_epsg(epsg)
    with _damaged(source):
        transform, width, height = calculate_default_transform(
            lonlat, crs, info.width, info.height, gcps=list(gcps), resolution=resolution_m
        )
    if not 0 < width * height <= 4 * info.width * info.height:
        raise InvalidProduct(f"The tie points of {source.name} do not fit its size.")
    grid = Grid(epsg, transform, width, height)
    plain = target.with_name(target.name + ".part")
    with rasterio.Env(**SAFE_ENV), without_georeference():
        profile = _profile(grid, info, 0)
        with opened(source) as ds, _disk(), rasterio.open(plain, "w", **profile) as sink:
            for band in ds.indexes:
                # From an array: rasterio 1.4 ignores the points when it is given a dataset.
                with _damaged(source):
                    pixels = ds.read(band)
                reproject(
                    pixels, rasterio.band(sink, band), gcps=list(gcps), src_crs=lonlat,
                    src_nodata=0, dst_transform=transform, dst_crs=crs, dst_nodata=0,
                    resampling=Resampling.bilinear,
                )  # fmt: skip
        to_cog(plain, target, categories=False)
    plain.unlink()
    return grid


def to_cog(source: Path, target: Path, *, categories: bool) -> None:
    """Rewrite a georeferenced GeoTIFF of ours as a COG (DEFLATE, 256-pixel tiles)."""
    with rasterio.Env(**SAFE_ENV), _disk():
        rasterio.shutil.copy(
            os.fspath(source), os.fspath(target), driver="COG", COMPRESS="DEFLATE", LEVEL=6,
            PREDICTOR="YES", BLOCKSIZE=256, NUM_THREADS=2, BIGTIFF="IF_SAFER",
            RESAMPLING="NEAREST" if categories else "AVERAGE",
        )  # fmt: skip


def _copy(source: Path, target: Path, profile: Mapping[str, object]) -> None:
    """Every pixel of `source`, strip by strip, into a new GeoTIFF of `profile`."""
    with (
        _damaged(source),
        opened(source) as ds,
        _disk(),
        rasterio.open(target, "w", **profile) as sink,
    ):
        for window in _strips(ds):
            with _damaged(source):
                data = ds.read(window=window)
            sink.write(data, window=window)


def _profile(grid: Grid, info: RasterInfo, nodata: int | None) -> dict[str, object]:
    return {
        "driver": "GTiff", "width": grid.width, "height": grid.height, "count": info.count,
        "dtype": info.dtype, "crs": CRS.from_epsg(grid.epsg), "transform": grid.transform,
        "nodata": nodata, "tiled": True, "blockxsize": 512, "blockysize": 512,
        "interleave": "pixel" if info.count > 1 else "band", "bigtiff": "IF_SAFER",
    }  # fmt: skip


def _strips(ds: DatasetReader) -> Iterator[Window]:
    for top in range(0, ds.height, _STRIP):
        yield Window(0, top, ds.width, min(_STRIP, ds.height - top))


def _grid(ds: DatasetReader, path: Path) -> Grid | None:
    if ds.crs is None or ds.transform == Affine.identity():
        return None
    if ds.transform.b or ds.transform.d or ds.transform.a <= 0 or ds.transform.e >= 0:
        raise InvalidProduct(f"{path.name} is rotated; only rasters with north up can be read.")
    epsg = ds.crs.to_epsg()
    if epsg is None:
        raise InvalidProduct(f"{path.name} is in a coordinate system without an EPSG code.")
    return Grid(int(epsg), ds.transform, ds.width, ds.height)


def _is_cog(ds: DatasetReader) -> bool:
    layout = ds.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG"
    return bool(layout and (ds.overviews(1) or max(ds.width, ds.height) <= 512))


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (RasterioError, CPLE_BaseError) as exc:
        raise InvalidProduct(
            f"{path.name} is damaged or is not a GeoTIFF. Download the product again."
        ) from exc


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except (OSError, CPLE_BaseError) as exc:
        raise StorageFull(
            "A file could not be written. Free some disk space and try again."
        ) from exc


@contextmanager
def without_georeference() -> Iterator[None]:
    """Products without a georeference are expected here; rasterio warns at each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
