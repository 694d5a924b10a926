"""A run of a module: every scene of the input, one after the other.

A scene that cannot be worked on is one `scene_failed` event with one plain sentence, and
the others go on. Each file is whole or absent, and a scene's result item comes last, so
what has an item is complete.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from modulekit import objects, pictures, results
from modulekit.arrays import Bits, Strengths
from modulekit.detector import Detector, SceneDetector
from modulekit.errors import DiskFull, ModuleError, SceneError, UsageError
from modulekit.files import is_full, write_bytes, write_json, writing
from modulekit.json_value import JsonObject
from modulekit.manifest import Manifest
from modulekit.masks import write_mask
from modulekit.quality import flags_of
from modulekit.raster import SceneReader, gdal_environment
from modulekit.scenes import SceneItem, SceneLink, read_catalog, read_item
from modulekit.status import Status

#: Objects told by events, and of those with a chip, per scene.
SHOWN = 1000
CHIPS = 300
#: Chips are cut in batches, each in the order of the file's blocks.
CHIP_BATCH = 48
CHIP_THREADS = 2

Tell = Callable[[str], None]


def _silent(_line: str) -> None:
    pass


def run(
    manifest: Manifest,
    detector: Detector,
    params: JsonObject,
    source: Path,
    output: Path,
    tell: Tell = _silent,
) -> int:
    """Work on all scenes of the catalog in `source`; write the results below `output`.

    Args:
        params: complete and valid (`modulekit.manifest.read_params`).
        tell: gets one line per scene for people.
    Returns:
        0 all scenes done, 3 some failed, 1 none worked.
    Raises:
        UsageError: no usable catalog, or `output` cannot be written.
        DiskFull: the events themselves could not be written.
    """
    links = read_catalog(source)
    _clean(output, links)
    status = Status(output / "status.jsonl")
    with contextlib.closing(status), gdal_environment():
        status.run_started(manifest.id, manifest.version, [link.id for link in links])
        done: list[str] = []
        count = 0
        for link in links:
            status.scene_started(link.id)
            try:
                found = SceneRun(manifest, detector, params, output, status).work_on(link)
            except ModuleError as exc:
                _forget(output / link.id)
                status.scene_failed(link.id, exc.message)
                tell(f"{link.id}: failed. {exc.message}")
                continue
            done.append(link.id)
            count += found
            tell(f"{link.id}: {found} objects")
        results.write_catalog(output, manifest, done)
        failed = len(links) - len(done)
        status.run_done(count, failed)
    return 0 if not failed else 3 if done else 1


def _clean(output: Path, links: Sequence[SceneLink]) -> None:
    """Make the output folder; take away what an earlier run left of these results."""
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        (output / "catalog.json").unlink(missing_ok=True)
    for link in links:
        if (output / link.id).is_symlink():
            raise UsageError(f"{link.id} in the output folder is a link; remove it.")
        _forget(output / link.id, log_too=True)


def _forget(folder: Path, *, log_too: bool = False) -> None:
    """Remove a scene's results; what remains must not look whole."""
    with contextlib.suppress(OSError):
        (folder / f"{folder.name}.json").unlink(missing_ok=True)
        for name in ("detections.geojson", "mask.tif", "overview.webp"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "chips", ignore_errors=True)
        if log_too:
            (folder / "log.txt").unlink(missing_ok=True)


