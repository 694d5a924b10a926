"""Objects from masks: labels as scipy makes them, outlines that are valid GeoJSON."""

from __future__ import annotations

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import Affine
from shapely.geometry import shape

from modulekit.detector import Description, ObjectPixels
from modulekit.objects import find_objects, label_runs, lonlat_box, object_pixels, to_lonlat

UTM = CRS.from_epsg(32654)
GRID = Affine(30, 0, 500_000, 0, -30, 4_000_000)


class Everything:
    """A detector that takes every object; its score falls with the size."""

    object_bits = 1

    def describe(self, pixels: ObjectPixels) -> Description | None:
        top = {"top": int(pixels.strength.max())}
        return Description("thing", 1 / len(pixels.rows), top, ("small",))


def found_in(mask: np.ndarray, transform: Affine = GRID):
    strength = np.flatnonzero(mask).astype(np.float32)
    return find_objects(mask, strength, Everything(), transform)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.02, 0.2, 0.4, 0.6, 0.95])
@pytest.mark.parametrize("seed", range(6))
def test_labels_equal_scipy(share, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 60), rng.integers(1, 60))) < share
    rows, columns = np.nonzero(mask)
    from scipy import ndimage  # only whoever runs this needs it

    expected, count = ndimage.label(mask, np.ones((3, 3)))
    labels = label_runs(rows, columns)
    assert len(np.unique(labels)) == count
    pairs = set(zip(labels.tolist(), expected[mask].tolist(), strict=True))
    assert len(pairs) == count


def test_a_spiral_is_one_object():
    mask = np.zeros((9, 9), np.uint8)
    mask[0, :] = mask[:, 8] = mask[8, :] = mask[2:, 0] = mask[2, :7] = mask[2:7, 6] = 1
    assert len(list(object_pixels(mask, np.zeros(mask.sum(), np.float32), 1))) == 1


def test_pixels_come_back_with_their_values():
    mask = np.zeros((6, 6), np.uint8)
    mask[1, 1] = 3
    mask[2, 2] = 1
    mask[4, 4] = 2  # not an object's bit
    mask[5, 0] = 5
    pixels = list(object_pixels(mask, np.array([7, 8, 9], np.float32), 1))
    assert [p.strength.tolist() for p in pixels] == [[7, 8], [9]]
    rows = np.array([[7, 1], [8, 2], [9, 3]], np.float32)
    assert [p.strength.tolist() for p in object_pixels(mask, rows, 1)] == [
        [[7, 1], [8, 2]],
        [[9, 3]],
    ]
    assert [p.mask.tolist() for p in pixels] == [[3, 1], [5]]
    assert pixels[1].rows.tolist() == [5]
    assert pixels[1].columns.tolist() == [0]


def test_best_first_and_dropped_ones():
    mask = np.zeros((10, 10), np.uint8)
    mask[0, 0:4] = mask[5, 0:2] = mask[9, 9] = 1
    assert [(o.pixels, o.flags) for o in found_in(mask)] == [(n, ("small",)) for n in (1, 2, 4)]
    assert found_in(np.zeros((4, 4), np.uint8)) == []


@pytest.mark.parametrize("seed", range(5))
def test_outlines_are_valid_and_hold_the_pixels(seed):
    rng = np.random.default_rng(seed)
    mask = (rng.random((40, 50)) < 0.45).astype(np.uint8)
    again = np.zeros_like(mask)
    for found in found_in(mask):
        outline = shape(found.outline)
        assert outline.is_valid
        assert outline.area == found.pixels * 900
        again += rasterize([found.outline], mask.shape, transform=GRID, dtype="uint8")
    assert np.array_equal(again, mask)


def test_lonlat_outlines_are_valid_and_right_handed():
    mask = np.zeros((20, 20), np.uint8)
    mask[2:9, 2:9] = 1
    mask[4:6, 4:6] = 0
    mask[15, 15] = mask[16, 16] = 1
    outlines = to_lonlat([o.outline for o in found_in(mask)], UTM)
    pair, ring = (shape(o) for o in outlines)
    assert pair.geom_type == "MultiPolygon"
    assert pair.is_valid
    assert ring.exterior.is_ccw
    assert not ring.interiors[0].is_ccw
    west, south, east, north = lonlat_box(outlines[1])
    assert 140.9 < west < east < 141.1
    assert 36.0 < south < north < 36.2


def test_an_object_over_the_antimeridian_is_cut():
    """UTM zone 1 reaches over 180 degrees; at the equator x is about 166,000 m there."""
    mask = np.zeros((3, 200), np.uint8)
    mask[1, :] = 1
    grid = Affine(30, 0, 163_000, 0, -30, 10_000)
    (outline,) = to_lonlat([o.outline for o in found_in(mask, grid)], CRS.from_epsg(32601))
    parts = shape(outline)
    assert parts.geom_type == "MultiPolygon"
    assert parts.is_valid
    east_side, west_side = parts.geoms
    assert 179.9 < east_side.bounds[0] < east_side.bounds[2] == 180
    assert -180 == west_side.bounds[0] < west_side.bounds[2] < -179.9
    assert all(part.exterior.is_ccw for part in parts.geoms)
    west, _, east, _ = lonlat_box(outline)
    assert 179 < west < 180
    assert -180 < east < -179
    width_m = (east + 360 - west) * 111_320
    assert width_m == pytest.approx(6000, rel=0.01)


def test_an_object_beside_the_antimeridian_is_left_alone():
    mask = np.ones((1, 3), np.uint8)
    grid = Affine(30, 0, 163_000, 0, -30, 10_000)
    (outline,) = to_lonlat([o.outline for o in found_in(mask, grid)], CRS.from_epsg(32601))
    assert outline["type"] == "Polygon"
    west, _, east, _ = lonlat_box(outline)
    assert 179 < west < east < 180
