"""The schema of a module's events: `status.jsonl`, one JSON object per line.

Whoever writes them is not trusted. The gate checks every line with `parse_line` and
passes on `plain` of it; the portal checks what a gate sent with `parse`. The bounds are
stated here only (modulekit, which knows nothing of `lib`, is compared by
tests/unit/test_protocol_events.py). Texts lose what cannot be printed and are cut;
everything else that is out of bounds makes the event invalid, with one sentence.

The words on the wire are those of docs/architecture.md. Standard library only,
Python 3.10 or newer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import ClassVar

from lib.errors import InvalidInput
from lib.model import BBox, JsonValue, SceneId
from lib.model.bounds import LATEST, MAX_WHOLE

FORMAT = 1
MAX_EVENT_BYTES = 16 * 1024
MAX_EVENTS = 200_000
#: Of one module, whatever stands there. What follows is never read.
MAX_LINES, MAX_STATUS_BYTES = 250_000, 256 * 2**20

#: Numbers of an object within its scene.
MAX_N = 10**6
#: Numbers of objects.
MAX_COUNT = 10**9
MAX_PIXELS = 10**12
MAX_AREA_M2 = 1e15
MAX_WORD = 40
MAX_KIND = 200
MAX_TEXT = 500
MAX_FLAGS = 32
#: `properties` and `searched`: how deep, how many keys and items, how long a key.
MAX_DEPTH, MAX_KEYS, MAX_ITEMS, MAX_KEY = 4, 60, 200, 80


@dataclass(frozen=True, slots=True)
class RunStarted:
    event: ClassVar[str] = "run_started"
    time: float
    module: str
    version: str
    scenes: tuple[SceneId, ...]


@dataclass(frozen=True, slots=True)
class SceneStarted:
    event: ClassVar[str] = "scene_started"
    time: float
    scene: SceneId


@dataclass(frozen=True, slots=True)
class Progress:
    """`fraction` is 0..1 of the scene."""

    event: ClassVar[str] = "progress"
    time: float
    scene: SceneId
    fraction: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What an `object` event and a feature of `detections.geojson` both tell of an object.

    `n` counts from 1 within the scene; `kind` is one of the module's classes ("class" on
    the wire); `score` is 0..1.
    """

    n: int
    kind: str
    score: float
    pixels: int
    area_m2: float
    flags: tuple[str, ...]
    properties: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class ObjectFound:
    """Positions as `lib.model.Detection` defines them."""

    event: ClassVar[str] = "object"
    time: float
    scene: SceneId
    finding: Finding
    lon: float
    lat: float
    bbox: BBox
    chip: bool


@dataclass(frozen=True, slots=True)
class SceneDone:
    event: ClassVar[str] = "scene_done"
    time: float
    scene: SceneId
    objects: int
    shown: int
    searched: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class SceneFailed:
    event: ClassVar[str] = "scene_failed"
    time: float
    scene: SceneId
    message: str


@dataclass(frozen=True, slots=True)
class RunDone:
    event: ClassVar[str] = "run_done"
    time: float
    objects: int
    failed: int


SceneEvent = SceneStarted | Progress | ObjectFound | SceneDone | SceneFailed
ModuleEvent = RunStarted | SceneEvent | RunDone


def parse_line(line: bytes, scenes: Set[str]) -> ModuleEvent:
    """One line of `status.jsonl`. Arguments and errors as in `parse`."""
    if len(line) > MAX_EVENT_BYTES:
        raise InvalidInput(f"An event is longer than {MAX_EVENT_BYTES:,} bytes.")
    try:
        data: JsonValue = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput("An event is not JSON.") from exc
    return parse(data, scenes)


def parse(data: JsonValue, scenes: Set[str]) -> ModuleEvent:
    """One event out of parsed JSON; unknown fields are left out.

    Args:
        scenes: the scenes that were submitted; there are no events about others.
    Raises:
        InvalidInput: it is no event, or out of bounds; the sentence names the field.
    """
    if not isinstance(data, dict):
        raise InvalidInput(f"An event must be an object, not {shown(data)}.")
    kind = data.get("event")
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise InvalidInput(f"There is no event {shown(kind)}.")
    return read(data, scenes)


