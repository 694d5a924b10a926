"""The local catalog: scenes that were taken in, on disk and searchable.

Layout of the folder:

    table.parquet           the search table; rebuilt from the items when it is broken
    table.lock              held while the table is replaced
    COLLECTION.json         STAC collection that the items link to
    SCENE_ID/item.json      STAC item, hrefs relative to the folder
    SCENE_ID/*.tif          georeferenced COGs
    .incoming-*/            a product that is being taken in; removed when its process died

The folder can be moved as a whole, and several processes may share it: a snapshot of the
table is kept until the file changes.
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
from cachetools import LRUCache

from lib.errors import InvalidInput, InvalidProduct, NotFound, StorageFull
from lib.model import JsonObject, JsonValue, Scene, SceneId, SceneQuery, json_list, json_object
from lib.protocol.messages import SCENE_ID_PATTERN
from lib.scenes import archive, stac
from lib.scenes.ingest import read_product, store_product, write_json
from lib.scenes.table import SceneFields, Table

log = logging.getLogger(__name__)

_Stamp = tuple[int, int, int]
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TABLE = "table.parquet"
COLLECTIONS = Path(__file__).resolve().parents[2] / "catalogs"
_INCOMING = ".incoming-"
_SWEEP_AFTER_S = 60.0
_CACHED_SCENES = 20_000
#: With their items, of some kilobytes each.
_CACHED_ITEMS = 500


@dataclass(frozen=True, slots=True)
class SceneHits:
    """`scenes` newest first, at most the query's limit; `total` counts all that match."""

    scenes: tuple[Scene, ...]
    total: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Footprints:
    """`geojson` is a FeatureCollection of the newest `shown` of `total` footprints."""

    geojson: bytes
    total: int
    shown: int


