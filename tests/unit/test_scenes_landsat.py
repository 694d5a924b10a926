"""Landsat 8 products are taken in, or refused with a sentence that names file and field."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pystac.validation
import pytest
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning

from lib.errors import InvalidProduct
from lib.imagery.raster import describe
from lib.model import Scene, SceneId
from lib.scenes import landsat, mtl
from lib.scenes.local_catalog import LocalCatalog
from lib.scenes.synthetic import write_landsat
from tests.unit.scene_products import LANDSAT, edit, shared, tar


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_landsat(tmp_path_factory.mktemp("landsat"), LANDSAT)


@pytest.fixture
def product(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / original.name))


@pytest.fixture
def catalog(tmp_path: Path) -> LocalCatalog:
    return LocalCatalog(tmp_path / "scenes")


def mtl_of(product: Path) -> Path:
    return next(product.glob("*_MTL.txt"))


def band_of(product: Path, band: str) -> Path:
    return next(product.glob(f"*_{band}.TIF"))


def band(scene: Scene, name: str) -> dict[str, object]:
    found: dict[str, object] = scene.item["assets"][name]["bands"][0]
    return found


def test_a_folder_becomes_a_scene(product: Path, catalog: LocalCatalog) -> None:
    scene = catalog.add(product)
    assert scene.id == LANDSAT.product_id
    assert (scene.platform, scene.level, scene.collection) == ("landsat-8", "L1TP", "landsat8")
    assert scene.time.isoformat().startswith("2024-01-17T00:58")
    assert scene.synthetic
    assert scene.title.startswith("Synthetic ")
    assert scene.bands == {
        "coastal", "blue", "green", "red", "nir08", "swir16", "swir22", "pan", "cirrus",
        "lwir11", "lwir12",
    }  # fmt: skip
    west, south, east, north = scene.bbox
    assert west < 139.8 < east
    assert south < 35.3 < north
    assert 0 <= (scene.cloud_cover or 0) < 20


def test_the_item_describes_bands_for_modules(product: Path, catalog: LocalCatalog) -> None:
    scene = catalog.add(product)
    nir = band(scene, "nir08")
    assert (nir["name"], nir["eo:common_name"]) == ("B5", "nir08")
    assert (nir["raster:scale"], nir["raster:offset"]) == (2e-5, -0.1)
    thermal = band(scene, "lwir11")
    assert (thermal["landsat:k1"], thermal["landsat:k2"]) == (774.8853, 1321.0789)
    assets = scene.item["assets"]
    assert {"qa_pixel", "qa_radsat", "mtl", "truth"} <= set(assets)
    assert all(Path(a["href"]).is_absolute() and Path(a["href"]).is_file() for a in assets.values())
    assert assets["red"]["proj:shape"] == [260, 260]
    assert assets["pan"]["proj:shape"] == [519, 519]
    properties = scene.item["properties"]
    assert properties["landsat:wrs_path"] == "107"
    assert 20 < properties["view:sun_elevation"] < 40


def test_fill_is_a_flag_of_qa_pixel_and_zero_elsewhere(
    product: Path, catalog: LocalCatalog
) -> None:
    """Bit 0 of QA_PIXEL is fill; 0 there, and in QA_RADSAT, is a pixel without any flag."""
    files = {f.asset: f.nodata for f in landsat.read(product, mtl_of(product)).files}
    assert {asset: fill for asset, fill in files.items() if fill} == {"qa_pixel": 1}
    assert {"qa_radsat", "blue", "lwir11"} <= set(files)
    assets = catalog.add(product).item["assets"]
    for asset, fill in (("qa_pixel", 1), ("qa_radsat", None), ("blue", 0)):
        with rasterio.open(assets[asset]["href"]) as stored:
            assert stored.nodata == fill, asset


def test_two_files_that_could_be_one_band_are_refused(product: Path) -> None:
    named = band_of(product, "B4")
    named.rename(product / "crop_B4.TIF")
    only = {f.asset: f.source.name for f in landsat.read(product, mtl_of(product)).files}
    assert only["red"] == "crop_B4.TIF"
    shutil.copy(product / "crop_B4.TIF", product / "other_B4.tiff")
    with pytest.raises(InvalidProduct) as refused:
        landsat.read(product, mtl_of(product))
    assert all(word in refused.value.message for word in ("B4", "crop_B4.TIF", "other_B4.tiff"))
    shutil.copy(product / "crop_B4.TIF", named)  # the one that the MTL names is no guess
    named_again = {f.asset: f.source for f in landsat.read(product, mtl_of(product)).files}
    assert named_again["red"] == named


def test_the_item_on_disk_is_valid_stac(product: Path, catalog: LocalCatalog) -> None:
    """Against the core schemas that pystac carries; extensions' schemas are on the internet."""
    folder = catalog.root / catalog.add(product).id
    item = json.loads((folder / "item.json").read_text())
    (link,) = item["links"]
    collection = json.loads((folder / link["href"]).read_text())
    assert collection["id"] == item["collection"]
    for document in (item, collection, dict(catalog.get(SceneId(folder.name)).item)):
        pystac.validation.validate_dict({**document, "stac_extensions": []})


