"""Scenes and modules: what can be picked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from lib.model.ids import BBox, ModuleId, SceneId
from lib.model.json_value import JsonObject


@dataclass(frozen=True, slots=True)
class Scene:
    """One image of a catalog.

    `bands` holds the `eo:common_name` of every band that can be read ("blue",
    "nir08", ...), so a module can be matched without opening a file. `item` is
    the STAC 1.1.0 item that a module receives; its asset `href`s are absolute
    local paths or https addresses.
    """

    id: SceneId
    collection: str
    platform: str
    time: datetime
    footprint: JsonObject
    bbox: BBox
    cloud_cover: float | None
    level: str
    bands: frozenset[str]
    synthetic: bool
    title: str
    item: JsonObject = field(repr=False)


@dataclass(frozen=True, slots=True)
class SceneQuery:
    """A search over all catalogues. Empty fields do not restrict.

    Args:
        area: bounding box, or None for the whole world.
        polygon: GeoJSON Polygon (lon, lat); refines `area` where given.
        start, end: both inclusive.
        max_cloud: percent; scenes with unknown cloud cover are kept.
        platforms: e.g. ("landsat-8", "formosat-2").
        text: part of a scene id or title, case-insensitive.
        limit: newest first, at most this many.
        collections: only these; None means all. The portal sets it to what the user may see.
    """

    area: BBox | None = None
    polygon: JsonObject | None = None
    start: datetime | None = None
    end: datetime | None = None
    max_cloud: float | None = None
    platforms: tuple[str, ...] = ()
    text: str = ""
    limit: int = 500
    collections: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class SensorNeed:
    """The bands that a module needs of one platform, by `eo:common_name`.

    `levels` are the processing levels it accepts ("L1TP", "L2SP", ...); empty
    means any.
    """

    platform: str
    bands: tuple[str, ...]
    levels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Module:
    """A versioned detector as its `module.toml` describes it.

    `params_schema` is a JSON Schema (draft 2020-12) of type object whose
    properties all have defaults. `score_meaning` says what a detection's score is;
    `colours` what the colours of its thumbnails show, "" where it does not say;
    `false_alarms` how many are to be expected and how that was measured, "" where nobody has.
    """

    id: ModuleId
    version: str
    title: str
    summary: str
    image: str
    needs: tuple[SensorNeed, ...]
    params_schema: JsonObject = field(repr=False)
    score_meaning: str = ""
    classes: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""
    source: str = ""
    false_alarms: str = ""
    colours: str = ""


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a module can work on some scenes, and if not, why (plain words)."""

    module: Module
    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True when nothing stands against it."""
        return not self.reasons