class LocalCatalog:
    """Scenes below one folder. Safe to use from several threads and processes."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._mutex = threading.Lock()
        #: Read when it is first asked for: that loads pandas, a tenth of the portal's start.
        self._table: Table | None = None
        self._seen: _Stamp | None = None
        self._cache: dict[str, Scene] = {}
        self._whole: LRUCache[str, tuple[_Stamp, Scene]] = LRUCache(_CACHED_ITEMS)
        self._reading = threading.Lock()  # of it
        self._root.mkdir(parents=True, exist_ok=True)
        self._sweep()

    @property
    def root(self) -> Path:
        """The catalog's folder."""
        return self._root

    def __len__(self) -> int:
        return len(self._current())

    def add(self, product: Path, *, synthetic: bool = False, place: str = "") -> Scene:
        """Take in a product: a folder, a `.tar` or a `.tar.gz`.

        Its rasters become georeferenced COGs, its previews are drawn, and only then it
        appears, at once. A scene that is there already is returned as it is.

        Args:
            synthetic: mark the scene as synthetic even where the product does not say so.
            place: what it shows, as people know it; its title begins with that.
        Raises:
            InvalidProduct: it cannot be read; nothing was added.
            StorageFull: no space is left; nothing was added.
        """
        product = product.absolute()
        if not product.exists():
            raise InvalidProduct(f"There is no file or folder {product}.")
        with self._incoming() as work:
            source = product
            if archive.is_archive(product) and product.is_file():
                source = work / "unpacked"
                source.mkdir()
                archive.unpack(product, source)
            found = read_product(source)
            if (self._root / found.id / "item.json").is_file():
                return self.get(SceneId(found.id))
            folder = work / "scene"
            folder.mkdir()
            item = store_product(found, folder)
            if synthetic and not found.synthetic:
                item = _synthetic(item)
            if place:
                item = _named(item, place)
            write_json(folder / "item.json", item)
            _draw_previews(_scene(item, folder))
            self._publish(found.id, folder)
        return self.get(SceneId(found.id))

    def remove(self, scene_id: SceneId) -> None:
        """Delete a scene and its files.

        Raises:
            NotFound: there is no such scene.
        """
        self.get(scene_id)
        with self._locked_table() as table, self._incoming() as work:
            _save(table.remove(scene_id), self._root / _TABLE)
            with suppress(FileNotFoundError):
                (self._root / scene_id).rename(work / "removed")

    def get(self, scene_id: SceneId) -> Scene:
        """The scene with its whole item; hrefs of local files are absolute.

        Raises:
            NotFound: there is no such scene.
        """
        place = self._root / scene_id / "item.json"
        stamp = _stamp(place) if SCENE_ID_PATTERN.fullmatch(scene_id) else None
        if stamp is None:
            raise NotFound(f"There is no scene {scene_id!r:.130} here.")
        with self._reading:
            known = self._whole.get(scene_id)
        if known is not None and known[0] == stamp:
            return known[1]
        scene = _scene(_read_item(place), place.parent)
        with self._reading:
            self._whole[scene_id] = stamp, scene
        return scene

    def search(self, query: SceneQuery) -> SceneHits:
        """Scenes that match, newest first. Their items are read when first looked at.

        Raises:
            InvalidInput: the query's area is no area.
        """
        if query.limit < 0:
            raise InvalidInput("The number of scenes to show cannot be negative.")
        table = self._current()
        rows = table.search(query)
        shown = rows[: query.limit]
        scenes = tuple(self._from_row(fields) for fields in table.scene_fields(shown))
        return SceneHits(scenes, int(rows.size), bool(rows.size > shown.size))

    def footprints(self, query: SceneQuery, *, cap: int = 20_000) -> Footprints:
        """Footprints of all scenes that match, up to `cap`; `query.limit` is not used.

        Properties of each feature: id, title, platform, time (ISO 8601), cloud (percent
        or null), synthetic.
        """
        table = self._current()
        rows = table.search(query)
        features = table.features(rows[:cap])
        text = '{"type":"FeatureCollection","features":[' + ",".join(features) + "]}"
        return Footprints(text.encode(), int(rows.size), len(features))

    # --- the table ---

    def _current(self) -> Table:
        table, stamp = self._table, _stamp(self._root / _TABLE)
        if table is None or stamp is None or stamp != self._seen:
            with self._mutex:
                return self._reload()
        return table

    def _reload(self) -> Table:
        stamp = _stamp(self._root / _TABLE)
        if self._table is not None and stamp is not None and stamp == self._seen:
            return self._table
        try:
            table = Table.load(self._root / _TABLE)
        except (OSError, ValueError, pa.ArrowException):
            with self._table_lock():
                table = self._rebuilt()
                _save(table, self._root / _TABLE)
            stamp = _stamp(self._root / _TABLE)
        self._table, self._seen, self._cache = table, stamp, {}
        return table

    def _rebuilt(self) -> Table:
        found = []
        for path in sorted(self._root.glob("*/item.json")):
            try:
                found.append(_scene(_read_item(path), path.parent))
            except (InvalidInput, NotFound) as exc:
                log.warning("the scene %s is left out: %s", path.parent.name, exc)
        return Table.from_scenes(found)

    def _publish(self, ident: str, folder: Path) -> None:
        target = self._root / ident
        with self._locked_table() as table:
            if target.exists() and not (target / "item.json").is_file():
                shutil.rmtree(target)
            if not target.exists():
                folder.rename(target)
            scene = _scene(_read_item(target / "item.json"), target)
            self._describe(scene.collection)
            _save(table.add(scene), self._root / _TABLE)

    def _describe(self, collection: str) -> None:
        """Put the collection's description beside the scenes that link to it."""
        source = COLLECTIONS / collection / "collection.json"
        if source.is_file():
            write_json(self._root / f"{collection}.json", json.loads(source.read_bytes()))

    @contextmanager
    def _locked_table(self) -> Iterator[Table]:
        self._current()
        with self._table_lock():
            yield Table.load(self._root / _TABLE)

    @contextmanager
    def _table_lock(self) -> Iterator[None]:
        with (self._root / "table.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _from_row(self, fields: SceneFields) -> Scene:
        ident = fields["id"]
        if (known := self._cache.get(ident)) is not None:
            return known
        scene = Scene(
            id=SceneId(ident),
            collection=fields["collection"],
            platform=fields["platform"],
            time=_EPOCH + timedelta(microseconds=fields["time_us"]),
            footprint=json.loads(fields["feature"])["geometry"],
            bbox=(fields["west"], fields["south"], fields["east"], fields["north"]),
            cloud_cover=fields["cloud"],
            level=fields["level"],
            bands=frozenset(fields["bands"].split(",")),
            synthetic=fields["synthetic"],
            title=fields["title"],
            item=LazyItem(self._root / ident),
        )
        if len(self._cache) >= _CACHED_SCENES:
            self._cache.clear()
        self._cache[ident] = scene
        return scene

    # --- products on their way in ---

    @contextmanager
    def _incoming(self) -> Iterator[Path]:
        """A working folder on the same disk, locked as long as this process lives."""
        try:
            work = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self._root))
        except OSError as exc:
            raise StorageFull(f"{self._root} cannot be written.") from exc
        try:
            with (work / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove working folders whose process died (young ones may not be locked yet)."""
        for work in self._root.glob(f"{_INCOMING}*"):
            with suppress(OSError), (work / "lock").open("r+") as lock:
                if time.time() - work.stat().st_mtime < _SWEEP_AFTER_S:
                    continue
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(work, ignore_errors=True)


class LazyItem(JsonObject):
    """A scene's STAC item that is read from its folder when first looked at.

    `LocalCatalog.search` gives its scenes such items, so that listing hundreds of scenes
    opens no file. `dict(scene.item)` gives the plain dictionary.
    """

    __slots__ = ("_folder", "_item")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._item: dict[str, JsonValue] | None = None

    def _read(self) -> dict[str, JsonValue]:
        if self._item is None:
            scene = _scene(_read_item(self._folder / "item.json"), self._folder)
            self._item = dict(scene.item)
        return self._item

    def __getitem__(self, key: str) -> JsonValue:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return f"LazyItem({self._folder.name!r})"


def _scene(item: JsonObject, folder: Path) -> Scene:
    try:
        whole = _absolute(item, folder)
    except TypeError as exc:
        raise InvalidInput(f"The item of the scene {folder.name} is damaged.") from exc
    return stac.from_item(whole)


def _absolute(item: JsonObject, folder: Path) -> dict[str, JsonValue]:
    assets: dict[str, JsonObject] = {}
    for key, asset in json_object(item.get("assets", {})).items():
        described = json_object(asset)
        href = str(described.get("href", ""))
        local = href.startswith("./") and "/" not in href[2:]
        assets[key] = {**described, "href": str(folder / href[2:])} if local else described
    links: list[JsonObject] = []
    for link in map(json_object, json_list(item.get("links", []))):
        href = str(link.get("href"))
        beside = href.startswith("../")
        links.append({**link, "href": str(folder.parent / href[3:])} if beside else link)
    return {**item, "assets": assets, "links": links}


def _read_item(path: Path) -> dict[str, JsonValue]:
    try:
        item: JsonValue = json.loads(path.read_bytes())
    except FileNotFoundError as exc:
        raise NotFound(f"The scene {path.parent.name} was removed.") from exc
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"The item of the scene {path.parent.name} is damaged.") from exc
    if not isinstance(item, dict):
        raise InvalidInput(f"The item of the scene {path.parent.name} is damaged.")
    return item


def _synthetic(item: JsonObject) -> dict[str, JsonValue]:
    properties = json_object(item["properties"])
    title = f"Synthetic {properties['title']}"
    return {**item, "properties": {**properties, "scenebridge:synthetic": True, "title": title}}


def _named(item: JsonObject, place: str) -> dict[str, JsonValue]:
    properties = json_object(item["properties"])
    return {**item, "properties": {**properties, "title": f"{place}: {properties['title']}"}}


def _draw_previews(scene: Scene) -> None:
    from lib.imagery.quicklook import default_composite, quicklook

    quicklook(scene, composite=default_composite(scene))


def _save(table: Table, path: Path) -> None:
    try:
        table.save(path)
    except OSError as exc:
        raise StorageFull(f"{path.name} could not be written. Free some disk space.") from exc


def _stamp(path: Path) -> _Stamp | None:
    """Another one after each change of the file; None where there is no file."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return (status.st_mtime_ns, status.st_ino, status.st_size)
