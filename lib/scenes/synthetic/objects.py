"""Objects that are planted into a landscape, and the truth about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lib.model import JsonObject, JsonValue
from lib.scenes.synthetic.landscape import Floats, Landscape, Window

#: Exoatmospheric solar irradiance (W/m2/um) and centre (um) of B5, B6, B7.
_SUN = {4: (951.8, 0.865), 5: (247.6, 1.61), 6: (85.5, 2.2)}
#: Reflectance of painted steel, B1..B7.
_STEEL = np.array([0.34, 0.34, 0.34, 0.33, 0.32, 0.27, 0.22], dtype=np.float32)
_COARSE = 4
_SUPERSAMPLING = 6


@dataclass(frozen=True, slots=True)
class Planted:
    """One object. A pixel becomes (1 - cover) * ground + added.

    `rows`, `cols` and `cover` are (n,), `added` is (7, n), reflectance of B1..B7. `row`,
    `col` is the centre in pixels (a pixel's own centre is at .5). `facts` are the truth.
    """

    kind: str
    row: float
    col: float
    rows: npt.NDArray[np.intp]
    cols: npt.NDArray[np.intp]
    cover: Floats
    added: Floats
    facts: JsonObject


def plant(
    land: Landscape, rng: np.random.Generator, pixel_m: float, sin_elevation: float, *,
    fires: int, ships: int, turbines: int, ship_lengths_m: tuple[float, float] = (60, 240),
) -> list[Planted]:  # fmt: skip
    """Choose places under a clear sky and make the objects; fewer where no place is left.

    Fires burn on land, ships and turbines stand in the sea, 450 m from the coast
    (less in small areas), and none is so near to another that the two could be taken for one.
    """
    sites = _Sites(land, rng, pixel_m)
    objects: list[Planted] = []
    for row, col in sites.wind_farm(turbines):
        objects.append(_steel((row, col), (22, 22, 0.0), "turbine", pixel_m, 0.45))
    for row, col in sites.take("sea", ships):
        length = float(rng.uniform(*ship_lengths_m))
        shape = (length, max(12.0, length / 7), float(rng.uniform(0, np.pi)))
        objects.append(_steel((row, col), shape, "ship", pixel_m, float(rng.uniform(0.8, 1.3))))
    for number, (row, col) in enumerate(sites.take("land", fires)):
        objects.append(_fire(row, col, rng, sin_elevation, strong=number % 3 == 0))
    return objects


def stamp(reflectance: Floats, window: Window, objects: Iterable[Planted]) -> None:
    """Write the objects into `reflectance` (7, rows, columns) of `window`, in place."""
    for thing in objects:
        rows, cols = thing.rows - window.top, thing.cols - window.left
        inside = (rows >= 0) & (rows < reflectance.shape[1])
        inside &= (cols >= 0) & (cols < reflectance.shape[2])
        at = (slice(None), rows[inside], cols[inside])
        reflectance[at] = reflectance[at] * (1 - thing.cover[inside]) + thing.added[:, inside]


def truth(
    objects: Sequence[Planted], to_lonlat: Callable[[float, float], tuple[float, float]]
) -> dict[str, JsonValue]:
    """GeoJSON of the objects' centres. `to_lonlat` maps (column, row) to (lon, lat)."""
    features: list[JsonValue] = []
    for thing in objects:
        lon, lat = to_lonlat(thing.col, thing.row)
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Point", "coordinates": [round(lon, 6), round(lat, 6)]},
                "properties": {
                    "class": thing.kind,
                    "row": round(thing.row, 1),
                    "col": round(thing.col, 1),
                    **thing.facts,
                },
            }
        )
    return {"type": "FeatureCollection", "features": features}


