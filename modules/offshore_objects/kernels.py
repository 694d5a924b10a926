"""Water and bright objects on it, as compiled kernels over one strip.

* Water: NDWI = (green - NIR) / (green + NIR), McFeeters 1996,
  doi:10.1080/01431169608948714, above a threshold.
* Objects: cell-averaging CFAR as in radar (Rohling 1983, doi:10.1109/TAES.1983.309350):
  a pixel stands out when its NIR lies k standard deviations above the mean of the water
  pixels in a square ring around it.

All sums are of whole numbers and exact, so the result does not depend on the strips.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modulekit.arrays import Bits, Bools, Integers, Numbers, Reals, Strengths
from modulekit.compiled import compiled

#: Summed-area tables.
Sums = npt.NDArray[np.uint64]

OBJECT, WATER = 1, 2
#: The ring must hold this share of what a whole ring has, also at the scene's edge.
LEAST_RING = 0.25
#: Variance that rounding to whole numbers adds (Sheppard's correction).
ROUNDING_VARIANCE = 1.0 / 12.0


@compiled
def ndwi(green: float, nir: float) -> float:
    """NDWI of two reflectances, limited to -1..1 (atmospheric correction may overshoot)."""
    total = green + nir
    if total <= 0.0:
        return 1.0 if green > nir else -1.0
    return min(1.0, max(-1.0, (green - nir) / total))


@compiled
def count_ndwi(green: Numbers, nir: Numbers, calibration: Reals, histogram: Integers) -> None:
    """Add the NDWI of all pixels with data to `histogram` (bins over -1..1); in place.

    `calibration` is scale and offset of green, then of NIR.
    """
    bins = histogram.size
    rows, width = green.shape
    for i in range(rows):
        for j in range(width):
            if green[i, j] == 0 and nir[i, j] == 0:
                continue
            g = calibration[0] * green[i, j] + calibration[1]
            n = calibration[2] * nir[i, j] + calibration[3]
            position = int((ndwi(g, n) + 1.0) * 0.5 * bins)
            histogram[min(bins - 1, position)] += 1


@compiled
def find_water(
    green: Numbers, nir: Numbers, calibration: Reals, threshold: float
) -> tuple[Bools, Bools]:
    """Which pixels have data, and which of them are water; bool (rows, width)."""
    rows, width = green.shape
    valid = np.zeros((rows, width), np.bool_)
    water = np.zeros((rows, width), np.bool_)
    for i in range(rows):
        for j in range(width):
            if green[i, j] == 0 and nir[i, j] == 0:
                continue
            valid[i, j] = True
            g = calibration[0] * green[i, j] + calibration[1]
            n = calibration[2] * nir[i, j] + calibration[3]
            water[i, j] = ndwi(g, n) > threshold
    return valid, water


@compiled
def table_of(keep: Bools, values: Numbers, power: int, table: Sums) -> Sums:
    """Summed-area table of values**power over the kept pixels; wraps around, exactly."""
    rows, width = keep.shape
    for i in range(rows):
        line = table[0, 0]
        for j in range(width):
            if keep[i, j]:
                term = np.uint64(1)
                for _ in range(power):
                    term *= np.uint64(values[i, j])
                line += term
            table[i + 1, j + 1] = table[i, j + 1] + line
    return table


@compiled
def ring_sum(table: Sums, i: int, j: int, outer: int, guard: int, rows: int, width: int) -> float:
    """Sum over the square of reach `outer` around (i, j) without that of reach `guard`."""
    total = np.uint64(0)
    for reach, sign in ((outer, True), (guard, False)):
        top, bottom = max(0, i - reach), min(rows, i + reach + 1)
        left, right = max(0, j - reach), min(width, j + reach + 1)
        square = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        total = total + square if sign else total - square
    return float(total)


@compiled
def cfar(
    nir: Numbers,
    valid: Bools,
    water: Bools,
    reaches: tuple[int, int],
    k: float,
    water_share: float,
    y0: int,
    y1: int,
) -> tuple[Bits, Strengths]:
    """Bits OBJECT and WATER, uint8, of rows y0 to y1; and float32 (objects' pixels, 3), in
    row-major order: z, and which parts of a whole ring are water and have data.

    Args:
        reaches: of the outer square and of the guard square, pixels.
        k: how many standard deviations make an object.
        water_share: part of the ring's pixels with data that must be water.
    """
    outer, guard = reaches
    rows, width = nir.shape
    sea = table_of(water, nir, 0, np.zeros((rows + 1, width + 1), np.uint64))
    data = table_of(valid, nir, 0, np.zeros((rows + 1, width + 1), np.uint64))
    first = table_of(water, nir, 1, np.zeros((rows + 1, width + 1), np.uint64))
    second = table_of(water, nir, 2, np.zeros((rows + 1, width + 1), np.uint64))
    whole = (2 * outer + 1) ** 2 - (2 * guard + 1) ** 2
    mask = np.zeros((y1 - y0, width), np.uint8)
    z = np.zeros((y1 - y0, width), np.float32)
    found = 0
    for i in range(y0, y1):
        for j in range(width):
            if not valid[i, j]:
                continue
            if water[i, j]:
                mask[i - y0, j] = WATER
            n = ring_sum(sea, i, j, outer, guard, rows, width)
            if n < max(2.0, LEAST_RING * whole):
                continue
            if n < water_share * ring_sum(data, i, j, outer, guard, rows, width):
                continue
            mean = ring_sum(first, i, j, outer, guard, rows, width) / n
            if nir[i, j] <= mean:
                continue
            variance = ring_sum(second, i, j, outer, guard, rows, width) / n - mean * mean
            above = (nir[i, j] - mean) / np.sqrt(max(0.0, variance) + ROUNDING_VARIANCE)
            if above >= k:
                mask[i - y0, j] |= OBJECT
                z[i - y0, j] = above
                found += 1
    strength = np.empty((found, 3), np.float32)
    at = 0
    for i in range(y0, y1):
        for j in range(width):
            if mask[i - y0, j] & OBJECT:
                strength[at, 0] = z[i - y0, j]
                strength[at, 1] = ring_sum(sea, i, j, outer, guard, rows, width) / whole
                strength[at, 2] = ring_sum(data, i, j, outer, guard, rows, width) / whole
                at += 1
    return mask, strength
