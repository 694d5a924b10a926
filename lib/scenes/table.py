"""The local scene table: columns in memory for search, Parquet on disk.

Rows are sorted newest first. A search is one vectorised pass over the columns (0.2 ms at
100,000 rows); only scenes whose box straddles the edge of the area are then compared by
their outlines. A row carries its footprint as a ready GeoJSON feature, so a map of ten
thousand footprints is a join of strings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TypedDict

import antimeridian
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from shapely.geometry import mapping, shape

from lib.errors import InvalidInput
from lib.model import BBox, JsonObject, Scene, SceneQuery
from lib.scenes.stac import bbox_parts

FORMAT = 1
SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("collection", pa.string()), ("platform", pa.string()),
        ("time_us", pa.int64()), ("west", pa.float64()), ("south", pa.float64()),
        ("east", pa.float64()), ("north", pa.float64()), ("cloud", pa.float64()),
        ("level", pa.string()), ("bands", pa.string()), ("synthetic", pa.bool_()),
        ("title", pa.string()), ("outline", pa.binary()), ("feature", pa.string()),
    ],
    metadata={"scenebridge_table": str(FORMAT)},
)  # fmt: skip

Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]


#: Times, degrees, percent, or codes of names.
Column = npt.NDArray[np.int64 | np.float64 | np.int32]
Area = shapely.Polygon | shapely.MultiPolygon


class SceneFields(TypedDict):
    """The columns of `SCHEMA` that tell of a scene; `cloud` is None where it is unknown."""

    id: str
    collection: str
    platform: str
    time_us: int
    west: float
    south: float
    east: float
    north: float
    cloud: float | None
    level: str
    bands: str
    synthetic: bool
    title: str
    feature: str


class Row(SceneFields):
    """All columns of `SCHEMA`."""

    outline: bytes


@dataclass(frozen=True)
class Table:
    """An immutable snapshot; `add` and `remove` return new ones."""

    data: pa.Table
    columns: Mapping[str, Column] = field(repr=False)
    platforms: tuple[str, ...]
    collections: tuple[str, ...]
    #: id and title of every row in lower case, one text: finding in it is 20 times as
    #: fast as a search per row. `columns["word_start"]` says where each row's begin.
    words: str = field(repr=False)

    @staticmethod
    def of(data: pa.Table) -> Table:
        """Index an Arrow table of the schema of this module."""
        data = data.take(pc.sort_indices(data, [("time_us", "descending"), ("id", "ascending")]))
        data = data.combine_chunks()
        numbers = ("time_us", "west", "south", "east", "north", "cloud")
        columns: dict[str, Column] = {n: data[n].to_numpy() for n in numbers}
        names = {}
        for column in ("platform", "collection"):
            coded = data[column].combine_chunks().dictionary_encode()
            columns[column] = coded.indices.to_numpy(zero_copy_only=False)
            names[column] = tuple(coded.dictionary.to_pylist())
        words = pc.utf8_lower(pc.binary_join_element_wise(data["id"], data["title"], "\n"))
        lengths = pc.utf8_length(words).to_numpy()
        columns["word_start"] = np.cumsum(lengths + 1) - (lengths + 1)
        text = "\0".join(words.to_pylist())
        return Table(data, columns, names["platform"], names["collection"], text)

    @staticmethod
    def empty() -> Table:
        return Table.of(SCHEMA.empty_table())

    @staticmethod
    def from_scenes(scenes: Iterable[Scene]) -> Table:
        """A table of these scenes; the last of two with one id counts."""
        unique = {scene.id: row_of(scene) for scene in scenes}
        return Table.of(pa.Table.from_pylist(list(unique.values()), schema=SCHEMA))

    @staticmethod
    def load(path: Path) -> Table:
        """Read a table.

        Raises:
            ValueError, OSError, pyarrow.ArrowException: missing, broken, or of another format.
        """
        data = pq.read_table(path, memory_map=False)
        if not data.schema.equals(SCHEMA) or (data.schema.metadata or {}) != SCHEMA.metadata:
            raise ValueError(f"{path.name} has another format")
        return Table.of(data)

    def save(self, path: Path) -> None:
        """Write by a temporary file and a rename."""
        draft = path.with_name(path.name + ".part")
        pq.write_table(self.data, draft, compression="zstd")
        draft.replace(path)

    def add(self, scene: Scene) -> Table:
        """With `scene`, in place of one of the same id."""
        rest = self.remove(scene.id).data
        return Table.of(pa.concat_tables([rest, pa.Table.from_pylist([row_of(scene)], SCHEMA)]))

    def remove(self, ident: str) -> Table:
        """Without the scene; the same table when it is not there."""
        rest = self.data.filter(pc.not_equal(self.data["id"], ident))
        return self if rest.num_rows == len(self) else Table.of(rest)

    def __len__(self) -> int:
        return int(self.data.num_rows)

    def search(self, query: SceneQuery) -> Rows:
        """Numbers of all rows that match, newest first, whatever `query.limit`.

        Raises:
            InvalidInput: the area or polygon is no area.
        """
        mask = self._attributes(query)
        if query.text.strip():
            mask &= self._text(query.text.strip())
        rows = np.flatnonzero(mask)
        area, polygon = check_area(query.area), check_polygon(query.polygon)
        if area is not None:
            rows = self._intersecting(rows, area, None)
        if polygon is not None:
            members = [self._intersecting(rows, box, m) for box, m in _members(polygon)]
            rows = np.unique(np.concatenate(members))
        return rows

    def scene_fields(self, rows: Rows) -> list[SceneFields]:
        """The rows as dictionaries of the schema's columns, without `outline`."""
        found: list[SceneFields] = self.data.drop_columns(["outline"]).take(rows).to_pylist()
        return found

    def features(self, rows: Rows) -> list[str]:
        """The rows' footprints, each as the text of a GeoJSON feature."""
        found: list[str] = self.data["feature"].take(rows).to_pylist()
        return found

    def _attributes(self, query: SceneQuery) -> Bools:
        c = self.columns
        mask = np.ones(len(self), dtype=bool)
        if query.start is not None:
            mask &= c["time_us"] >= microseconds(query.start)
        if query.end is not None:
            mask &= c["time_us"] <= microseconds(query.end)
        if query.max_cloud is not None:
            mask &= ~(c["cloud"] > query.max_cloud)
        if query.platforms:
            mask &= _one_of(c["platform"], self.platforms, query.platforms)
        if query.collections is not None and not set(self.collections) <= set(query.collections):
            mask &= _one_of(c["collection"], self.collections, query.collections)
        return mask

    def _text(self, text: str) -> Bools:
        mask = np.zeros(len(self), dtype=bool)
        starts, wanted = self.columns["word_start"], text.lower()
        at = -1 if "\0" in wanted else self.words.find(wanted)
        while at >= 0:
            row = int(np.searchsorted(starts, at, side="right")) - 1
            mask[row] = True
            at = self.words.find(wanted, int(starts[row + 1])) if row + 1 < len(self) else -1
        return mask

    def _intersecting(self, rows: Rows, box: BBox, polygon: shapely.Geometry | None) -> Rows:
        """Those of `rows` whose outline meets the polygon, or else the box."""
        c = {name: self.columns[name][rows] for name in ("west", "south", "east", "north")}
        near = np.zeros(rows.size, dtype=bool)
        inside = np.zeros(rows.size, dtype=bool)
        crossing = c["west"] > c["east"]
        for west, south, east, north in bbox_parts(box):
            level = (c["south"] <= north) & (c["north"] >= south)
            beside = np.where(
                crossing,
                (c["west"] <= east) | (c["east"] >= west),
                (c["west"] <= east) & (c["east"] >= west),
            )
            near |= level & beside
            inside |= ~crossing & (c["west"] >= west) & (c["east"] <= east) & (
                c["south"] >= south) & (c["north"] <= north)  # fmt: skip
        doubtful = np.flatnonzero(near & ~inside) if polygon is None else np.flatnonzero(near)
        if doubtful.size:
            outlines = shapely.from_wkb(self.data["outline"].take(rows[doubtful]).to_pylist())
            near[doubtful] = _meets(outlines, polygon or _box_geometry(box))
        return rows[near]


