"""The catalog: search by place, time, cloud, platform and text; several processes; crashes."""

from __future__ import annotations

import copy
import errno
import json
import multiprocessing
import os
import pickle
import shutil
import threading
from datetime import date, datetime, timedelta, timezone
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from lib.errors import InvalidInput, InvalidProduct, NotFound, StorageFull
from lib.imagery.outline import bbox_of, lonlat_polygon
from lib.model import BBox, Scene, SceneId, SceneQuery
from lib.scenes import local_catalog as catalogue_module
from lib.scenes.local_catalog import LocalCatalog
from lib.scenes.stac import bbox_parts
from lib.scenes.synthetic import LandsatSpec, write_landsat
from lib.scenes.table import Table

UTC = timezone.utc


def scene(
    ident: str, ring: list[tuple[float, float]], *, time: datetime | None = None,
    cloud: float | None = 10.0, platform: str = "landsat-8", title: str = "",
) -> Scene:  # fmt: skip
    footprint = lonlat_polygon(ring)
    return Scene(
        SceneId(ident), "c", platform, time or datetime(2024, 1, 1, tzinfo=UTC), footprint,
        bbox_of(footprint), cloud, "L1TP", frozenset({"red", "nir08"}), False, title or ident, {},
    )  # fmt: skip


def box(west: float, south: float, east: float, north: float) -> list[tuple[float, float]]:
    return [(west, south), (east, south), (east, north), (west, north)]


TOKYO = scene("TOKYO", box(139, 35, 141, 36), title="Tokyo Bay")
FIJI = scene("FIJI", [(179, -19), (-179, -19), (-179, -17), (179, -17)])
#: A diamond: its box is full of places that it does not cover.
DIAMOND = scene("DIAMOND", [(0, -5), (5, 0), (0, 5), (-5, 0)])
OLD = scene("OLD", box(139, 35, 141, 36), time=datetime(2015, 6, 1, 12, tzinfo=UTC), cloud=None)
CLOUDY = scene("CLOUDY", box(10, 10, 11, 11), cloud=90.0)
TAIWAN = scene("FS2_TAIWAN", box(120, 23, 121, 24), platform="formosat-2")
ALL = (TOKYO, FIJI, DIAMOND, OLD, CLOUDY, TAIWAN)
NAMES = {str(s.id) for s in ALL}


def found(query: SceneQuery, scenes: tuple[Scene, ...] = ALL) -> set[str]:
    table = Table.from_scenes(scenes)
    return {f["id"] for f in table.scene_fields(table.search(query))}


def polygon(*rings: list[tuple[float, float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]}


@pytest.mark.parametrize(
    ("area", "expected"),
    [
        (None, NAMES),
        ((-180, -90, 180, 90), NAMES),
        ((140, 35.5, 140.1, 35.6), {"TOKYO", "OLD"}),
        ((141.0, 36.0, 150, 40), {"TOKYO", "OLD"}),
        ((141.001, 36.001, 150, 40), set()),
        ((4, 4, 5, 5), set()),
        ((2.4, 2.4, 5, 5), {"DIAMOND"}),
        ((178, -20, 180, -10), {"FIJI"}),
        ((-180, -20, -178, -10), {"FIJI"}),
        ((179.5, -20, -179.5, -10), {"FIJI"}),
        ((170, -20, -170, -10), {"FIJI"}),
        ((170, -90, 10.5, 90), {"FIJI", "DIAMOND", "CLOUDY"}),
        ((-170, -20, 170, -10), set()),
    ],
)
def test_area(area: BBox | None, expected: set[str]) -> None:
    assert found(SceneQuery(area=area)) == expected


@pytest.mark.parametrize(
    ("ring", "expected"),
    [
        (box(139.5, 35.2, 139.6, 35.3), {"TOKYO", "OLD"}),
        ([(4, 4), (5, 4), (5, 5)], set()),
        ([(0, 0), (0.1, 0), (0, 0.1)], {"DIAMOND"}),
        (box(179.5, -18, 180.5, -17.5), {"FIJI"}),
        (box(-180.5, -18, -179.5, -17.5), {"FIJI"}),
        (box(119, 22, 142, 37), {"TOKYO", "OLD", "FS2_TAIWAN"}),
    ],
)
def test_polygon(ring: list[tuple[float, float]], expected: set[str]) -> None:
    assert found(SceneQuery(polygon=polygon(ring))) == expected


def test_a_polygon_refines_an_area() -> None:
    query = SceneQuery(area=(0, 0, 180, 90), polygon=polygon(box(120.2, 23.2, 120.3, 23.3)))
    assert found(query) == {"FS2_TAIWAN"}
    assert found(SceneQuery(area=(0, 0, 90, 90), polygon=query.polygon)) == set()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (SceneQuery(start=datetime(2024, 1, 1, tzinfo=UTC)), NAMES - {"OLD"}),
        (SceneQuery(end=datetime(2015, 6, 1, 12, tzinfo=UTC)), {"OLD"}),
        (SceneQuery(end=datetime(2015, 6, 1, 11, 59, 59, tzinfo=UTC)), set()),
        (SceneQuery(end=datetime(2015, 6, 1, 21, tzinfo=timezone(timedelta(hours=9)))), {"OLD"}),
        (SceneQuery(max_cloud=10), {"TOKYO", "FIJI", "DIAMOND", "OLD", "FS2_TAIWAN"}),
        (SceneQuery(max_cloud=9.9), {"OLD"}),
        (SceneQuery(platforms=("formosat-2",)), {"FS2_TAIWAN"}),
        (SceneQuery(platforms=("formosat-5",)), set()),
        (SceneQuery(text="tokyo b"), {"TOKYO"}),
        (SceneQuery(text="fs2"), {"FS2_TAIWAN"}),
        (SceneQuery(text=".*"), set()),
        (SceneQuery(text="o"), {"TOKYO", "OLD", "CLOUDY", "DIAMOND"}),
        (SceneQuery(text="tokyo\ntokyo bay"), {"TOKYO"}),
        (SceneQuery(text="bay\0fiji"), set()),
        (SceneQuery(text="  "), NAMES),
    ],
)  # fmt: skip
def test_attributes(query: SceneQuery, expected: set[str]) -> None:
    assert found(query) == expected


