"""Ships, turbines and platforms: what stands out in near infrared over water."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from modulekit.arrays import Bits, Integers, Reals, Strengths
from modulekit.detector import Channel, Composite, Description, Found, ObjectPixels, Params
from modulekit.errors import SceneError
from modulekit.json_value import JsonObject, json_number
from modulekit.raster import SceneReader, Strip
from modulekit.scenes import SceneItem

BINS = 2048
#: Otsu's threshold is kept within these; without land (or water) it means nothing.
NDWI_LIMITS = (0.0, 0.3)
#: Beyond this an exact count of the outer square does not suit the memory.
MOST_REACH = 127
#: An object says so when more than this part of its ring is of the kind.
FLAGGED_SHARE = 0.1


class OffshoreObjects:
    """See `modulekit.detector.Detector`."""

    mask_bits = ("object", "water")

    def open(
        self, scene: SceneReader, params: Params, log: Callable[[str], None]
    ) -> OffshoreDetector:
        """Reads green and NIR of the whole scene once, for the water threshold."""
        return OffshoreDetector(scene, params, log)

    def composite(self, item: SceneItem) -> Composite:
        """Near infrared, red, green: water dark, what stands on it bright."""
        return (
            Channel(_nir(item), 0.0, 0.15),
            Channel("red", 0.0, 0.2),
            Channel("green", 0.0, 0.2),
        )

    def warm(self) -> None:
        """Compile the kernels for 8 and 16 bit scenes on small ones."""
        from modules.offshore_objects import kernels

        for kind in (np.uint8, np.uint16):
            band = np.full((64, 64), 9, kind)
            histogram = np.zeros(BINS, np.int64)
            calibration = np.array([1.0, 0.0, 1.0, 0.0])
            kernels.count_ndwi(band, band, calibration, histogram)
            detect(Strip(0, 64, 0, {"green": band, "nir": band}), "nir", calibration, 0.0, (12, 2))


class OffshoreDetector:
    """One scene. See `modulekit.detector.SceneDetector`.

    `strength` of a pixel is z, how many standard deviations it stands above the water around
    it, and which parts of its whole ring are water and have data.
    """

    def __init__(self, scene: SceneReader, params: Params, log: Callable[[str], None]) -> None:
        item = scene.item
        self._nir = _nir(item)
        self.bands = ("green", self._nir)
        self.object_bits = 1
        self.strip_rows = int(json_number(params["strip_rows"]))
        self._k = float(json_number(params["k"]))
        self._share = float(json_number(params["water_share"]))
        self._min_pixels = int(json_number(params["min_pixels"]))
        self._max_length_m = float(json_number(params["max_length_m"]))
        calibration = [item.band(name) for name in self.bands]
        self._calibration = np.array([v for b in calibration for v in (b.scale, b.offset)])
        scene.open(self.bands)
        self._pixel_m = float(np.sqrt(scene.pixel_area_m2))
        self._reaches = _reaches(params, self._pixel_m)
        self.halo = self._reaches[0]
        self._water = self._valid = self._total = 0
        histogram = ndwi_histogram(scene, self.bands, self._calibration, self.strip_rows)
        if not histogram.any():
            raise SceneError("The scene holds no data: green and near infrared are all fill.")
        self._otsu = otsu(histogram)
        fixed = params["water_from"] == "fixed"
        self.threshold = (
            float(json_number(params["ndwi_threshold"]))
            if fixed
            else float(np.clip(self._otsu, *NDWI_LIMITS))
        )
        log(
            f"Water is NDWI above {self.threshold:.3f} (Otsu's threshold is {self._otsu:.3f}); "
            f"ring of {2 * self._reaches[0] + 1} pixels around {2 * self._reaches[1] + 1}."
        )

    def detect(self, strip: Strip) -> Found:
        """Mask bit 0 is an object, bit 1 is water."""
        mask, strength = detect(
            strip,
            self._nir,
            self._calibration,
            self.threshold,
            self._reaches,
            k=self._k,
            water_share=self._share,
        )
        inner = strip.inner
        self._total += mask.size
        green, nir = strip.bands["green"][inner], strip.bands[self._nir][inner]
        self._valid += int(np.count_nonzero(green | nir))
        self._water += int(np.count_nonzero(mask & 2))
        return Found(mask, strength)

    def describe(self, pixels: ObjectPixels) -> Description | None:
        """Score and flags are those of the brightest pixel. Too small or too long: None."""
        length, width = _extent_m(pixels, self._pixel_m)
        if len(pixels.rows) < self._min_pixels or length > self._max_length_m:
            return None
        z, water, inside = map(float, pixels.strength[pixels.strength[:, 0].argmax()])
        properties = {
            "z": round(z, 2),
            "length_m": round(length),
            "width_m": round(width),
            "water_around": round(water, 3),
        }
        return Description(
            "offshore-object", score(z, self._k, water), properties, flags(water, inside)
        )

    def searched(self) -> JsonObject:
        """Pixels with data, the part of them that is water, and the threshold."""
        return {
            "pixels": self._valid,
            "valid_fraction": round(self._valid / max(1, self._total), 4),
            "water_pixels": self._water,
            "water_fraction": round(self._water / max(1, self._valid), 4),
            "ndwi_threshold": round(self.threshold, 4),
            "otsu_threshold": round(self._otsu, 4),
        }


def score(z: float, k: float, water: float) -> float:
    """z / (z + k), lowered by as much of the ring as tells nothing of the water: it lies outside
    the scene, or is land or cloud.

    Args:
        z: at least k.
        water: part of the whole ring that is water within the scene, 0 to 1.
    """
    return z / (z + k) * water


def flags(water: float, inside: float) -> tuple[str, ...]:
    """What of the ring around an object is no water, where it is more than a tenth.

    Args:
        water, inside: parts of the whole ring that are water and that have data, 0 to 1.
    """
    kinds = {"scene-edge": 1 - inside, "near-land-or-cloud": inside - water}
    return tuple(name for name, share in kinds.items() if share > FLAGGED_SHARE)


def detect(
    strip: Strip,
    nir: str,
    calibration: Reals,
    threshold: float,
    reaches: tuple[int, int],
    *,
    k: float = 8.0,
    water_share: float = 0.75,
) -> tuple[Bits, Strengths]:
    """Mask (uint8) of the strip's inner rows, and the strength of their objects' pixels."""
    from modules.offshore_objects import kernels

    green, infrared = strip.bands["green"], strip.bands[nir]
    valid, water = kernels.find_water(green, infrared, calibration, threshold)
    inner = strip.inner
    return kernels.cfar(infrared, valid, water, reaches, k, water_share, inner.start, inner.stop)


def ndwi_histogram(
    scene: SceneReader, bands: tuple[str, str], calibration: Reals, rows: int
) -> Integers:
    """Histogram of the NDWI of all pixels with data: BINS bins over -1..1."""
    from modules.offshore_objects import kernels

    histogram = np.zeros(BINS, np.int64)
    for strip in scene.strips(bands, rows, 0):
        green, nir = (strip.bands[name] for name in bands)
        kernels.count_ndwi(green, nir, calibration, histogram)
    return histogram


def otsu(histogram: Integers) -> float:
    """The value in -1..1 that splits a histogram best in two (Otsu 1979).

    Largest variance between the classes; of several equal ones the middle.
    """
    centres = (np.arange(BINS) + 0.5) / BINS * 2 - 1
    below = np.cumsum(histogram)[:-1].astype(float)
    total = float(histogram.sum())
    mass = np.cumsum(histogram * centres)
    above = total - below
    split = (below > 0) & (above > 0)
    if not split.any():
        return float(centres[histogram.argmax()])
    variance = np.zeros(BINS - 1)
    mean = mass[-1] / total
    variance[split] = (mean * below - mass[:-1])[split] ** 2 / (below * above)[split]
    best = np.flatnonzero(variance >= variance.max() * (1 - 1e-12))
    return float((best.mean() + 1) / BINS * 2 - 1)


def _reaches(params: Params, pixel_m: float) -> tuple[int, int]:
    """Half sizes in pixels of the outer and the guard square; both squares are odd."""
    guard_m, outer_m = json_number(params["guard_m"]), json_number(params["outer_m"])
    guard = max(1, round(guard_m / pixel_m / 2 - 0.5))
    outer = max(guard + 2, round(outer_m / pixel_m / 2 - 0.5))
    if outer > MOST_REACH:
        raise SceneError(
            f"The ring of {outer_m:g} m spans more than {2 * MOST_REACH} pixels "
            f"of {pixel_m:.1f} m; make outer_m smaller."
        )
    return outer, guard


def _extent_m(pixels: ObjectPixels, pixel_m: float) -> tuple[float, float]:
    """Length and width along the object's principal axes, metres, pixel edges included."""
    points = np.column_stack([pixels.rows, pixels.columns]).astype(float)
    points -= points.mean(axis=0)
    _, axes = np.linalg.eigh(points.T @ points)
    along = points @ axes
    width, length = (along.max(axis=0) - along.min(axis=0) + 1) * pixel_m
    return max(float(length), float(width)), min(float(length), float(width))


def _nir(item: SceneItem) -> str:
    """Landsat's narrow near infrared or FORMOSAT's wide one."""
    return "nir08" if "nir08" in item.bands else "nir"


#: The module's algorithm, as `modulekit.cli` looks for it.
DETECTOR = OffshoreObjects()