def test_every_raster_is_a_cog_with_the_pixels_of_the_product(
    product: Path, catalog: LocalCatalog
) -> None:
    scene = catalog.add(product)
    for name, source in (("red", "B4"), ("pan", "B8"), ("qa_pixel", "QA_PIXEL")):
        stored = Path(scene.item["assets"][name]["href"])
        info = describe(stored)
        assert info.is_cog
        assert info.grid is not None
        with rasterio.open(stored) as ours, rasterio.open(band_of(product, source)) as theirs:
            np.testing.assert_array_equal(ours.read(), theirs.read())


def test_hrefs_on_disk_are_relative_so_that_the_folder_can_move(
    product: Path, catalog: LocalCatalog, tmp_path: Path
) -> None:
    scene = catalog.add(product)
    text = (catalog.root / scene.id / "item.json").read_text()
    assert str(tmp_path) not in text
    moved = Path(shutil.move(catalog.root, tmp_path / "elsewhere"))
    found = LocalCatalog(moved).get(scene.id)
    assert Path(found.item["assets"]["red"]["href"]).is_file()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_an_archive_becomes_the_same_scene(
    product: Path, catalog: LocalCatalog, tmp_path: Path, suffix: str
) -> None:
    scene = catalog.add(tar(product, tmp_path / f"product{suffix}"))
    assert scene.id == LANDSAT.product_id
    assert [p.name for p in catalog.root.glob(".incoming-*")] == []


def test_tiffs_without_georeference_take_it_from_the_mtl(
    product: Path, catalog: LocalCatalog
) -> None:
    with rasterio.open(band_of(product, "B4")) as ds:
        expected, crs = ds.transform, ds.crs
    for path in product.glob("*.TIF"):
        strip_georeference(path)
    scene = catalog.add(product)
    with rasterio.open(scene.item["assets"]["red"]["href"]) as ds:
        assert (ds.transform, ds.crs) == (expected, crs)
    with rasterio.open(scene.item["assets"]["pan"]["href"]) as ds:
        assert ds.transform == Affine(15, 0, expected.c + 7.5, 0, -15, expected.f - 7.5)


def test_corners_that_do_not_fit_are_refused(product: Path, catalog: LocalCatalog) -> None:
    strip_georeference(band_of(product, "B1"))
    edit(mtl_of(product), "CORNER_LR_PROJECTION_X_PRODUCT = ", "CORNER_LR_PROJECTION_X_PRODUCT = 1")
    with pytest.raises(InvalidProduct, match=r"B1\.TIF carries no georeference .*CORNER_UL/LR"):
        catalog.add(product)


def test_a_missing_band_is_named(product: Path, catalog: LocalCatalog) -> None:
    band_of(product, "B5").unlink()
    with pytest.raises(InvalidProduct, match=r"Band 5 \(nir08\) is missing.*_B5\.TIF"):
        catalog.add(product)
    assert_nothing_was_left(catalog)


def test_bands_that_are_not_needed_may_be_missing(product: Path, catalog: LocalCatalog) -> None:
    for name in ("B1", "B8", "B10", "QA_PIXEL"):
        band_of(product, name).unlink()
    scene = catalog.add(product)
    assert {"coastal", "pan", "lwir11"}.isdisjoint(scene.bands)
    assert "qa_pixel" not in scene.item["assets"]


def test_a_truncated_band_is_refused(product: Path, catalog: LocalCatalog) -> None:
    path = band_of(product, "B6")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InvalidProduct, match=r"B6\.TIF is damaged"):
        catalog.add(product)
    assert_nothing_was_left(catalog)


def test_something_that_is_no_tiff_is_refused(product: Path, catalog: LocalCatalog) -> None:
    band_of(product, "B3").write_bytes(b"<VRTDataset/>")
    with pytest.raises(InvalidProduct, match=r"B3\.TIF is damaged or is not a GeoTIFF"):
        catalog.add(product)


