"""FORMOSAT DIMAP products: taken in, warped by their tie points, or refused plainly."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import transform

from lib.errors import InvalidProduct
from lib.scenes import formosat
from lib.scenes.formosat import profiles
from lib.scenes.local_catalog import LocalCatalog
from lib.scenes.synthetic import write_formosat
from tests.unit.scene_products import FORMOSAT, edit, shared, tar


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_formosat(tmp_path_factory.mktemp("formosat"), FORMOSAT)


@pytest.fixture
def product(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / original.name))


@pytest.fixture
def catalog(tmp_path: Path) -> LocalCatalog:
    return LocalCatalog(tmp_path / "scenes")


def test_a_folder_becomes_a_scene(product: Path, catalog: LocalCatalog) -> None:
    scene = catalog.add(product)
    assert scene.id == FORMOSAT.scene_id
    assert (scene.platform, scene.level, scene.collection) == ("formosat-2", "1A", "formosat")
    assert scene.bands == {"blue", "green", "red", "nir"}
    assert scene.cloud_cover == 2.0
    assert scene.synthetic
    assert scene.time.isoformat().startswith("2012-10-05T01:40")
    asset = scene.item["assets"]["ms"]
    assert [b["eo:common_name"] for b in asset["bands"]] == ["blue", "green", "red", "nir"]
    assert asset["proj:code"] == "EPSG:32651"


def test_gains_are_matched_by_name_not_by_place(product: Path, catalog: LocalCatalog) -> None:
    """The metadata lists red first, the raster blue first (OTB, real product of 2007)."""
    bands = catalog.add(product).item["assets"]["ms"]["bands"]
    gains = {b["eo:common_name"]: b["formosat:physical_gain"] for b in bands}
    assert gains == {"blue": 0.255004, "green": 0.354691, "red": 0.332615, "nir": 0.433054}


def test_level_1a_is_warped_to_where_its_tie_points_say(
    product: Path, catalog: LocalCatalog
) -> None:
    """Planted ships must lie where the truth says, within a pixel and a half."""
    truth = json.loads((product / "truth.geojson").read_text())["features"]
    scene = catalog.add(product)
    with rasterio.open(scene.item["assets"]["ms"]["href"]) as ds:
        assert ds.crs.to_epsg() == 32651
        assert ds.transform.a == 8
        assert ds.overviews(1)
        nir = ds.read(4)
        for ship in truth:
            lon, lat = ship["geometry"]["coordinates"]
            (x,), (y,) = transform("EPSG:4326", ds.crs, [lon], [lat])
            row, col = ds.index(x, y)
            near = nir[row - 12 : row + 13, col - 12 : col + 13].astype(float)
            bright = np.argwhere(near > near.min() + 0.5 * np.ptp(near))
            offset = bright.mean(axis=0) - 12
            assert np.abs(offset).max() < 1.5, (ship, offset)
    assert len(truth) == 3


def test_cloud_cover_999_is_unknown(product: Path, catalog: LocalCatalog) -> None:
    edit(product / "METADATA.DIM", "<CLOUDCOVER>2<", "<CLOUDCOVER>999<")
    scene = catalog.add(product)
    assert scene.cloud_cover is None
    assert "eo:cloud_cover" not in scene.item["properties"]


def test_the_wrong_azimuth_of_old_software_is_left_out(
    product: Path, catalog: LocalCatalog
) -> None:
    dim = product / "METADATA.DIM"
    edit(
        dim,
        "<INSTRUMENT_INDEX>",
        "<SATELLITE_AZIMUTH_ANGLE>241.8</SATELLITE_AZIMUTH_ANGLE><INSTRUMENT_INDEX>",
    )
    edit(dim, "<SOFTWARE_NAME>", "<SOFTWARE_VERSION>R2P_02.03</SOFTWARE_VERSION><SOFTWARE_NAME>")
    assert "view:azimuth" not in catalog.add(product).item["properties"]
    edit(dim, "R2P_02.03", "R2P_02.04.01")
    catalog.remove(FORMOSAT.scene_id)  # type: ignore[arg-type]
    assert catalog.add(product).item["properties"]["view:azimuth"] == 241.8


def test_a_folder_of_folders_and_an_archive(
    product: Path, catalog: LocalCatalog, tmp_path: Path
) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    shutil.copytree(product, outer / "MS")
    assert catalog.add(outer).id == FORMOSAT.scene_id
    other = LocalCatalog(tmp_path / "other")
    assert other.add(tar(product, tmp_path / "p.tar.gz")).id == FORMOSAT.scene_id


def test_multispectral_and_panchromatic_of_one_acquisition_are_one_scene(
    product: Path, catalog: LocalCatalog, tmp_path: Path
) -> None:
    outer = tmp_path / "outer"
    shutil.copytree(product, outer / "MS")
    shutil.copytree(product, outer / "PAN")
    make_pan(outer / "PAN")
    scene = catalog.add(outer)
    assert scene.bands == {"blue", "green", "red", "nir", "pan"}
    assert scene.item["assets"]["pan"]["gsd"] == 2.0


def test_two_products_of_one_kind_in_a_folder_are_refused(
    product: Path, catalog: LocalCatalog, tmp_path: Path
) -> None:
    outer = tmp_path / "outer"
    shutil.copytree(product, outer / "A")
    shutil.copytree(product, outer / "B")
    with pytest.raises(InvalidProduct, match="several FORMOSAT products"):
        catalog.add(outer)


@pytest.mark.parametrize(
    ("lon", "lat", "epsg"),
    [(120.5, 24.3, 32651), (151.2, -33.9, 32756), (-68.3, -54.8, 32719), (-0.5, 0.5, 32630)],
)
def test_a_scene_gets_the_utm_zone_of_its_side_of_the_equator(
    tmp_path: Path, lon: float, lat: float, epsg: int
) -> None:
    spec = replace(FORMOSAT, lon=lon, lat=lat, size=64, ships=0)
    product = write_formosat(tmp_path, spec)
    (image,) = formosat.read([product / "METADATA.DIM"]).files
    assert image.warp_epsg == epsg


@pytest.mark.parametrize(
    ("kind", "origin", "first", "last"),
    [
        # GDAL counts from 0 at the outer corner of the first pixel; the tie points of the
        # product are at pixels 1 and 260, counted from `origin`.
        ("POINT", 1, 0.5, 259.5),
        ("POINT", 0, 1.5, 260.5),
        ("CELL", 1, 0.0, 259.0),
        ("CELL", 0, 1.0, 260.0),
        ("", 1, 0.5, 259.5),
    ],
)
def test_tie_points_are_at_pixel_centres_except_for_cells(
    product: Path, kind: str, origin: int, first: float, last: float
) -> None:
    dim = product / "METADATA.DIM"
    edit(dim, ">POINT<", f">{kind}<")
    edit(dim, "<PIXEL_ORIGIN>1<", f"<PIXEL_ORIGIN>{origin}<")
    (image,) = formosat.read([dim]).files
    assert [(p.col, p.row) for p in image.gcps] == [
        (first, first), (last, first), (last, last), (first, last),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "west", "north"), [("POINT", 249996, 2690004), ("CELL", 250000, 2690000)]
)
def test_an_inserted_corner_is_a_pixels_centre_or_its_edge(
    product: Path, kind: str, west: float, north: float
) -> None:
    dim = product / "METADATA.DIM"
    text = dim.read_text()
    start, end = text.index("<Geoposition_Points>"), text.index("</Geoposition_Points>")
    insert = (
        "<Geoposition_Insert><ULXMAP>250000</ULXMAP><ULYMAP>2690000</ULYMAP>"
        "<XDIM>8</XDIM><YDIM>8</YDIM></Geoposition_Insert>"
    )
    text = text[:start] + insert + text[end + len("</Geoposition_Points>") :]
    dim.write_text(text.replace("EPSG:4326", "EPSG:32651").replace(">POINT<", f">{kind}<"))
    (image,) = formosat.read([dim]).files
    assert image.grid is not None
    assert image.grid.epsg == 32651
    assert (image.grid.transform.c, image.grid.transform.f) == (west, north)


def test_level_2_is_placed_by_its_upper_left_corner(product: Path, catalog: LocalCatalog) -> None:
    dim = product / "METADATA.DIM"
    text = dim.read_text()
    start, end = text.index("<Geoposition_Points>"), text.index("</Geoposition_Points>")
    insert = (
        "<Geoposition_Insert><ULXMAP>250000</ULXMAP><ULYMAP>2690000</ULYMAP>"
        "<XDIM>8</XDIM><YDIM>8</YDIM></Geoposition_Insert>"
    )
    text = text[:start] + insert + text[end + len("</Geoposition_Points>") :]
    dim.write_text(text.replace("EPSG:4326", "EPSG:32651").replace(">1A<", ">2A<"))
    scene = catalog.add(product)
    assert scene.level == "2A"
    assert scene.item["assets"]["ms"]["proj:transform"] == [8, 0, 249996, 0, -8, 2690004]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<MISSION>FORMOSAT<", "<MISSION>SPOT<", "is of SPOT 2"),
        ("<MISSION_INDEX>2<", "<MISSION_INDEX>3<", "FORMOSAT 2 and 5"),
        ("<NCOLS>260<", "<NCOLS>261<", "260 x 260 pixels in 4 bands, but .* 261, 260, 4"),
        ("<NBANDS>4<", "<NBANDS>3<", "NBANDS is 3"),
        ("<SUN_ELEVATION>", "<SUN_ELEVATION>x", "SUN_ELEVATION is not a number"),
        ("SUN_AZIMUTH", "SUN_A", "lacks the field .*SUN_AZIMUTH"),
        ("<REFERENCE_TIME>2012", "<REFERENCE_TIME>later", "REFERENCE_TIME is no time"),
        ('href="IMAGERY.TIF"', 'href="/etc/passwd"', "not a plain file name"),
        ('href="IMAGERY.TIF"', 'href="../IMAGERY.TIF"', "not a plain file name"),
        ('href="IMAGERY.TIF"', 'href="/vsicurl/http://x/a.tif"', "not a plain file name"),
        ('href="IMAGERY.TIF"', 'href="OTHER.TIF"', "OTHER.TIF is missing"),
        ("Tie_Point>", "Other>", "cannot be located"),
        ("<TIE_POINT_CRS_X>1", "<TIE_POINT_CRS_X>9", "not in longitude and latitude"),
        ("Dimap_Document", "Other_Document", "is not DIMAP metadata"),
        ("</Dimap_Document>", "", "cannot be read as DIMAP"),
    ],
)  # fmt: skip
def test_broken_metadata_is_refused(
    product: Path, catalog: LocalCatalog, old: str, new: str, message: str
) -> None:
    edit(product / "METADATA.DIM", old, new)
    with pytest.raises(InvalidProduct, match=message):
        catalog.add(product)
    assert len(catalog) == 0


@pytest.mark.parametrize("name", ["METADATA.DIM", "IMAGERY.TIF"])
def test_links_are_not_followed(
    product: Path, catalog: LocalCatalog, tmp_path: Path, name: str
) -> None:
    path = product / name
    path.symlink_to(path.rename(tmp_path / "outside"))
    with pytest.raises(InvalidProduct, match=r"holds no product|IMAGERY\.TIF is missing"):
        catalog.add(product)


def test_entities_are_refused(product: Path, catalog: LocalCatalog) -> None:
    dim = product / "METADATA.DIM"
    laughs = '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
    edit(dim, '<Dimap_Document name="METADATA.DIM">', f"{laughs}<Dimap_Document><A>&b;</A>")
    with pytest.raises(InvalidProduct, match="cannot be read as DIMAP"):
        catalog.add(product)


def test_tie_points_that_fold_the_image_are_refused(product: Path, catalog: LocalCatalog) -> None:
    dim = product / "METADATA.DIM"
    edit(dim, "<TIE_POINT_DATA_X>260<", "<TIE_POINT_DATA_X>1<")
    with pytest.raises(InvalidProduct):
        catalog.add(product)


def test_a_truncated_image_is_refused(product: Path, catalog: LocalCatalog) -> None:
    image = product / "IMAGERY.TIF"
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    with pytest.raises(InvalidProduct, match=r"IMAGERY\.TIF is damaged"):
        catalog.add(product)


def test_the_spot_sample_is_refused_by_its_name(catalog: LocalCatalog) -> None:
    path = shared("formosat", "dimap-spot4")
    if path is None:
        pytest.skip("the optional folder of real data is absent")
    with pytest.raises(InvalidProduct, match="is of SPOT 4"):
        catalog.add(path)


def test_formosat_5_is_a_profile() -> None:
    found = profiles()
    assert {found["2"].platform, found["5"].platform} == {"formosat-2", "formosat-5"}
    assert found["5"].ms_gsd_m == 4.0


def make_pan(folder: Path) -> None:
    """Turn a copy of the multispectral product into a panchromatic one, four times as fine."""
    path = folder / "IMAGERY.TIF"
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(path) as ds:
        fine = ds.read(1).repeat(4, axis=0).repeat(4, axis=1)
    shape = {"width": 1040, "height": 1040, "count": 1, "dtype": "uint8", "driver": "GTiff"}
    draft = folder / "draft.tif"  # GDAL deletes the METADATA.DIM beside an image it overwrites
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(draft, "w", **shape) as ds:
        ds.write(fine, 1)
    draft.replace(path)
    dim = folder / "METADATA.DIM"
    for old, new in (("<NCOLS>260<", "<NCOLS>1040<"), ("<NROWS>260<", "<NROWS>1040<"),
                     ("<NBANDS>4<", "<NBANDS>1<"), ("DATA_X>260<", "DATA_X>1040<"),
                     ("DATA_Y>260<", "DATA_Y>1040<")):  # fmt: skip
        edit(dim, old, new)
