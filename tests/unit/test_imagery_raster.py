"""Rasters from outside: only plain GeoTIFFs of a sane size are read, by one driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from lib.errors import InvalidProduct
from lib.imagery.outline import valid_outline
from lib.imagery.raster import Grid, describe, opened, store_cog

NORTH_UP = Affine(30, 0, 300_000, 0, -30, 3_000_000)


def write(path: Path, **changes: Any) -> Path:
    profile: dict[str, Any] = {
        "driver": "GTiff", "width": 64, "height": 48, "count": 1, "dtype": "uint16",
        "crs": "EPSG:32651", "transform": NORTH_UP,
    }  # fmt: skip
    profile.update(changes)
    with rasterio.open(path, "w", **profile) as ds:
        if profile["width"] < 1000:
            ds.write(np.ones((ds.count, ds.height, ds.width), profile["dtype"]))
    return path


def test_a_plain_geotiff_is_described(tmp_path: Path) -> None:
    info = describe(write(tmp_path / "a.tif"))
    assert info.grid == Grid(32651, NORTH_UP, 64, 48)
    assert (info.count, info.dtype, info.is_cog) == (1, "uint16", False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 50_000, "height": 10, "sparse_ok": True}, "too large: 50000 x 10 pixels"),
        ({"width": 30_000, "height": 30_000, "sparse_ok": True, "tiled": True}, "too large"),
        ({"count": 9}, "too large: 64 x 48 pixels in 9 bands"),
        ({"dtype": "float32"}, "holds float32 pixels"),
        ({"dtype": "complex64"}, "holds complex64 pixels"),
        ({"transform": Affine(30, 5, 0, 5, -30, 0)}, "rotated"),
        ({"transform": Affine(30, 0, 0, 0, 30, 0)}, "north up"),
        ({"crs": "+proj=ortho +lat_0=10 +lon_0=20"}, "without an EPSG code"),
    ],
)
def test_unusual_rasters_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "a.tif", **changes)
    with pytest.raises(InvalidProduct, match=message):
        describe(path)


@pytest.mark.parametrize(
    ("driver", "name"), [("PNG", "a.tif"), ("ENVI", "a.tif"), ("VRT", "a.tif")]
)
def test_other_formats_under_the_name_of_a_tiff_are_refused(
    tmp_path: Path, driver: str, name: str
) -> None:
    """A VRT could name any file or address; no driver but GeoTIFF is tried."""
    secret = write(tmp_path / "secret.tif")
    target = tmp_path / name
    if driver == "VRT":
        target.write_text(
            '<VRTDataset rasterXSize="64" rasterYSize="48"><VRTRasterBand dataType="UInt16" '
            f'band="1"><SimpleSource><SourceFilename>{secret}</SourceFilename></SimpleSource>'
            "</VRTRasterBand></VRTDataset>"
        )
    else:
        rasterio.shutil.copy(str(secret), str(target), driver=driver)
    with pytest.raises(InvalidProduct, match="is not a GeoTIFF"):
        describe(target)


def test_a_name_with_a_scheme_is_only_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.tif")
    for name in ("vsicurl/http://127.0.0.1:1/a.tif", "zip+file://a.zip!a.tif", "GTIFF_DIR:1:a.tif"):
        with pytest.raises(InvalidProduct):
            describe(Path(name))


def test_sidecars_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif")
    (tmp_path / "a.tif.aux.xml").write_text(
        '<PAMDataset><SRS>EPSG:3857</SRS><Metadata><MDI key="x">y</MDI></Metadata></PAMDataset>'
    )
    (tmp_path / "a.tif.ovr").write_bytes(path.read_bytes())
    with opened(path) as ds:
        assert ds.crs.to_epsg() == 32651
        assert ds.overviews(1) == []
        assert "x" not in ds.tags()


def test_a_fake_cog_mark_does_not_hide_a_truncated_file(tmp_path: Path) -> None:
    """A COG is copied as it is, but only after every pixel of it was read."""
    rng = np.random.default_rng(1)
    plain, cog = tmp_path / "plain.tif", tmp_path / "cog.tif"
    profile = {"driver": "GTiff", "width": 700, "height": 700, "count": 1, "dtype": "uint16",
               "crs": "EPSG:32651", "transform": NORTH_UP}  # fmt: skip
    with rasterio.open(plain, "w", **profile) as ds:
        ds.write(rng.integers(1, 60_000, (1, 700, 700)).astype("uint16"))
    grid = Grid(32651, NORTH_UP, 700, 700)
    store_cog(plain, cog, grid, nodata=0, categories=False)
    assert describe(cog).is_cog
    cog.write_bytes(cog.read_bytes()[:-100_000])
    with pytest.raises(InvalidProduct, match="is damaged"):
        store_cog(cog, tmp_path / "copy.tif", grid, nodata=0, categories=False)


def test_the_outline_is_that_of_the_valid_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    data = np.zeros((1, 400, 600), np.uint16)
    data[0, 100:300, 150:450] = 5
    data[0, 200, 300] = 0  # a hole does not matter
    profile = {"driver": "GTiff", "width": 600, "height": 400, "count": 1, "dtype": "uint16",
               "crs": "EPSG:4326", "transform": Affine(0.01, 0, 120, 0, -0.01, 25)}  # fmt: skip
    with rasterio.open(path, "w", **profile) as ds:
        ds.write(data)
    outline = valid_outline(path)
    assert outline["type"] == "Polygon"
    lons, lats = zip(*outline["coordinates"][0], strict=True)
    assert (min(lons), max(lons)) == pytest.approx((121.5, 124.5), abs=0.02)
    assert (min(lats), max(lats)) == pytest.approx((22, 24), abs=0.02)
    with rasterio.open(path, "r+") as ds:
        ds.write(np.zeros_like(data))
    with pytest.raises(InvalidProduct, match="no valid pixel"):
        valid_outline(path)
