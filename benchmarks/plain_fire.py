"""The active-fire algorithms in plain numpy over a whole scene: baseline and test oracle.

The same rules as `modules.active_fire.kernels` (see there for the sources), written for
reading and not for speed: whole-scene float64 arrays, a loop over candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Bools = npt.NDArray[np.bool_]
Reals = npt.NDArray[np.float64]
Bands = Mapping[int, Reals]

_NEIGHBOURS = np.ones((3, 3), bool)
REACH = 30


def detect(
    numbers: Mapping[int, npt.NDArray[np.uint16]], sun_elevation: float, saturated: Bools
) -> npt.NDArray[np.uint8]:
    """The mask of `modules.active_fire`: bits Schroeder, GOLI, Murphy, vote.

    Args:
        numbers: digital numbers of bands 1 to 7 by number; saturation is restored.
        sun_elevation: degrees.
        saturated: bool, where band 6 or 7 is.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        plain = {b: 2e-5 * n.astype(float) - 0.1 for b, n in numbers.items()}
        sine = math.sin(math.radians(sun_elevation))
        schroeder_mask = schroeder(plain)
        corrected = {b: u / sine for b, u in plain.items()}
        del plain
        tests = (schroeder_mask, goli(corrected), murphy(corrected, saturated))
    mask = np.zeros(tests[0].shape, np.uint8)
    for bit, test in enumerate(tests):
        mask |= test.astype(np.uint8) << bit
    mask |= (np.sum(tests, axis=0) >= 2).astype(np.uint8) << 3
    return mask


def schroeder(u: Bands) -> Bools:
    """Schroeder et al. 2016, equations 1 to 9."""
    ratio, difference = u[7] / u[5], u[7] - u[5]
    fire = (u[7] > 0.5) & (ratio > 2.5) & (difference > 0.3)
    fire |= (u[6] > 0.8) & (u[1] < 0.2) & ((u[5] > 0.4) | (u[7] < 0.1))
    candidate = (ratio > 1.8) & (difference > 0.17) & (u[7] / u[6] > 1.6)
    water = (u[4] > u[5]) & (u[5] > u[6]) & (u[6] > u[7]) & (u[1] - u[7] < 0.2)
    water &= (u[3] > u[2]) | ((u[1] > u[2]) & (u[2] > u[3]) & (u[3] > u[4]))
    keep = (u[7] > 0) & ~fire & ~water
    for y, x in np.argwhere(candidate & ~fire):
        window = _window(y, x, REACH)
        candidate[y, x] = _stands_out(ratio, u[7], y, x, window, keep)
    result: Bools = (fire | candidate) & ~water
    return result


def goli(c: Bands) -> Bools:
    """Kumar and Roy 2018, equations 8 to 16."""
    valid = ndimage.binary_erosion(c[7] > 0, _NEIGHBOURS, border_value=1)
    fire = valid & (c[4] <= 0.53 * c[7] - 0.214)
    near = ndimage.binary_dilation(fire, _NEIGHBOURS)
    fire |= valid & near & (c[4] <= 0.35 * c[6] - 0.044)
    candidate = valid & ((c[4] <= 0.53 * c[7] - 0.125) | (c[6] <= 1.08 * c[7] - 0.048))
    water = (c[2] > c[3]) & (c[3] > c[4]) & (c[4] > c[5])
    keep = valid & ~fire & ~candidate & ~water
    ratio = c[7] / c[5]
    passed = np.zeros_like(candidate)
    for y, x in np.argwhere(candidate & ~fire):
        for reach in range(2, REACH + 1):
            window = _window(y, x, reach)
            if keep[window].mean() >= 0.25:
                passed[y, x] = _stands_out(ratio, c[7], y, x, window, keep)
                break
    result: Bools = (fire | passed) & ~water
    return result


def murphy(c: Bands, saturated: Bools) -> Bools:
    """Murphy et al. 2016, equations 2 and 3."""
    fire = (c[7] >= 0.15) & (c[7] / c[6] >= 1.4) & (c[7] / c[5] >= 1.4)
    near = ndimage.binary_dilation(fire, _NEIGHBOURS)
    result: Bools = fire | (near & (((c[6] / c[5] >= 2) & (c[6] >= 0.5)) | saturated))
    return result


def _window(y: int, x: int, reach: int) -> tuple[slice, slice]:
    return (
        slice(max(0, y - reach), y + reach + 1),
        slice(max(0, x - reach), x + reach + 1),
    )


def _stands_out(
    ratio: Reals, bright: Reals, y: int, x: int, window: tuple[slice, slice], keep: Bools
) -> bool:
    kept = keep[window]
    if not kept.any():
        return False
    r, b = ratio[window][kept], bright[window][kept]
    return bool(
        ratio[y, x] > r.mean() + max(3 * r.std(), 0.8)
        and bright[y, x] > b.mean() + max(3 * b.std(), 0.08)
    )
