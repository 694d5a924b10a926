"""The three fire tests as compiled kernels over one strip of uint16 digital numbers.

Source: the reference code of Pereira et al. 2021 (github.com/pereira-gha/activefire,
CC BY 4.0), after

* Schroeder et al. 2016, doi:10.1016/j.rse.2015.08.032, equations 1-9 ("S" below);
* Kumar & Roy 2018 (GOLI), doi:10.1080/17538947.2017.1391341, equations 8-16 ("G");
* Murphy et al. 2016 (HOTMAP), doi:10.1016/j.rse.2016.02.027, equations 2-3 ("M").

Reflectance of band b is u_b = scale_b DN + offset_b, and c_b = u_b / sin(sun elevation).
Schroeder uses u, the other two use c.

Every decision about a pixel depends on at most HALO pixels around it, and every sum is
taken in an order that is fixed by the pixel alone (or exactly, in whole numbers), so the
masks do not depend on how a scene is cut into strips.

One file on purpose: numba's cache of a function does not notice a change of what it calls
in another file.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from modulekit.arrays import Bits, Bools, Numbers, Reals
from modulekit.compiled import compiled

#: Summed-area tables: of how many pixels, and of their numbers.
Counts = npt.NDArray[np.uint16]
Sums = npt.NDArray[np.uint32]
U = TypeVar("U", np.uint16, np.uint32)

#: Context windows reach 30 pixels; a GOLI background pixel is judged by its neighbours'
#: equation 12, which asks for valid neighbours of theirs.
HALO = 32
REACH = 30
#: Up to so many Schroeder candidates in a strip are tested one by one.
FEW = 2000

SCHROEDER, GOLI, MURPHY, VOTE = 1, 2, 4, 8

# Bits of the per-pixel flags.
POSITIVE = 1
S_FIRE = 2
S_CANDIDATE = 4
S_WATER = 8
G_HOT = 16
G_CANDIDATE = 32
G_WATER = 64
M_FIRE = 128

SATURATED = 65535


@compiled
def restore_saturated(
    blue: Numbers, green: Numbers, red: Numbers, nir: Numbers, swir1: Numbers, swir2: Numbers
) -> int:
    """Set SWIR digital numbers of 0 to 65535 where blue to NIR have data.

    Some products store saturated SWIR pixels (flames) as fill. Works in place and
    returns how many values were restored.
    """
    restored = 0
    rows, width = red.shape
    for i in range(rows):
        for j in range(width):
            if (swir1[i, j] == 0 or swir2[i, j] == 0) and (
                blue[i, j] > 0 and green[i, j] > 0 and red[i, j] > 0 and nir[i, j] > 0
            ):
                if swir1[i, j] == 0:
                    swir1[i, j] = SATURATED
                    restored += 1
                if swir2[i, j] == 0:
                    swir2[i, j] = SATURATED
                    restored += 1
    return restored


@compiled
def restore_flagged(band: Numbers, radsat: Numbers, bit: int) -> int:
    """Set `band` to 65535 where QA_RADSAT says that it is saturated; in place."""
    restored = 0
    rows, width = band.shape
    for i in range(rows):
        for j in range(width):
            if (radsat[i, j] >> bit) & 1 and band[i, j] != SATURATED:
                band[i, j] = SATURATED
                restored += 1
    return restored


@compiled
def classify(
    dn1: Numbers,
    dn2: Numbers,
    dn3: Numbers,
    dn4: Numbers,
    dn5: Numbers,
    dn6: Numbers,
    dn7: Numbers,
    scale: Reals,
    offset: Reals,
    sine: float,
) -> Bits:
    """All tests that look at one pixel alone, as flag bits: uint8 (rows, width).

    `scale` and `offset` have eight entries; entry b belongs to band b.
    """
    rows, width = dn7.shape
    flags = np.zeros((rows, width), np.uint8)
    for i in range(rows):
        for j in range(width):
            u1 = scale[1] * dn1[i, j] + offset[1]
            u2 = scale[2] * dn2[i, j] + offset[2]
            u3 = scale[3] * dn3[i, j] + offset[3]
            u4 = scale[4] * dn4[i, j] + offset[4]
            u5 = scale[5] * dn5[i, j] + offset[5]
            u6 = scale[6] * dn6[i, j] + offset[6]
            u7 = scale[7] * dn7[i, j] + offset[7]
            c4 = u4 / sine
            c6 = u6 / sine
            c7 = u7 / sine
            f = 0
            if u7 > 0:
                f |= POSITIVE
            # S 2: very bright at 1.6 um, dark at 0.44 um.
            if u6 > 0.8 and u1 < 0.2 and (u5 > 0.4 or u7 < 0.1):
                f |= S_FIRE
            if u7 - u5 > 0.17:
                ratio = u7 / u5
                if u7 > 0.5 and ratio > 2.5 and u7 - u5 > 0.3:  # S 1
                    f |= S_FIRE
                if ratio > 1.8 and u7 / u6 > 1.6:  # S 3 and 6
                    f |= S_CANDIDATE
            if u4 > u5:
                # S 7-9 and G 16: water gets darker with wavelength.
                if (
                    u5 > u6
                    and u6 > u7
                    and u1 - u7 < 0.2
                    and (u3 > u2 or (u1 > u2 and u2 > u3 and u3 > u4))
                ):
                    f |= S_WATER
                if u2 / sine > u3 / sine and u3 / sine > c4 and c4 > u5 / sine:
                    f |= G_WATER
            if c4 <= 0.53 * c7 - 0.214:  # G 12
                f |= G_HOT
            if c4 <= 0.53 * c7 - 0.125 or c6 <= 1.08 * c7 - 0.048:  # G 14, 15
                f |= G_CANDIDATE
            if c7 >= 0.15 and c7 / c6 >= 1.4 and c7 / (u5 / sine) >= 1.4:  # M 2
                f |= M_FIRE
            flags[i, j] = f
    return flags


@compiled
def window_sums(keep: Bools, dn7: Numbers) -> tuple[Counts, Sums]:
    """Summed-area tables of how many pixels are kept and of their band 7 numbers.

    Both wrap around; a window of 61 x 61 pixels needs 12 and 28 bits, so differences
    are exact in 16 and 32.
    """
    rows, width = keep.shape
    count = np.zeros((rows + 1, width + 1), np.uint16)
    total = np.zeros((rows + 1, width + 1), np.uint32)
    for i in range(rows):
        n = np.uint16(0)
        s = np.uint32(0)
        for j in range(width):
            if keep[i, j]:
                n += np.uint16(1)
                s += np.uint32(dn7[i, j])
            count[i + 1, j + 1] = count[i, j + 1] + n
            total[i + 1, j + 1] = total[i, j + 1] + s
    return count, total


@compiled
def box(table: npt.NDArray[U], top: int, left: int, bottom: int, right: int) -> U:
    """Sum over rows top..bottom and columns left..right (exclusive), modulo the type."""
    found: U = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    return found


@compiled
def schroeder(
    flags: Bits,
    dn5: Numbers,
    dn7: Numbers,
    scale: Reals,
    offset: Reals,
    y0: int,
    y1: int,
    out: Bits,
) -> None:
    """S 4-5, the 61 x 61 context test, and the result into bit SCHROEDER of `out`."""
    rows, width = flags.shape
    undecided = 0
    for i in range(y0, y1):
        for j in range(width):
            f = flags[i, j]
            if f & S_WATER:
                continue
            if f & S_FIRE:
                out[i - y0, j] |= SCHROEDER
            elif f & S_CANDIDATE:
                undecided += 1
    if undecided == 0:
        return
    keep = ((flags & POSITIVE) != 0) & ((flags & (S_FIRE | S_WATER)) == 0)
    # Half of S 5 from exact sums, with room for rounding, spares most windows; but for a
    # few candidates the sums of a whole strip cost more than they spare.
    many = undecided > FEW
    count, total = window_sums(keep if many else keep[:0], dn7)
    columns = np.zeros((width, 5))
    for i in range(y0, y1):
        top, bottom = max(0, i - REACH), min(rows, i + REACH + 1)
        done = 0
        for j in range(width):
            if flags[i, j] & (S_FIRE | S_CANDIDATE | S_WATER) != S_CANDIDATE:
                continue
            left, right = max(0, j - REACH), min(width, j + REACH + 1)
            u7 = scale[7] * dn7[i, j] + offset[7]
            if many:
                n = float(box(count, top, left, bottom, right) & np.uint16(0xFFFF))
                s = float(box(total, top, left, bottom, right) & np.uint32(0xFFFFFFFF))
                if n == 0 or u7 < scale[7] * s / n + offset[7] + 0.08 - 1e-9:
                    continue
            column_sums(keep, dn5, dn7, scale, offset, top, bottom, max(done, left), right, columns)
            done = max(done, right)
            ratio = u7 / (scale[5] * dn5[i, j] + offset[5])
            if stands_out(columns, left, right, ratio, u7):
                out[i - y0, j] |= SCHROEDER


@compiled
def column_sums(
    keep: Bools,
    dn5: Numbers,
    dn7: Numbers,
    scale: Reals,
    offset: Reals,
    top: int,
    bottom: int,
    left: int,
    right: int,
    columns: Reals,
) -> None:
    """Per column: number, sum and sum of squares of u7/u5, and of u7, of kept pixels."""
    for j in range(left, right):
        n = r1 = r2 = b1 = b2 = 0.0
        for i in range(top, bottom):
            if keep[i, j]:
                u7 = scale[7] * dn7[i, j] + offset[7]
                ratio = u7 / (scale[5] * dn5[i, j] + offset[5])
                n += 1.0
                r1 += ratio
                r2 += ratio * ratio
                b1 += u7
                b2 += u7 * u7
        columns[j, 0] = n
        columns[j, 1] = r1
        columns[j, 2] = r2
        columns[j, 3] = b1
        columns[j, 4] = b2


@compiled
def stands_out(columns: Reals, left: int, right: int, ratio: float, u7: float) -> bool:
    """S 4 and 5: above mean + max(3 sigma, 0.8) and mean + max(3 sigma, 0.08)."""
    n = r1 = r2 = b1 = b2 = 0.0
    for j in range(left, right):
        n += columns[j, 0]
        r1 += columns[j, 1]
        r2 += columns[j, 2]
        b1 += columns[j, 3]
        b2 += columns[j, 4]
    mean_r = r1 / n
    mean_b = b1 / n
    sigma_r = np.sqrt(max(0.0, r2 / n - mean_r * mean_r))
    sigma_b = np.sqrt(max(0.0, b2 / n - mean_b * mean_b))
    above: bool = ratio > mean_r + max(3 * sigma_r, 0.8) and u7 > mean_b + max(3 * sigma_b, 0.08)
    return above


@compiled
def goli_states(
    flags: Bits, dn4: Numbers, dn6: Numbers, scale: Reals, offset: Reals, sine: float
) -> tuple[Bools, Bools]:
    """Unambiguous fires (G 12, 13) and usable background, both bool (rows, width)."""
    rows, width = flags.shape
    valid = np.ones((rows, width), np.bool_)
    for i in range(rows):
        for j in range(width):
            if flags[i, j] & POSITIVE == 0:
                valid[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2] = False
    fire = np.zeros((rows, width), np.bool_)
    for i in range(rows):
        for j in range(width):
            if not (flags[i, j] & G_HOT and valid[i, j]):
                continue
            for y in range(max(0, i - 1), min(rows, i + 2)):
                for x in range(max(0, j - 1), min(width, j + 2)):
                    if valid[y, x] and not fire[y, x]:
                        c4 = (scale[4] * dn4[y, x] + offset[4]) / sine
                        c6 = (scale[6] * dn6[y, x] + offset[6]) / sine
                        fire[y, x] = c4 <= 0.35 * c6 - 0.044
            fire[i, j] = True
    keep = np.empty((rows, width), np.bool_)
    for i in range(rows):
        for j in range(width):
            keep[i, j] = (
                valid[i, j] and not fire[i, j] and (flags[i, j] & (G_CANDIDATE | G_WATER)) == 0
            )
            # From here on a candidate is one that is valid and undecided.
            if flags[i, j] & G_CANDIDATE and (fire[i, j] or not valid[i, j]):
                flags[i, j] &= ~np.uint8(G_CANDIDATE)
    return fire, keep


@compiled
def goli(
    flags: Bits,
    dn4: Numbers,
    dn5: Numbers,
    dn6: Numbers,
    dn7: Numbers,
    scale: Reals,
    offset: Reals,
    sine: float,
    y0: int,
    y1: int,
    out: Bits,
) -> None:
    """G 8-16 into bit GOLI of `out`. Alters the G_CANDIDATE bit of `flags`."""
    rows, width = flags.shape
    around = flags[max(0, y0 - 1) : y1 + 1]
    if not np.any(around & (G_HOT | G_CANDIDATE)):
        return
    fire, keep = goli_states(flags, dn4, dn6, scale, offset, sine)
    count, total = window_sums(keep, dn7)
    for i in range(y0, y1):
        for j in range(width):
            if flags[i, j] & G_WATER:
                continue
            if fire[i, j]:
                out[i - y0, j] |= GOLI
            if flags[i, j] & G_CANDIDATE == 0:
                continue
            reach = usable_reach(count, i, j, rows, width)
            if reach == 0:
                continue
            top, bottom = max(0, i - reach), min(rows, i + reach + 1)
            left, right = max(0, j - reach), min(width, j + reach + 1)
            n = float(box(count, top, left, bottom, right) & np.uint16(0xFFFF))
            s = float(box(total, top, left, bottom, right) & np.uint32(0xFFFFFFFF))
            c7 = (scale[7] * dn7[i, j] + offset[7]) / sine
            if c7 < (scale[7] * s / n + offset[7]) / sine + 0.08 - 1e-9:
                continue
            ratio = c7 / ((scale[5] * dn5[i, j] + offset[5]) / sine)
            if goli_stands_out(
                keep, dn5, dn7, scale, offset, sine, top, left, bottom, right, n, ratio, c7
            ):
                out[i - y0, j] |= GOLI


@compiled
def usable_reach(count: Counts, i: int, j: int, rows: int, width: int) -> int:
    """The smallest reach (2..30) whose window is at least a quarter background, or 0."""
    for reach in range(2, REACH + 1):
        top, bottom = max(0, i - reach), min(rows, i + reach + 1)
        left, right = max(0, j - reach), min(width, j + reach + 1)
        n = box(count, top, left, bottom, right) & np.uint16(0xFFFF)
        if 4 * n >= (bottom - top) * (right - left):
            return reach
    return 0


@compiled
def goli_stands_out(
    keep: Bools,
    dn5: Numbers,
    dn7: Numbers,
    scale: Reals,
    offset: Reals,
    sine: float,
    top: int,
    left: int,
    bottom: int,
    right: int,
    n: float,
    ratio: float,
    c7: float,
) -> bool:
    """G 8 and 9 with the mean and deviation of the kept pixels of one window."""
    r1 = b1 = 0.0
    for y in range(top, bottom):
        for x in range(left, right):
            if keep[y, x]:
                b = (scale[7] * dn7[y, x] + offset[7]) / sine
                r1 += b / ((scale[5] * dn5[y, x] + offset[5]) / sine)
                b1 += b
    mean_r = r1 / n
    mean_b = b1 / n
    if not (ratio > mean_r + 0.8 and c7 > mean_b + 0.08):
        return False
    r2 = b2 = 0.0
    for y in range(top, bottom):
        for x in range(left, right):
            if keep[y, x]:
                b = (scale[7] * dn7[y, x] + offset[7]) / sine
                r = b / ((scale[5] * dn5[y, x] + offset[5]) / sine)
                r2 += (r - mean_r) ** 2
                b2 += (b - mean_b) ** 2
    above: bool = ratio > mean_r + 3 * np.sqrt(r2 / n) and c7 > mean_b + 3 * np.sqrt(b2 / n)
    return above


@compiled
def murphy(
    flags: Bits,
    dn5: Numbers,
    dn6: Numbers,
    dn7: Numbers,
    scale: Reals,
    offset: Reals,
    sine: float,
    y0: int,
    y1: int,
    out: Bits,
) -> None:
    """M 2, and M 3 in the neighbourhood, into bit MURPHY of `out`."""
    rows, width = flags.shape
    for i in range(max(0, y0 - 1), min(rows, y1 + 1)):
        for j in range(width):
            if flags[i, j] & M_FIRE == 0:
                continue
            for y in range(max(y0, i - 1), min(y1, i + 2)):
                for x in range(max(0, j - 1), min(width, j + 2)):
                    c5 = (scale[5] * dn5[y, x] + offset[5]) / sine
                    c6 = (scale[6] * dn6[y, x] + offset[6]) / sine
                    saturated = dn6[y, x] == SATURATED or dn7[y, x] == SATURATED
                    if saturated or (c6 >= 0.5 and c6 / c5 >= 2.0) or flags[y, x] & M_FIRE:
                        out[y - y0, x] |= MURPHY


@compiled
def vote(out: Bits) -> None:
    """Set bit VOTE where at least two of the three bits are set; in place."""
    rows, width = out.shape
    for i in range(rows):
        for j in range(width):
            b = out[i, j]
            if b and (b & 1) + ((b >> 1) & 1) + ((b >> 2) & 1) >= 2:
                out[i, j] = b | VOTE
