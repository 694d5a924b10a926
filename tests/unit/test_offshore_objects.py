"""Offshore objects: the real turbines, a plain oracle, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import Affine

from modulekit.cli import main
from modulekit.raster import Strip
from modules.offshore_objects import kernels
from modules.offshore_objects.detector import BINS, detect, flags, otsu, score
from tests.fixtures.module_scenes import (
    LIVERPOOL,
    sea,
    write_catalog,
    write_crops,
    write_scene,
)

#: Row and column of the 15 turbines and of the ship in the Liverpool crop, found by eye
#: in a near-infrared picture of it.
TURBINES = (
    *((86, 11), (99, 25), (111, 38), (124, 52), (136, 66), (149, 79)),
    *((112, 3), (125, 17), (137, 31), (150, 45)),
    *((150, 10), (163, 24), (123, 87), (136, 100), (187, 17)),
)
SHIP = (64, 248)


def run(source, output, params: dict[str, Any] | None = None) -> tuple[int, list[Any]]:
    (source / "p.json").write_text(json.dumps(params or {}))
    arguments = ["run", "--input", str(source), "--output", str(output)]
    code = main("modules.offshore_objects", [*arguments, "--params", str(source / "p.json")])
    lines = (output / "status.jsonl").read_text().splitlines()
    return code, [json.loads(line) for line in lines]


def objects_of(events: list[Any]) -> list[Any]:
    return [e for e in events if e["event"] == "object"]


def places(output, scene: str) -> list[tuple[float, float]]:
    """Row and column of each object, best first, from the mask."""
    from modulekit.objects import object_pixels

    with rasterio.open(output / scene / "mask.tif") as file:
        mask = file.read(1)
    count = np.count_nonzero(mask & 1)
    found = object_pixels(mask, np.zeros(count, np.float32), 1)
    return [(float(p.rows.mean()), float(p.columns.mean())) for p in found]


def test_the_turbines_and_the_ship_off_liverpool(tmp_path):
    source = write_crops(tmp_path / "in", LIVERPOOL)
    code, events = run(source, tmp_path / "out")
    assert code == 0
    left = places(tmp_path / "out", LIVERPOOL)
    assert len(left) == len(objects_of(events))
    found = 0
    for turbine in TURBINES:
        near = [p for p in left if max(abs(p[0] - turbine[0]), abs(p[1] - turbine[1])) <= 2]
        found += len(near)
        left = [p for p in left if p not in near]
    assert found >= 14
    ships = [p for p in left if max(abs(p[0] - SHIP[0]), abs(p[1] - SHIP[1])) <= 3]
    assert len(ships) == 1
    assert len(left) - 1 <= 2
    (done,) = [e for e in events if e["event"] == "scene_done"]
    assert done["searched"]["water_fraction"] == pytest.approx(0.736, abs=0.005)


def plain_cfar(nir, valid, water, reaches, k, share):
    """The same by its definition: every pixel's ring, one by one; and of each object's pixel the
    parts of a whole ring that are water and that have data."""
    outer, guard = reaches
    whole = (2 * outer + 1) ** 2 - (2 * guard + 1) ** 2
    mask = np.where(water, 2, 0).astype(np.uint8)
    parts = []
    for i, j in np.argwhere(valid):
        ring = np.zeros(nir.shape, bool)
        ring[max(0, i - outer) : i + outer + 1, max(0, j - outer) : j + outer + 1] = True
        ring[max(0, i - guard) : i + guard + 1, max(0, j - guard) : j + guard + 1] = False
        around = nir[ring & water].astype(float)
        enough = around.size >= max(2, 0.25 * whole)
        if enough and around.size >= share * np.count_nonzero(ring & valid):
            z = (nir[i, j] - around.mean()) / np.sqrt(around.var() + 1 / 12)
            mask[i, j] |= z >= k
            if z >= k:
                parts.append([around.size / whole, np.count_nonzero(ring & valid) / whole])
    return mask, np.array(parts, np.float32)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("reaches", [(6, 1), (9, 3)])
def test_the_kernel_equals_the_definition(kind, reaches):
    rng = np.random.default_rng(7)
    scale = 1 if kind is np.uint8 else 257
    green = rng.integers(90, 110, (50, 60)).astype(kind) * kind(scale)
    nir = rng.integers(20, 40, (50, 60)).astype(kind) * kind(scale)
    nir[:, 40:] = 200 * scale
    nir[rng.random(nir.shape) < 0.01] = 120 * scale
    green[:5, :7] = nir[:5, :7] = 0
    calibration = np.array([1.0, 0.0, 1.0, 0.0])
    valid, water = kernels.find_water(green, nir, calibration, 0.2)
    expected, parts = plain_cfar(nir, valid, water, reaches, 4.0, 0.6)
    assert np.count_nonzero(expected & 1) > 10
    got = []
    for y0 in range(0, 50, 10):
        top, bottom = max(0, y0 - reaches[0]), min(50, y0 + 10 + reaches[0])
        bands = {"green": green[top:bottom], "nir": nir[top:bottom]}
        strip = Strip(y0, y0 + 10, top, bands)
        got.append(detect(strip, "nir", calibration, 0.2, reaches, k=4.0, water_share=0.6))
    assert np.array_equal(np.concatenate([mask for mask, _ in got]), expected)
    assert np.array_equal(np.concatenate([strength[:, 1:] for _, strength in got]), parts)


def test_on_calm_water_one_count_is_no_object():
    """Numbers are rounded: where all are alike, the next one is no bright object yet."""
    nir = np.full((30, 30), 100, np.uint16)
    nir[15, 15] = 101
    everywhere = np.ones(nir.shape, np.bool_)
    for brightest, found in ((101, False), (102, True)):
        nir[15, 15] = brightest
        mask, strength = kernels.cfar(nir, everywhere, everywhere, (6, 1), 4.0, 0.6, 0, 30)
        assert bool(mask[15, 15] & kernels.OBJECT) is found
        assert np.count_nonzero(mask & kernels.OBJECT) == found
    assert strength.tolist() == [[pytest.approx(2 * math.sqrt(12), rel=0.01), 1, 1]]


@given(
    z=st.floats(2, 1e6),
    k=st.floats(2, 1000),
    water=st.floats(0, 1),
    less=st.floats(0, 1),
)
def test_a_score_falls_with_what_is_no_water_around(z, k, water, less):
    assert 0 <= score(z, k, water) <= 1
    assert score(z, k, 1) == z / (z + k)
    assert score(z, k, water * less) <= score(z, k, water)
    # What lies half outside the scene never comes before what stands in the open at the threshold.
    assert score(z, k, min(water, 0.5)) <= score(k, k, 1)


@pytest.mark.parametrize(
    ("water", "inside", "said"),
    [
        (1, 1, ()),
        (0.92, 1, ()),
        (0.8, 1, ("near-land-or-cloud",)),
        (0.5, 0.5, ("scene-edge",)),
        (0.5, 0.7, ("scene-edge", "near-land-or-cloud")),
        (0.91, 0.91, ()),
    ],
)
def test_flags_say_what_of_the_ring_is_no_water(water, inside, said):
    assert flags(water, inside) == said


def test_otsu_splits_two_classes():
    histogram = np.zeros(BINS, np.int64)
    histogram[300:340] = 5
    histogram[1500:1600] = 9
    assert 340 / BINS * 2 - 1 <= otsu(histogram) <= 1500 / BINS * 2 - 1


def test_otsu_of_one_value_is_that_value():
    histogram = np.zeros(BINS, np.int64)
    histogram[1024] = 77
    assert otsu(histogram) == pytest.approx(0.0, abs=2 / BINS)


def formosat(height: int = 400, width: int = 400) -> dict[str, np.ndarray]:
    """8 bit, 8 m: sea with a coast, a ship of 12 x 3 pixels, a boat of 1, no calibration."""
    rng = np.random.default_rng(3)
    levels = {"blue": (70, 80), "green": (60, 75), "red": (40, 70), "nir": (18, 120)}
    bands = {}
    for name, (water, land) in levels.items():
        band = rng.normal(water, 1.2, (height, width))
        band[:, 320:] = rng.normal(land, 8, (height, width - 320))
        band[100:112, 150:153] = water + 90
        band[300, 60] = water + 60
        bands[name] = np.clip(np.rint(band), 1, 255).astype(np.uint8)
    return bands


def test_formosat_ships_at_8_m(tmp_path):
    source = tmp_path / "in"
    transform = Affine(8, 0, 300_000, 0, -8, 2_700_000)
    options = {"platform": "formosat-2", "level": "", "scaling": None, "transform": transform}
    write_scene(source, "fs", formosat(), epsg=32651, **options)
    code, events = run(write_catalog(source, ("fs",)), tmp_path / "out")
    assert code == 0
    ship, boat = objects_of(events)
    assert (ship["pixels"], boat["pixels"]) == (36, 1)
    assert ship["area_m2"] == 36 * 64
    assert ship["properties"]["length_m"] == 96
    assert ship["properties"]["width_m"] == 24
    assert places(tmp_path / "out", "fs") == [(105.5, 151.0), (300.0, 60.0)]


def test_the_same_ring_in_metres_on_both_sensors(tmp_path):
    source = tmp_path / "in"
    write_scene(source, "l8", sea(), transform=Affine(30, 0, 3e5, 0, -30, 4e6))
    write_scene(source, "fine", sea(), transform=Affine(8, 0, 3e5, 0, -8, 4e6))
    run(write_catalog(source, ("l8", "fine")), tmp_path / "out")
    logs = [(tmp_path / "out" / s / "log.txt").read_text() for s in ("l8", "fine")]
    assert "ring of 25 pixels around 5." in logs[0]
    assert "ring of 93 pixels around 19." in logs[1]


def small(tmp_path, params: dict[str, Any], bands=None) -> tuple[int, list[Any]]:
    source = tmp_path / "in"
    write_scene(source, "one", bands or sea())
    return run(write_catalog(source, ("one",)), tmp_path / "out", params)


def test_level_1_scene_and_its_sizes(tmp_path):
    code, events = small(tmp_path, {})
    assert code == 0
    assert sorted(e["pixels"] for e in objects_of(events)) == [1, 3, 4]
    for event in objects_of(events):
        z = event["properties"]["z"]
        assert event["score"] == pytest.approx(z / (z + 8), abs=1e-3)


def test_what_the_edge_or_land_is_beside_comes_last_and_is_flagged(tmp_path):
    """The same spot three times: in the open, at the scene's edge, and a ring from the shore."""
    bands = {name: band[:, :120].copy() for name, band in sea(spots=False).items()}
    for name, row, column in (
        (name, *at) for name in bands for at in ((70, 40), (159, 60), (20, 92))
    ):
        bands[name][row, column] = bands["nir08"][0, 119]
    code, events = small(tmp_path, {}, bands)
    assert code == 0
    found = objects_of(events)
    assert [e["flags"] for e in found] == [[], ["near-land-or-cloud"], ["scene-edge"]]
    open_sea, shore, edge = (
        e["score"] / (e["properties"]["z"] / (e["properties"]["z"] + 8)) for e in found
    )
    assert open_sea == pytest.approx(1, abs=1e-3)
    assert shore == pytest.approx(475 / 600, abs=1e-3)
    assert edge == pytest.approx(310 / 600, abs=1e-3)


