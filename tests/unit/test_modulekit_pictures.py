"""Chips and overview: the right place, one stretch, saturation shown bright."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from modulekit.detector import Channel
from modulekit.pictures import CHIP_SIZE, chip, make_stretch, overview, reduced
from modulekit.raster import SceneReader, gdal_environment
from modulekit.scenes import SceneLink, read_item
from tests.fixtures.module_scenes import burning, write_scene

FIRE = (Channel("swir22", 0.0, 0.8), Channel("nir08", 0.0, 0.5), Channel("red", 0.0, 0.3))


@pytest.fixture
def scene(tmp_path):
    write_scene(tmp_path, "s", burning())
    with gdal_environment(), SceneReader(read_item(SceneLink("s", tmp_path / "s/s.json"))) as got:
        yield got


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "WEBP"
        return np.asarray(image.convert("RGB")).astype(int)


def test_the_object_is_in_the_middle_of_its_chip(scene):
    picture = pixels(chip(scene, make_stretch(scene, FIRE), (40, 40, 43, 43)))
    assert picture.shape == (CHIP_SIZE, CHIP_SIZE, 3)
    middle = CHIP_SIZE // 2
    assert picture[middle, middle, 0] > picture[10, middle, 0] + 80


def test_outside_the_scene_a_chip_is_black(scene):
    picture = pixels(chip(scene, make_stretch(scene, FIRE), (0, 0, 2, 2)))
    assert picture[:40, :40].max() < 12
    assert picture[90:, 90:].mean() > 40


def test_a_large_object_fits_its_chip(scene):
    picture = pixels(chip(scene, make_stretch(scene, FIRE), (0, 0, 160, 140)))
    assert picture[CHIP_SIZE // 2, CHIP_SIZE // 2].max() > 30


def test_limits_are_reflectances(scene):
    stretch = make_stretch(scene, FIRE)
    sine = np.sin(np.radians(50.0))
    assert stretch.low[0] == pytest.approx(5000)
    assert stretch.high[0] == pytest.approx((0.8 * sine + 0.1) / 2e-5)


def test_level_2_reflectance_is_not_corrected_for_the_sun_again(tmp_path):
    write_scene(tmp_path, "s", burning(), level="L2SP", scaling=(2.75e-5, -0.2))
    with gdal_environment(), SceneReader(read_item(SceneLink("s", tmp_path / "s/s.json"))) as got:
        assert make_stretch(got, FIRE).high[0] == pytest.approx((0.8 + 0.2) / 2.75e-5)


def test_without_a_calibration_percentiles_of_the_scene_are_taken(tmp_path):
    rng = np.random.default_rng(1)
    names = ("blue", "green", "red", "nir")
    bands = {n: rng.integers(1, 101, (90, 90)).astype(np.uint8) for n in names}
    write_scene(tmp_path, "s", bands, platform="formosat-2", scaling=None, level="")
    channels = (Channel("nir", 0.0, 0.3), Channel("red", 0.0, 0.3), Channel("green", 0.0, 0.3))
    with gdal_environment(), SceneReader(read_item(SceneLink("s", tmp_path / "s/s.json"))) as got:
        stretch = make_stretch(got, channels)
    assert stretch.low[0] == pytest.approx(3, abs=1.5)
    assert stretch.high[0] == pytest.approx(98, abs=2)


@pytest.mark.parametrize("cloud", [0.0, 0.06, 0.3])
def test_chips_and_overview_of_a_dark_scene_are_readable(tmp_path, cloud):
    """As FORMOSAT's: 8 bits without a calibration, and clouds that are all of the range."""
    rng = np.random.default_rng(4)
    bands = {}
    for name, dark in (("blue", 40), ("green", 30), ("red", 20), ("nir", 10)):
        band = np.clip(rng.normal(dark, 2, (300, 300)), 1, None)
        band[:, : int(cloud * 300)] = 180
        bands[name] = band.astype(np.uint8)
    write_scene(tmp_path, "s", bands, platform="formosat-2", scaling=None, level="")
    channels = (Channel("nir", 0.0, 0.15), Channel("red", 0.0, 0.2), Channel("green", 0.0, 0.2))
    with gdal_environment(), SceneReader(read_item(SceneLink("s", tmp_path / "s/s.json"))) as got:
        stretch = make_stretch(got, channels)
        pictures = chip(got, stretch, (100, 100, 104, 104)), overview(got, stretch, [])
    for picture in map(pixels, pictures):
        assert 70 <= np.median(picture) <= 185
        assert np.ptp(np.percentile(picture, (5, 95))) >= 25


def test_a_saturated_channel_is_bright_and_fill_is_black(scene):
    stretch = make_stretch(scene, FIRE)
    swir = np.array([[0, 0]], np.uint16)
    others = np.array([[9000, 0]], np.uint16)
    (flame, fill) = stretch.apply([swir, others, others])[0]
    assert flame[0] == 255
    assert fill.tolist() == [0, 0, 0]


def test_the_overview_rings_the_objects(scene):
    stretch = make_stretch(scene, FIRE)
    assert reduced(scene, stretch, 1024).shape == (160, 140, 3)
    plain = pixels(overview(scene, stretch, []))
    ringed = pixels(overview(scene, stretch, [(90, 100, 92, 104)]))
    changed = np.argwhere(np.abs(ringed - plain).max(axis=2) > 90)
    assert changed[:, 0].min() > 80
    assert changed[:, 0].max() < 102
    assert changed[:, 1].min() > 90
    assert changed[:, 1].max() < 114
