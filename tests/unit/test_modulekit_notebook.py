"""What the prepared notebook works with."""

from __future__ import annotations

import json
import threading
import time

import pytest

from modulekit.cli import main
from modulekit.errors import UsageError
from modulekit.notebook import COLUMNS, open_session
from tests.fixtures.module_scenes import burning, write_catalog, write_scene


@pytest.fixture
def work(tmp_path):
    """A session's work folder with two scenes, before its run."""
    for scene in ("a", "b"):
        write_scene(tmp_path / "in", scene, burning())
    write_catalog(tmp_path / "in", ("a", "b"))
    (tmp_path / "in" / "params.json").write_text('{"min_pixels": 2}')
    return tmp_path


def run(work) -> int:
    arguments = ["--input", str(work / "in"), "--output", str(work / "out")]
    params = ["--params", str(work / "in" / "params.json")]
    return main("modules.active_fire", ["run", *arguments, *params])


def test_results_are_a_table_and_geojson(work):
    assert run(work) == 0
    session = open_session("active-fire", work)
    session.wait(show=lambda text: None)
    table = session.results.table
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert table[["scene", "n"]].to_numpy().tolist() == [["a", 1], ["a", 2], ["b", 1], ["b", 2]]
    assert set(table["pixels"]) == {8, 9}
    assert "goli_pixels" in table.columns
    collection = json.loads(json.dumps(session.results.geojson))
    assert [f["properties"]["scene"] for f in collection["features"]] == ["a", "a", "b", "b"]


def test_detecting_again_finds_the_same(work):
    assert run(work) == 0
    session = open_session("active-fire", work)
    session.detect().assert_same(session.results)
    with pytest.raises(AssertionError, match="a: 2 and 3 detections"):
        session.results.assert_same(session.detect(min_pixels=1))


def test_parameters_of_detect_are_checked(work):
    session = open_session("active-fire", work)
    with pytest.raises(UsageError, match="no_such"):
        session.detect(no_such=1)


def test_before_the_run_there_is_nothing(work):
    session = open_session("active-fire", work)
    assert session.events == []
    assert len(session.results) == 0
    assert list(session.results.table.columns) == [*COLUMNS, "geometry"]


def test_a_scene_of_one_only_is_a_difference(work):
    assert run(work) == 0
    session = open_session("active-fire", work)
    (work / "in" / "b" / "swir22.tif").unlink()
    found = session.detect()
    assert "is not there" in found.failed["b"]
    assert found.differences(session.results) == ["b: worked on in one of the two only"]


@pytest.mark.slow
def test_wait_follows_a_run_that_goes_on(work):
    out = work / "out"
    out.mkdir()
    shown: list[str] = []

    def slowly() -> None:
        events = [
            {"event": "run_started", "scenes": ["a", "b"]},
            {"event": "scene_started", "scene": "a"},
            {"event": "progress", "scene": "a", "fraction": 0.5},
            {"event": "scene_done", "scene": "a", "objects": 3},
            {"event": "scene_failed", "scene": "b", "message": "No luck."},
            {"event": "run_done"},
        ]
        with (out / "status.jsonl").open("a") as file:
            for event in events:
                line = json.dumps(event) + "\n"
                file.write(line[:5])
                file.flush()
                time.sleep(0.35)
                file.write(line[5:])
                file.flush()

    writer = threading.Thread(target=slowly)
    writer.start()
    open_session("active-fire", work).wait(show=shown.append)
    writer.join()
    assert shown[0] == "The run has not started yet."
    assert "a: 50 %\nb: waiting" in [text.replace("50%", "50 %") for text in shown]
    assert shown[-1] == "a: done, 3 objects\nb: failed: No luck."


def test_wait_gives_up_on_a_run_that_broke_off(work):
    session = open_session("active-fire", work)
    with pytest.raises(TimeoutError, match="has told nothing for"):
        session.wait(silence_s=0.5, show=lambda text: None)


def test_without_a_work_folder(monkeypatch):
    monkeypatch.delenv("SCENEBRIDGE_WORK", raising=False)
    with pytest.raises(UsageError, match="SCENEBRIDGE_WORK"):
        open_session("active-fire")
