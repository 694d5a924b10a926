"""The map that all reruns share."""

from __future__ import annotations

from typing import Any

import pytest
import streamlit_folium

from ui import map as scene_map
from ui.map import MapState


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