def test_a_higher_threshold_finds_less(tmp_path):
    code, events = small(tmp_path, {"k": 900})
    assert code == 0
    assert objects_of(events) == []


def test_long_objects_are_left_out(tmp_path):
    code, events = small(tmp_path, {"max_length_m": 65})
    assert code == 0
    assert sorted(e["pixels"] for e in objects_of(events)) == [1, 4]


def test_a_fixed_water_threshold_is_used(tmp_path):
    code, events = small(tmp_path, {"water_from": "fixed", "ndwi_threshold": 0.99})
    assert code == 0
    assert events[-2]["searched"]["ndwi_threshold"] == 0.99
    assert events[-2]["searched"]["water_pixels"] == 0
    assert objects_of(events) == []


def test_on_land_alone_nothing_is_water(tmp_path):
    land = {name: np.tile(band[:, 110:130], (1, 7)) for name, band in sea().items()}
    code, events = small(tmp_path, {}, land)
    assert code == 0
    assert events[-2]["searched"]["water_pixels"] == 0


def test_on_open_sea_objects_are_found_without_land(tmp_path):
    bands = {name: band[:, :95] for name, band in sea().items()}
    code, events = small(tmp_path, {}, bands)
    assert code == 0
    assert len(objects_of(events)) == 3
    assert events[-2]["searched"]["water_fraction"] > 0.99


def test_a_ring_of_too_many_pixels_is_refused(tmp_path):
    source = tmp_path / "in"
    write_scene(source, "one", sea(), transform=Affine(2, 0, 3e5, 0, -2, 4e6))
    code, events = run(write_catalog(source, ("one",)), tmp_path / "out", {"outer_m": 2000})
    assert code == 1
    assert "make outer_m smaller" in events[2]["message"]


def test_a_scene_of_fill_fails(tmp_path):
    empty = {name: np.zeros_like(band) for name, band in sea().items()}
    code, events = small(tmp_path, {}, empty)
    assert code == 1
    assert "holds no data" in events[2]["message"]