def _one_of(codes: Column, names: Sequence[str], wanted: Sequence[str]) -> Bools:
    """Rows whose code stands for one of the wanted names."""
    return np.isin(codes, [code for code, name in enumerate(names) if name in wanted])


def microseconds(time: datetime) -> int:
    """Since 1970, UTC; a time without a zone is taken as UTC."""
    aware = time if time.tzinfo else time.replace(tzinfo=timezone.utc)
    return round(aware.timestamp() * 1_000_000)


def row_of(scene: Scene) -> Row:
    """The scene as one row."""
    west, south, east, north = scene.bbox
    return {
        "id": scene.id, "collection": scene.collection, "platform": scene.platform,
        "time_us": microseconds(scene.time), "west": west, "south": south, "east": east,
        "north": north, "cloud": scene.cloud_cover, "level": scene.level,
        "bands": ",".join(sorted(scene.bands)), "synthetic": scene.synthetic,
        "title": scene.title, "outline": shapely.to_wkb(shape(dict(scene.footprint))),
        "feature": _feature(scene),
    }  # fmt: skip


def check_area(area: BBox | None) -> BBox | None:
    """The box, if it is one.

    Raises:
        InvalidInput: not a box on the globe.
    """
    if area is None:
        return None
    west, south, east, north = area
    on_globe = all(-180 <= v <= 180 for v in (west, east)) and all(
        -90 <= v <= 90 for v in (south, north)
    )
    if not on_globe or south > north:
        raise InvalidInput(
            "The area must be west, south, east, north in degrees: longitudes from -180 to 180, "
            "latitudes from -90 to 90, south below north."
        )
    return area


