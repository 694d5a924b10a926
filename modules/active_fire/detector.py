"""Active fire in Landsat 8 Level-1 scenes by three published tests and their vote."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from modulekit.arrays import Bits, Reals
from modulekit.detector import Channel, Composite, Description, Found, ObjectPixels, Params
from modulekit.errors import SceneError
from modulekit.json_value import JsonObject, JsonValue, json_number
from modulekit.raster import SceneReader, Strip
from modulekit.scenes import SceneItem

ALGORITHMS = ("schroeder", "goli", "murphy")
#: Bands 2 to 7; band 1 is "coastal" or, where it is missing, blue.
NAMES = ("blue", "green", "red", "nir08", "swir16", "swir22")
#: Bit of QA_RADSAT for the saturation of each of the SWIR bands.
RADSAT_BITS = {"swir16": 5, "swir22": 6}
COMPOSITE = (
    Channel("swir22", 0.0, 0.8),
    Channel("nir08", 0.0, 0.5),
    Channel("red", 0.0, 0.3),
)


class ActiveFire:
    """See `modulekit.detector.Detector`."""

    mask_bits = (*ALGORITHMS, "vote")

    def open(self, scene: SceneReader, params: Params, log: Callable[[str], None]) -> FireDetector:
        """Errors: SceneError without a sun above the horizon."""
        return FireDetector(scene, params, log)

    def composite(self, _item: SceneItem) -> Composite:
        """Flames orange to yellow, burnt land dark, vegetation green."""
        return COMPOSITE

    def warm(self) -> None:
        """Compile the kernels on a small empty scene."""
        empty = {name: np.full((70, 70), 6000, np.uint16) for name in NAMES}
        strip = Strip(0, 70, 0, {**empty, "qa_radsat": np.zeros((70, 70), np.uint16)})
        for radsat in (False, True):
            detect(strip, np.full(8, 2e-5), np.full(8, -0.1), 0.8, coastal="blue", radsat=radsat)


class FireDetector:
    """One scene. See `modulekit.detector.SceneDetector`.

    `strength` of a pixel is its sun-corrected reflectance at 2.2 um.
    """

    def __init__(self, scene: SceneReader, params: Params, log: Callable[[str], None]) -> None:
        from modules.active_fire import kernels

        item = scene.item
        if item.sun_elevation is None or not 0 < item.sun_elevation <= 90:
            raise SceneError(
                "The item does not say a sun elevation between 0 and 90 degrees "
                "(view:sun_elevation), which the fire tests need."
            )
        self.halo = kernels.HALO
        self.strip_rows = int(json_number(params["strip_rows"]))
        self.object_bits = _object_bits(str(params["decide"]))
        self._min_pixels = int(json_number(params["min_pixels"]))
        self._sine = math.sin(math.radians(item.sun_elevation))
        self._coastal = "coastal" if "coastal" in item.bands else "blue"
        self._radsat = "qa_radsat" in item.bands
        self.bands = tuple(
            dict.fromkeys((self._coastal, *NAMES, *(("qa_radsat",) if self._radsat else ())))
        )
        calibration = [item.band(name) for name in (self._coastal, *NAMES)]
        self._scale = np.array([0.0, *(b.scale for b in calibration)])
        self._offset = np.array([0.0, *(b.offset for b in calibration)])
        self._total = self._valid = self._restored = 0
        self._per_algorithm = np.zeros(4, np.int64)
        if self._coastal == "blue":
            log("The scene has no coastal band; the Schroeder test uses the blue band instead.")
        if not self._radsat:
            log(
                "The scene has no QA_RADSAT; SWIR values of 0 beside valid ones count as saturated."
            )

    def detect(self, strip: Strip) -> Found:
        """Mask bits 0 to 3 are Schroeder, GOLI, Murphy and the vote of two of three."""
        mask, restored = detect(
            strip,
            self._scale,
            self._offset,
            self._sine,
            coastal=self._coastal,
            radsat=self._radsat,
        )
        inner = strip.inner
        self._restored += restored
        self._total += mask.size
        self._valid += int(np.count_nonzero(strip.bands["red"][inner]))
        found = mask[mask != 0]
        for bit in range(4):
            self._per_algorithm[bit] += np.count_nonzero(found >> bit & 1)
        hits = mask & np.uint8(self.object_bits) != 0
        numbers = strip.bands["swir22"][inner][hits]
        strength = (self._scale[7] * numbers + self._offset[7]) / self._sine
        return Found(mask, strength.astype(np.float32))

    def describe(self, pixels: ObjectPixels) -> Description | None:
        """Score: agreement of the algorithms, weighted by the peak at 2.2 um."""
        size = len(pixels.mask)
        if size < self._min_pixels:
            return None
        counts = [int(np.count_nonzero(pixels.mask >> bit & 1)) for bit in range(3)]
        peak = float(pixels.strength.max())
        agreement = sum(counts) / (3 * size)
        score = agreement * (0.5 + 0.5 * min(1.0, max(0.0, peak)))
        properties: dict[str, JsonValue] = {
            f"{name}_pixels": n for name, n in zip(ALGORITHMS, counts, strict=True)
        }
        return Description("fire", score, {**properties, "peak_reflectance_2200nm": round(peak, 4)})

    def searched(self) -> JsonObject:
        """Pixels with data, fire pixels per algorithm, and what stood in for what."""
        return {
            "pixels": self._valid,
            "valid_fraction": round(self._valid / max(1, self._total), 4),
            **{
                f"{name}_pixels": int(n)
                for name, n in zip((*ALGORITHMS, "vote"), self._per_algorithm, strict=True)
            },
            "restored_saturated": self._restored,
            "schroeder_blue_band": self._coastal,
        }


def _object_bits(decide: str) -> int:
    if decide == "any":
        return 0b111
    return 1 << (*ALGORITHMS, "vote").index(decide)


def detect(
    strip: Strip, scale: Reals, offset: Reals, sine: float, *, coastal: str, radsat: bool
) -> tuple[Bits, int]:
    """The mask of the strip's inner rows, uint8, and how many SWIR values were restored.

    Saturated SWIR values are restored in the strip's arrays. `restored` counts inner
    rows and halo that were not restored before.
    """
    from modules.active_fire import kernels

    bands = strip.bands
    b2, b3, b4, b5, b6, b7 = (bands[name] for name in NAMES)
    if radsat:
        restored = sum(
            kernels.restore_flagged(bands[name], bands["qa_radsat"], bit)
            for name, bit in RADSAT_BITS.items()
        )
    else:
        restored = kernels.restore_saturated(b2, b3, b4, b5, b6, b7)
    inner = strip.inner
    y0, y1 = inner.start, inner.stop
    mask = np.zeros((y1 - y0, b7.shape[1]), np.uint8)
    flags = kernels.classify(bands[coastal], b2, b3, b4, b5, b6, b7, scale, offset, sine)
    kernels.schroeder(flags, b5, b7, scale, offset, y0, y1, mask)
    kernels.murphy(flags, b5, b6, b7, scale, offset, sine, y0, y1, mask)
    kernels.goli(flags, b4, b5, b6, b7, scale, offset, sine, y0, y1, mask)
    kernels.vote(mask)
    return mask, restored


#: The module's algorithm, as `modulekit.cli` looks for it.
DETECTOR = ActiveFire()
