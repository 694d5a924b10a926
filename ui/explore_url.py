"""What Explore shows, as the query of its address: a copied link restores it.

`parse_query` and `format_query` are inverse for everything that can be set. What a link asks for
and does not exist here is said by the page, and the rest is restored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timezone
from typing import NamedTuple, TypeVar
from urllib.parse import urlencode

from lib.model import BBox, JsonObject, JsonValue, SceneQuery

T = TypeVar("T")
D = TypeVar("D")
Ring = tuple[tuple[float, float], ...]
MAX_SCENES = 500
MAX_RING = 200
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class ExploreState:
    """Filters, chosen scenes and the launch form.

    `area` is a box; `ring`, a closed ring of (lon, lat), refines it. `walltime_s` is 0
    and names are empty where nothing was chosen; `params` holds what differs from the
    module's defaults.
    """

    scenes: tuple[str, ...] = ()
    area: BBox | None = None
    ring: Ring = ()
    start: date | None = None
    end: date | None = None
    max_cloud: int = 100
    platforms: tuple[str, ...] = ()
    text: str = ""
    module: str = ""
    cluster: str = ""
    preset: str = ""
    walltime_s: int = 0
    params: JsonObject = field(default_factory=dict)

    @property
    def filtered(self) -> bool:
        """Whether not everything is searched for."""
        return bool(self.filters())

    def filters(self) -> tuple[str, ...]:
        """What narrows the search, in words."""
        none = ExploreState()
        parts = (
            f"the name or id “{self.text}”" if self.text else "",
            f"from {self.start}" if self.start else "",
            f"to {self.end}" if self.end else "",
            f"cloud at most {self.max_cloud} %" if self.max_cloud < none.max_cloud else "",
            "the drawn area" if self.ring else "the area" if self.area else "",
            "the sensor" if self.platforms else "",
        )
        return tuple(part for part in parts if part)

    @property
    def polygon(self) -> JsonObject | None:
        """The drawn polygon as GeoJSON; positions are [lon, lat] in degrees."""
        return (
            {"type": "Polygon", "coordinates": [list(map(list, self.ring))]} if self.ring else None
        )

    @property
    def shape(self) -> JsonObject | None:
        """What the map draws for the area."""
        if self.ring or self.area is None:
            return self.polygon
        w, s, e, n = self.area
        e = e + 360 if e < w else e
        return {"type": "Polygon", "coordinates": [[[w, s], [e, s], [e, n], [w, n], [w, s]]]}

    def query(self, *, limit: int) -> SceneQuery:
        """The search that these filters mean; both days are included whole."""
        return SceneQuery(
            area=self.area,
            polygon=self.polygon,
            start=_at(self.start, time.min),
            end=_at(self.end, time.max),
            max_cloud=None if self.max_cloud >= 100 else float(self.max_cloud),
            platforms=self.platforms,
            text=self.text,
            limit=limit,
        )


class Parsed(NamedTuple):
    """A state, and one sentence for each part of the address that was left out."""

    state: ExploreState
    problems: tuple[str, ...]


def _at(day: date | None, clock: time) -> datetime | None:
    return None if day is None else datetime.combine(day, clock, tzinfo=timezone.utc)


# --- reading -------------------------------------------------------------------


def parse_query(query: Mapping[str, Sequence[str]]) -> Parsed:
    """Read an address. Unknown keys are ignored; each broken value is named once."""
    problems: list[str] = []

    def one(key: str, read: Callable[[str], T], default: D, meaning: str) -> T | D:
        values = query.get(key)
        if not values or values[-1] == "":
            return default
        try:
            return read(values[-1])
        except ValueError:
            problems.append(f"The {meaning} in this link could not be read and was left out.")
            return default

    scenes = tuple(dict.fromkeys(v for v in query.get("scene", ()) if v))
    if len(scenes) > MAX_SCENES:
        problems.append(f"This link names more than {MAX_SCENES} scenes; the others were left out.")
    area = one("bbox", parse_bbox, None, "area")
    ring = one("ring", _read_ring, (), "drawn area")
    state = ExploreState(
        scenes=scenes[:MAX_SCENES],
        area=area or (ring_bbox(ring) if ring else None),
        ring=ring,
        start=one("from", date.fromisoformat, None, "first day"),
        end=one("to", date.fromisoformat, None, "last day"),
        max_cloud=one("cloud", _read_percent, 100, "cloud cover"),
        platforms=tuple(dict.fromkeys(v for v in query.get("sensor", ()) if v)),
        text=one("q", str, "", "search text")[:200],
        module=one("module", str, "", "module"),
        cluster=one("cluster", str, "", "cluster"),
        preset=one("preset", str, "", "resources"),
        walltime_s=one("walltime", _read_seconds, 0, "walltime"),
        params=one("params", _read_params, {}, "parameters"),
    )
    return Parsed(state, tuple(problems))


def parse_bbox(text: str) -> BBox:
    """west, south, east, north in degrees, with anything but digits between them.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    numbers = [float(n) for n in _NUMBER.findall(text)]
    if len(numbers) != 4:
        raise ValueError("Give four numbers: west, south, east, north, in degrees.")
    w, s, e, n = numbers
    if not (-180 <= w <= 180 and -180 <= e <= 180):
        raise ValueError("West and east must lie between -180 and 180 degrees.")
    if not (-90 <= s < n <= 90):
        raise ValueError("South must be less than north, both between -90 and 90 degrees.")
    return (w, s, e, n)


