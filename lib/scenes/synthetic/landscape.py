"""A synthetic landscape: coast, vegetation, bare ground and clouds as functions of the pixel.

Every field is a sum of octaves of value noise over fixed lattices, so any window can be
computed by itself and joins its neighbours without a seam. That keeps a full scene of
7,700 x 7,800 pixels as cheap in memory as a sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

#: Mean top-of-atmosphere reflectance of B2..B7, measured on real Landsat 8 crops.
CLASS_MEANS = {
    "water": (0.119, 0.103, 0.075, 0.032, 0.012, 0.008),
    "vegetation": (0.095, 0.083, 0.050, 0.418, 0.164, 0.058),
    "savanna": (0.108, 0.092, 0.082, 0.234, 0.198, 0.101),
    "bare": (0.140, 0.125, 0.122, 0.158, 0.146, 0.111),
    "cloud": (0.549, 0.549, 0.564, 0.667, 0.549, 0.406),
}
#: B1 lies this much above B2.
_COASTAL_ABOVE_BLUE = 0.012
#: Noise is drawn jointly for B1..B7. Independent noise per band made ratios of dark
#: bands jump and 254 false fires (Murphy's test) in a scene without any.
_BAND_DISTANCE = np.abs(np.subtract.outer(np.arange(7), np.arange(7)))
_NOISE = np.linalg.cholesky(0.999 * 0.93**_BAND_DISTANCE + 0.001 * np.eye(7)).astype(np.float32)
_LAND_NOISE, _WATER_NOISE = 0.035, 0.0012


@dataclass(frozen=True, slots=True)
class Window:
    """Rows [top, bottom) and columns [left, right), every `step`-th pixel."""

    top: int
    bottom: int
    left: int
    right: int
    step: int = 1

    @property
    def rows(self) -> npt.NDArray[np.float64]:
        """Row numbers."""
        return np.arange(self.top, self.bottom, self.step, dtype=np.float64)

    @property
    def cols(self) -> npt.NDArray[np.float64]:
        """Column numbers."""
        return np.arange(self.left, self.right, self.step, dtype=np.float64)


class Field:
    """Fractal value noise, about -1..1, over an area of `height` x `width` pixels.

    Args:
        longest: wavelength of the first octave, pixels; each next one is half as long
            and has `gain` of the strength, down to `shortest`, but there are two at least.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        height: int,
        width: int,
        *,
        longest: float,
        shortest: float,
        gain: float = 0.5,
    ) -> None:
        self._octaves: list[tuple[float, float, float, float, Floats]] = []
        length, strength, total = longest, 1.0, 0.0
        while length >= shortest or len(self._octaves) < 2:
            shape = (int(height / length) + 3, int(width / length) + 3)
            lattice = rng.uniform(-1, 1, shape).astype(np.float32)
            shift_row, shift_col = rng.uniform(0, 1, 2)
            self._octaves.append((length, strength, float(shift_row), float(shift_col), lattice))
            total += strength
            length, strength = length / 2, strength * gain
        self._scale = 1.6 / total

    def at(self, window: Window) -> Floats:
        """Values (rows, columns) of the window."""
        result = np.zeros((window.rows.size, window.cols.size), dtype=np.float32)
        for length, strength, shift_row, shift_col, lattice in self._octaves:
            row, row_part = _steps(window.rows / length + shift_row)
            col, col_part = _steps(window.cols / length + shift_col)
            lines = lattice[row] * (1 - row_part)[:, None] + lattice[row + 1] * row_part[:, None]
            result += strength * (lines[:, col] * (1 - col_part) + lines[:, col + 1] * col_part)
        return result * np.float32(self._scale)


def _field(
    rng: np.random.Generator,
    shape: tuple[int, int],
    longest: float,
    shortest: float,
    gain: float = 0.5,
) -> Field:
    return Field(rng, *shape, longest=longest, shortest=max(3.0, shortest), gain=gain)