@pytest.mark.parametrize(
    "query",
    [
        SceneQuery(area=(-181, 0, 0, 1)),
        SceneQuery(area=(0, 2, 1, 1)),
        SceneQuery(area=(0, float("nan"), 1, 1)),
        SceneQuery(polygon={"type": "Point", "coordinates": [0, 0]}),
        SceneQuery(polygon={"type": "Polygon"}),
        SceneQuery(polygon={"type": "Polygon", "coordinates": "x"}),
        SceneQuery(polygon=polygon([(0, 0), (1, 1), (1, 0), (0, 1)])),
        SceneQuery(polygon=polygon([(0, 0), (float("inf"), 1), (1, 0)])),
    ],
)
def test_an_area_that_is_none_is_refused(query: SceneQuery) -> None:
    with pytest.raises(InvalidInput):
        found(query)


def test_search_agrees_with_a_plain_loop() -> None:
    """Three hundred random footprints, some across the antimeridian, against shapely."""
    rng = np.random.default_rng(5)
    scenes = []
    for number in range(300):
        lon, lat, turn = rng.uniform(-180, 180), rng.uniform(-70, 70), rng.uniform(0, np.pi / 2)
        turns = turn + np.arange(4) * np.pi / 2
        lons = (lon + 3 * np.cos(turns) + 180) % 360 - 180
        corners = list(zip(lons.tolist(), (lat + 3 * np.sin(turns)).tolist(), strict=True))
        scenes.append(scene(f"S{number}", corners))
    table = Table.from_scenes(scenes)
    shapes = {s.id: shapely.geometry.shape(dict(s.footprint)) for s in scenes}
    for _ in range(60):
        west, south = rng.uniform(-180, 180), rng.uniform(-80, 70)
        east = west + rng.uniform(0.1, 30)
        area = (west, south, east - 360 if east > 180 else east, south + rng.uniform(0.1, 10))
        parts = [shapely.box(*p) for p in bbox_parts(area)]
        expected = {
            ident for ident, shape in shapes.items() if any(shape.intersects(p) for p in parts)
        }
        assert {
            f["id"] for f in table.scene_fields(table.search(SceneQuery(area=area)))
        } == expected


# --- on disk ---


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("products")
    specs = [LandsatSpec(139.8, 35.3, 107, 36, date(2024, 1, day), day, size=64, fires=0, ships=0,
                         turbines=0) for day in (3, 19)]  # fmt: skip
    return [write_landsat(folder, spec) for spec in specs]