def plain(event: ModuleEvent) -> dict[str, JsonValue]:
    """The event as it stands on the wire and on disk; `parse` reads the same out of it."""
    head: dict[str, JsonValue] = {"event": event.event, "time": event.time}
    if isinstance(event, RunStarted):
        head.update({"format": FORMAT, "module": event.module, "version": event.version})
        return {**head, "scenes": [*event.scenes]}
    if isinstance(event, RunDone):
        return {**head, "objects": event.objects, "failed": event.failed}
    head["scene"] = event.scene
    if isinstance(event, Progress):
        head["fraction"] = event.fraction
    elif isinstance(event, ObjectFound):
        head.update(_plain_object(event))
    elif isinstance(event, SceneDone):
        searched = dict(event.searched)
        head.update({"objects": event.objects, "shown": event.shown, "searched": searched})
    elif isinstance(event, SceneFailed):
        head["message"] = event.message
    return head


def finding(data: Mapping[str, JsonValue]) -> Finding:
    """The fields that an event and a feature have in common. Errors as in `parse`."""
    return Finding(
        n=_whole(data, "n", 1, MAX_N),
        kind=_word(data.get("class"), "class", MAX_KIND),
        score=_number(data, "score", 0, 1),
        pixels=_whole(data, "pixels", 0, MAX_PIXELS),
        area_m2=_number(data, "area_m2", 0, MAX_AREA_M2),
        flags=_flags(data.get("flags")),
        properties=_table(data, "properties"),
    )


def plain_text(value: str, longest: int) -> str:
    """`value` on one line without characters that cannot be printed or stored."""
    return "".join(c if c.isprintable() else " " for c in value[:longest]).strip()


