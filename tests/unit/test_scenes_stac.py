"""STAC items of every version become one kind of Scene."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lib.errors import InvalidInput
from lib.scenes.stac import from_item, to_item
from tests.unit.scene_products import shared

SR = {"coastal", "blue", "green", "red", "nir08", "swir16", "swir22"}


def item(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": "SCENE_1",
        "collection": "landsat8",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]],
        },
        "properties": {"datetime": "2024-01-02T03:04:05.678901Z", "platform": "landsat-8"},
        "links": [],
        "assets": {
            "red": {
                "href": "https://example.org/red.tif",
                "type": "image/tiff; application=geotiff",
                "bands": [{"name": "B4", "eo:common_name": "red", "raster:scale": 2e-5}],
            }
        },
    }
    found.update(changes)
    return found


@pytest.mark.parametrize(
    ("name", "ident", "level", "bands", "cloud"),
    [
        ("LC08_L2SP_005009_20150710_20200908_02_T2_SR_stac.json",
         "LC08_L2SP_005009_20150710_20200908_02_T2", "L2SP", SR, 54.65),
        ("LC08_L2SP_005009_20150710_20200908_02_T2_ST_stac.json",
         "LC08_L2SP_005009_20150710_20200908_02_T2", "L2SP", {"lwir11"}, 54.65),
        ("LC08_L2SR_081119_20200101_20200823_02_T2.json",
         "LC08_L2SR_081119_20200101_20200823_02_T2", "L2SR", SR, 0.0),
        ("LC08_L2SP_028030_20200114_20200824_02_T1_SR.json",
         "LC08_L2SP_028030_20200114_20200824_02_T1_SR", "L2SP", SR, 8.18),
        ("LC08_L2SP_047027_20201204_02_T1.PlanetaryComputer-style.json",
         "LC08_L2SP_047027_20201204_02_T1", "L2SP", SR | {"lwir11"}, 1.55),
    ],
)  # fmt: skip
def test_real_items(name: str, ident: str, level: str, bands: set[str], cloud: float) -> None:
    path = shared("stac", name)
    if path is None:
        pytest.skip("the optional folder of real data is absent")
    scene = from_item(json.loads(path.read_text()))
    assert (scene.id, scene.platform, scene.level) == (ident, "landsat-8", level)
    assert set(scene.bands) == bands
    assert scene.cloud_cover == cloud
    new = to_item(scene)
    assert new["stac_version"] == "1.1.0"
    assert len(new["properties"]["landsat:wrs_path"]) == 3
    assert 0 < new["properties"]["view:sun_elevation"] < 90
    if "red" in bands:
        assert new["assets"]["red"]["bands"][0]["eo:common_name"] == "red"
        assert "qa_pixel" in new["assets"]
    again = from_item(new)
    assert again == scene


@pytest.mark.parametrize("name", ["item_basic.json", "item_eo_bands.json"])
def test_items_that_describe_models_are_no_scenes(name: str) -> None:
    path = shared("stac", name)
    if path is None:
        pytest.skip("the optional folder of real data is absent")
    with pytest.raises(InvalidInput, match="is not an image"):
        from_item(json.loads(path.read_text()))


def test_an_item_of_today() -> None:
    scene = from_item(item())
    assert scene.time.isoformat() == "2024-01-02T03:04:05.678901+00:00"
    assert scene.cloud_cover is None
    assert scene.title == "SCENE_1"
    assert scene.bbox == (0, 0, 1, 1)
    assert not scene.synthetic


def test_scale_beside_the_bands_moves_into_them() -> None:
    asset = {
        "href": "x.tif",
        "type": "image/tiff",
        "eo:bands": [{"name": "OLI_B4", "common_name": "red", "center_wavelength": 0.65}],
        "raster:bands": [{"scale": 2.75e-5, "offset": -0.2, "nodata": 0, "data_type": "uint16"}],
    }
    (band,) = to_item(from_item(item(assets={"red": asset})))["assets"]["red"]["bands"]
    assert band == {
        "name": "OLI_B4", "eo:common_name": "red", "eo:center_wavelength": 0.65, "nodata": 0,
        "data_type": "uint16", "raster:scale": 2.75e-5, "raster:offset": -0.2,
    }  # fmt: skip


@pytest.mark.parametrize("key", ["B4", "SR_B4.TIF", "sr_b4", "B4.tif"])
def test_bands_that_only_the_key_names(key: str) -> None:
    assets = {key: {"href": "x.tif", "type": "image/tiff"}}
    scene = from_item(item(assets=assets))
    assert scene.bands == {"red"}
    assert set(scene.item["assets"]) == {"red"}


def test_four_bands_of_one_asset() -> None:
    names = ["blue", "green", "red", "nir"]
    asset = {
        "href": "x.tif",
        "type": "image/tiff",
        "bands": [{"name": n, "eo:common_name": n} for n in names],
    }
    properties = {"datetime": "2012-01-01T00:00:00Z", "platform": "FORMOSAT_2"}
    scene = from_item(item(assets={"ms": asset}, properties=properties))
    assert scene.platform == "formosat-2"
    assert scene.bands == set(names)
    assert [b["eo:common_name"] for b in scene.item["assets"]["ms"]["bands"]] == names


def test_a_ring_across_the_antimeridian_is_cut_there() -> None:
    ring = [[179, 0], [-179, 0], [-179, 1], [179, 1], [179, 0]]
    scene = from_item(item(geometry={"type": "Polygon", "coordinates": [ring]}))
    assert scene.footprint["type"] == "MultiPolygon"
    assert scene.bbox == pytest.approx((179, 0, -179, 1), abs=0.01)


@pytest.mark.parametrize(
    ("value", "cloud"),
    [(999, None), (-1, None), ("5", None), (True, None), (float("nan"), None), (0, 0.0)],
)
def test_cloud_cover(value: Any, cloud: float | None) -> None:
    properties = {"datetime": "2024-01-01T00:00:00Z", "platform": "landsat-8"}
    found = from_item(item(properties={**properties, "eo:cloud_cover": value}))
    assert found.cloud_cover == cloud
    assert ("eo:cloud_cover" in found.item["properties"]) == (cloud is not None)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../../etc"},
        {"id": ""},
        {"type": "FeatureCollection"},
        {"geometry": None},
        {"geometry": {"type": "Point", "coordinates": [0, 0]}},
        {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [500, 0], [500, 1], [0, 0]]]}},
        {"geometry": {"type": "Polygon", "coordinates": [[["a", "b"]]]}},
        {"geometry": {"type": "Polygon"}},
        {"properties": None},
        {"properties": {"platform": "landsat-8", "datetime": "yesterday"}},
        {"properties": {"platform": "landsat-8"}},
        {"properties": {"datetime": "2024-01-01T00:00:00Z"}},
        {"assets": {}},
        {"assets": None},
        {"assets": {"red": "x.tif"}},
        {"assets": {"red": {"href": 5, "bands": [{"eo:common_name": "red"}]}}},
        {"assets": {"notes": {"href": "x.html", "type": "text/html"}}},
    ],
)
def test_what_is_no_scene_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        from_item(item(**changes))


def band(**fields: Any) -> dict[str, Any]:
    described = {"name": "B4", "eo:common_name": "red", **fields}
    return {"assets": {"red": {"href": "r.tif", "bands": [described]}}}


def described(**fields: Any) -> dict[str, Any]:
    known = {"datetime": "2024-01-01T00:00:00Z", "platform": "landsat-8"}
    return {"properties": {**known, **fields}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (band(nodata=2.0**40), "nodata must be a number from -2147483648"),
        (band(**{"raster:scale": 1e10}), "raster:scale must be a number from -1000000000"),
        (band(**{"raster:offset": float("nan")}), r"raster:offset is no finite number"),
        (described(gsd=10**400), r"properties\.gsd is a very long number"),
        (described(title="x" * 50_001), r"properties\.title is longer than 50,000"),
        (described(title="\ud800"), "cannot be written"),
        (described(a=[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]), "more than 16 levels deep"),
        (described(a=[0] * 200_000), "more than 200,000 values"),
        (described(**{"proj:epsg": 10**5000}), "properties.proj:epsg is a very long number"),
        (described(datetime="0001-01-01T00:00:00+14:00"), "is not of 1946 or later"),
        (described(datetime="9999-12-31T23:59:59-14:00"), "is not of 1946 or later"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_its_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        from_item(item(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        band(nodata=-(2**31)), band(nodata="nan"), band(**{"raster:scale": 1e9}),
        described(gsd=float("nan")), described(datetime="1946-10-24T00:00:00Z"),
    ],
)  # fmt: skip
def test_what_is_within_bounds_is_taken(changes: dict[str, Any]) -> None:
    json.dumps(from_item(item(**changes)).item, allow_nan=False)


@pytest.mark.parametrize("value", [None, [], "x", 5])
def test_what_is_no_item_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        from_item(value)
