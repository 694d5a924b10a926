"""The fire masks: against the published references, and against plain numpy."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import rasterio

from modulekit.cli import main
from modulekit.raster import SceneReader, Strip, gdal_environment
from modulekit.scenes import SceneLink, read_item
from modules.active_fire.detector import ALGORITHMS, DETECTOR, NAMES
from modules.active_fire.kernels import HALO
from tests.fixtures.module_scenes import (
    BEFORE,
    DATA,
    DURING,
    LANDSAT,
    burning,
    savanna,
    write_catalog,
    write_crops,
    write_scene,
)

DEFAULTS = {"decide": "vote", "min_pixels": 1, "strip_rows": 512}


def mask_of(source, scene: str, strip_rows: int) -> np.ndarray:
    """The mask of one scene, strip by strip."""
    item = read_item(SceneLink(scene, source / scene / f"{scene}.json"))
    with gdal_environment(), SceneReader(item) as reader:
        params = {**DEFAULTS, "strip_rows": strip_rows}
        detector = DETECTOR.open(reader, params, lambda line: None)
        reader.open(detector.bands)
        strips = reader.strips(detector.bands, strip_rows, detector.halo)
        return np.concatenate([detector.detect(s).mask for s in strips])


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    return write_crops(tmp_path_factory.mktemp("crops"), BEFORE, DURING)


@pytest.mark.parametrize("strip_rows", [256, 512, 1024, 10_000])
@pytest.mark.parametrize(("scene", "pixels"), [(BEFORE, (0, 1, 1)), (DURING, (591, 739, 803))])
def test_real_scenes_equal_the_reference_pixel_for_pixel(crops, scene, pixels, strip_rows):
    mask = mask_of(crops, scene, strip_rows)
    with np.load(DATA / "masks" / f"{scene}_masks.npz") as reference:
        for bit, name in enumerate(ALGORITHMS):
            mine = (mask >> bit & 1).astype(bool)
            assert np.count_nonzero(mine != reference[name]) == 0
            assert np.count_nonzero(mine) == pixels[bit]
        votes = sum(reference[name].astype(int) for name in ALGORITHMS)
    assert np.array_equal(mask >> 3, votes >= 2)


def test_the_run_writes_that_mask_and_its_objects(crops, tmp_path):
    output = tmp_path / "out"
    assert main("modules.active_fire", ["run", "--input", str(crops), "--output", str(output)]) == 0
    with rasterio.open(output / DURING / "mask.tif") as file:
        assert np.array_equal(file.read(1), mask_of(crops, DURING, 512))
        assert file.descriptions == ("1 schroeder, 2 goli, 4 murphy, 8 vote",)
    features = json.loads((output / DURING / "detections.geojson").read_text())["features"]
    assert sum(f["properties"]["pixels"] for f in features) == 720
    assert features[0]["properties"]["score"] > 0.9
    for feature in features:
        west, south, east, north = feature["bbox"]
        assert -57.6 < west < east < -57.3
        assert -20.1 < south < north < -19.7
    log = (output / DURING / "log.txt").read_text()
    assert "uses the blue band instead" in log
    (done,) = [
        json.loads(line)
        for line in (output / "status.jsonl").read_text().splitlines()
        if '"scene_done"' in line and DURING in line
    ]
    assert done["searched"]["restored_saturated"] == 138
    assert done["searched"]["schroeder_blue_band"] == "blue"


def wild(seed: int, shape: tuple[int, int] = (150, 130)) -> dict[str, np.ndarray]:
    """Digital numbers that try every branch: fires, water, fill, negative, zero, saturated."""
    rng = np.random.default_rng(seed)
    bands = {name: rng.integers(4_500, 14_000, shape).astype(np.uint16) for name in NAMES}
    dark = rng.random(shape) < 0.25
    for step, name in enumerate(NAMES):
        bands[name][dark] = rng.integers(5_200, 6_800, np.count_nonzero(dark)) - 120 * step
    hot = rng.random(shape) < rng.choice([0.003, 0.05, 0.3])
    bands["swir22"][hot] = rng.integers(15_000, 65_536, np.count_nonzero(hot))
    bands["swir16"][hot] = rng.integers(8_000, 65_536, np.count_nonzero(hot))
    bands["swir16"][rng.random(shape) < 0.002] = 65_535
    for name in NAMES:
        bands[name][rng.random(shape) < 0.002] = 5_000  # reflectance 0
        bands[name][:9, :20] = 0
    bands["nir08"][rng.random(shape) < 0.01] = 4_000
    return bands


def flickering(seed: int, shape: tuple[int, int] = (150, 130)) -> dict[str, np.ndarray]:
    """Pixels near every threshold on a calm ground, where the context tests decide."""
    rng = np.random.default_rng(seed)
    bands = savanna(*shape, seed=seed)
    for name in NAMES:
        bands[name][:60, :50] = (bands[name][:60, :50] * 0.3 + 4_300).astype(np.uint16)
    hot = rng.random(shape) < 0.05
    count = np.count_nonzero(hot)
    swir2 = rng.uniform(0.08, 0.7, count)
    levels = {"swir22": swir2, "swir16": swir2 / rng.uniform(1.2, 2.2, count)}
    levels["nir08"] = swir2 / rng.uniform(1.2, 3.0, count)
    for name, level in levels.items():
        bands[name][hot] = ((level + 0.1) / 2e-5).astype(np.uint16)
    return bands


@pytest.mark.parametrize("make", [wild, flickering])
@pytest.mark.parametrize("seed", range(4))
def test_made_scenes_equal_plain_numpy(make, seed):
    from benchmarks import plain_fire  # loads scipy, which only whoever runs this needs

    bands = {**make(seed), "qa_radsat": np.zeros((150, 130), np.uint16)}
    numbers = {int(LANDSAT[name][1]): band for name, band in bands.items() if name in LANDSAT}
    saturated = (bands["swir16"] == 65_535) | (bands["swir22"] == 65_535)
    expected = plain_fire.detect({1: numbers[2], **numbers}, 40.0, saturated)
    assert all(np.count_nonzero(expected >> bit & 1) for bit in range(4))
    for rows in (16, 150):
        got = []
        for y0 in range(0, 150, rows):
            y1 = min(150, y0 + rows)
            top, bottom = max(0, y0 - HALO), min(150, y1 + HALO)
            strip = Strip(y0, y1, top, {n: b[top:bottom].copy() for n, b in bands.items()})
            got.append(detect(strip, radsat=True))
        assert np.array_equal(np.concatenate(got), expected), rows


def detect(strip: Strip, *, radsat: bool) -> np.ndarray:
    from modules.active_fire.detector import detect as detect_strip

    scale, offset = np.full(8, 2e-5), np.full(8, -0.1)
    sine = math.sin(math.radians(40.0))
    mask, _ = detect_strip(strip, scale, offset, sine, coastal="blue", radsat=radsat)
    return mask


def one_strip(bands: dict[str, np.ndarray]) -> Strip:
    height = bands["red"].shape[0]
    return Strip(0, height, 0, {name: band.copy() for name, band in bands.items()})


def test_swir_fill_beside_valid_bands_is_saturation():
    bands = burning()
    bright = detect(one_strip({**bands, "swir22": _put(bands["swir22"], 65_535)}), radsat=False)
    lost = detect(one_strip({**bands, "swir22": _put(bands["swir22"], 0)}), radsat=False)
    assert np.array_equal(lost, bright)
    assert lost[41, 41] == 0b1111


@pytest.mark.parametrize("missing", ["blue", "green", "red", "nir08"])
def test_only_a_pixel_with_all_other_bands_is_restored(missing):
    """At the edge of a scene the bands end at different pixels."""
    bands = burning()
    bands["swir22"] = _put(bands["swir22"], 0)
    bands[missing] = bands[missing].copy()
    bands[missing][41, 41] = 0
    strip = one_strip(bands)
    mask = detect(strip, radsat=False)
    assert strip.bands["swir22"][41, 41] == 0
    assert strip.bands["swir22"][40, 40] == 65_535
    assert mask[40, 40] & 0b1000


def test_real_fill_is_no_fire():
    bands = {name: _put(band, 0) for name, band in burning().items()}
    assert detect(one_strip(bands), radsat=False)[41, 41] == 0


def test_with_qa_radsat_only_what_it_flags_is_restored():
    bands = burning()
    bands["swir22"] = _put(bands["swir22"], 0)
    radsat = np.zeros_like(bands["red"])
    assert detect(one_strip({**bands, "qa_radsat": radsat}), radsat=True)[41, 41] == 0
    flagged = {**bands, "qa_radsat": _put(radsat, 1 << 6)}
    assert detect(one_strip(flagged), radsat=True)[41, 41] == 0b1111
    other_band = {**bands, "qa_radsat": _put(radsat, 1 << 3)}
    assert detect(one_strip(other_band), radsat=True)[41, 41] == 0


def _put(band: np.ndarray, value: int) -> np.ndarray:
    """A copy with the 3 x 3 fire of `burning` set to `value`."""
    changed = band.copy()
    changed[40:43, 40:43] = value
    return changed


def run(tmp_path, bands: dict[str, np.ndarray], params: dict[str, Any], **options: Any):
    """Run on one scene; the exit code, and the events."""
    source, output = tmp_path / "in", tmp_path / "out"
    write_scene(source, "one", bands, **options)
    write_catalog(source, ("one",))
    (source / "p.json").write_text(json.dumps(params))
    arguments = ["run", "--input", str(source), "--output", str(output)]
    code = main("modules.active_fire", [*arguments, "--params", str(source / "p.json")])
    lines = (output / "status.jsonl").read_text().splitlines()
    return code, [json.loads(line) for line in lines]


@pytest.mark.parametrize("sun", [None, 0.0, -5.0, 91.0])
def test_without_a_sun_the_scene_fails(tmp_path, sun):
    code, events = run(tmp_path, burning(), {}, sun_elevation=sun)
    assert code == 1
    assert "sun elevation" in events[2]["message"]


def test_level_2_is_refused(tmp_path):
    code, events = run(tmp_path, burning(), {}, level="L2SP", scaling=(2.75e-5, -0.2))
    assert code == 1
    assert "L2SP" in events[2]["message"]


@pytest.mark.parametrize("decide", [*ALGORITHMS, "vote", "any"])
def test_decide_chooses_what_becomes_objects(tmp_path, decide):
    bands = burning()
    # Bright in the SWIR of 1.6 um too: no algorithm but Schroeder's second equation.
    bands["swir16"][70:72, 60:62] = 60_000
    code, events = run(tmp_path, bands, {"decide": decide})
    assert code == 0
    places = {(e["properties"]["schroeder_pixels"], e["pixels"]) for e in events if "n" in e}
    assert ((4, 4) in places) == (decide in ("schroeder", "any"))
    assert (9, 9) in places


def test_smallest_object(tmp_path):
    code, events = run(tmp_path, burning(), {"min_pixels": 9})
    assert code == 0
    assert [e["pixels"] for e in events if e["event"] == "object"] == [9]


def test_clouds_are_flagged_and_not_masked(tmp_path):
    bands = burning()
    quality = np.full_like(bands["red"], 21_824)
    quality[38:50, 38:50] = 22_280  # cloud
    quality[120, 20] = 23_888  # cloud shadow
    code, events = run(tmp_path, {**bands, "qa_pixel": quality}, {})
    assert code == 0
    flags = {e["pixels"]: e["flags"] for e in events if e["event"] == "object"}
    assert flags == {9: ["cloud"], 8: [], 1: ["cloud-shadow"]}


def test_the_score_means_what_the_manifest_says(tmp_path):
    code, events = run(tmp_path, burning(), {})
    assert code == 0
    for event in [e for e in events if e["event"] == "object"]:
        properties = event["properties"]
        agree = sum(properties[f"{name}_pixels"] for name in ALGORITHMS) / (3 * event["pixels"])
        factor = 0.5 + 0.5 * min(1.0, properties["peak_reflectance_2200nm"])
        assert event["score"] == pytest.approx(agree * factor, abs=1e-4)
