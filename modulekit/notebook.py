"""What a prepared notebook works with: the session's scenes, parameters and results.

from modulekit.json_value import (JsonObject, JsonValue)
from modulekit.notebook import open_session

session = open_session("active-fire")
session.wait()                  # until the module's run beside the notebook is over
session.results.table           # a pandas DataFrame, one row per detection
found = session.detect(decide="any")   # again, in this process, as you like
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from modulekit.cli import load_detector, module_folder
from modulekit.errors import ModuleError, SceneError, UsageError
from modulekit.files import read_json
from modulekit.json_value import (
    JsonObject,
    JsonValue,
    json_list,
    json_number,
    json_object,
    json_text,
)
from modulekit.manifest import Manifest, check_params, read_manifest, read_params
from modulekit.scenes import SceneItem, read_catalog, read_item

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from rasterio.crs import CRS

    from modulekit.arrays import Bits
    from modulekit.detector import Detector
    from modulekit.objects import Outline, Ring

COLUMNS = ("scene", "n", "class", "score", "lon", "lat", "pixels", "area_m2", "flags", "datetime")
#: A run that tells nothing for this long is taken to have broken off.
SILENCE_S = 300.0
_POLL_S = 0.3


@dataclass(frozen=True)
class Picture:
    """A composite of a scene.

    rgb: uint8 (height, width, 3).
    extent: (left, right, bottom, top) in the coordinates of `crs`, as matplotlib takes it.
    """

    rgb: Bits
    extent: tuple[float, float, float, float]
    crs: CRS


@dataclass(frozen=True)
class Results:
    """Detections of several scenes.

    `collections` holds a GeoJSON feature collection per scene, best detections first;
    `failed` a sentence for each scene that could not be worked on.
    """

    collections: Mapping[str, JsonObject] = field(repr=False)
    failed: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(_features(c)) for c in self.collections.values())

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per detection: COLUMNS, the module's properties, and the outline."""
        import pandas as pd

        rows = [
            _row(scene, feature)
            for scene, collection in self.collections.items()
            for feature in _features(collection)
        ]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*COLUMNS, "geometry"])

    @property
    def geojson(self) -> dict[str, JsonValue]:
        """All detections as one feature collection; each names its scene."""
        features = [
            {**feature, "properties": {**json_object(feature["properties"]), "scene": scene}}
            for scene, collection in self.collections.items()
            for feature in _features(collection)
        ]
        return {"type": "FeatureCollection", "features": features}

    def differences(self, other: Results) -> list[str]:
        """What differs from `other`, one line per scene; [] when they found the same."""
        lines = []
        for scene in sorted({*self.collections, *other.collections, *self.failed, *other.failed}):
            mine, yours = self._plain(scene), other._plain(scene)
            if mine is None or yours is None:
                if mine is not yours:
                    lines.append(f"{scene}: worked on in one of the two only")
            elif mine != yours:
                lines.append(f"{scene}: {len(mine)} and {len(yours)} detections that differ")
        return lines

    def assert_same(self, other: Results) -> None:
        """Raise AssertionError with the differences unless `other` found the same."""
        differences = self.differences(other)
        if differences:
            raise AssertionError("; ".join(differences))

    def _plain(self, scene: str) -> Sequence[JsonValue] | None:
        """The features as JSON reads them again: what was just found has tuples."""
        collection = self.collections.get(scene)
        if collection is None:
            return None
        features: Sequence[JsonValue] = json.loads(json.dumps(collection["features"]))
        return features


def _features(collection: JsonObject) -> list[JsonObject]:
    return [json_object(feature) for feature in json_list(collection["features"])]


def _row(scene: str, feature: JsonObject) -> dict[str, JsonValue]:
    from modulekit.objects import centre

    properties = json_object(feature["properties"])
    lon, lat = centre([json_number(side) for side in json_list(feature["bbox"])])
    return {
        "scene": scene,
        "n": properties["n"],
        "class": properties["class"],
        "score": properties["score"],
        "lon": lon,
        "lat": lat,
        "pixels": properties["pixels"],
        "area_m2": properties["area_m2"],
        "flags": ", ".join(map(json_text, json_list(properties["flags"]))),
        "datetime": properties["datetime"],
        **json_object(properties["properties"]),
        "geometry": feature["geometry"],
    }


