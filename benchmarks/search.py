"""Search of the local catalog: 10,000, 100,000 and 1,000,000 footprints.

Times are of `LocalCatalog.search` and `LocalCatalog.footprints` as the pages call them, scenes
and GeoJSON included, medians over interleaved rounds with a new place each time. Prints
a table and writes `benchmarks/results/search.json`.

    python -m benchmarks.search [--sizes 10000 100000 1000000] [--rounds 15] [--smoke]
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely

from benchmarks.command import Bound, Command, Row, finish, table
from lib.model import BBox, JsonObject, SceneQuery
from lib.scenes.local_catalog import LocalCatalog
from lib.scenes.table import SCHEMA, Table

START = datetime(2013, 4, 1, tzinfo=timezone.utc)
DAYS = 4000
#: By (size, case).
BOUNDS_MS = {(100_000, "box 5 deg"): 5.0, (100_000, "polygon"): 5.0, (10_000, "footprints"): 100.0}


def main() -> int:
    """Measure, print, write. Exit code 1 when a bound is missed."""
    command = Command(__doc__)
    command.parser.add_argument("--sizes", type=int, nargs="+")
    command.size("--rounds", 15, smoke=1)
    options = command.parse()
    sizes = options.sizes or ([1000] if options.smoke else [10_000, 100_000, 1_000_000])
    results = {size: measure(size, options.rounds) for size in sizes}
    return report(results, smoke=options.smoke)


def measure(size: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every case, round by round."""
    rng = np.random.default_rng(size)
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="sb-bench-") as folder:
        make_table(size, rng).save(Path(folder) / "table.parquet")
        catalog = LocalCatalog(Path(folder))
        times["load"] = [milliseconds(lambda: len(catalog))]
        for _ in range(rounds):
            for name, act in cases(catalog, rng).items():
                times.setdefault(name, []).append(milliseconds(act))
    return times


def cases(catalog: LocalCatalog, rng: np.random.Generator) -> dict[str, Callable[[], object]]:
    """What is measured, at a random place and date."""
    west, south = float(rng.uniform(-175, 170)), float(rng.uniform(-60, 55))
    area: BBox = (west, south, west + 5, south + 5)
    start = START + timedelta(days=int(rng.integers(0, DAYS - 730)))
    period = SceneQuery(start=start, end=start + timedelta(days=730), max_cloud=40.0)
    triangle = [[west, south], [west + 6, south + 1], [west + 3, south + 6], [west, south]]
    polygon: JsonObject = {"type": "Polygon", "coordinates": [triangle]}
    queries = {
        "box 5 deg": replace(period, area=area),
        "polygon": replace(period, polygon=polygon),
        "antimeridian": replace(period, area=(178.0, south, -178.0, south + 5)),
        "text": SceneQuery(text=f"_{int(rng.integers(0, 999999)):07d}"),
        "world, newest 500": SceneQuery(max_cloud=20.0, limit=500),
    }
    found: dict[str, Callable[[], object]] = {
        name: partial(catalog.search, query) for name, query in queries.items()
    }
    found["footprints"] = partial(catalog.footprints, SceneQuery(), cap=10_000)
    return found


def make_table(size: int, rng: np.random.Generator) -> Table:
    """Landsat-like footprints: turned squares of 1.8 degrees all over the land's latitudes."""
    lon, lat = rng.uniform(-178.5, 178.5, size), rng.uniform(-60, 70, size)
    turn = np.deg2rad(rng.uniform(8, 16, size))
    angles = turn[:, None] + np.pi / 4 + np.arange(5) * np.pi / 2
    rings = np.stack(
        [lon[:, None] + 1.27 * np.cos(angles), lat[:, None] + 1.27 * np.sin(angles)], -1
    )
    outlines = shapely.polygons(rings.round(4))
    bounds = shapely.bounds(outlines)
    days = rng.integers(0, DAYS, size)
    ids = [f"LC08_L1TP_{n % 233:03d}{n % 248:03d}_{n:07d}_02_T1" for n in range(size)]
    cloud = rng.uniform(0, 100, size).round(2)
    columns = {
        "id": ids, "collection": ["landsat8"] * size, "platform": ["landsat-8"] * size,
        "time_us": int(START.timestamp() * 1e6) + days * 86_400_000_000,
        "west": bounds[:, 0], "south": bounds[:, 1], "east": bounds[:, 2], "north": bounds[:, 3],
        "cloud": cloud, "level": ["L1TP"] * size, "bands": ["blue,green,nir08,red"] * size,
        "synthetic": [True] * size, "title": [f"Landsat 8 scene {i}" for i in ids],
        "outline": list(shapely.to_wkb(outlines)),
        "feature": [
            _feature(*row)
            for row in zip(ids, cloud.tolist(), shapely.to_geojson(outlines), strict=True)
        ],
    }  # fmt: skip
    return Table.of(pa.table(columns, schema=SCHEMA))


def _feature(ident: str, cloud: float, geometry: str) -> str:
    properties = {"id": ident, "title": f"Landsat 8 scene {ident}", "platform": "landsat-8",
                  "time": "2020-01-01T00:00:00Z", "cloud": cloud, "synthetic": True}  # fmt: skip
    text = json.dumps(properties, separators=(",", ":"))
    return f'{{"type":"Feature","id":"{ident}","properties":{text},"geometry":{geometry}}}'


def milliseconds(act: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - started)


def report(results: dict[int, dict[str, list[float]]], *, smoke: bool) -> int:
    """Print medians, write all, compare with the bounds."""
    middle = {
        n: {k: statistics.median(v) for k, v in cases_.items()} for n, cases_ in results.items()
    }
    head = ("ms by footprints", *(f"{size:,}" for size in middle))
    cases_ = next(iter(middle.values()))
    rows: list[Row] = [[case, *(each[case] for each in middle.values())] for case in cases_]
    printed = table(head, rows, 1)
    bounds = [
        Bound(f"{case} at {size:,}, ms", middle[size][case], most=most)
        for (size, case), most in BOUNDS_MS.items()
        if size in middle
    ]
    return finish("search", printed, results, bounds, smoke=smoke)


if __name__ == "__main__":
    raise SystemExit(main())
