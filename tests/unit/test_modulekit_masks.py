"""The mask file, and what the quality band says of an object."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from modulekit.masks import write_mask
from modulekit.quality import flags_of
from modulekit.raster import SceneReader, gdal_environment
from modulekit.scenes import SceneLink, read_item
from tests.fixtures.module_scenes import burning, write_scene

NORTH_UP = Affine(30, 0, 500_000, 0, -30, 4_000_000)


def test_a_mask_is_the_same_at_every_zoom_and_names_its_bits(tmp_path):
    mask = np.zeros((1500, 1400), np.uint8)
    mask[::3, ::2] = 9
    path = tmp_path / "mask.tif"
    with gdal_environment():
        write_mask(path, mask, NORTH_UP, "EPSG:32654", ("one", "two", "four"))
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(1), mask)
        assert (file.crs.to_epsg(), file.transform) == (32654, NORTH_UP)
        assert file.descriptions == ("1 one, 2 two, 4 four",)
        assert file.overviews(1)
    with rasterio.open(path, overview_level=0) as small:
        assert set(np.unique(small.read(1))) == {0, 9}


@pytest.mark.parametrize(
    ("box", "flags"),
    [
        ((40, 40, 43, 43), ["cloud"]),  # half of it
        ((39, 39, 41, 41), []),  # beside it
        ((60, 60, 61, 61), ["fill", "cloud-shadow", "water"]),
        ((0, 0, 10, 10), []),
    ],
)
def test_an_object_has_the_flags_of_any_of_its_pixels(tmp_path, box, flags):
    quality = np.zeros((150, 130), np.uint16)
    quality[41:50, 41:50] = 1 << 3
    quality[60, 60] = 1 << 0 | 1 << 4 | 1 << 6 | 1 << 7  # bit 6 is "clear", no flag
    bands = burning()
    shape = bands["red"].shape
    padded = np.zeros(shape, np.uint16)
    padded[:150, :130] = quality[: shape[0], : shape[1]]
    write_scene(tmp_path, "s", {**bands, "qa_pixel": padded})
    item = read_item(SceneLink("s", tmp_path / "s/s.json"))
    with gdal_environment(), SceneReader(item) as scene:
        assert flags_of(scene, box) == flags


def test_without_a_quality_band_there_are_no_flags(tmp_path):
    write_scene(tmp_path, "s", burning())
    item = read_item(SceneLink("s", tmp_path / "s/s.json"))
    with gdal_environment(), SceneReader(item) as scene:
        assert flags_of(scene, (40, 40, 43, 43)) == []