class Session:
    """The work folder of a session: input, parameters, and what the run writes."""

    def __init__(self, work: Path, module: str) -> None:
        package = f"modules.{module.replace('-', '_')}"
        self.work = work
        self.module: Manifest = read_manifest(module_folder(package))
        self.params: dict[str, JsonValue] = read_params(self.module, work / "in" / "params.json")
        self._detector: Detector = load_detector(package)
        self._broken: dict[str, str] = {}
        self.scenes: list[SceneItem] = self._read_scenes()

    def _read_scenes(self) -> list[SceneItem]:
        scenes = []
        for link in read_catalog(self.work / "in"):
            try:
                scenes.append(read_item(link))
            except SceneError as exc:
                self._broken[link.id] = exc.message
        return scenes

    @property
    def events(self) -> list[JsonObject]:
        """What the run has told so far; a line that is still being written is left out."""
        path = self.work / "out" / "status.jsonl"
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def wait(
        self, *, silence_s: float = SILENCE_S, show: Callable[[str], None] | None = None
    ) -> None:
        """Wait until the module's run beside this notebook is over, showing how it goes.

        Args:
            silence_s: give up when the run tells nothing new for so long.
            show: takes the text to show in place of the last; default: under the cell.
        Raises:
            TimeoutError: the run broke off or never started; its log says why.
        """
        show = show or _shower()
        known, heard, shown = -1, time.monotonic(), ""
        while True:
            events = self.events
            if len(events) != known:
                known, heard = len(events), time.monotonic()
                text = _progress_text(events)
                if text != shown:
                    shown = text
                    show(text)
            if events and events[-1]["event"] == "run_done":
                return
            if time.monotonic() - heard > silence_s:
                raise TimeoutError(
                    f"The run has told nothing for {silence_s:.0f} s. Look at its log; "
                    "detect() works here without it."
                )
            time.sleep(_POLL_S)

    @property
    def results(self) -> Results:
        """What the run has found in the scenes that it has done so far."""
        collections: dict[str, JsonObject] = {}
        failed: dict[str, str] = {}
        for event in self.events:
            if event["event"] == "scene_done":
                scene = json_text(event["scene"])
                folder = self.work / "out" / scene
                collections[scene] = json_object(read_json(folder / "detections.geojson"))
            elif event["event"] == "scene_failed":
                failed[json_text(event["scene"])] = json_text(event["message"])
        return Results(collections, failed)

    def detect(self, **changes: JsonValue) -> Results:
        """Detect in all scenes again, in this process; nothing is written.

        Args:
            changes: parameters that shall differ from the session's.
        Raises:
            UsageError: a parameter does not fit the module.
        """
        from modulekit.raster import gdal_environment

        params = check_params(self.module, {**self.params, **changes})
        collections, failed = {}, dict(self._broken)
        with gdal_environment():
            for item in self.scenes:
                try:
                    collections[item.id] = self._detect_one(item, params)
                except ModuleError as exc:
                    failed[item.id] = exc.message
        return Results(collections, failed)

    def _detect_one(self, item: SceneItem, params: JsonObject) -> dict[str, JsonValue]:
        from modulekit.raster import SceneReader
        from modulekit.results import feature_collection
        from modulekit.run import check_fit, search

        check_fit(self.module, item, _silent)
        with SceneReader(item) as scene:
            detector = self._detector.open(scene, params, _silent)
            _, detections = search(scene, detector, lambda _fraction: None)
            return feature_collection(scene, self.module, params, detections)

    def picture(self, item: SceneItem, *, max_size: int = 1000) -> Picture:
        """The module's composite of a scene, its longer side at most `max_size` pixels."""
        from modulekit.pictures import composite_of
        from modulekit.raster import SceneReader, gdal_environment

        with gdal_environment(), SceneReader(item) as scene:
            rgb = composite_of(scene, self._detector.composite(item), max_size)
            height, width = scene.shape
            left, top = scene.transform @ (0, 0)
            right, bottom = scene.transform @ (width, height)
            return Picture(rgb, (left, right, bottom, top), scene.crs)

    def draw(self, axes: Axes, item: SceneItem, found: Results, *, max_size: int = 1000) -> None:
        """Draw a scene with the outlines of its detections on matplotlib `axes`.

        A scene that cannot be read gets its message instead of a picture.
        """
        from rasterio.warp import transform_geom

        try:
            picture = self.picture(item, max_size=max_size)
        except SceneError as exc:
            axes.set_title(f"{item.id}\n{exc.message}", fontsize=9)
            return
        axes.imshow(picture.rgb, extent=picture.extent, interpolation="nearest")
        features = _features(found.collections.get(item.id, {"features": []}))
        for feature in features:
            outline = transform_geom("EPSG:4326", picture.crs, feature["geometry"])
            for ring in _outer_rings(outline):
                x, y = zip(*(point[:2] for point in ring), strict=True)
                axes.plot(x, y, color="yellow", linewidth=1.2)
        axes.set_xlim(picture.extent[:2])
        axes.set_ylim(picture.extent[2:])
        axes.set_title(f"{item.id}\n{item.datetime}: {len(features)} detections", fontsize=9)
        axes.ticklabel_format(style="plain", useOffset=False)
        axes.set_xlabel(f"metres, {picture.crs.to_string()}", fontsize=8)
        axes.tick_params(labelsize=7)

    def chips(self, *, most: int = 12) -> list[tuple[str, Bits]]:
        """The run's best chips: (caption, uint8 (height, width, 3)) in order of score."""
        import numpy as np
        from PIL import Image

        shown = [e for e in self.events if e["event"] == "object" and e["chip"]]
        shown.sort(key=lambda e: -json_number(e["score"]))
        chips = []
        for event in shown[:most]:
            path = (
                self.work / "out" / json_text(event["scene"]) / "chips" / f"{event['n']:04d}.webp"
            )
            with Image.open(path) as image:
                caption = f"{event['class']} {json_number(event['score']):.2f}"
                chips.append((caption, np.asarray(image.convert("RGB"))))
        return chips


