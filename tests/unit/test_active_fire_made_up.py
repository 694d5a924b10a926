"""Both modules on made-up products that `lib.scenes` takes in: what was planted is found."""

from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path

import pytest

from lib.scenes.ingest import read_product, store_product
from lib.scenes.synthetic import FormosatSpec, LandsatSpec, write_formosat, write_landsat
from modulekit.cli import main
from tests.fixtures.module_scenes import write_catalog

LANDSAT = LandsatSpec(139.9, 35.2, 107, 36, date(2024, 1, 17), 3, size=500, fires=5, turbines=4)
FORMOSAT = FormosatSpec(120.3, 22.5, date(2012, 10, 5), 11, size=700, ships=8)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made-up")
    for product, scene in (
        (write_landsat(folder / "raw", LANDSAT), "landsat"),
        (write_formosat(folder / "raw", FORMOSAT), "formosat"),
    ):
        into = folder / "in" / scene
        into.mkdir(parents=True)
        item = {**store_product(read_product(product), into), "id": scene}
        (into / f"{scene}.json").write_text(json.dumps(item))
        (into / "planted.json").write_text((product / "truth.geojson").read_text())
    return write_catalog(folder / "in", ("landsat", "formosat"))


def run(package: str, source: Path, output: Path) -> int:
    return main(package, ["run", "--input", str(source), "--output", str(output)])


def compare(source: Path, output: Path, scene: str, kinds: set[str]) -> tuple[int, int, int]:
    """How many of the planted objects were found, how many there are, and how many others."""
    planted = [
        f["geometry"]["coordinates"]
        for f in json.loads((source / scene / "planted.json").read_text())["features"]
        if f["properties"]["class"] in kinds
    ]
    found = json.loads((output / scene / "detections.geojson").read_text())["features"]
    hits = [any(_holds(f["bbox"], *point) for f in found) for point in planted]
    others = [not any(_holds(f["bbox"], *point) for point in planted) for f in found]
    return sum(hits), len(planted), sum(others)


def _holds(bbox: list[float], lon: float, lat: float, reach_m: float = 90.0) -> bool:
    west, south, east, north = bbox
    dy = reach_m / 111_320
    dx = dy / math.cos(math.radians(lat))
    return west - dx <= lon <= east + dx and south - dy <= lat <= north + dy


def test_planted_fires(source, tmp_path):
    assert run("modules.active_fire", source, tmp_path / "out") == 3
    found, planted, others = compare(source, tmp_path / "out", "landsat", {"fire"})
    assert (found, planted) == (5, 5)
    assert others <= 1
    events = (tmp_path / "out" / "status.jsonl").read_text()
    assert "this scene is of formosat-2" in events


@pytest.mark.parametrize(
    ("scene", "kinds", "most_others"),
    [("landsat", {"ship", "turbine"}, 6), ("formosat", {"ship"}, 3)],
)
def test_planted_ships_and_turbines(source, tmp_path, scene, kinds, most_others):
    assert run("modules.offshore_objects", source, tmp_path / "out") == 0
    found, planted, others = compare(source, tmp_path / "out", scene, kinds)
    assert planted >= 8
    assert found >= planted - 1
    assert others <= most_others