class SceneLog:
    """`log.txt` of a scene: a line per thing worth knowing, with the time (UTC)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, line: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(f"{stamp} {line}\n")


class SceneRun:
    """The work on one scene."""

    def __init__(
        self,
        manifest: Manifest,
        detector: Detector,
        params: JsonObject,
        output: Path,
        status: Status,
    ) -> None:
        self.manifest = manifest
        self.detector = detector
        self.params = params
        self.output = output
        self.status = status

    def work_on(self, link: SceneLink) -> int:
        """Detect, write the results and tell the objects; returns their number.

        Raises:
            ModuleError: with the sentence for the user, whatever went wrong.
        """
        folder = self.output / link.id
        with writing(folder):
            (folder / "chips").mkdir(parents=True, exist_ok=True)
        log = SceneLog(folder / "log.txt")
        try:
            item = read_item(link)
            check_fit(self.manifest, item, log)
            with SceneReader(item) as scene:
                return self._work(scene, folder, log)
        except ModuleError as exc:
            with contextlib.suppress(ModuleError):
                log(exc.message)
            raise
        except MemoryError as exc:
            raise SceneError("The memory did not suffice; ask for more and run again.") from exc
        except OSError as exc:
            if is_full(exc):  # the compile cache, or a temporary file of GDAL
                raise DiskFull("The disk is full; free some space and run again.") from exc
            raise self._fault(exc, log) from exc
        except Exception as exc:
            # One broken scene, or a fault of the detector, must not stop the others.
            raise self._fault(exc, log) from exc

    @staticmethod
    def _fault(error: Exception, log: SceneLog) -> SceneError:
        with contextlib.suppress(ModuleError):
            log("".join(traceback.format_exception(error)))
        return SceneError(
            f"The module stopped with an unexpected {type(error).__name__}; "
            "its log.txt holds the details."
        )

    def _work(self, scene: SceneReader, folder: Path, log: SceneLog) -> int:
        started = time.monotonic()
        detector = self.detector.open(scene, self.params, log)
        mask, detections = search(scene, detector, self._progress(scene.item.id))
        log(f"{len(detections)} objects after {time.monotonic() - started:.1f} s.")
        write_mask(folder / "mask.tif", mask, scene.transform, scene.crs, self.detector.mask_bits)
        del mask
        self._show(scene, folder, detections)
        collection = results.feature_collection(scene, self.manifest, self.params, detections)
        write_json(folder / "detections.geojson", collection, compact=True)
        searched = dict(detector.searched())
        log(f"Searched: {searched}.")
        log(f"Done after {time.monotonic() - started:.1f} s.")
        bits = self.detector.mask_bits
        results.write_item(folder, scene, self.manifest, self.params, len(detections), bits)
        shown = min(len(detections), SHOWN)
        self.status.scene_done(scene.item.id, len(detections), shown, searched)
        return len(detections)

    def _progress(self, scene: str) -> Callable[[float], None]:
        return lambda fraction: self.status.progress(scene, 0.9 * fraction)

    def _show(
        self,
        scene: SceneReader,
        folder: Path,
        detections: Sequence[results.Detection],
    ) -> None:
        """Overview, chips, and an event per shown object once its chip is there."""
        stretch = pictures.make_stretch(scene, self.detector.composite(scene.item))
        shown = detections[:SHOWN]
        ringed = [d.found.box for d in shown]
        write_bytes(folder / "overview.webp", pictures.overview(scene, stretch, ringed))
        with contextlib.ExitStack() as stack:
            readers = [stack.enter_context(SceneReader(scene.item)) for _ in range(CHIP_THREADS)]
            for reader in readers:
                reader.open(stretch.bands)
            pool = stack.enter_context(ThreadPoolExecutor(CHIP_THREADS))
            for start in range(0, min(len(shown), CHIPS), CHIP_BATCH):
                batch = shown[start : min(start + CHIP_BATCH, CHIPS)]
                _write_chips(pool, readers, stretch, folder, batch)
                for detection in batch:
                    self.status.found(scene.item.id, detection.event(chip=True))
        for detection in shown[CHIPS:]:
            self.status.found(scene.item.id, detection.event(chip=False))


def check_fit(manifest: Manifest, item: SceneItem, log: Callable[[str], None]) -> None:
    """Make sure that the module can work on this scene's platform, level and bands.

    Raises:
        SceneError: it cannot; the message says why.
    """
    need = manifest.need_of(item.platform)
    if need is None:
        known = ", ".join(n.platform for n in manifest.needs)
        raise SceneError(
            f"{manifest.title} works on scenes of {known}; "
            f"this scene is of {item.platform or 'an unknown platform'}."
        )
    missing = [name for name in need.bands if name not in item.bands]
    if missing:
        raise SceneError(f"The scene lacks the band {missing[0]}, which {manifest.title} needs.")
    if need.levels and item.level and item.level not in need.levels:
        raise SceneError(
            f"{manifest.title} needs level {' or '.join(need.levels)}; "
            f"this scene is of level {item.level}."
        )
    if need.levels and not item.level:
        log("The item does not say its processing level; it is taken to be a right one.")


def search(
    scene: SceneReader, detector: SceneDetector, progress: Callable[[float], None]
) -> tuple[Bits, list[results.Detection]]:
    """The whole scene's mask and its detections, numbered, best first."""
    mask, strength = detect_scene(scene, detector, progress)
    found = objects.find_objects(mask, strength, detector, scene.transform)
    outlines = objects.to_lonlat([f.outline for f in found], scene.crs)
    area = scene.pixel_area_m2
    detections = [
        results.Detection(
            n, f, outline, round(f.pixels * area, 1), [*f.flags, *flags_of(scene, f.box)]
        )
        for n, (f, outline) in enumerate(zip(found, outlines, strict=True), start=1)
    ]
    return mask, detections


def detect_scene(
    scene: SceneReader, detector: SceneDetector, progress: Callable[[float], None]
) -> tuple[Bits, Strengths]:
    """The whole scene's mask (uint8) and the strength of its object pixels (float32)."""
    scene.open(detector.bands)
    height, width = scene.shape
    mask = np.zeros((height, width), np.uint8)
    strengths = []
    for strip in scene.strips(detector.bands, detector.strip_rows, detector.halo):
        found = detector.detect(strip)
        mask[strip.y0 : strip.y1] = found.mask
        strengths.append(found.strength)
        progress(strip.y1 / height)
    return mask, np.concatenate(strengths)


def _write_chips(
    pool: ThreadPoolExecutor,
    readers: Sequence[SceneReader],
    stretch: pictures.Stretch,
    folder: Path,
    batch: Sequence[results.Detection],
) -> None:
    """Cut the chips of a batch, each thread its part with files of its own."""
    ordered = sorted(batch, key=lambda d: (d.found.box[0] // 512, d.found.box[1]))
    share = -(-len(ordered) // len(readers))
    parts = [ordered[k * share : (k + 1) * share] for k in range(len(readers))]

    def cut(reader: SceneReader, part: Iterable[results.Detection]) -> None:
        for detection in part:
            data = pictures.chip(reader, stretch, detection.found.box)
            write_bytes(folder / "chips" / f"{detection.n:04d}.webp", data)

    for future in [pool.submit(cut, r, p) for r, p in zip(readers, parts, strict=True)]:
        future.result()