class _Sites:
    """Free places of a landscape, on a grid of every fourth pixel."""

    def __init__(self, land: Landscape, rng: np.random.Generator, pixel_m: float) -> None:
        self._rng = rng
        self._pixel_m = pixel_m
        height, width = land.shape
        window = Window(0, height, 0, width, _COARSE)
        terrain = land.height(window)
        clear = land.cloud(window) == 0
        self._reach = max(3, round(min(450 / pixel_m, min(land.shape) / 12) / _COARSE))
        margin = self._reach
        self._free = {
            "sea": _eroded((terrain < -0.01) & clear, margin),
            "land": _eroded((terrain > 0.02) & clear, max(2, margin // 2)),
        }

    def take(self, where: str, count: int) -> list[tuple[float, float]]:
        """Up to `count` places (row, column), away from all that were taken before."""
        found = []
        for _ in range(count):
            candidates = np.flatnonzero(self._free[where])
            if candidates.size == 0:
                break
            at = int(self._rng.choice(candidates))
            row, col = divmod(at, self._free[where].shape[1])
            self._block(row, col)
            inner = self._rng.uniform(0, _COARSE, 2)
            found.append((row * _COARSE + float(inner[0]), col * _COARSE + float(inner[1])))
        return found

    def wind_farm(self, count: int) -> list[tuple[float, float]]:
        """Turbines in rows, 800 m apart, at the first place that is wholly free."""
        if count == 0:
            return []
        side = int(np.ceil(np.sqrt(count)))
        gap = max(4, round(800 / self._pixel_m / _COARSE))
        free = self._free["sea"]
        span = gap * (side - 1) + 1
        roomy = ndimage.minimum_filter(
            free, size=span, origin=-(span // 2), mode="constant", cval=0
        )
        candidates = np.flatnonzero(roomy if roomy.any() else free)
        if candidates.size == 0:
            return []
        top, left = divmod(int(self._rng.choice(candidates)), free.shape[1])
        found = []
        for index in range(count):
            row, col = top + gap * (index // side), left + gap * (index % side)
            if row < free.shape[0] and col < free.shape[1] and free[row, col]:
                found.append((row * _COARSE + 1.5, col * _COARSE + 1.5))
        for row, col in found:
            self._block(int(row) // _COARSE, int(col) // _COARSE)
        return found

    def _block(self, row: int, col: int) -> None:
        reach = self._reach
        near = np.s_[max(0, row - reach) : row + reach + 1, max(0, col - reach) : col + reach + 1]
        for free in self._free.values():
            free[near] = False


def _eroded(mask: npt.NDArray[np.bool_], margin: int) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = ndimage.minimum_filter(
        mask, size=2 * margin + 1, mode="constant", cval=False
    )
    return found


def _steel(
    place: tuple[float, float],
    shape_m: tuple[float, float, float],
    kind: str,
    pixel_m: float,
    tone: float,
) -> Planted:
    """A steel rectangle at (row, column): length, width (metres), heading (radians)."""
    (row, col), (length, width, heading) = place, shape_m
    reach = int(np.ceil(length / pixel_m / 2)) + 1
    rows, cols = np.mgrid[
        int(row) - reach : int(row) + reach + 1, int(col) - reach : int(col) + reach + 1
    ]
    parts = (np.arange(_SUPERSAMPLING) + 0.5) / _SUPERSAMPLING
    dy = (rows[..., None, None] + parts[:, None] - row) * pixel_m
    dx = (cols[..., None, None] + parts[None, :] - col) * pixel_m
    along = np.abs(dx * np.cos(heading) + dy * np.sin(heading)) <= length / 2
    across = np.abs(dy * np.cos(heading) - dx * np.sin(heading)) <= width / 2
    cover = (along & across).mean(axis=(2, 3)).astype(np.float32)
    blurred = ndimage.gaussian_filter(cover, 0.4)
    hit = blurred > 0.01
    facts = {"length_m": round(length), "width_m": round(width), "pixels": int((cover > 0.1).sum())}
    return Planted(kind, row, col, rows[hit], cols[hit], blurred[hit],
                   tone * _STEEL[:, None] * blurred[hit], facts)  # fmt: skip


def _fire(
    row: float, col: float, rng: np.random.Generator, sin_elevation: float, *, strong: bool
) -> Planted:
    """A front of 2 to 14 burning pixels; the strong ones saturate the short-wave bands."""
    count = int(rng.integers(5, 15) if strong else rng.integers(2, 7))
    steps = np.cumsum(rng.choice([-1, 0, 1], (count, 2)), axis=0)
    steps = np.unique(np.vstack([[0, 0], steps]), axis=0)
    temperature = float(rng.uniform(950, 1200) if strong else rng.uniform(800, 950))
    weakest = -2.0 if strong else -2.3
    share = (10.0 ** rng.uniform(weakest, weakest + 0.5, len(steps))).astype(np.float32)
    added = np.zeros((7, len(steps)), dtype=np.float32)
    for band, (sun, wavelength) in _SUN.items():
        glow = np.pi * planck(wavelength, temperature) / (sun * sin_elevation)
        added[band] = share * glow
    facts = {
        "temperature_k": round(temperature),
        "fraction": round(float(share.mean()), 5),
        "pixels": len(steps),
    }
    rows, cols = steps[:, 0] + int(row), steps[:, 1] + int(col)
    return Planted("fire", float(rows.mean()) + 0.5, float(cols.mean()) + 0.5, rows, cols,
                   np.zeros(len(steps), dtype=np.float32), added, facts)  # fmt: skip


def planck(wavelength_um: float, temperature_k: float) -> np.float64:
    """Black-body radiance, W m-2 sr-1 um-1."""
    exponent = np.float64(14387.75 / (wavelength_um * temperature_k))
    radiance: np.float64 = 1.191043e8 / wavelength_um**5 / np.expm1(exponent)
    return radiance
