"""The modules find what the generator planted, and little else: the whole chain of a product."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import shapely
from shapely.geometry import shape

from lib.model import Scene
from lib.scenes.local_catalog import LocalCatalog
from lib.scenes.synthetic import FormosatSpec, LandsatSpec, write_formosat, write_landsat

ROOT = Path(__file__).resolve().parents[2]
LANDSAT = LandsatSpec(
    139.8, 35.3, 107, 36, date(2024, 1, 17), 1, size=500, fires=5, ships=7, turbines=4
)
FORMOSAT = FormosatSpec(120.5, 24.3, date(2012, 10, 5), 11, size=900, ships=10)
#: Degrees: about 170 m, five pixels of Landsat.
NEAR = 0.0016

pytestmark = pytest.mark.slow


def detect(module: str, scene: Scene, folder: Path) -> list[Any]:
    """Run the module by itself on the scene; the outlines that it found."""
    item = folder / "in" / scene.id / f"{scene.id}.json"
    item.parent.mkdir(parents=True)
    item.write_text(json.dumps(dict(scene.item)))
    links = [{"rel": "item", "href": f"./{scene.id}/{scene.id}.json"}]
    catalog = {
        "type": "Catalog",
        "stac_version": "1.1.0",
        "id": "in",
        "description": "x",
        "links": links,
    }
    (folder / "in" / "catalog.json").write_text(json.dumps(catalog))
    command = [sys.executable, "-m", f"modules.{module}", "run",
               "--input", str(folder / "in"), "--output", str(folder / "out")]  # fmt: skip
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads((folder / "out" / scene.id / "detections.geojson").read_text())
    return [shape(feature["geometry"]) for feature in found["features"]]


def compare(product: Path, kinds: set[str], found: list[Any]) -> tuple[int, int, int]:
    """Planted, planted and found, found and not planted."""
    features = json.loads((product / "truth.geojson").read_text())["features"]
    places = [shape(f["geometry"]) for f in features if f["properties"]["class"] in kinds]
    hit = sum(any(shapely.dwithin(p, f, NEAR) for f in found) for p in places)
    other = sum(not any(shapely.dwithin(p, f, NEAR) for p in places) for f in found)
    return len(places), hit, other


def test_fires_on_landsat(tmp_path: Path) -> None:
    product = write_landsat(tmp_path, replace(LANDSAT, sea=0.25))
    scene = LocalCatalog(tmp_path / "scenes").add(product)
    planted, hit, other = compare(product, {"fire"}, detect("active_fire", scene, tmp_path))
    assert planted == 5
    assert hit == planted
    assert other == 0


def test_ships_and_turbines_on_landsat(tmp_path: Path) -> None:
    product = write_landsat(tmp_path, LANDSAT)
    scene = LocalCatalog(tmp_path / "scenes").add(product)
    found = detect("offshore_objects", scene, tmp_path)
    planted, hit, other = compare(product, {"ship", "turbine"}, found)
    assert planted >= 8
    assert hit >= planted - 1
    assert other <= 4


def test_ships_on_formosat(tmp_path: Path) -> None:
    product = write_formosat(tmp_path, FORMOSAT)
    scene = LocalCatalog(tmp_path / "scenes").add(product)
    found = detect("offshore_objects", scene, tmp_path)
    planted, hit, other = compare(product, {"ship"}, found)
    assert planted >= 8
    assert hit >= planted - 1
    assert other <= 4