def test_bands_of_another_size_are_refused(product: Path, catalog: LocalCatalog) -> None:
    with rasterio.open(band_of(product, "B7")) as ds:
        profile, data = ds.profile, ds.read()[:, :-1]
    profile.update(height=259)
    rewrite(band_of(product, "B7"), data, profile)
    with pytest.raises(InvalidProduct, match=r"B7\.TIF is 260 x 259 pixels, but .*B1\.TIF is 260"):
        catalog.add(product)


@pytest.mark.parametrize(
    "field",
    ["SPACECRAFT_ID", "DATE_ACQUIRED", "SCENE_CENTER_TIME", "SUN_ELEVATION", "PROCESSING_LEVEL",
     "LANDSAT_PRODUCT_ID", "REFLECTANCE_MULT_BAND_4", "K1_CONSTANT_BAND_10", "WRS_PATH"],
)  # fmt: skip
def test_a_missing_field_is_named(product: Path, catalog: LocalCatalog, field: str) -> None:
    edit(mtl_of(product), f"    {field} = ", f"    X_{field} = ")
    with pytest.raises(InvalidProduct, match=rf"_MTL\.txt lacks the field {field}"):
        catalog.add(product)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("LANDSAT_8", "LANDSAT_7", "only Landsat 8"),
        ("SUN_ELEVATION = ", "SUN_ELEVATION = 9", "SUN_ELEVATION is not an angle"),
        ("SUN_ELEVATION = ", "SUN_ELEVATION = nan", "SUN_ELEVATION is not a number"),
        ("DATE_ACQUIRED = 2024-01-17", "DATE_ACQUIRED = soon", "are no time"),
        ('"L1TP"', '"L9XX"', "processing level 'L9XX'"),
        ("END_GROUP = LANDSAT_METADATA_FILE\nEND\n", "", "cut off"),
        ("GROUP = LANDSAT_METADATA_FILE", "GROUP = OTHER", "is not an MTL file"),
        ("_B4.TIF", "/../../../etc/passwd", "not a plain file name"),
        ('PRODUCT_ID = "LC08', 'PRODUCT_ID = "../../LC08', "cannot be used as a name"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_refused(
    product: Path, catalog: LocalCatalog, old: str, new: str, message: str
) -> None:
    edit(mtl_of(product), old, new)
    with pytest.raises(InvalidProduct, match=message):
        catalog.add(product)
    assert_nothing_was_left(catalog)


def test_a_band_that_is_a_link_is_not_followed(
    product: Path, catalog: LocalCatalog, tmp_path: Path
) -> None:
    path = band_of(product, "B2")
    path.rename(tmp_path / "outside.TIF")
    path.symlink_to(tmp_path / "outside.TIF")
    with pytest.raises(InvalidProduct, match="Band 2"):
        catalog.add(product)


@pytest.mark.parametrize("name", ["truth.geojson", "MTL"])
def test_metadata_that_is_a_link_is_not_copied(
    product: Path, catalog: LocalCatalog, tmp_path: Path, name: str
) -> None:
    path = mtl_of(product) if name == "MTL" else product / name
    secret = path.rename(tmp_path / "secret")
    path.symlink_to(secret)
    if name == "MTL":
        with pytest.raises(InvalidProduct, match="holds no product"):
            catalog.add(product)
        return
    scene = catalog.add(product)
    assert "truth" not in scene.item["assets"]
    assert not (catalog.root / scene.id / name).is_symlink()


def test_sidecar_files_are_not_read(product: Path, catalog: LocalCatalog) -> None:
    """GDAL would take another georeference from these."""
    path = band_of(product, "B4")
    path.with_suffix(".TIF.aux.xml").write_text("<PAMDataset><SRS>EPSG:3857</SRS></PAMDataset>")
    path.with_suffix(".TFW").write_text("1\n0\n0\n-1\n0\n0\n")
    scene = catalog.add(product)
    with rasterio.open(scene.item["assets"]["red"]["href"]) as ds:
        assert ds.crs.to_epsg() == 32654


def test_a_folder_without_a_product_is_refused(catalog: LocalCatalog, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidProduct, match="MTL file"):
        catalog.add(tmp_path / "empty")
    with pytest.raises(InvalidProduct, match="no file or folder"):
        catalog.add(tmp_path / "nowhere")


def test_mtl_txt_and_json_and_xml_say_the_same() -> None:
    folder = shared("mtl")
    if folder is None:
        pytest.skip("the optional folder of real data is absent")
    stem = "LC08_L2SP_005009_20150710_20200908_02_T2_MTL"
    read = [mtl.read(folder / f"{stem}.{kind}") for kind in ("txt", "json", "xml")]
    for key in ("PROCESSING_LEVEL", "LANDSAT_PRODUCT_ID", "SUN_ELEVATION", "FILE_NAME_BAND_5"):
        assert len({one.text(key) for one in read}) == 1
    assert read[0].text("PROCESSING_LEVEL") == "L2SP"
    assert read[0].number("REFLECTANCE_MULT_BAND_4") == 2.75e-5


@pytest.mark.parametrize(
    "name", ["LC80100202015018LGN00_MTL.json", "LC81060712016134LGN00_MTL.txt"]
)
def test_mtl_before_collections(name: str) -> None:
    path = shared("mtl", name)
    if path is None:
        pytest.skip("the optional folder of real data is absent")
    read = mtl.read(path)
    assert read.root == "L1_METADATA_FILE"
    assert read.text("DATA_TYPE") == "L1T"
    assert read.text("LANDSAT_SCENE_ID") == name.removesuffix("_MTL" + path.suffix)


def test_an_mtl_json_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "X_MTL.json"
    path.write_text("[" * 200_000)
    with pytest.raises(InvalidProduct, match="cannot be read as an MTL file"):
        mtl.read(path)


def test_an_mtl_xml_with_entities_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "X_MTL.xml"
    path.write_text('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>')
    with pytest.raises(InvalidProduct, match="cannot be read as an MTL file"):
        mtl.read(path)


def test_an_mtl_that_is_too_large_or_binary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "X_MTL.txt"
    path.write_bytes(b"\xff\xfe" * 100)
    with pytest.raises(InvalidProduct, match="not a text file"):
        mtl.read(path)
    path.write_bytes(b" " * (5 * 2**20))
    with pytest.raises(InvalidProduct, match="too large"):
        mtl.read(path)


@pytest.mark.parametrize(
    ("name", "ident", "level", "epsg", "origin"),
    [
        ("LC08_L1TP_227074_20190825_20200826_02_T1-cropped.tar.gz",
         "LC08_L1TP_227074_20190825_20200826_02_T1", "L1TP", 32621, (440985.0, -2188005.0)),
        ("LC08_L2SP_204023_20200927_20201006_02_T1-cropped.tar.gz",
         "LC08_L2SP_204023_20200927_20201006_02_T1", "L2SP", 32630, (487005.0, 5929995.0)),
        ("LC80200392015216LGN00", "LC80200392015216LGN00", "L1TP", 32616, (452475.0, 3408645.0)),
    ],
)  # fmt: skip
def test_real_crops(
    catalog: LocalCatalog, name: str, ident: str, level: str, epsg: int, origin: tuple[float, float]
) -> None:
    path = shared("landsat8", name)
    if path is None:
        pytest.skip("the optional folder of real data is absent")
    scene = catalog.add(path)
    assert (scene.id, scene.level, scene.synthetic) == (ident, level, False)
    assert {"blue", "green", "red", "nir08", "swir16", "swir22"} <= scene.bands
    with rasterio.open(scene.item["assets"]["swir22"]["href"]) as ds:
        assert ds.crs.to_epsg() == epsg
        assert (ds.transform.c, ds.transform.f) == origin
        assert ds.overviews(1)
    scale = {"L1TP": 2e-5, "L2SP": 2.75e-5}[level]
    assert band(scene, "red")["raster:scale"] == scale
    if level == "L2SP":
        thermal = band(scene, "lwir11")
        assert (thermal["unit"], thermal["raster:offset"]) == ("K", 149.0)
    json.dumps(dict(scene.item))


def strip_georeference(path: Path) -> None:
    """Rewrite a band without any georeference, as cropped products come."""
    with rasterio.open(path) as ds:
        data = ds.read()
    shape = {"width": data.shape[2], "height": data.shape[1], "count": 1, "dtype": data.dtype}
    with pytest.warns(NotGeoreferencedWarning):
        rewrite(path, data, {"driver": "GTiff", **shape})


def rewrite(path: Path, data: Any, profile: dict[str, Any]) -> None:
    """By way of another name: GDAL deletes the MTL beside a Landsat band it overwrites."""
    draft = path.with_name("draft.tiff")
    with rasterio.open(draft, "w", **profile) as ds:
        ds.write(data)
    draft.replace(path)


def assert_nothing_was_left(catalog: LocalCatalog) -> None:
    assert len(catalog) == 0
    left = {p.name for p in catalog.root.iterdir()} - {"table.parquet", "table.lock"}
    assert left == set()