def open_session(module: str, work: Path | str | None = None) -> Session:
    """The session that this notebook belongs to.

    Args:
        module: the module's id, such as "active-fire".
        work: the session's work folder; default: what SCENEBRIDGE_WORK names.
    Raises:
        UsageError: there is no work folder, or its input cannot be read.
    """
    folder = work or os.environ.get("SCENEBRIDGE_WORK")
    if not folder:
        raise UsageError("SCENEBRIDGE_WORK is not set; pass the session's work folder.")
    return Session(Path(folder), module)


def _progress_text(events: Sequence[JsonObject]) -> str:
    """One line per scene of a run."""
    if not events:
        return "The run has not started yet."
    scenes = map(json_text, json_list(events[0].get("scenes", ())))
    lines: dict[str, str] = dict.fromkeys(scenes, "waiting")
    for event in events:
        kind, scene = event["event"], json_text(event.get("scene", ""))
        if kind == "scene_started":
            lines[scene] = "0 %"
        elif kind == "progress":
            lines[scene] = f"{json_number(event['fraction']):.0%}"
        elif kind == "scene_done":
            lines[scene] = f"done, {event['objects']} objects"
        elif kind == "scene_failed":
            lines[scene] = f"failed: {event['message']}"
    return "\n".join(f"{scene}: {line}" for scene, line in lines.items())


class _Shown(Protocol):
    """IPython's handle of something under the cell."""

    def update(self, what: object, /) -> None: ...


def _shower() -> Callable[[str], None]:
    """Shows a text under the cell, each in place of the last; without IPython prints."""
    try:
        from IPython.core.display import Pretty
        from IPython.core.getipython import get_ipython
        from IPython.display import display
    except ImportError:
        return print
    if get_ipython() is None:
        return print
    pretty: Callable[[str], object] = Pretty
    handle: _Shown = display(pretty(""), display_id=True)  # type: ignore[no-untyped-call]
    return lambda text: handle.update(pretty(text))


def _outer_rings(outline: Outline) -> list[Ring]:
    if outline["type"] == "Polygon":
        return [outline["coordinates"][0]]
    return [polygon[0] for polygon in outline["coordinates"]]


def _silent(_line: str) -> None:
    pass
