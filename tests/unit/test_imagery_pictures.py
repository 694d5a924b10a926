"""Previews and map tiles: right place, right colours, one stretch for the whole scene."""

from __future__ import annotations

import io
import math
import shutil
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rasterio.warp import transform

import modulekit.pictures
from lib.errors import InvalidInput, SceneUnavailable
from lib.imagery import render
from lib.imagery.composite import composites, default_composite, sources
from lib.imagery.quicklook import quicklook
from lib.imagery.raster import Grid, opened, store_cog, to_cog
from lib.imagery.tiles import tile, tile_bounds_m
from lib.model import Scene, SceneId

BANDS = ("blue", "green", "red", "nir08", "swir16", "swir22")
GRID = Grid(32654, Affine(30, 0, 390_000, 0, -30, 3_910_000), 600, 500)


def write(path: Path, data: npt.NDArray[Any], grid: Grid = GRID) -> Path:
    """A small COG of one band, nodata 0."""
    plain = path.with_suffix(".plain")
    profile = {
        "driver": "GTiff", "width": grid.width, "height": grid.height, "count": 1,
        "dtype": data.dtype, "crs": f"EPSG:{grid.epsg}", "transform": grid.transform, "nodata": 0,
        "tiled": True,
    }  # fmt: skip
    with rasterio.open(plain, "w", **profile) as ds:
        ds.write(data, 1)
    to_cog(plain, path, categories=False)
    plain.unlink()
    return path


def make_scene(folder: Path, bands: dict[str, npt.NDArray[Any]]) -> Scene:
    for name, data in bands.items():
        write(folder / f"{name}.tif", data)
    return scene_in(folder, *bands)