@pytest.fixture
def catalog(tmp_path: Path) -> LocalCatalog:
    return LocalCatalog(tmp_path / "scenes")


Filled = tuple[LocalCatalog, Scene, Scene]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, products: list[Path]) -> LocalCatalog:
    made = LocalCatalog(tmp_path_factory.mktemp("both") / "scenes")
    for product in products:
        made.add(product)
    return made


@pytest.fixture
def filled(tmp_path: Path, both: LocalCatalog) -> Filled:
    """A catalog of one's own that has both products, and its scenes: the older, the newer."""
    catalog = LocalCatalog(Path(shutil.copytree(both.root, tmp_path / "filled")))
    second, first = catalog.search(SceneQuery()).scenes
    return catalog, first, second


def test_newest_first_and_limited(catalog: LocalCatalog, products: list[Path]) -> None:
    first, second = (catalog.add(p) for p in products)
    hits = catalog.search(SceneQuery())
    assert [s.id for s in hits.scenes] == [second.id, first.id]
    assert (hits.total, hits.truncated) == (2, False)
    hits = catalog.search(SceneQuery(limit=1))
    assert ([s.id for s in hits.scenes], hits.total, hits.truncated) == ([second.id], 2, True)
    assert catalog.search(SceneQuery(limit=0)).scenes == ()
    with pytest.raises(InvalidInput):
        catalog.search(SceneQuery(limit=-1))


def test_a_hit_is_the_scene(catalog: LocalCatalog, products: list[Path]) -> None:
    added = catalog.add(products[0])
    (hit,) = catalog.search(SceneQuery()).scenes
    assert {
        f: getattr(hit, f) for f in ("id", "time", "bbox", "bands", "title", "cloud_cover")
    } == {f: getattr(added, f) for f in ("id", "time", "bbox", "bands", "title", "cloud_cover")}
    assert dict(hit.footprint) == dict(added.footprint)
    assert dict(hit.item) == dict(added.item)
    again: Scene = pickle.loads(pickle.dumps(copy.deepcopy(hit)))
    assert json.loads(json.dumps(dict(again.item)))["id"] == added.id
    assert catalog.get(added.id) == added


def test_footprints(filled: Filled) -> None:
    catalog, _, _ = filled
    shown = catalog.footprints(SceneQuery(limit=1))
    assert (shown.total, shown.shown) == (2, 2)
    collection = json.loads(shown.geojson)
    properties = collection["features"][0]["properties"]
    assert set(properties) == {"id", "title", "platform", "time", "cloud", "synthetic"}
    assert properties["synthetic"] is True
    assert datetime.fromisoformat(properties["time"]).year == 2024
    capped = catalog.footprints(SceneQuery(), cap=1)
    assert (capped.total, capped.shown) == (2, 1)
    empty = catalog.footprints(SceneQuery(text="nothing like it"))
    assert json.loads(empty.geojson) == {"type": "FeatureCollection", "features": []}


def test_adding_again_changes_nothing(catalog: LocalCatalog, products: list[Path]) -> None:
    scene_ = catalog.add(products[0])
    before = {p: p.stat().st_mtime_ns for p in catalog.root.rglob("*.tif")}
    assert catalog.add(products[0]) == scene_
    assert {p: p.stat().st_mtime_ns for p in catalog.root.rglob("*.tif")} == before
    assert len(catalog) == 1


def test_marked_synthetic_by_the_caller(
    catalog: LocalCatalog, products: list[Path], tmp_path: Path
) -> None:
    product = Path(shutil.copytree(products[0], tmp_path / "p"))
    mtl = next(product.glob("*MTL.txt"))
    mtl.write_text(mtl.read_text().replace("Synthetic scene made by SceneBridge", "elsewhere"))
    added = catalog.add(product, synthetic=True)
    assert added.synthetic
    assert added.title.startswith("Synthetic ")
    assert catalog.search(SceneQuery()).scenes[0].synthetic


def test_a_scene_is_found_by_the_place_that_it_was_called(
    catalog: LocalCatalog, products: list[Path]
) -> None:
    added = catalog.add(products[0], place="Osaka Bay")
    assert added.title.startswith("Osaka Bay: Synthetic Landsat 8")
    assert [s.id for s in catalog.search(SceneQuery(text="osaka")).scenes] == [added.id]


