"""How many of the objects that offshore-objects finds are none, on scenes whose truth is known.

Makes synthetic Landsat 8 and FORMOSAT-2 scenes with ships and turbines at known places: a new
landscape each, half of it sea, under a clear sky, 3 or 8 % of cloud in turn. Runs the module on
all with its own parameters, and counts per sensor what it finds. An object within 150 m of one
that was planted is that one; all others are false alarms, per 1,000 km2 of what the module took
for water. Synthetic sea has no waves, rocks, wakes or haze: real scenes give more.

Prints a table, writes benchmarks/results/false_alarms.json, and exits with 1 when more are false
than module.toml says.

    python -m benchmarks.false_alarms [--scenes 12] [--smoke]
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from benchmarks.command import PROJECT, Bound, Command, finish, table
from lib.model import Scene
from lib.scenes.local_catalog import LocalCatalog
from lib.scenes.samples import write_synthetic
from lib.scenes.synthetic import FormosatSpec, LandsatSpec

NEAR_M = 150.0
#: What stands above the water by more than the threshold, with nothing but water around it.
GOOD_SCORE = 0.5
SENSORS = {"landsat-8": "Landsat 8", "formosat-2": "FORMOSAT-2"}
_CLOUDS = (0.0, 0.03, 0.08)
_FIRST_GROUND = 101
_KM_PER_DEGREE = 111.2


@dataclass
class Counts:
    """Of all scenes of one sensor."""

    scenes: int = 0
    water_km2: float = 0.0
    planted: int = 0
    found: int = 0
    false: int = 0
    false_good: int = 0

    def per_1000_km2(self, false: int) -> float:
        return 1000 * false / self.water_km2


def main() -> int:
    command = Command(__doc__)
    command.size("--scenes", 12, smoke=1)
    options = command.parse()
    with tempfile.TemporaryDirectory(prefix="sb-false-") as name:
        measured = measure(Path(name), options.scenes, side=300 if options.smoke else 0)
    head = (
        *("", "scenes", "water, km2", "planted", "found"),
        *("false per 1,000 km2", f"those of {GOOD_SCORE} or more"),
    )
    rows = [
        (
            *(SENSORS[sensor], c.scenes, round(c.water_km2), c.planted, c.found),
            *(c.per_1000_km2(c.false), c.per_1000_km2(c.false_good)),
        )
        for sensor, c in measured.items()
    ]
    said = expected()
    bounds = [
        Bound(
            f"{SENSORS[sensor]}, {kind}", round(c.per_1000_km2(false), 1), most=said[kind][sensor]
        )
        for sensor, c in measured.items()
        for kind, false in (("all", c.false), ("good", c.false_good))
    ]
    record = {sensor: vars(counts) for sensor, counts in measured.items()}
    return finish("false_alarms", table(head, rows, 1), record, bounds, smoke=options.smoke)


def expected() -> dict[str, dict[str, float]]:
    """What the module's card says: of all, and of those with a good score, per sensor."""
    manifest = PROJECT / "modules" / "offshore_objects" / "module.toml"
    said = tomllib.loads(manifest.read_text("utf-8"))["false_alarms"]
    return {kind: said[kind] for kind in ("all", "good")}


def measure(folder: Path, scenes: int, *, side: int = 0) -> dict[str, Counts]:
    """Make the scenes, run the module on all, and count.

    Args:
        scenes: of each sensor.
        side: pixels; 0 is what the samples have.
    """
    catalog = LocalCatalog(folder / "scenes")
    made = [
        catalog.add(write_synthetic(folder / "made", spec), synthetic=True)
        for spec in specs(scenes, side)
    ]
    _run(made, folder)
    counts = {sensor: Counts() for sensor in SENSORS}
    for scene in made:
        _count(counts[scene.platform], folder, scene)
    return counts


def specs(scenes: int, side: int) -> Iterator[LandsatSpec | FormosatSpec]:
    """Both sensors in turn; each scene has a landscape and a day of its own."""
    for number in range(scenes):
        ground, day = _FIRST_GROUND + number, date(2023, 1, 15) + timedelta(days=29 * number)
        cloud = _CLOUDS[number % len(_CLOUDS)]
        yield LandsatSpec(135.2, 34.4, 110, 36, day, ground, 0.5, cloud, size=side or 800)
        yield FormosatSpec(120.5, 24.3, day, ground, 0.5, cloud, size=side or 1200)


def _run(scenes: list[Scene], folder: Path) -> None:
    source = folder / "in"
    for scene in scenes:
        (source / scene.id).mkdir(parents=True)
        (source / scene.id / f"{scene.id}.json").write_text(json.dumps(scene.item))
    links = [{"rel": "item", "href": f"./{s.id}/{s.id}.json"} for s in scenes]
    catalog = {"type": "Catalog", "stac_version": "1.1.0", "id": "in", "links": links}
    (source / "catalog.json").write_text(json.dumps(catalog))
    command = [sys.executable, "-m", "modules.offshore_objects", "run", "--input", str(source)]
    subprocess.run([*command, "--output", str(folder / "out")], cwd=PROJECT, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip


def _count(counts: Counts, folder: Path, scene: Scene) -> None:
    lines = (folder / "out" / "status.jsonl").read_text("utf-8").splitlines()
    events = [e for e in map(json.loads, lines) if e.get("scene") == scene.id]
    (done,) = (e for e in events if e["event"] == "scene_done")
    truth = json.loads((folder / "scenes" / scene.id / "truth.geojson").read_text("utf-8"))
    planted = [
        tuple(f["geometry"]["coordinates"])
        for f in truth["features"]
        if f["properties"]["class"] != "fire"
    ]
    met: set[tuple[float, float]] = set()
    for found in (e for e in events if e["event"] == "object"):
        near = [p for p in planted if _metres(p, (found["lon"], found["lat"])) <= NEAR_M]
        met.update(near)
        counts.false += not near
        counts.false_good += not near and found["score"] >= GOOD_SCORE
    counts.scenes += 1
    counts.water_km2 += done["searched"]["water_pixels"] * _pixel_km2(scene)
    counts.planted += len(planted)
    counts.found += len(met)


def _metres(a: tuple[float, ...], b: tuple[float, float]) -> float:
    east = (a[0] - b[0]) * math.cos(math.radians(b[1]))
    return 1000 * _KM_PER_DEGREE * math.hypot(east, a[1] - b[1])


def _pixel_km2(scene: Scene) -> float:
    return (30.0 if scene.platform == "landsat-8" else 8.0) ** 2 / 1e6


if __name__ == "__main__":
    sys.exit(main())
