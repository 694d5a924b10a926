"""The map that all reruns share."""

from __future__ import annotations

import math
from typing import Any

import pytest
import streamlit_folium
from hypothesis import example, given
from hypothesis import strategies as st

from lib.model import BBox
from ui import map as scene_map
from ui.map import MapState


def inside(inner: BBox, outer: BBox) -> bool:
    west, east = (v + 360 if v < outer[0] - 1e-9 else v for v in (inner[0], inner[2]))
    return outer[0] - 1e-9 <= west <= east <= outer[2] + 1e-9 and (
        outer[1] - 1e-9 <= inner[1] <= inner[3] <= outer[3] + 1e-9
    )


@given(
    west=st.floats(-180, 179.99),
    south=st.floats(-80, 79),
    wide=st.floats(0, 3),
    high=st.floats(0, 1),
)
@example(west=179.99, south=0, wide=0.02, high=0.01)
@example(west=139.7, south=35.2, wide=0, high=0)
def test_a_marked_object_is_shown_large_with_something_around_it(
    west: float, south: float, wide: float, high: float
) -> None:
    east = west + wide
    box = (west, south, east - 360 if east > 180 else east, south + high)
    view = scene_map.view_around(box)
    assert inside(box, view)
    lat = math.radians(south + high / 2)
    height_m = (view[3] - view[1]) * scene_map.METRES_PER_DEGREE
    width_m = (view[2] - view[0]) * scene_map.METRES_PER_DEGREE * math.cos(lat)
    assert width_m == pytest.approx(height_m, rel=1e-6) or height_m > 300_000
    # Neither lost in it nor as large as all of it: a sixth, or a small thing in 800 m.
    object_m = max(high, wide * math.cos(lat)) * scene_map.METRES_PER_DEGREE
    assert width_m == pytest.approx(max(800, 6 * object_m), rel=1e-6)


def drawn(monkeypatch: pytest.MonkeyPatch, *states: MapState) -> list[dict[str, Any]]:
    """What the browser is sent for each of them, one rerun after the other."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(streamlit_folium, "_component_func", lambda **args: sent.append(args))
    for state in states:
        scene_map.show(state, key="a-map", height=400, on_event=print)
    return sent


def test_the_same_map_is_sent_at_each_rerun(monkeypatch: pytest.MonkeyPatch) -> None:
    state = MapState(footprints="/api/footprints?a", pick=True)
    first, second = (dict(sent, on_change=None) for sent in drawn(monkeypatch, state, state))
    assert first == second
    assert "sceneBridge.attach(map_div)" in first["script"]
    assert "drawnItems" in first["script"]


def test_what_one_user_sees_is_not_sent_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = drawn(
        monkeypatch, MapState(detections="/api/runs/mine"), MapState(detections="/api/runs/theirs")
    )
    assert "/api/runs/mine" in mine["feature_group"]
    assert "mine" not in str({**other, "on_change": None})
    assert "/api/runs/theirs" in other["feature_group"]


def test_only_the_map_to_pick_from_has_tools_to_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    without, with_ = drawn(monkeypatch, MapState(), MapState(pick=True))
    assert "L.Control.Draw" in with_["script"]
    assert "L.Control.Draw" not in without["script"]