def ring_bbox(ring: Ring) -> BBox:
    """The box around a ring, its longitudes brought back to -180..180."""
    xs, ys = [p[0] for p in ring], [p[1] for p in ring]
    return (_wrap(min(xs)), max(-90.0, min(ys)), _wrap(max(xs)), min(90.0, max(ys)))


def wrap_ring(ring: Ring) -> Ring:
    """The ring shifted by whole turns so that it begins within -180..180; 5 decimals (1 m)."""
    shift = _wrap(ring[0][0]) - ring[0][0]
    return tuple((round(x + shift, 5), round(y, 5)) for x, y in ring)


def _wrap(lon: float) -> float:
    return lon if -180 <= lon <= 180 else (lon + 180) % 360 - 180


def _read_ring(text: str) -> Ring:
    numbers = [float(n) for n in text.split(",")]
    points = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    if not 4 <= len(points) <= MAX_RING or points[0] != points[-1]:
        raise ValueError("not a closed ring")
    if not all(-360 <= x <= 360 and -90 <= y <= 90 for x, y in points):
        raise ValueError("outside the world")
    return points


def _read_percent(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 100:
        raise ValueError("not a percentage")
    return value


def _read_seconds(text: str) -> int:
    value = int(text)
    if not 0 < value <= 31 * 86_400:
        raise ValueError("not a walltime")
    return value


def _read_params(text: str) -> dict[str, JsonValue]:
    try:
        value = json.loads(text)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


# --- writing -------------------------------------------------------------------


def format_bbox(box: BBox) -> str:
    """As `parse_bbox` takes it; at most 5 decimals, which is a metre."""
    return ", ".join(_degrees(v) for v in box)


def _degrees(value: float) -> str:
    text = f"{value:.5f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def format_query(state: ExploreState) -> dict[str, list[str]]:
    """The query of the address; only what differs from an empty page."""
    parts: dict[str, list[str]] = {
        "scene": list(state.scenes),
        "sensor": list(state.platforms),
        "q": [state.text],
        "module": [state.module],
        "cluster": [state.cluster],
        "preset": [state.preset],
        "walltime": [str(state.walltime_s or "")],
        "from": [state.start.isoformat() if state.start else ""],
        "to": [state.end.isoformat() if state.end else ""],
        "cloud": ["" if state.max_cloud >= 100 else str(state.max_cloud)],
        "params": [json.dumps(state.params, sort_keys=True) if state.params else ""],
    }
    if state.ring:
        parts["ring"] = [",".join(f"{_degrees(x)},{_degrees(y)}" for x, y in state.ring)]
    elif state.area:
        parts["bbox"] = [format_bbox(state.area).replace(" ", "")]
    return {k: kept for k, v in parts.items() if (kept := [x for x in v if x])}


def nothing_found(state: ExploreState) -> str:
    """What to do where nothing matches: change what narrows the search, or take scenes in."""
    filters = state.filters()
    if not filters:
        return (
            "There is no scene here yet. The sample scenes of a first start appear by themselves; "
            "an administrator takes in others with admin.py scenes add."
        )
    if len(filters) == 1:
        return f"No scene matches {filters[0]}. Change that, or press Clear filters."
    named = f"{', '.join(filters[:-1])} and {filters[-1]}"
    return f"No scene matches {named} together. Change one of them, or press Clear filters."


def footprints_url(state: ExploreState) -> str:
    """Where the browser fetches what these filters find."""
    pairs: list[tuple[str, str]] = []
    if state.area:
        pairs.append(("bbox", format_bbox(state.area).replace(" ", "")))
    if state.ring:
        pairs.append(("polygon", json.dumps(state.polygon, separators=(",", ":"))))
    if state.start:
        pairs.append(("start", state.start.isoformat()))
    if state.end:
        pairs.append(("end", state.end.isoformat()))
    if state.max_cloud < 100:
        pairs.append(("cloud", str(state.max_cloud)))
    pairs += [("platform", p) for p in state.platforms]
    if state.text:
        pairs.append(("q", state.text))
    return "/api/footprints" + ("?" + urlencode(pairs) if pairs else "")
