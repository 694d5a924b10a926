"""Detections in a real SQLite file: arrive as boxes, are replaced by outlines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.model import Run, SceneId
from lib.store import Store
from tests.fakes.stores import new_store
from tests.fakes.things import ALICE, TIME, a_detection, add_run

A, B = SceneId("LC08_A"), SceneId("LC08_B")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = new_store(tmp_path / "portal.sqlite")
    store.people.ensure_user(ALICE)
    yield store
    store.close()


@pytest.fixture
def run(store: Store) -> Run:
    return add_run(store, "LC08_A", "LC08_B")


def test_best_first_filtered_and_counted(store: Store, run: Run) -> None:
    found = [
        a_detection(run.id, 1, score=0.4),
        a_detection(run.id, 2, score=0.9, kind="ship"),
        a_detection(run.id, 1, "LC08_B", score=0.4, pixels=99, flags=("cloud",)),
    ]
    store.detections.put(found)
    every = store.detections.of_run(run.id)
    assert [(d.scene, d.n) for d in every] == [(A, 2), (B, 1), (A, 1)]
    assert every[1] == found[2]
    assert every[0].time == TIME
    assert store.detections.of_run(run.id, kind="ship") == (found[1],)
    assert len(store.detections.of_run(run.id, scene=A)) == 2
    assert len(store.detections.of_run(run.id, min_score=0.5)) == 1
    assert store.detections.of_run(run.id, limit=1, offset=1) == (found[2],)
    assert store.detections.of_run(run.id, limit=None, offset=2) == (found[0],)
    assert store.detections.counts(run.id) == {(A, "fire"): 1, (A, "ship"): 1, (B, "fire"): 1}
    assert store.work.run(run.id).objects == 3


def test_the_same_twice_is_there_once(store: Store, run: Run) -> None:
    store.detections.put([a_detection(run.id, 1)], chips_offered=[1])
    store.detections.put([a_detection(run.id, 1, score=0.2)])
    assert [d.score for d in store.detections.of_run(run.id)] == [0.2]
    assert store.detections.missing_chips(run.id) == ((A, 1),), "an offer is not taken back"
    assert store.work.run(run.id).objects == 1


def test_a_thumbnail_that_came_is_not_asked_for_again(store: Store, run: Run) -> None:
    found = [a_detection(run.id, n) for n in (1, 2, 3)]
    store.detections.put(found, chips_offered=[3, 1])
    assert store.detections.missing_chips(run.id) == ((A, 1), (A, 3))
    store.detections.set_chip(run.id, A, 1, here=True)
    store.detections.set_chip(run.id, A, 3, here=False)
    assert store.detections.missing_chips(run.id) == ()
    store.detections.put(found)
    assert [d.has_chip for d in store.detections.of_run(run.id)] == [True, False, False]


def test_the_outlines_replace_the_boxes_of_their_scene_only(store: Store, run: Run) -> None:
    store.detections.put([a_detection(run.id, n) for n in (1, 2, 3)], chips_offered=[1, 2])
    store.detections.put([a_detection(run.id, 7, "LC08_B")])
    store.detections.set_chip(run.id, A, 1, here=True)
    outline = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}
    count = store.detections.replace(
        run.id, A, [a_detection(run.id, n, geometry=outline) for n in (1, 3, 4, 4)]
    )
    assert count == 3
    of_scene = store.detections.of_run(run.id, scene=A)
    assert [(d.n, d.has_chip) for d in of_scene] == [(1, True), (3, False), (4, False)]
    assert all(d.geometry == outline for d in of_scene)
    assert store.detections.missing_chips(run.id) == ()
    assert len(store.detections.of_run(run.id, scene=B)) == 1
    assert store.work.run(run.id).objects == 4


@pytest.mark.slow
def test_many_at_once(store: Store, run: Run) -> None:
    store.detections.put([a_detection(run.id, n) for n in range(1, 3001)])
    assert store.work.run(run.id).objects == 3000
    assert len(store.detections.of_run(run.id, limit=None)) == 3000
    assert store.detections.replace(run.id, A, []) == 0
    assert store.work.run(run.id).objects == 0