def check_polygon(polygon: JsonObject | None) -> Area | None:
    """The polygon as a shapely geometry, if it is one.

    Raises:
        InvalidInput: not a valid GeoJSON Polygon or MultiPolygon.
    """
    if polygon is None:
        return None
    try:
        found = shape(dict(polygon))
        if not isinstance(found, Area) or found.is_empty or not np.isfinite(found.bounds).all():
            raise ValueError(found.geom_type)
    except (ValueError, TypeError, KeyError, AttributeError, shapely.errors.ShapelyError) as exc:
        raise InvalidInput(
            "The drawn area must be a GeoJSON polygon (longitude, latitude)."
        ) from exc
    if not found.is_valid:
        raise InvalidInput("The lines of the drawn area cross each other. Draw it again.")
    return found


def _members(polygon: Area) -> list[tuple[BBox, shapely.Geometry]]:
    """The polygon's parts with their boxes, brought into -180..180 (maps wrap around)."""
    west, _, east, _ = polygon.bounds
    inside = west >= -180 and east <= 180
    whole = polygon if inside else shape(antimeridian.fix_shape(mapping(polygon)))
    return [(_box(part.bounds), part) for part in shapely.get_parts(whole)]


def _box(bounds: Sequence[float]) -> BBox:
    west, south, east, north = map(float, bounds)
    return (west, south, east, north)


def _box_geometry(box: BBox) -> shapely.Geometry:
    return shapely.union_all([shapely.box(*part) for part in bbox_parts(box)])


def _meets(outlines: npt.NDArray[np.object_], area: shapely.Geometry) -> Bools:
    shapely.prepare(area)
    found: Bools = shapely.intersects(area, outlines)
    return found


def _feature(scene: Scene) -> str:
    feature = {
        "type": "Feature",
        "id": scene.id,
        "properties": {
            "id": scene.id,
            "title": scene.title,
            "platform": scene.platform,
            "time": scene.time.isoformat().replace("+00:00", "Z"),
            "cloud": scene.cloud_cover,
            "synthetic": scene.synthetic,
        },
        "geometry": scene.footprint,
    }
    return json.dumps(feature, separators=(",", ":"), ensure_ascii=False)
