"""The table of scenes below the map: the same search, for the keyboard and screen readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from ui import component_events, components
from ui.component_events import Event

_table = components.load("scene_table")


def show(
    url: str,
    chosen: Sequence[str],
    platforms: Mapping[str, str],
    *,
    nothing: str,
    key: str,
    on_event: Callable[[Event], None],
) -> None:
    """Draw the scenes of the GeoJSON at `url`, those in `chosen` ticked.

    `nothing` stands there where there is none. `on_event` is called once for each box the
    user ticked or cleared, oldest first.
    """

    def arrived() -> None:
        for event in component_events.new_events(key, st.session_state[key].get("events")):
            on_event(event)

    boot, seq = component_events.last_seen(key)
    _table(
        key=key,
        data={
            "url": url,
            "chosen": list(chosen),
            "platforms": dict(platforms),
            "nothing": nothing,
            "boot": boot,
            "seq": seq,
        },
        on_events_change=arrived,
    )