def scene_in(folder: Path, *bands: str) -> Scene:
    assets = {
        name: {
            "href": str(folder / f"{name}.tif"),
            "bands": [{"eo:common_name": name, "nodata": 0, "unit": "1", "raster:scale": 2e-5,
                       "raster:offset": -0.1}],
        }
        for name in bands
    }  # fmt: skip
    return Scene(
        SceneId("S"), "c", "landsat-8", datetime(2024, 1, 1, tzinfo=timezone.utc), {}, (0, 0, 1, 1),
        None, "L1TP", frozenset(bands), False, "S", {"assets": assets},
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red grows to the east, green to the south, a bright square in blue; no data in a corner."""
    folder = tmp_path_factory.mktemp("made")
    cols, rows = np.meshgrid(np.arange(600), np.arange(500))
    blue = np.full((500, 600), 9000)
    blue[100:150, 300:350] = 30000
    data = {"red": 6000 + 30 * cols, "green": 6000 + 30 * rows, "blue": blue}
    data |= dict.fromkeys(("nir08", "swir16", "swir22"), 8000 + 10 * cols)
    for values in data.values():
        values[400:, :100] = 0
    make_scene(folder, {name: values.astype(np.uint16) for name, values in data.items()})
    return folder


@pytest.fixture
def scene(tmp_path: Path, made: Path) -> Scene:
    """The scene that was made, in a folder of the test's own."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return scene_in(tmp_path, *BANDS)


def pixels(webp: bytes) -> npt.NDArray[np.uint8]:
    """(rows, columns, RGBA)."""
    with Image.open(io.BytesIO(webp), formats=["WEBP"]) as image:
        return np.asarray(image.convert("RGBA"))


def lonlat(col: float, row: float) -> tuple[float, float]:
    x, y = GRID.transform @ (col, row)
    (lon,), (lat,) = transform("EPSG:32654", "EPSG:4326", [x], [y])
    return lon, lat


def test_a_quicklook_lies_where_the_scene_is(scene: Scene) -> None:
    look = quicklook(scene, max_size=512)
    picture = pixels(look.webp)
    assert picture.shape[:2] == (look.height, look.width)
    assert max(look.width, look.height) == 512
    west, south, east, north = look.bounds
    corners = [lonlat(c, r) for c in (0, 600) for r in (0, 500)]
    assert west == pytest.approx(min(lon for lon, _ in corners), abs=2e-4)
    assert north == pytest.approx(max(lat for _, lat in corners), abs=2e-4)
    # The bright square, in Web Mercator, from its place in longitude and latitude.
    lon, lat = lonlat(325, 125)
    col = (lon - west) / (east - west) * look.width
    top, bottom, here = (math.asinh(math.tan(math.radians(v))) for v in (north, south, lat))
    row = (top - here) / (top - bottom) * look.height
    around = picture[round(row) - 8 : round(row) + 9, round(col) - 8 : round(col) + 9, 2]
    assert around.min() > 200
    assert np.median(picture[..., 2]) < 160


def test_no_data_is_transparent(scene: Scene) -> None:
    picture = pixels(quicklook(scene).webp)
    alpha = picture[..., 3]
    assert alpha[-20, 20] == 0
    assert alpha[20:-20, 150:-20].min() == 255
    assert 0.8 < (alpha == 255).mean() < 0.99


def test_colours_follow_the_bands(scene: Scene) -> None:
    picture = pixels(quicklook(scene).webp).astype(int)
    height, width = picture.shape[:2]
    red, green = picture[height // 2, :, 0], picture[:, width // 2, 1]
    assert red[width // 10 * 9] - red[width // 10 * 2] > 100
    assert green[height // 10 * 9] - green[height // 10] > 100


@pytest.mark.parametrize("size", [0, 15, 5000])
def test_silly_sizes_are_refused(scene: Scene, size: int) -> None:
    with pytest.raises(InvalidInput):
        quicklook(scene, max_size=size)


def test_composites_are_those_that_the_bands_allow(scene: Scene, tmp_path: Path) -> None:
    assert [c.name for c in composites(scene)] == ["natural", "fire", "water", "solar"]
    assert quicklook(scene, composite="fire").webp != quicklook(scene).webp
    with pytest.raises(InvalidInput, match="do not make the picture 'infrared'"):
        quicklook(scene, composite="infrared")
    (tmp_path / "p").mkdir()
    pan = make_scene(tmp_path / "p", {"pan": np.full((500, 600), 500, np.uint16)})
    assert default_composite(pan) == "pan"
    assert pixels(quicklook(pan).webp)[..., 3].max() == 255
    with pytest.raises(SceneUnavailable, match="make no picture"):
        default_composite(replace(pan, bands=frozenset({"cirrus"})))


def test_the_preview_is_kept_until_a_band_changes(scene: Scene, tmp_path: Path) -> None:
    first = quicklook(scene)
    (tmp_path / "quicklook-natural-512.webp").write_bytes(b"as an older portal drew it")
    (kept,) = tmp_path.glob("quicklook-natural-512-*.webp")
    assert kept.read_bytes() == first.webp
    kept.write_bytes(b"rubbish")
    assert quicklook(scene).webp == first.webp
    write(tmp_path / "red.tif", np.full((500, 600), 7000, np.uint16))
    assert quicklook(scene).webp != first.webp


def test_a_folder_that_cannot_be_written_still_has_previews(scene: Scene, tmp_path: Path) -> None:
    quicklook(scene)
    (kept,) = tmp_path.glob("quicklook-natural-512-*.webp")
    kept.unlink()
    kept.mkdir()
    assert pixels(quicklook(scene).webp).size
    assert list(tmp_path.glob("*.part")) == []


def test_files_that_are_elsewhere_are_said(scene: Scene) -> None:
    assets = {
        name: {**asset, "href": f"https://example.org/{name}.tif"}
        for name, asset in scene.item["assets"].items()
    }
    remote = replace(scene, item={"assets": assets})
    for act in (lambda: quicklook(remote), lambda: tile(remote, 8, 227, 100)):
        with pytest.raises(SceneUnavailable, match="not on this computer"):
            act()
    assets["red"]["href"] = "/vsicurl/http://127.0.0.1:1/red.tif"
    with pytest.raises(SceneUnavailable, match="not on this computer"):
        quicklook(replace(scene, item={"assets": assets}))


def test_a_damaged_file_is_said(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "red.tif").write_bytes(b"rubbish")
    for act in (lambda: quicklook(scene), lambda: tile(scene, 8, 227, 100)):
        with pytest.raises(SceneUnavailable, match="cannot be read"):
            act()


def test_neighbouring_tiles_match_the_preview(scene: Scene) -> None:
    """Four tiles put together are one picture: a stretch per tile would show edges."""
    lon, lat = lonlat(300, 250)
    z = 11
    side = 2**z
    x = int((lon + 180) / 360 * side)
    y = int((1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * side)
    four = {(i, j): pixels(tile(scene, z, x + i, y + j)) for i in (0, 1) for j in (0, 1)}
    left = np.vstack([four[0, 0], four[0, 1]])
    right = np.vstack([four[1, 0], four[1, 1]])
    seam = (left[:, -1, 3] == 255) & (right[:, 0, 3] == 255)
    assert seam.sum() > 100
    step = np.abs(left[seam, -1, :3].astype(int) - right[seam, 0, :3].astype(int))
    assert np.median(step) <= 3
    (west, south, *_), (*_, east, north) = tile_bounds_m(z, x, y + 1), tile_bounds_m(z, x + 1, y)
    whole = pixels(
        render.draw(sources(scene, None), "natural", (west, south, east, north), 512, 512)
    )
    joined = np.hstack([left, right])
    both = (joined[..., 3] == 255) & (whole[..., 3] == 255)
    difference = np.abs(joined[both][:, :3].astype(int) - whole[both][:, :3].astype(int))
    assert np.percentile(difference, 95) <= 10


def test_a_tile_outside_of_the_scene_is_transparent(scene: Scene) -> None:
    assert pixels(tile(scene, 6, 0, 0))[..., 3].max() == 0
    assert pixels(tile(scene, 0, 0, 0, size=512)).shape == (512, 512, 4)


@pytest.mark.parametrize("zxy", [(-1, 0, 0), (21, 0, 0), (3, 8, 0), (3, 0, 8), (3, -1, 0)])
def test_tiles_that_do_not_exist_are_refused(scene: Scene, zxy: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidInput):
        tile(scene, *zxy)
    with pytest.raises(InvalidInput):
        tile(scene, 3, 0, 0, size=300)


def test_flames_stay_apart_in_the_fire_composite(tmp_path: Path) -> None:
    """98 % of the scene is dark in band 7; the fire must not share white with bare soil."""
    swir = np.full((500, 600), 9000)
    swir[200:260, 200:260] = 14000  # bare soil, reflectance 0.18
    swir[300:306, 300:306] = 50000  # fire, reflectance 0.9
    bands = {"swir22": swir, "nir08": np.full((500, 600), 9000), "red": np.full((500, 600), 8000)}
    scene = make_scene(tmp_path, {n: v.astype(np.uint16) for n, v in bands.items()})
    source = sources(scene, "fire")[0]
    low, high = render.stretch_limits(source, "fire")
    assert high == pytest.approx((0.8 + 0.1) / 2e-5)
    soil, fire = render.brightness(np.array([14000, 50000]), (low, high))
    assert fire == 255
    assert soil < 100


def test_brightness_is_monotonous_and_clipped() -> None:
    shown = render.brightness(np.array([0, 100, 150, 200, 999], dtype=np.uint16), (100, 200))
    assert shown.tolist()[:2] == [0, 0]
    assert 128 < shown[2] < 200
    assert shown.tolist()[3:] == [255, 255]


def grounds(
    rng: np.random.Generator, kind: type[np.uint8 | np.uint16], *, cloud: float
) -> npt.NDArray[Any]:
    """A dark ground that fills little of what the pixels can hold, beside white cloud."""
    dark, spread, white = (20, 3, 170) if kind is np.uint8 else (260, 25, 2900)
    data = np.clip(rng.normal(dark, spread, (500, 600)), 1, None)
    data[:, : int(cloud * 600)] = white
    return data.astype(kind)


@pytest.mark.parametrize("cloud", [0.0, 0.01, 0.06, 0.3])
@pytest.mark.parametrize(
    ("kind", "bands"),
    [(np.uint8, ("red", "green", "blue")), (np.uint16, ("pan",)), (np.uint8, ("pan",))],
)
def test_a_dark_scene_is_readable_in_every_picture_of_it(
    tmp_path: Path, kind: type[np.uint8 | np.uint16], bands: tuple[str, ...], cloud: float
) -> None:
    """As FORMOSAT's: 8 bits or 12 of 16, no calibration, and clouds that are all of the range."""
    rng = np.random.default_rng(5)
    scene = make_scene(tmp_path, {name: grounds(rng, kind, cloud=cloud) for name in bands})
    for asset in scene.item["assets"].values():
        asset["bands"][0]["unit"] = "DN"
    lon, lat = lonlat(300, 250)
    x = int((lon + 180) / 360 * 2**11)
    y = int((1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * 2**11)
    for picture in (quicklook(scene).webp, tile(scene, 11, x, y)):
        shown = pixels(picture)
        seen = shown[shown[..., 3] == 255][:, :3]
        assert seen.size
        low, middle, high = np.percentile(seen, (5, 50, 95))
        assert 70 <= middle <= 185
        assert high - low >= 40


@given(
    low=st.integers(0, 60_000),
    span=st.integers(1, 5_000),
    middles=st.lists(st.floats(0, 1), min_size=3, max_size=3),
)
def test_the_middle_of_a_scene_is_lifted_and_never_darkened(
    low: int, span: int, middles: list[float]
) -> None:
    limits = [(float(low), float(low + span))] * 3
    at = [low + span * middle for middle in middles]
    gamma = render.gamma_for(limits, at)
    assert render.GAMMA <= gamma <= render.MOST_GAMMA
    assert modulekit.pictures.gamma_for(limits, at) == gamma  # chips look as the map does
    unit = min(1.0, sum(middles) / 3)
    if unit >= 0.03:
        assert unit ** (1 / gamma) >= render.MIDDLE - 1e-6
    shown = render.brightness(np.linspace(low, low + span, 50), limits[0], gamma)  # type: ignore[arg-type]
    assert (np.diff(shown.astype(int)) >= 0).all()
    assert (shown[0], shown[-1]) == (0, 255)


def test_a_cog_is_copied_and_anything_else_is_made_one(tmp_path: Path) -> None:
    cog = write(tmp_path / "cog.tif", np.full((500, 600), 7, np.uint16))
    store_cog(cog, tmp_path / "same.tif", GRID, nodata=0, categories=False)
    assert (tmp_path / "same.tif").read_bytes() == cog.read_bytes()
    moved = replace(GRID, transform=Affine(30, 0, 0, 0, -30, 0))
    store_cog(cog, tmp_path / "moved.tif", moved, nodata=0, categories=False)
    with opened(tmp_path / "moved.tif") as ds:
        assert ds.transform == moved.transform
        assert ds.overviews(1)
        assert (ds.read(1) == 7).all()
    assert list(tmp_path.glob("*.part")) == []
