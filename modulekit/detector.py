"""What a module's author writes: a `Detector`, which opens a `SceneDetector` per scene.

The runner (`modulekit.run`) does everything else. See docs/modules.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from modulekit.arrays import Bits, Integers, Strengths
from modulekit.json_value import JsonObject
from modulekit.raster import SceneReader, Strip
from modulekit.scenes import SceneItem

Params = JsonObject


@dataclass(frozen=True)
class Channel:
    """One colour of a composite: a band and the reflectances shown as black and white.

    Without limits the 2nd and 98th percentile of the whole scene are taken.
    """

    band: str
    low: float | None = None
    high: float | None = None


Composite = tuple[Channel, Channel, Channel]


@dataclass(frozen=True)
class Found:
    """What a detector says about one strip.

    mask: uint8 (rows, width), the strip's inner rows only; the bits are the module's.
    strength: float32, a value (n,) or some values (n, m) for each pixel with
        `mask & object_bits`, in row-major order; the detector gets them back per object.
    """

    mask: Bits
    strength: Strengths


@dataclass(frozen=True)
class ObjectPixels:
    """The pixels of one object: `rows`, `columns` (scene), `mask` and `strength` at each."""

    rows: Integers
    columns: Integers
    mask: Bits
    strength: Strengths


@dataclass(frozen=True)
class Description:
    """What the module says of an object. `score` lies in 0..1; `flags` are words that warn."""

    kind: str
    score: float
    properties: JsonObject = field(default_factory=dict)
    flags: tuple[str, ...] = ()


class SceneDetector(Protocol):
    """Detects in one scene.

    `bands` are read in strips of `strip_rows` rows with `halo` rows around; a result
    must not depend on `strip_rows`. Pixels with `mask & object_bits` become objects,
    connected over edges and corners.
    """

    bands: tuple[str, ...]
    halo: int
    strip_rows: int
    object_bits: int

    def detect(self, strip: Strip) -> Found:
        """Work on one strip. Called once per strip, from the top."""
        ...

    def describe(self, pixels: ObjectPixels) -> Description | None:
        """Class, score and properties of an object, or None to drop it."""
        ...

    def searched(self) -> JsonObject:
        """What was looked at, for `scene_done`: called after the last strip.

        Has at least `pixels` (valid ones) and `valid_fraction`.
        """
        ...


class Detector(Protocol):
    """A module's algorithm. `mask_bits` names the bits of the mask from bit 0."""

    mask_bits: tuple[str, ...]

    def open(self, scene: SceneReader, params: Params, log: Callable[[str], None]) -> SceneDetector:
        """Prepare for one scene; may read it (for statistics of the whole).

        `log` takes lines for the user. Raises SceneError when it cannot work.
        """
        ...

    def composite(self, item: SceneItem) -> Composite:
        """Red, green and blue of chips and overview."""
        ...

    def warm(self) -> None:
        """Compile everything into the cache, so that the first scene need not wait."""
        ...