def in_range(value: JsonValue, name: str, low: float, high: float) -> float:
    """A finite number from `low` to `high`. Errors as in `parse`."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if low <= number <= high:  # false for NaN, and safe for integers of any length
        return float(number)
    raise InvalidInput(
        f"{name!r} must be a number from {low:.15g} to {high:.15g}, not {shown(value)}."
    )


def table_number(value: float) -> bool:
    """Whether `properties` and `searched` may hold this number."""
    if isinstance(value, int):
        return -MAX_WHOLE <= value <= MAX_WHOLE
    return math.isfinite(value)


def shown(value: JsonValue) -> str:
    """A short form for a message; the text of a very long integer is refused by Python."""
    if isinstance(value, str):
        return repr(plain_text(value, MAX_WORD))
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, int) and value.bit_length() > 100:
        return "a very long number"
    return "nothing" if value is None else json.dumps(value)


def _plain_object(event: ObjectFound) -> dict[str, JsonValue]:
    found = event.finding
    return {
        "n": found.n,
        "class": found.kind,
        "score": found.score,
        "lon": event.lon,
        "lat": event.lat,
        "bbox": [*event.bbox],
        "pixels": found.pixels,
        "area_m2": found.area_m2,
        "chip": event.chip,
        "flags": [*found.flags],
        "properties": dict(found.properties),
    }


# --- one reader per event ---------------------------------------------------------------

_Data = Mapping[str, JsonValue]


def _run_started(data: _Data, scenes: Set[str]) -> RunStarted:
    _whole(data, "format", FORMAT, FORMAT)
    told = _list(data.get("scenes"), "scenes", len(scenes))
    return RunStarted(
        time=_time(data),
        module=_text(data, "module", MAX_WORD),
        version=_text(data, "version", MAX_WORD),
        scenes=tuple(_known(scene, scenes) for scene in told),
    )


def _scene_started(data: _Data, scenes: Set[str]) -> SceneStarted:
    return SceneStarted(time=_time(data), scene=_known(data.get("scene"), scenes))


def _progress(data: _Data, scenes: Set[str]) -> Progress:
    return Progress(
        time=_time(data),
        scene=_known(data.get("scene"), scenes),
        fraction=_number(data, "fraction", 0, 1),
    )


def _object(data: _Data, scenes: Set[str]) -> ObjectFound:
    chip = data.get("chip")
    if not isinstance(chip, bool):
        raise InvalidInput(f"'chip' must be true or false, not {shown(chip)}.")
    return ObjectFound(
        time=_time(data),
        scene=_known(data.get("scene"), scenes),
        finding=finding(data),
        lon=_number(data, "lon", -180, 180),
        lat=_number(data, "lat", -90, 90),
        bbox=_box(data.get("bbox")),
        chip=chip,
    )


def _scene_done(data: _Data, scenes: Set[str]) -> SceneDone:
    return SceneDone(
        time=_time(data),
        scene=_known(data.get("scene"), scenes),
        objects=_whole(data, "objects", 0, MAX_COUNT),
        shown=_whole(data, "shown", 0, MAX_COUNT),
        searched=_table(data, "searched"),
    )


def _scene_failed(data: _Data, scenes: Set[str]) -> SceneFailed:
    return SceneFailed(
        time=_time(data),
        scene=_known(data.get("scene"), scenes),
        message=_text(data, "message", MAX_TEXT),
    )


def _run_done(data: _Data, _scenes: Set[str]) -> RunDone:
    return RunDone(
        time=_time(data),
        objects=_whole(data, "objects", 0, MAX_COUNT),
        failed=_whole(data, "failed", 0, MAX_COUNT),
    )


_READERS: Mapping[str, Callable[[_Data, Set[str]], ModuleEvent]] = {
    RunStarted.event: _run_started,
    SceneStarted.event: _scene_started,
    Progress.event: _progress,
    ObjectFound.event: _object,
    SceneDone.event: _scene_done,
    SceneFailed.event: _scene_failed,
    RunDone.event: _run_done,
}

# --- one reader per sort of value -------------------------------------------------------


def _time(data: _Data) -> float:
    return _number(data, "time", 0, LATEST)


def _known(value: JsonValue, scenes: Set[str]) -> SceneId:
    if not isinstance(value, str) or value not in scenes:
        raise InvalidInput(f"The scene {shown(value)} is not part of the run.")
    return SceneId(value)


def _text(data: _Data, name: str, longest: int) -> str:
    value = data.get(name)
    if not isinstance(value, str):
        raise InvalidInput(f"{name!r} must be text, not {shown(value)}.")
    return plain_text(value, longest)


def _word(value: JsonValue, name: str, longest: int) -> str:
    word = plain_text(value, longest) if isinstance(value, str) else ""
    if not word:
        raise InvalidInput(f"{name!r} must be text that is not empty, not {shown(value)}.")
    return word


def _number(data: _Data, name: str, low: float, high: float) -> float:
    return in_range(data.get(name), name, low, high)


def _whole(data: _Data, name: str, low: int, high: int) -> int:
    """JSON does not tell 2 from 2.0; 2.5 is refused."""
    value = _number(data, name, low, high)
    if not value.is_integer():
        raise InvalidInput(f"{name!r} must be a whole number, not {value}.")
    return int(value)


def _list(value: JsonValue, name: str, longest: int) -> list[JsonValue]:
    if not isinstance(value, list) or len(value) > longest:
        raise InvalidInput(f"{name!r} must be a list of at most {longest}.")
    return value


def _box(value: JsonValue) -> BBox:
    """(west, south, east, north); west > east crosses the antimeridian."""
    corners = _list(value, "bbox", 4)
    if len(corners) != 4:
        raise InvalidInput("'bbox' must be a list of four: west, south, east, north.")
    west, east = (in_range(corners[i], "bbox", -180, 180) for i in (0, 2))
    south, north = (in_range(corners[i], "bbox", -90, 90) for i in (1, 3))
    if south > north:
        raise InvalidInput("'bbox' must be west, south, east, north: its south is above its north.")
    return west, south, east, north


def _flags(value: JsonValue) -> tuple[str, ...]:
    flags = _list([] if value is None else value, "flags", MAX_FLAGS)
    return tuple(_word(flag, "flags", MAX_WORD) for flag in flags)


def _table(data: _Data, name: str) -> Mapping[str, JsonValue]:
    value = data.get(name)
    found = _bounded({} if value is None else value, name, MAX_DEPTH)
    if not isinstance(found, dict):
        raise InvalidInput(f"{name!r} must be an object, not {shown(value)}.")
    return found


def _bounded(value: JsonValue, name: str, depth: int) -> JsonValue:
    """JSON of bounded depth and width, with finite numbers."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return plain_text(value, MAX_TEXT)
    if isinstance(value, (int, float)):
        if not table_number(value):
            raise InvalidInput(f"{name!r} holds a number that is not finite or very long.")
        return value
    if depth > 0 and isinstance(value, list) and len(value) <= MAX_ITEMS:
        return [_bounded(v, name, depth - 1) for v in value]
    if depth > 0 and isinstance(value, dict) and len(value) <= MAX_KEYS:
        return {plain_text(k, MAX_KEY): _bounded(v, name, depth - 1) for k, v in value.items()}
    raise InvalidInput(
        f"{name!r} is deeper than {MAX_DEPTH} levels, or has more than {MAX_KEYS} names "
        f"or {MAX_ITEMS} items in one place."
    )