def test_a_scene_is_read_once_and_again_when_its_item_has_changed(filled: Filled) -> None:
    catalog, added, _ = filled
    assert catalog.get(added.id) is catalog.get(added.id)
    place = catalog.root / added.id / "item.json"
    item = json.loads(place.read_text())
    item["properties"]["title"] = "Another title"
    place.write_text(json.dumps(item))
    assert catalog.get(added.id).title == "Another title"
    place.unlink()
    with pytest.raises(NotFound):
        catalog.get(added.id)


def test_remove(filled: Filled, products: list[Path]) -> None:
    catalog, first, second = filled
    catalog.remove(first.id)
    assert [s.id for s in catalog.search(SceneQuery()).scenes] == [second.id]
    assert not (catalog.root / first.id).exists()
    for missing in (first.id, "../scenes", "", "x" * 500):
        with pytest.raises(NotFound):
            catalog.get(SceneId(missing))
        with pytest.raises(NotFound):
            catalog.remove(SceneId(missing))
    catalog.add(products[0])
    assert len(catalog) == 2


@pytest.mark.slow
def test_many_at_once_lose_nothing(catalog: LocalCatalog, products: list[Path]) -> None:
    """Both products from another process, one of them from four threads, at the same time."""
    assert len(catalog) == 0
    spawn = multiprocessing.get_context("spawn")
    go = spawn.Barrier(5)
    process = spawn.Process(target=add_in_process, args=(catalog.root, products, go))
    failed: list[BaseException] = []
    threads = [
        threading.Thread(target=add_in_thread, args=(catalog, products[0], go, failed))
        for _ in range(4)
    ]
    workers: list[Any] = [process, *threads]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failed == []
    assert process.exitcode == 0
    assert len(catalog) == 2, "what another process added is seen"
    assert len(catalog.search(SceneQuery()).scenes) == 2
    assert len(list(catalog.root.glob("LC08*/item.json"))) == 2
    assert list(catalog.root.glob(".incoming-*")) == []


def test_a_broken_table_is_rebuilt(filled: Filled) -> None:
    catalog, _, _ = filled
    table = catalog.root / "table.parquet"
    for damage in (lambda: table.write_bytes(b"rubbish"), table.unlink):
        damage()
        assert len(LocalCatalog(catalog.root)) == 2
        assert len(catalog) == 2


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        '{"assets": []}',
        '{"assets": {}, "links": [null]}',
        "[" * 100_000,
        '{"id": %s}' % ("9" * 5000),
    ],
)
def test_a_broken_item_hides_only_itself(filled: Filled, damage: str) -> None:
    catalog, first, second = filled
    (catalog.root / first.id / "item.json").write_text(damage)
    (catalog.root / "table.parquet").unlink()
    assert [s.id for s in catalog.search(SceneQuery()).scenes] == [second.id]
    with pytest.raises(InvalidInput, match="damaged"):
        catalog.get(first.id)


def test_what_a_killed_process_left_is_removed(catalog: LocalCatalog, products: list[Path]) -> None:
    left = catalog.root / ".incoming-dead"
    left.mkdir()
    (left / "lock").touch()
    (left / "half.tif").touch()
    os.utime(left, (0, 0))
    with catalog._incoming() as living:
        os.utime(living, (0, 0))
        LocalCatalog(catalog.root)
        assert not left.exists()
        assert living.exists()


def test_a_full_disk_leaves_nothing(
    catalog: LocalCatalog, products: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one fault that a test cannot cause on every computer's disk."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lib.imagery.raster.shutil.copyfile", full)
        with pytest.raises(StorageFull):
            catalog.add(products[0])
    assert len(catalog) == 0
    assert list(catalog.root.glob("LC08*")) == []
    assert catalog.add(products[0])


def test_a_scene_appears_only_when_it_is_whole(
    catalog: LocalCatalog, products: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Scene) -> None:
        assert list(catalog.root.glob("LC08*")) == []
        raise InvalidProduct("stopped here")

    monkeypatch.setattr(catalogue_module, "_draw_previews", fail)
    with pytest.raises(InvalidProduct, match="stopped here"):
        catalog.add(products[0])
    assert list(catalog.root.glob("LC08*")) == []


def add_in_process(root: Path, products: list[Path], go: Barrier) -> None:
    go.wait()
    for product in products:
        LocalCatalog(root).add(product)


def add_in_thread(
    catalog: LocalCatalog, product: Path, go: Barrier, failed: list[BaseException]
) -> None:
    try:
        go.wait()
        catalog.add(product)
    except BaseException as exc:
        failed.append(exc)
