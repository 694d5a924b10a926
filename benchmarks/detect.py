"""How fast is a full Landsat 8 scene, and in how much memory?

    python -m benchmarks.detect [--runs 3] [--folder DIR] [--no-plain] [--smoke]

Writes a made scene of 7,700 x 7,800 pixels once (some minutes and 1 GB; kept in DIR for
the next time), then runs, each as a process of its own and interleaved:

* active-fire: the whole module, start to exit, decode and outputs included, compiled;
* offshore-objects: the same on the same scene;
* decode: only reading active-fire's bands in the same strips;
* plain numpy: the same fire tests over the whole scene at once (benchmarks.plain_fire).

Prints a table of medians, writes benchmarks/results/detect.json, and exits with 1 when
active-fire needs more than 10 s or 700 MiB over its process tree.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import Resampling
from rasterio.io import DatasetWriter
from rasterio.transform import Affine
from rasterio.windows import Window

from benchmarks.command import PROJECT, Bound, Command, finish, medians, table
from lib.model import JsonObject, JsonValue

Bools = npt.NDArray[np.bool_]
Reals = npt.NDArray[np.float64]

TILE = 512
SUN_ELEVATION = 47.0
SCENE = "LC08_L1TP_227074_20200101_20200101_02_T1"
MOST_WALL_S, MOST_MIB = 10.0, 700.0
NAMES = ("coastal", "blue", "green", "red", "nir08", "swir16", "swir22")
TRANSFORM = Affine(30, 0, 400_000, 0, -30, 8_000_000)

#: Mean TOA reflectance of bands 2 to 7 per land cover, measured on real scenes.
COVERS = np.array(
    [
        [0.119, 0.103, 0.075, 0.032, 0.012, 0.008],  # water
        [0.095, 0.083, 0.050, 0.418, 0.164, 0.058],  # dense vegetation
        [0.108, 0.092, 0.082, 0.234, 0.198, 0.101],  # savanna
        [0.140, 0.125, 0.122, 0.158, 0.146, 0.111],  # bare and urban
        [0.549, 0.549, 0.564, 0.667, 0.549, 0.406],  # cloud
    ]
)
#: Cholesky factor of the covariance of neighbouring pixels' differences, bands 2 to 7,
#: 1e-4 reflectance, from a real savanna scene. Independent noise would look like fires.
TEXTURE = 1e-4 * np.array(
    [
        [10.4, 0.0, 0.0, 0.0, 0.0, 0.0],
        [13.2, 10.4, 0.0, 0.0, 0.0, 0.0],
        [25.1, 7.0, 11.6, 0.0, 0.0, 0.0],
        [15.7, 57.3, -23.7, 65.2, 0.0, 0.0],
        [76.4, 19.2, 31.5, 8.9, 56.4, 0.0],
        [49.3, 2.8, 21.6, -6.8, 28.2, 18.8],
    ]
)
#: Centre wavelength (m) and solar irradiance (W m-2 um-1) of bands 5, 6, 7.
HOT_BANDS = ((3, 0.865e-6, 951.8), (4, 1.61e-6, 247.6), (5, 2.20e-6, 85.5))


@dataclass(frozen=True)
class Frame:
    """Of the scene, pixels, and how many fires burn in it."""

    width: int
    height: int
    fires: int


USUAL, SMALL = Frame(7700, 7800, 400), Frame(320, 300, 6)


def main() -> int:
    command = Command(__doc__)
    command.size("--runs", 3, smoke=1)
    command.parser.add_argument("--folder", type=Path, help="where the scene is kept")
    command.parser.add_argument(
        "--no-plain", action="store_true", help="skip the 8 GB numpy baseline"
    )
    command.parser.add_argument("--part", choices=("decode", "plain"), help=argparse.SUPPRESS)
    options = command.parse()
    folder = options.folder or Path(tempfile.gettempdir()) / f"scenebridge-bench-{os.getuid()}"
    if options.part:
        return {"decode": decode_only, "plain": plain_numpy}[options.part](folder)
    with contextlib.ExitStack() as stack:
        if options.smoke:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sb-detect-")))
        frame = SMALL if options.smoke else USUAL
        if not (folder / "catalog.json").exists():
            print(f"Writing the scene to {folder} ...", flush=True)
            write_scene(folder, frame)
        return compare(folder, frame, options.runs, plain=not options.no_plain, smoke=options.smoke)


def compare(folder: Path, frame: Frame, runs: int, *, plain: bool, smoke: bool) -> int:
    """Run all contenders `runs` times in turn, print and write the medians."""
    commands = {
        "active-fire": _module("active_fire", folder),
        "offshore-objects": _module("offshore_objects", folder),
        "decoding alone": _part("decode", folder),
        **({"plain numpy": _part("plain", folder)} if plain else {}),
    }
    for name in () if smoke else ("active_fire", "offshore_objects"):
        subprocess.run([sys.executable, "-m", f"modules.{name}", "warm"], cwd=PROJECT, check=True)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            measured[name].append(measure(command))
    middle = {name: medians(each) for name, each in measured.items()}
    objects = _objects(folder / "out-active_fire")
    print(f"{frame.width:,} x {frame.height:,} pixels, {objects} fires, {os.cpu_count()} cores")
    rows = [(name, m["wall_s"], m["cpu_s"], round(m["peak_mib"])) for name, m in middle.items()]
    ours = middle["active-fire"]
    return finish(
        "detect",
        table(("", "wall s", "CPU s", "peak MiB"), rows, 1),
        {"objects": objects, "medians": middle, "runs": measured},
        [
            Bound("active-fire, s", ours["wall_s"], most=MOST_WALL_S),
            Bound("active-fire, MiB", ours["peak_mib"], most=MOST_MIB),
        ],
        smoke=smoke,
    )


def measure(command: Sequence[str]) -> dict[str, float]:
    """Wall and CPU seconds of a command, and the peak RSS of its process tree in MiB."""
    before = os.times()
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
    over = threading.Event()
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process.pid, over, peak))
    watcher.start()
    code = process.wait()
    wall = time.perf_counter() - started
    over.set()
    watcher.join()
    after = os.times()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return {"wall_s": wall, "cpu_s": cpu, "peak_mib": peak[0] / 2**20}


def _watch(pid: int, over: threading.Event, peak: list[int]) -> None:
    """Sample the resident size of `pid` and its descendants every 20 ms."""
    while not over.wait(0.02):
        peak[0] = max(peak[0], _resident(pid))


def _resident(pid: int) -> int:
    """Bytes of a process and its descendants, from /proc; 0 once it is gone."""
    folder = Path(f"/proc/{pid}")
    try:
        pages = int((folder / "statm").read_text().split()[1])
        tasks = (folder / "task").glob("*/children")
        children = [child for task in tasks for child in task.read_text().split()]
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(_resident(int(c)) for c in children)


def _module(name: str, folder: Path) -> list[str]:
    output = folder / f"out-{name}"
    command = [sys.executable, "-m", f"modules.{name}", "run"]
    return [*command, "--input", str(folder), "--output", str(output)]


def _part(part: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.detect", "--part", part, "--folder", str(folder)]


def _objects(output: Path) -> int:
    events = [json.loads(line) for line in (output / "status.jsonl").read_text().splitlines()]
    return int(events[-1]["objects"])


def decode_only(folder: Path) -> int:
    """Read the bands of active-fire as it does, and do nothing with them."""
    from modulekit.raster import SceneReader, gdal_environment
    from modulekit.scenes import read_catalog, read_item

    item = read_item(read_catalog(folder)[0])
    with gdal_environment(), SceneReader(item) as scene:
        for _ in scene.strips((*NAMES, "qa_radsat"), 512, 32):
            pass
    return 0


def plain_numpy(folder: Path) -> int:
    """The fire tests over the whole scene at once."""
    from benchmarks.plain_fire import detect

    numbers = {}
    for band, name in enumerate(NAMES, start=1):
        with rasterio.open(folder / SCENE / f"{name}.tif") as file:
            numbers[band] = file.read(1)
    saturated = (numbers[6] == 65535) | (numbers[7] == 65535)
    mask = detect(numbers, SUN_ELEVATION, saturated)
    with rasterio.open(folder / "out-active_fire" / SCENE / "mask.tif") as file:
        different = int(np.count_nonzero(file.read(1) != mask))
    if different:
        print(f"The masks differ in {different} pixels.", file=sys.stderr)
    return 1 if different else 0


# --- the scene ----------------------------------------------------------------------


def write_scene(folder: Path, frame: Frame) -> None:
    """Write the bands, item and catalog; the catalog last, as the sign of a whole scene."""
    (folder / SCENE).mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff",
        "height": frame.height,
        "width": frame.width,
        "count": 1,
        "dtype": "uint16",
        "crs": "EPSG:32621",
        "transform": TRANSFORM,
        "tiled": True,
        "blockxsize": TILE,
        "blockysize": TILE,
        "compress": "deflate",
        "zlevel": 6,
        "predictor": 2,
        "nodata": 0,
    }
    names = (*NAMES, "qa_pixel", "qa_radsat")
    files = [rasterio.open(folder / SCENE / f"{n}.tif", "w", **profile) for n in names]
    fires = _fires(frame)
    with ThreadPoolExecutor(2) as pool:
        for row in range(0, frame.height, TILE):
            for column in range(0, frame.width, TILE):
                tile = make_tile(frame, row, column, fires)
                window = Window(column, row, tile.shape[2], tile.shape[1])
                list(pool.map(lambda f, t, w=window: f.write(t, 1, window=w), files, tile))
        list(pool.map(_finish, files))
    _write_item(folder)


def _finish(file: DatasetWriter) -> None:
    path = file.name
    file.close()
    with rasterio.open(path, "r+") as again:
        again.build_overviews([2, 4, 8, 16], Resampling.nearest)


def make_tile(frame: Frame, row: int, column: int, fires: Reals) -> npt.NDArray[np.uint16]:
    """One tile, uint16 (9, rows, columns): bands 1 to 7, QA_PIXEL, QA_RADSAT.

    The same whatever tile is made first: land cover follows from the place, noise from
    a seed of the tile.
    """
    rows, columns = min(TILE, frame.height - row), min(TILE, frame.width - column)
    y, x = np.mgrid[row : row + rows, column : column + columns].astype(np.float64)
    cover = _cover(y, x)
    rng = np.random.default_rng([row, column])
    noise = rng.standard_normal((rows, columns, 6)) @ TEXTURE.T
    shade = 1 + 0.08 * np.sin(x / 37) * np.cos(y / 53)
    reflectance = COVERS[cover] * shade[..., None] + noise
    _burn(reflectance, row, column, fires)
    sine = math.sin(math.radians(SUN_ELEVATION))
    full = np.concatenate([reflectance[..., :1] + 0.012, reflectance], axis=2)
    exact = np.rint((full * sine + 0.1) / 2e-5)
    numbers = np.clip(exact, 1, 65535).astype(np.uint16)
    radsat = ((exact >= 65535) << np.arange(7)).sum(axis=2).astype(np.uint16)
    pixel_qa = np.where(cover == 4, 22280, np.where(cover == 0, 21952, 21824)).astype(np.uint16)
    outside = _outside(frame, y, x)
    layers = np.concatenate([numbers.transpose(2, 0, 1), [pixel_qa, radsat]])
    layers[:, outside] = 0
    layers[7, outside] = 1
    return layers


def _cover(y: Reals, x: Reals) -> npt.NDArray[np.int64]:
    """Index into COVERS: rivers, forest, savanna, bare land, and clouds over all."""
    height = np.sin(x / 900 + 0.7) + np.cos(y / 700) + 0.5 * np.sin((x + y) / 230)
    cover = np.digitize(height, (-1.6, -0.4, 1.2))
    cloud = np.sin(x / 510 + 2) * np.sin(y / 430 + 1) + 0.3 * np.sin(x / 61) * np.cos(y / 47)
    return np.where(cloud > 0.95, 4, cover)


def _outside(frame: Frame, y: Reals, x: Reals) -> Bools:
    """The image is turned in its frame, as Landsat scenes are; the corners are fill."""
    along = (y - frame.height / 2) / frame.height
    across = (x - frame.width / 2) / frame.width
    slant = 0.17
    outside: Bools = (np.abs(across + slant * along) > 0.41) | (
        np.abs(along - slant * across) > 0.41
    )
    return outside


def _fires(frame: Frame) -> Reals:
    """(frame.fires, 5): row, column, radius in pixels, temperature in K, burning fraction."""
    rng = np.random.default_rng(20200101)
    return np.column_stack(
        [
            rng.uniform(0, frame.height, frame.fires),
            rng.uniform(0, frame.width, frame.fires),
            rng.uniform(0.6, 6, frame.fires),
            rng.uniform(700, 1200, frame.fires),
            10 ** rng.uniform(-3.3, -1.5, frame.fires),
        ]
    )


def _burn(reflectance: Reals, row: int, column: int, fires: Reals) -> None:
    """Add p pi L(lambda, T) / (ESUN sin(sun elevation)) where a fire burns; in place."""
    rows, columns, _ = reflectance.shape
    sine = math.sin(math.radians(SUN_ELEVATION))
    for fire_row, fire_column, radius, kelvin, part in fires:
        top, left = fire_row - row, fire_column - column
        if not (-radius <= top < rows + radius and -radius <= left < columns + radius):
            continue
        y, x = np.mgrid[:rows, :columns]
        inside = (y - top) ** 2 + (x - left) ** 2 <= radius**2
        for band, wavelength, sun in HOT_BANDS:
            extra = part * math.pi * _planck(wavelength, kelvin) / (sun * sine)
            reflectance[inside, band] += extra


def _planck(wavelength: float, kelvin: float) -> float:
    """Radiance of a black body, W m-2 sr-1 um-1."""
    c1, c2 = 1.191043e-16, 1.438777e-2
    return c1 / wavelength**5 / math.expm1(c2 / (wavelength * kelvin)) * 1e-6


def _write_item(folder: Path) -> None:
    assets: dict[str, JsonValue] = {
        name: {
            "href": f"{name}.tif",
            "type": "image/tiff; application=geotiff",
            "bands": [{"name": f"B{k}", "eo:common_name": name}],
        }
        for k, name in enumerate(NAMES, start=1)
    }
    for name in ("qa_pixel", "qa_radsat"):
        assets[name] = {"href": f"{name}.tif", "type": "image/tiff; application=geotiff"}
    item: JsonObject = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": SCENE,
        "geometry": None,
        "properties": {
            "datetime": "2020-01-01T14:00:00Z",
            "platform": "landsat-8",
            "processing:level": "L1TP",
            "view:sun_elevation": SUN_ELEVATION,
            "scenebridge:synthetic": True,
        },
        "links": [],
        "assets": assets,
    }
    (folder / SCENE / f"{SCENE}.json").write_text(json.dumps(item))
    link = {"rel": "item", "href": f"./{SCENE}/{SCENE}.json"}
    catalog = {"type": "Catalog", "stac_version": "1.1.0", "id": "detect", "links": [link]}
    (folder / "catalog.json").write_text(json.dumps(catalog))


if __name__ == "__main__":
    sys.exit(main())
