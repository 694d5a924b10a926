"""Catalogs and items: every version of STAC, the sample items of USGS, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modulekit.errors import SceneError, UsageError
from modulekit.files import MAX_JSON_BYTES
from modulekit.scenes import SceneItem, SceneLink, read_catalog, read_item
from tests.fixtures.module_scenes import DATA, write_catalog


def item_of(tmp_path: Path, item: dict[str, Any]) -> SceneItem:
    path = tmp_path / f"{item['id']}.json"
    path.write_text(json.dumps(item))
    return read_item(SceneLink(item["id"], path))


def base(**changes: Any) -> dict[str, Any]:
    item = {
        "id": "s1",
        "stac_version": "1.1.0",
        "properties": {"datetime": "2020-01-01T00:00:00Z", "platform": "landsat-8"},
        "assets": {},
    }
    return {**item, **changes}


def real(name: str) -> dict[str, Any]:
    path = DATA / "stac" / name
    if not path.exists():
        pytest.skip(f"{name} is not in ../shared/data")
    return json.loads(path.read_text())


def test_stac_1_1_bands(tmp_path):
    band = {"name": "B5", "eo:common_name": "nir08", "raster:scale": 3e-5, "raster:offset": -0.3}
    item = item_of(tmp_path, base(assets={"x": {"href": "x.tif", "bands": [band]}}))
    nir = item.band("nir08")
    assert (nir.href, nir.index, nir.scale, nir.offset) == ("x.tif", 1, 3e-5, -0.3)
    assert nir.calibrated


def test_several_bands_of_one_file(tmp_path):
    bands = [{"eo:common_name": n} for n in ("blue", "green", "red", "nir")]
    properties = {"datetime": "2010-01-01T00:00:00Z", "platform": "FORMOSAT-2"}
    assets = {"ms": {"href": "ms.tif", "bands": bands}}
    item = item_of(tmp_path, base(properties=properties, assets=assets))
    assert [item.band(n).index for n in ("blue", "green", "red", "nir")] == [1, 2, 3, 4]
    assert item.band("nir").href == "ms.tif"
    assert not item.band("nir").calibrated
    assert item.platform == "formosat-2"


@pytest.mark.parametrize(
    ("name", "elevation"),
    [
        ("LC08_L2SP_005009_20150710_20200908_02_T2_SR_stac.json", 40.0015903),  # STAC 0.7
        ("LC08_L2SR_081119_20200101_20200823_02_T2.json", 22.72192082),  # 1.0.0-beta.2
        ("LC08_L2SP_028030_20200114_20200824_02_T1_SR.json", 22.57988462),  # 1.0.0
        ("LC08_L2SP_047027_20201204_02_T1.PlanetaryComputer-style.json", 18.80722985),
    ],
)
def test_real_items(tmp_path, name, elevation):
    raw = real(name)
    item = item_of(tmp_path, raw)
    assert item.platform == "landsat-8"
    assert item.sun_elevation == elevation
    assert item.level in ("L2SP", "L2SR")
    for band, number in (("blue", 2), ("nir08", 5), ("swir22", 7)):
        assert f"_SR_B{number}" in item.band(band).href
        assert (item.band(band).scale, item.band(band).offset) == (2.75e-5, -0.2)
    assert "QA_PIXEL" in item.band("qa_pixel").href
    assert "QA_RADSAT" in item.band("qa_radsat").href


def test_bands_by_asset_key_where_nothing_describes_them(tmp_path):
    assets = {key: {"href": f"{key}.TIF"} for key in ("B2", "SR_B5.TIF", "MTL", "QA_RADSAT.TIF")}
    item = item_of(tmp_path, base(assets=assets))
    assert set(item.bands) == {"blue", "nir08", "qa_radsat"}


@pytest.mark.parametrize(
    ("level", "constants"), [("L1TP", (2e-5, -0.1)), ("L2SP", (2.75e-5, -0.2)), ("", (2e-5, -0.1))]
)
def test_constants_that_no_item_says_come_from_the_level(tmp_path, level, constants):
    properties = {**base()["properties"], "processing:level": level}
    item = item_of(tmp_path, base(properties=properties, assets={"B4": {"href": "B4.tif"}}))
    assert (item.band("red").scale, item.band("red").offset) == constants


def test_constants_of_stac_1_0(tmp_path):
    asset = {
        "href": "a.tif",
        "eo:bands": [{"common_name": "red"}, {"common_name": "nir08"}],
        "raster:bands": [{"scale": 1e-4, "offset": -0.01}, {"scale": 2e-4}],
    }
    item = item_of(tmp_path, base(assets={"a": asset}))
    assert (item.band("red").scale, item.band("red").offset) == (1e-4, -0.01)
    assert (item.band("nir08").scale, item.band("nir08").offset) == (2e-4, 0.0)


def test_level_from_the_product_id(tmp_path):
    item = item_of(tmp_path, base(id="LC08_L1GT_227074_20190809_20200827_02_T2"))
    assert item.level == "L1GT"


def test_a_band_that_is_not_there_names_those_that_are(tmp_path):
    item = item_of(tmp_path, base(assets={"B4": {"href": "B4.tif"}}))
    with pytest.raises(SceneError, match="no band green; its item describes these bands: red"):
        item.band("green")


@pytest.mark.parametrize(
    "broken",
    [
        {"properties": {}},
        {"assets": {"B4": {}}},
        {"assets": {"B4": "text"}},
        {"assets": {"a": {"href": "a.tif", "eo:bands": [3]}}},
        {"assets": None},
        {
            "properties": {
                "datetime": "2020-01-01T00:00:00Z",
                "platform": "landsat-8",
                "view:sun_elevation": "high",
            }
        },
    ],
)
def test_broken_items_fail_in_one_sentence(tmp_path, broken):
    with pytest.raises(SceneError, match="not a usable STAC item") as caught:
        item_of(tmp_path, base(**broken))
    assert "\n" not in caught.value.message


def test_an_item_of_another_scene_is_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(base()))
    with pytest.raises(SceneError, match="describes another scene"):
        read_item(SceneLink("other", path))


def test_a_list_is_no_item(tmp_path):
    path = tmp_path / "s1.json"
    path.write_text("[]")
    with pytest.raises(SceneError, match="not a usable STAC item"):
        read_item(SceneLink("s1", path))


def test_catalog_links(tmp_path):
    write_catalog(tmp_path, ("b", "a"))
    assert [s.id for s in read_catalog(tmp_path)] == ["b", "a"]


@pytest.mark.parametrize(
    ("catalog", "message"),
    [
        ("", "not JSON"),
        ("[1]", "no list of links"),
        ('{"links": []}', "no item links"),
        ('{"links": [{"rel": "item"}]}', "not a file below"),
        ('{"links": [{"rel": "item", "href": "https://example.org/a.json"}]}', "not a file below"),
        ('{"links": [{"rel": "item", "href": "../a.json"}]}', "outside its folder"),
        ('{"links": [{"rel": "item", "href": "/etc/a.json"}]}', "outside its folder"),
        ('{"links": [{"rel": "item", "href": "x/.hidden.json"}]}', "outside its folder"),
        (
            '{"links": [{"rel": "item", "href": "a.json"}, {"rel": "item", "href": "b/a.json"}]}',
            "same scene twice",
        ),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_catalogs_that_are_refused(tmp_path, catalog, message):
    (tmp_path / "catalog.json").write_text(catalog)
    with pytest.raises(UsageError, match=message):
        read_catalog(tmp_path)


def test_a_huge_catalog_is_not_read(tmp_path):
    with (tmp_path / "catalog.json").open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(UsageError, match="larger than 16 MiB"):
        read_catalog(tmp_path)
