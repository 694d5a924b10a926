"""Reading bands: strips, one decode per pixel, and files that must not be followed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from modulekit.errors import SceneError
from modulekit.raster import SceneReader, gdal_environment
from modulekit.scenes import SceneLink, read_item
from tests.fixtures.module_scenes import write_scene


@pytest.fixture(autouse=True)
def _environment():
    with gdal_environment():
        yield


def numbers(height: int, width: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {n: rng.integers(1, 60_000, (height, width)).astype(np.uint16) for n in ("red", "nir08")}


def reader_of(source: Path, scene: str = "s") -> SceneReader:
    return SceneReader(read_item(SceneLink(scene, source / scene / f"{scene}.json")))


@pytest.mark.parametrize("rows", [1, 7, 30, 64, 99, 100, 101, 1000])
@pytest.mark.parametrize("halo", [0, 5, 40])
def test_strips_cover_the_scene_once_with_their_surroundings(tmp_path, rows, halo):
    bands = numbers(100, 33)
    write_scene(tmp_path, "s", bands)
    with reader_of(tmp_path) as scene:
        at = 0
        for strip in scene.strips(("red", "nir08"), rows, halo):
            assert strip.y0 == at < strip.y1
            at = strip.y1
            for name, band in bands.items():
                got = strip.bands[name]
                assert np.array_equal(got[strip.inner], band[strip.y0 : strip.y1])
                assert strip.top == max(0, strip.y0 - halo)
                bottom = strip.top + len(got)
                assert bottom >= min(100, strip.y1 + halo)
                assert np.array_equal(got, band[strip.top : bottom])
        assert at == 100


def test_bands_of_one_file_are_read_together(tmp_path):
    rng = np.random.default_rng(4)
    bands = {n: rng.integers(0, 255, (50, 40)).astype(np.uint8) for n in ("green", "red", "nir")}
    write_scene(tmp_path, "s", bands, platform="formosat-2", scaling=None)
    with reader_of(tmp_path) as scene:
        (strip,) = scene.strips(("nir", "green"), 64, 3)
        assert np.array_equal(strip.bands["nir"], bands["nir"])
        assert np.array_equal(strip.bands["green"], bands["green"])


def test_window_and_reduced(tmp_path):
    bands = numbers(100, 60)
    write_scene(tmp_path, "s", bands)
    with reader_of(tmp_path) as scene:
        assert np.array_equal(scene.window("red", 10, 20, 5, 7), bands["red"][10:15, 20:27])
        assert scene.reduced("red", 50, 30).shape == (50, 30)


def test_pixel_area(tmp_path):
    write_scene(tmp_path, "utm", numbers(10, 10))
    degrees = Affine(0.001, 0, 10, 0, -0.001, 60.005)
    write_scene(tmp_path, "degrees", numbers(10, 10), epsg=4326, transform=degrees)
    with reader_of(tmp_path, "utm") as scene:
        scene.open(["red"])
        assert scene.pixel_area_m2 == 900.0
    with reader_of(tmp_path, "degrees") as scene:
        scene.open(["red"])
        assert scene.pixel_area_m2 == pytest.approx(111.32**2 / 2, rel=1e-3)


def with_href(tmp_path: Path, href: str) -> SceneReader:
    path = write_scene(tmp_path, "s", numbers(20, 20))
    item = json.loads(path.read_text())
    item["assets"]["red"]["href"] = href
    path.write_text(json.dumps(item))
    return reader_of(tmp_path)


@pytest.mark.parametrize(
    "href",
    [
        "/vsicurl/http://127.0.0.1/x.tif",
        "/vsizip/red.zip/red.tif",
        "vsizip/red.zip",
        "GTIFF_DIR:1:red.tif",
        "http://127.0.0.1/x.tif",
        "s3://bucket/red.tif",
        "zip://red.zip!red.tif",
        "WMS:https://example.org",
        "<VRTDataset/>",
        "/dev/zero",
        "missing.tif",
        ".",
    ],
)
def test_hrefs_that_are_not_followed(tmp_path, href):
    with with_href(tmp_path, href) as scene, pytest.raises(SceneError, match="is not there"):
        scene.open(["red"])


def test_absolute_paths_are_followed(tmp_path):
    with with_href(tmp_path, str(tmp_path / "s" / "nir08.tif")) as scene:
        scene.open(["red"])
        assert scene.shape == (20, 20)


def test_other_formats_are_refused_whatever_their_name(tmp_path):
    write_scene(tmp_path, "s", numbers(20, 20))
    vrt = (
        '<VRTDataset rasterXSize="20" rasterYSize="20"><VRTRasterBand dataType="UInt16" band="1">'
        '<SimpleSource><SourceFilename relativeToVRT="1">nir08.tif</SourceFilename>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    (tmp_path / "s" / "red.tif").write_text(vrt)
    with reader_of(tmp_path) as scene, pytest.raises(SceneError, match="no readable GeoTIFF"):
        scene.open(["red"])


def test_sidecar_files_are_not_looked_at(tmp_path):
    write_scene(tmp_path, "s", numbers(20, 20))
    aux = (
        "<PAMDataset><SRS>EPSG:32601</SRS>"
        "<GeoTransform>9, 1, 0, 9, 0, -1</GeoTransform></PAMDataset>"
    )
    (tmp_path / "s" / "red.tif.aux.xml").write_text(aux)
    (tmp_path / "s" / "red.tfw").write_text("1\n0\n0\n-1\n7\n7\n")
    with reader_of(tmp_path) as scene:
        scene.open(["red", "nir08"])
        assert scene.crs.to_epsg() == 32654
        assert scene.transform.c == 500_000


def test_a_cut_file_is_a_damaged_one(tmp_path):
    write_scene(tmp_path, "s", numbers(600, 600))
    path = tmp_path / "s" / "red.tif"
    path.write_bytes(path.read_bytes()[:-20_000])
    with reader_of(tmp_path) as scene, pytest.raises(SceneError, match=r"red\.tif.*product again"):
        for _ in scene.strips(("red",), 64, 0):
            pass


def test_bands_on_two_grids(tmp_path):
    write_scene(tmp_path, "s", numbers(20, 20))
    write_scene(tmp_path, "t", numbers(21, 20))
    (tmp_path / "t" / "red.tif").replace(tmp_path / "s" / "red.tif")
    with reader_of(tmp_path) as scene, pytest.raises(SceneError, match=r"20 x 21 .* another grid"):
        scene.open(["nir08", "red"])


def test_a_file_without_a_place_on_earth(tmp_path):
    write_scene(tmp_path, "s", numbers(20, 20))
    profile = {"driver": "GTiff", "height": 20, "width": 20, "count": 1, "dtype": "uint16"}
    shifted = Affine(30, 0, 5, 0, -30, 5)
    with rasterio.open(tmp_path / "s" / "red.tif", "w", transform=shifted, **profile) as file:
        file.write(numbers(20, 20)["red"], 1)
    with reader_of(tmp_path) as scene, pytest.raises(SceneError, match="no georeference"):
        scene.open(["red"])


def test_a_band_number_that_the_file_has_not(tmp_path):
    path = write_scene(tmp_path, "s", numbers(20, 20))
    item = json.loads(path.read_text())
    item["assets"]["red"]["bands"].append({"eo:common_name": "green"})
    path.write_text(json.dumps(item))
    with reader_of(tmp_path) as scene, pytest.raises(SceneError, match="has 1 bands, not 2"):
        scene.open(["green"])
