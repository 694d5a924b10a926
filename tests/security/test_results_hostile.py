"""Result files of a hostile module: every one is refused with a sentence, quickly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lib.errors import InvalidInput, NotFound
from lib.model import RunId, SceneId
from lib.protocol.events import parse
from lib.protocol.messages import ArtifactKind
from lib.results import reading
from lib.results.folder import ResultFolder
from tests.fakes.things import TIME, object_event, outlines

RUN, SCENE = RunId("6f1f2b5e-0000-4000-8000-00000000000a"), SceneId("LC08_A")


def with_geometry(geometry: Any) -> bytes:
    document = outlines(1)
    document["features"][0]["geometry"] = geometry
    return json.dumps(document).encode()


def with_property(**properties: Any) -> bytes:
    return json.dumps(outlines(1, **properties)).encode()


CONTENTS = {
    "empty": b"",
    "no text": b"\xff\xfe\x00",
    "a list": b"[]",
    "a number": b"7",
    "null features": b'{"features": null}',
    "features as text": b'{"features": "abc"}',
    "deep lists": b'{"features": ' + b"[" * 200_000,
    "deep objects": b'{"features":' * 100_000,
    "a very long number": b'{"features": [' + b"9" * 100_000 + b"]}",
    "too many objects": b'{"features": [' + b"0," * 50_000 + b"0]}",
    "a feature that is text": b'{"features": ["x"]}',
    "no properties": b'{"features": [{"geometry": null}]}',
    "no geometry": with_geometry(None),
    "a line": with_geometry({"type": "LineString", "coordinates": [[0, 0], [1, 1]]}),
    "a collection": with_geometry({"type": "GeometryCollection", "geometries": []}),
    "a type that is a list": with_geometry({"type": ["Polygon"], "coordinates": []}),
    "no coordinates": with_geometry({"type": "Polygon"}),
    "an empty outline": with_geometry({"type": "Polygon", "coordinates": []}),
    "flat coordinates": with_geometry({"type": "Polygon", "coordinates": [1, 2, 3]}),
    "coordinates of text": with_geometry({"type": "Polygon", "coordinates": [["ab", "cd"]]}),
    "coordinates of objects": with_geometry({"type": "Point", "coordinates": {"0": 1}}),
    "a lonely longitude": with_geometry({"type": "Point", "coordinates": [1]}),
    "off the globe": with_geometry({"type": "Point", "coordinates": [200, 0]}),
    "NaN": b'{"features": [{"properties": {}, "geometry": {"type": "Point", '
    b'"coordinates": [NaN, Infinity]}}]}',
    "too many points": with_geometry(
        {"type": "Polygon", "coordinates": [[[0.0, 0.0]] * 20_001]},
    ),
    "score as text": with_property(score="<script>"),
    "score as a long number": with_property(score=10**400),
    "n as a long number": with_property(n=10**400),
    "half a pixel": with_property(pixels=0.5),
    "flags of lists": with_property(flags=[[]]),
    "properties as text": with_property(properties="x"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_hostile_outlines_are_refused_with_a_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / "detections.geojson"
    path.write_bytes(CONTENTS[name])
    with pytest.raises(InvalidInput) as refusal:
        reading.from_file(path, RUN, SCENE, TIME)
    message = refusal.value.message
    assert message.endswith(".")
    assert len(message) < 200
    assert message.isprintable()


def test_a_huge_file_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "detections.geojson"
    with path.open("wb") as file:
        file.truncate(reading.MAX_FILE_BYTES + 1)
    with pytest.raises(InvalidInput, match="larger than 64 MiB"):
        reading.from_file(path, RUN, SCENE, TIME)


def test_numbers_of_any_length_in_events_are_refused() -> None:
    for field in ("n", "score", "lon", "lat", "pixels", "area_m2"):
        for value in (10**5000, -(10**5000), float("nan"), float("-inf")):
            with pytest.raises(InvalidInput):
                parse({**object_event(1), field: value}, {SCENE})


@pytest.mark.parametrize(
    ("run", "scene"),
    [
        ("..", "LC08_A"),
        ("", "LC08_A"),
        ("/etc", "passwd"),
        (str(RUN).upper(), "LC08_A"),
        (f"{RUN}\n", "LC08_A"),
        (str(RUN), ".."),
        (str(RUN), "."),
        (str(RUN), ""),
        (str(RUN), "a/b"),
        (str(RUN), "a\x00"),
        (str(RUN), ".hidden"),
        (str(RUN), "LC08_A\n"),
        (str(RUN), "x" * 121),
    ],
)
def test_names_that_cannot_be_lead_nowhere(tmp_path: Path, run: str, scene: str) -> None:
    folder = ResultFolder(tmp_path)
    for kind in (ArtifactKind.CHIP, ArtifactKind.OVERVIEW):
        with pytest.raises(NotFound):
            folder.path(RunId(run), SceneId(scene), kind, 1)
        with pytest.raises(NotFound):
            folder.image(RunId(run), SceneId(scene), kind, 1)