class Landscape:
    """Terrain, cover and clouds of one place.

    Args:
        seed: the place; two dates of one place share it.
        weather: the date; clouds and noise differ, the ground stays.
        sea: fraction of the area under water, about.
        cloud: fraction of the area under cloud, about.
    """

    def __init__(
        self,
        seed: int,
        weather: int,
        shape: tuple[int, int],
        pixel_m: float,
        *,
        sea: float,
        cloud: float,
    ) -> None:
        height, width = shape
        rng = np.random.default_rng([seed, 1])
        sky = np.random.default_rng([seed, weather, 2])
        size = float(max(height, width))
        self._weather = (seed, weather, 3)
        self._direction = rng.uniform(0, 2 * np.pi)
        self._size = size
        self._ground = _field(rng, shape, size / 2.5, 900 / pixel_m, gain=0.36)
        self._cover = _field(rng, shape, 4_000 / pixel_m, 90 / pixel_m)
        self._texture = _field(rng, shape, 600 / pixel_m, 3, gain=0.8)
        self._sky = _field(sky, shape, 6_000 / pixel_m, 240 / pixel_m)
        self.shape = shape
        coarse = Window(0, height, 0, width, max(1, int(size / 400)))
        self._sea_level = float(np.quantile(self._raw_height(coarse), sea))
        self._cloud_level = float(np.quantile(self._sky.at(coarse), 1 - cloud)) if cloud else np.inf

    def height(self, window: Window) -> Floats:
        """Terrain above the sea, arbitrary units; below 0 is water."""
        return self._raw_height(window) - np.float32(self._sea_level)

    def cloud(self, window: Window) -> Floats:
        """Opacity of clouds, 0..1."""
        if not np.isfinite(self._cloud_level):
            return np.zeros((window.rows.size, window.cols.size), dtype=np.float32)
        return _smooth((self._sky.at(window) - self._cloud_level) / 0.08)

    def reflectance(self, window: Window) -> tuple[Floats, Floats, Floats]:
        """What the sensor sees, without objects; `window.step` must be 1.

        Returns:
            reflectance: (7, rows, columns), top of atmosphere, sun-corrected, B1..B7;
            land: fraction of land, 0..1;
            cloud: opacity, 0..1.
        """
        land = _smooth(self.height(window) / 0.006)
        cloud = self.cloud(window)
        clear = self._ground_cover(window) * land + self._mean("water") * (1 - land)
        shade: Floats = 1 + np.float32(0.10) * self._texture.at(window) * land
        noise = self._noise(window)
        clear = clear * (shade + _LAND_NOISE * land * noise) + _WATER_NOISE * (1 - land) * noise
        bright = self._mean("cloud") * (0.9 + 0.1 * self._texture.at(window)) * (1 + 0.01 * noise)
        return clear * (1 - cloud) + bright * cloud, land, cloud

    def _raw_height(self, window: Window) -> Floats:
        along = np.cos(self._direction) * window.rows[:, None] / self._size
        across = np.sin(self._direction) * window.cols[None, :] / self._size
        slope = (1.2 * (along + across)).astype(np.float32)
        raw: Floats = self._ground.at(window) + slope
        return raw

    def _ground_cover(self, window: Window) -> Floats:
        cover = self._cover.at(window)
        green = _smooth((cover + 0.05) / 0.35)
        dry = _smooth((-cover - 0.30) / 0.25)
        mixed = self._mean("savanna") * (1 - green) + self._mean("vegetation") * green
        ground: Floats = mixed * (1 - dry) + self._mean("bare") * dry
        return ground

    def _noise(self, window: Window) -> Floats:
        """Correlated over B1..B7, independent between pixels; the same for one window."""
        rng = np.random.default_rng([*self._weather, window.top, window.left])
        shape = (7, window.rows.size * window.cols.size)
        drawn = _NOISE @ rng.standard_normal(shape, dtype=np.float32)
        return drawn.reshape(7, window.rows.size, window.cols.size)

    @staticmethod
    def _mean(name: str) -> Floats:
        means = CLASS_MEANS[name]
        values = (means[0] + _COASTAL_ABOVE_BLUE, *means)
        return np.asarray(values, dtype=np.float32)[:, None, None]


def _steps(at: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.intp], Floats]:
    whole = np.floor(at)
    return whole.astype(np.intp), _smooth((at - whole).astype(np.float32))


def _smooth(value: npt.NDArray[np.floating]) -> Floats:
    inside = np.clip(value, 0, 1).astype(np.float32)
    smooth: Floats = inside * inside * (3 - 2 * inside)
    return smooth
