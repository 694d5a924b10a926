"""Sample scenes: pinned downloads from a real server, and synthetic scenes with truth."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio

from lib.errors import SceneUnavailable
from lib.scenes import samples
from lib.scenes.local_catalog import LocalCatalog
from lib.scenes.samples import REAL, SYNTHETIC, RealSample, get_real_samples, ingest_samples
from lib.scenes.synthetic import LandsatSpec, write_formosat, write_landsat
from lib.scenes.synthetic.landscape import Landscape, Window
from lib.scenes.synthetic.objects import planck
from tests.unit.scene_products import FORMOSAT, LANDSAT, shared

CONTENT = b"an archive"
SMALL = RealSample("SCENE", "a test", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Files(BaseHTTPRequestHandler):
    """Serves `content`; counts what was asked."""

    content = CONTENT
    status = 200
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        if self.status == 302:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(samples, "REAL", (SMALL,))
    monkeypatch.setattr(Files, "content", CONTENT)
    monkeypatch.setattr(Files, "asked", [])
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/data"
    server.shutdown()
    thread.join(300)
    server.server_close()


def test_a_sample_is_downloaded_once(base: str, tmp_path: Path) -> None:
    get = partial(get_real_samples, tmp_path / "cache", base=base)
    (path,) = get()
    assert path.read_bytes() == CONTENT
    assert get() == [path]
    assert Files.asked == ["/data/SCENE-cropped.tar.gz"]


def test_the_sibling_folder_is_used_when_its_file_is_right(base: str, tmp_path: Path) -> None:
    sibling = tmp_path / "sibling"
    sibling.mkdir()
    mine = sibling / "SCENE-cropped.tar.gz"
    mine.write_bytes(CONTENT)
    assert get_real_samples(tmp_path / "cache", sibling=sibling, base=base) == [mine]
    assert Files.asked == []
    mine.write_bytes(b"something else")
    (path,) = get_real_samples(tmp_path / "cache", sibling=sibling, base=base)
    assert path.parent == tmp_path / "cache"


@pytest.mark.parametrize("content", [b"AN ARCHIVE", b"short", CONTENT * 1000])
def test_another_file_than_expected_is_refused(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(Files, "content", content)
    with pytest.raises(SceneUnavailable, match="not the expected file"):
        get_real_samples(tmp_path / "cache", base=base)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("status", [302, 404, 500])
def test_no_redirect_is_followed_and_errors_are_said(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(Files, "status", status)
    with pytest.raises(SceneUnavailable, match="could not be downloaded") as caught:
        get_real_samples(tmp_path / "cache", base=base)
    caught.value.__cause__.close()  # type: ignore[union-attr]
    assert len(Files.asked) == 1


def test_no_internet_is_said_plainly_and_leaves_the_synthetic_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(LANDSAT, size=64, fires=0, ships=0, turbines=0)
    monkeypatch.setattr(samples, "SYNTHETIC", (("a place", small),))
    said: list[str] = []
    catalog = LocalCatalog(tmp_path / "scenes")
    get = partial(ingest_samples, catalog, tmp_path / "cache", said.append)
    scenes = get(base="http://127.0.0.1:1/data")
    assert [s.id for s in scenes] == [small.product_id]
    assert all(s.synthetic for s in scenes)
    assert sum("could not be downloaded" in line for line in said) == 1
    assert any("samples get" in line for line in said)
    said.clear()
    assert get(base="http://127.0.0.1:1/data") == scenes
    assert not any("synthetic" in line for line in said)


def test_the_pinned_files_are_those_of_the_real_data() -> None:
    folder = shared("landsat8")
    if folder is None:
        pytest.skip("the optional folder of real data is absent")
    for sample in REAL:
        path = folder / sample.file
        assert path.stat().st_size == sample.size
        assert samples._sha256(path) == sample.sha256


def test_the_synthetic_samples_are_six_and_three_with_ids_of_their_own() -> None:
    specs = [spec for _, spec in SYNTHETIC]
    assert sum(isinstance(s, LandsatSpec) for s in specs) == 6
    assert len({s.scene_id for s in specs}) == len(specs) == 9


# --- the generator ---


@pytest.mark.slow
def test_the_same_spec_gives_the_same_product(tmp_path: Path) -> None:
    for write, spec in ((write_landsat, LANDSAT), (write_formosat, FORMOSAT)):
        one, two = (write(tmp_path / name, spec) for name in ("one", "two"))  # type: ignore[operator]
        for path in one.iterdir():
            assert path.read_bytes() == (two / path.name).read_bytes(), path.name
    other = write_landsat(tmp_path / "three", replace(LANDSAT, day=date(2024, 2, 2)))
    band = read(other, "B4"), read(tmp_path / "one" / LANDSAT.product_id, "B4")
    assert (band[0] != band[1]).mean() > 0.9


def test_a_window_of_the_landscape_is_part_of_the_whole() -> None:
    land = Landscape(1, 2, (300, 300), 30.0, sea=0.4, cloud=0.2)
    whole, part = land.height(Window(0, 300, 0, 300)), land.height(Window(100, 140, 50, 90))
    np.testing.assert_array_equal(part, whole[100:140, 50:90])
    assert (whole < 0).mean() == pytest.approx(0.4, abs=0.05)
    assert (land.cloud(Window(0, 300, 0, 300)) > 0).mean() == pytest.approx(0.2, abs=0.05)


def test_noise_of_neighbouring_bands_goes_together() -> None:
    """Independent noise makes ratios of dark bands jump and plants fires that are none."""
    land = Landscape(1, 2, (256, 256), 30.0, sea=1.0, cloud=0.0)
    reflectance, ground, _ = land.reflectance(Window(0, 256, 0, 256))
    sea = reflectance[:, ground == 0]
    together = np.corrcoef(sea)
    assert together[4, 6] > 0.7
    assert (sea > 0).all()


def test_planted_objects_are_where_the_truth_says(tmp_path: Path) -> None:
    spec = replace(LANDSAT, size=500, fires=4, ships=6, turbines=4, cloud=0.0)
    product = write_landsat(tmp_path, spec)
    truth = json.loads((product / "truth.geojson").read_text())["features"]
    kinds = [f["properties"]["class"] for f in truth]
    assert {k: kinds.count(k) for k in set(kinds)} == {"fire": 4, "ship": 6, "turbine": 4}
    swir, nir = read(product, "B7").astype(float), read(product, "B5").astype(float)
    for feature in truth:
        band = swir if feature["properties"]["class"] == "fire" else nir
        row, col = (math.floor(feature["properties"][k]) for k in ("row", "col"))
        near = band[max(0, row - 2) : row + 3, max(0, col - 2) : col + 3]
        around = band[max(0, row - 12) : row + 13, max(0, col - 12) : col + 13]
        assert near.max() > np.median(around) + 800, feature["properties"]
        lon, lat = feature["geometry"]["coordinates"]
        assert abs(lon - spec.lon) < 0.2
        assert abs(lat - spec.lat) < 0.2


def test_saturated_fires_are_flagged(tmp_path: Path) -> None:
    product = write_landsat(tmp_path, replace(LANDSAT, size=500, fires=9, sea=0.2, cloud=0.0))
    flags, swir = read(product, "QA_RADSAT"), read(product, "B7")
    assert (swir == 65535).sum() > 0
    np.testing.assert_array_equal(flags & 1 << 6 != 0, swir == 65535)


def test_quality_flags_follow_water_and_clouds(tmp_path: Path) -> None:
    product = write_landsat(tmp_path, replace(LANDSAT, size=400, cloud=0.15))
    flags, blue, nir = (read(product, name) for name in ("QA_PIXEL", "B2", "B5"))
    cloud, water = flags & 8 != 0, (flags & 128 != 0) & (flags & 2 == 0)
    assert 0.05 < cloud.mean() < 0.2
    assert np.median(blue[cloud]) > 2 * np.median(blue[~cloud])
    assert np.median(nir[water]) < np.median(nir[~water & ~cloud])
    assert ((flags & 1) == 0).all()


def test_black_body_radiance() -> None:
    """Planck at 10.9 um and 300 K is 9.6 W m-2 sr-1 um-1."""
    assert planck(10.9, 300.0) == pytest.approx(9.6, abs=0.15)


def read(product: Path, band: str) -> np.ndarray[tuple[int, int], np.dtype[np.uint16]]:
    with rasterio.open(next(product.glob(f"*_{band}.TIF"))) as ds:
        return ds.read(1)  # type: ignore[no-any-return]
