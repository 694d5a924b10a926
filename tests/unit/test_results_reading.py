"""Detections out of events and files: what is read, and what is cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lib.errors import InvalidInput, NotFound
from lib.model import Detection, RunId, SceneId
from lib.protocol.events import ObjectFound, parse, plain_text
from lib.protocol.messages import ArtifactKind
from lib.results import reading
from lib.results.export import geojson
from lib.results.folder import ResultFolder
from tests.fakes.things import TIME, a_detection, a_picture, a_run, new_id, object_event, outlines

RUN, SCENE = RunId("6f1f2b5e-0000-4000-8000-000000000001"), SceneId("LC08_A")


def read_file(folder: Path, document: Any) -> list[Any]:
    path = folder / "detections.geojson"
    path.write_text(json.dumps(document))
    return reading.from_file(path, RUN, SCENE, TIME)


def from_event(event: dict[str, Any]) -> Detection:
    read = parse(event, {SCENE})
    assert isinstance(read, ObjectFound)
    return reading.from_event(read, RUN, TIME)


def test_an_event_becomes_a_box() -> None:
    found = from_event(object_event(3))
    assert (found.run, found.scene, found.n, found.kind) == (RUN, SCENE, 3, "fire")
    assert (found.pixels, found.area_m2, found.time) == (12, 10800.0, TIME)
    assert found.properties == {"peak": 0.4}
    assert found.geometry == {
        "type": "Polygon",
        "coordinates": [[[0.4, 0.4], [0.6, 0.4], [0.6, 0.6], [0.4, 0.6], [0.4, 0.4]]],
    }


def test_a_box_over_the_antimeridian_is_two() -> None:
    found = from_event(object_event(bbox=[179.5, -1, -179.5, 1], lon=180.0, lat=0.0))
    geometry: Any = found.geometry
    assert (found.lon, found.lat, found.bbox) == (-180.0, 0.0, (179.5, -1, -179.5, 1))
    assert geometry["type"] == "MultiPolygon"
    longitudes = [sorted({p[0] for p in part[0]}) for part in geometry["coordinates"]]
    assert longitudes == [[179.5, 180.0], [-180.0, -179.5]]


def test_a_file_becomes_outlines(tmp_path: Path) -> None:
    first, second = read_file(tmp_path, outlines(1, 2))
    assert (first.n, second.n, first.score, second.score) == (1, 2, 1.0, 0.5)
    assert first.geometry["type"] == "Polygon"
    assert (first.lon, first.lat) == (0.5, 0.5), "the centre of its box, as in its event"
    (placed,) = read_file(tmp_path, outlines(1, lon=1e9, lat="x"))
    assert (placed.lon, placed.lat) == (0.5, 0.5), "whatever else the file says"
    assert read_file(tmp_path, {"features": []}) == []


def test_points_and_several_polygons_are_outlines_too(tmp_path: Path) -> None:
    ring = [[0, 0], [1, 0], [1, 1], [0, 0]]
    for geometry in (
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "Polygon", "coordinates": [ring, ring]},
        {"type": "MultiPolygon", "coordinates": [[ring], [ring]]},
    ):
        document = outlines(1)
        document["features"][0]["geometry"] = geometry
        (found,) = read_file(tmp_path, document)
        assert found.geometry == geometry


def test_texts_and_properties_are_cut(tmp_path: Path) -> None:
    many = {f"k{i}": i for i in range(100)}
    odd = {"a\nb": "x\x1b[31m" * 1000, "list": [1], "nan": float("nan"), "yes": True}
    (found,) = read_file(tmp_path, outlines(1, properties={**odd, **many}, flags=["f"] * 99))
    assert len(found.flags) == 32
    assert len(found.properties) <= 60
    assert len(found.properties["a b"]) <= 500
    assert "\x1b" not in found.properties["a b"]
    assert "list" not in found.properties
    assert found.properties["nan"] is None
    assert found.properties["yes"] is True


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("  a\tb\n", "a b"),
        ("\ud800x", "x"),
        ("é😀", "é😀"),
        ("x" * 99, "x" * 9),
    ],
)
def test_plain_text(value: str, text: str) -> None:
    assert plain_text(value, 9) == text


# --- pictures ------------------------------------------------------------------------


def test_webp_is_known_by_its_head() -> None:
    import io

    from PIL import Image

    assert reading.is_webp(a_picture(300, 20), 300)
    assert not reading.is_webp(a_picture(300, 20), 299)
    for mode, options in (("RGB", {"lossless": True}), ("RGBA", {}), ("RGBA", {"lossless": True})):
        file = io.BytesIO()
        Image.new(mode, (500, 7), 128 if mode == "L" else None).save(file, "WEBP", **options)
        assert reading.is_webp(file.getvalue(), 500), (mode, options)
        assert not reading.is_webp(file.getvalue(), 499), (mode, options)
    assert not reading.is_webp(b"", 10**6)
    assert not reading.is_webp(a_picture()[:25], 10**6)
    assert not reading.is_webp(b"RIFF\0\0\0\0WEBPEXIF" + b"\0" * 40, 10**6)


def test_the_folder_gives_pictures_only(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path / "results")
    assert (tmp_path / "results").stat().st_mode & 0o777 == 0o700
    path = folder.path(RUN, SCENE, ArtifactKind.CHIP, 7)
    assert path == tmp_path / "results" / RUN / SCENE / "chips" / "0007.webp"
    with pytest.raises(NotFound, match="not here yet"):
        folder.image(RUN, SCENE, ArtifactKind.CHIP, 7)
    path.parent.mkdir(parents=True)
    for content in (b"", b"<html>", a_picture(1025, 4)):
        path.write_bytes(content)
        with pytest.raises(NotFound, match="fit size"):
            folder.image(RUN, SCENE, ArtifactKind.CHIP, 7)
    path.write_bytes(a_picture(1024, 4))
    assert folder.image(RUN, SCENE, ArtifactKind.CHIP, 7) == a_picture(1024, 4)


# --- out again -------------------------------------------------------------------------


def test_the_export_is_geojson_with_our_own_names_first() -> None:
    run = a_run("LC08_A", id=RunId(new_id()))
    own = a_detection(run.id, 1, properties={"score": 9, "scene": "lie", "peak": 0.4, "é": "ü"})
    document = json.loads(geojson(run, [own], synthetic=frozenset({"LC08_A"})))
    assert document["type"] == "FeatureCollection"
    assert document["scenes"] == ["LC08_A"]
    (feature,) = document["features"]
    assert feature["id"] == "LC08_A/1"
    properties = feature["properties"]
    assert (properties["score"], properties["scene"]) == (1.0, "LC08_A")
    assert (properties["peak"], properties["é"], properties["synthetic"]) == (0.4, "ü", True)
    assert properties["datetime"] == "2019-08-25T13:44:22Z"


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 0},
        {"n": True},
        {"n": 1.5e7},
        {"class": ""},
        {"class": 3},
        {"score": -0.1},
        {"score": 1.01},
        {"score": None},
        {"lon": 181},
        {"lat": -91},
        {"bbox": None},
        {"bbox": [0, 0, 1]},
        {"bbox": [0, 91, 1, 92]},
        {"bbox": [0, 1, 1, 0]},
        {"bbox": [0, 0, 181, 1]},
        {"bbox": ["0", 0, 1, 1]},
        {"pixels": -1},
        {"area_m2": float("inf")},
        {"flags": "cloud"},
        {"flags": [1]},
        {"properties": []},
        {"scene": None},
    ],
)
def test_an_event_that_is_wrong_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        from_event({**object_event(1), **changes})
