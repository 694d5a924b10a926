"""Composites for eyes: chips of objects and an overview of the scene, as WebP.

The stretch is fixed per scene (limits of the module, or percentiles of the whole
scene), never per chip, so chips of one scene can be compared. It makes a dark scene readable: what
half of the scene lies below is shown as a middle grey. The portal's map (`lib.imagery.render`)
does the same.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from modulekit.arrays import Bits, Numbers
from modulekit.detector import Composite
from modulekit.errors import SceneError
from modulekit.raster import SceneReader

CHIP_SIZE = 128
#: A chip shows at least this many pixels of the scene, and at most CHIP_MOST.
CHIP_LEAST = 48
CHIP_MOST = 1024
#: A chip's side is this many times the longer side of its object.
CHIP_MARGIN = 2.0
OVERVIEW_SIZE = 1024
#: Of a scene that is not dark, and of the darkest.
GAMMA, MOST_GAMMA = 1.2, 4.0
#: How bright the middle of a dark scene becomes, 0..1.
MIDDLE = 0.4
_QUALITY = 82
_SAMPLE_SIZE = 512


@dataclass(frozen=True)
class Stretch:
    """Digital numbers shown as black and white, per channel; `fill` is no data (0)."""

    bands: tuple[str, str, str]
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    zero_is_fill: bool
    gamma: float = GAMMA

    def apply(self, channels: Sequence[Numbers]) -> Bits:
        """Digital numbers (3 arrays of one shape) as uint8 (rows, columns, 3).

        Where all are fill the picture is black. A single fill value beside valid ones
        is a saturated one (flames in Landsat's SWIR bands), so it is shown as bright.
        """
        rgb = np.empty((*channels[0].shape, 3), np.uint8)
        some = np.logical_or.reduce([c != 0 for c in channels])
        for k, numbers in enumerate(channels):
            unit = (numbers.astype(np.float32) - self.low[k]) / (self.high[k] - self.low[k])
            if self.zero_is_fill:
                unit[some & (numbers == 0)] = 1.0
            rgb[..., k] = np.clip(unit, 0, 1) ** (1 / self.gamma) * 255 + 0.5
        rgb[~some] = 0
        return rgb


def make_stretch(scene: SceneReader, composite: Composite) -> Stretch:
    """Limits in digital numbers for the composite of this scene.

    A channel without limits, or without a calibration to apply them, gets the 2nd and
    98th percentile of a reduced copy of the whole scene, half a count further out.
    """
    scene.open([channel.band for channel in composite])
    lows, highs, middles = [], [], []
    for channel in composite:
        band = scene.item.band(channel.band)
        darkest, middle, brightest = _percentiles(scene, channel.band)
        if band.calibrated and channel.low is not None and channel.high is not None:
            sine = _sine(scene)
            low = (channel.low * sine - band.offset) / band.scale
            high = (channel.high * sine - band.offset) / band.scale
        else:
            low, high = darkest - 0.5, brightest + 0.5
        lows.append(low)
        highs.append(max(high, low + 1))
        middles.append(middle)
    names = tuple(c.band for c in composite)
    calibrated = all(scene.item.band(n).calibrated for n in names)
    return Stretch(
        (names[0], names[1], names[2]),
        (lows[0], lows[1], lows[2]),
        (highs[0], highs[1], highs[2]),
        calibrated,
        gamma_for(list(zip(lows, highs, strict=True)), middles),
    )


def gamma_for(limits: Sequence[tuple[float, float]], middles: Sequence[float]) -> float:
    """The gamma that lifts a dark scene until its middle is `MIDDLE` bright.

    Args:
        limits: black and white of each channel.
        middles: the median of each channel's valid pixels.
    """
    units = [
        min(1.0, max(0.0, (middle - low) / (high - low)))
        for (low, high), middle in zip(limits, middles, strict=True)
    ]
    unit = sum(units) / len(units)
    if unit <= 0:
        return MOST_GAMMA
    return min(MOST_GAMMA, max(GAMMA, math.log(unit) / math.log(MIDDLE)))


def _sine(scene: SceneReader) -> float:
    """Level-1 reflectance is corrected for the sun; Level-2 is already."""
    elevation = scene.item.sun_elevation
    if elevation is None or scene.item.level.startswith("L2"):
        return 1.0
    return float(np.sin(np.radians(elevation)))


def _percentiles(scene: SceneReader, name: str) -> tuple[float, float, float]:
    """2nd, 50th and 98th, of a reduced copy of the whole scene."""
    height, width = _fitted(scene.shape, _SAMPLE_SIZE)
    sample = scene.reduced(name, height, width)
    values = sample[sample != 0]
    if not values.size:
        return 0.0, 0.0, 1.0
    low, middle, high = map(float, np.percentile(values, (2, 50, 98)))
    return low, middle, high


def _fitted(shape: tuple[int, int], longest: int) -> tuple[int, int]:
    factor = min(1.0, longest / max(shape))
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def chip(scene: SceneReader, stretch: Stretch, box: tuple[int, int, int, int]) -> bytes:
    """A square picture around `box` (row0, column0, row1, column1), WebP.

    Parts outside the scene are black.
    """
    row0, column0, row1, column1 = box
    longest = max(row1 - row0, column1 - column0)
    side = int(min(max(CHIP_LEAST, CHIP_MARGIN * longest), CHIP_MOST))
    top, left = (row0 + row1 - side) // 2, (column0 + column1 - side) // 2
    height, width = scene.shape
    r0, c0 = max(0, top), max(0, left)
    r1, c1 = min(height, top + side), min(width, left + side)
    canvas = np.zeros((side, side, 3), np.uint8)
    read = [scene.window(name, r0, c0, r1 - r0, c1 - c0) for name in stretch.bands]
    canvas[r0 - top : r1 - top, c0 - left : c1 - left] = stretch.apply(read)
    how = Image.Resampling.BICUBIC if side <= CHIP_SIZE else Image.Resampling.BOX
    return _webp(Image.fromarray(canvas).resize((CHIP_SIZE, CHIP_SIZE), how))


def overview(
    scene: SceneReader, stretch: Stretch, boxes: Sequence[tuple[int, int, int, int]]
) -> bytes:
    """The whole scene, longest side at most OVERVIEW_SIZE, objects ringed; WebP."""
    picture = Image.fromarray(reduced(scene, stretch, OVERVIEW_SIZE))
    draw = ImageDraw.Draw(picture)
    scale = picture.height / scene.shape[0]
    for row0, column0, row1, column1 in boxes:
        y, x = (row0 + row1) / 2 * scale, (column0 + column1) / 2 * scale
        radius = max(4.0, max(row1 - row0, column1 - column0) / 2 * scale + 3)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=(255, 230, 0))
    return _webp(picture)


def reduced(scene: SceneReader, stretch: Stretch, longest: int) -> Bits:
    """The whole scene, longest side at most `longest`: uint8 (height, width, 3)."""
    height, width = _fitted(scene.shape, longest)
    return stretch.apply([scene.reduced(name, height, width) for name in stretch.bands])


def composite_of(scene: SceneReader, composite: Composite, longest: int) -> Bits:
    """`reduced` with the stretch that chips and overview of the scene have."""
    return reduced(scene, make_stretch(scene, composite), longest)


def _webp(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    try:
        picture.save(stream, "WEBP", quality=_QUALITY, method=2)
    except OSError as exc:
        raise SceneError("A picture could not be encoded as WebP.") from exc
    return stream.getvalue()
