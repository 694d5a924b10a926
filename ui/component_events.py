"""Events from browser components (map, table) to Python, each delivered once and none lost.

A component's value holds its last few events, each with a number, because Streamlit keeps
only the newest value when several come before the script runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from lib.model import JsonObject, JsonValue, json_list, json_number

KINDS = frozenset({"toggle", "area", "mark"})


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the user did.

    kind "toggle": `id` is a scene, `on` whether it is chosen now. "area": `ring` is a
    closed ring of (lon, lat). "mark": `id` is a scene, `n` a detection's number.
    """

    kind: str
    id: str = ""
    on: bool = False
    n: int = 0
    rectangle: bool = False
    ring: tuple[tuple[float, float], ...] = ()


def last_seen(key: str) -> tuple[str, int]:
    """(instance of the component, number of its last event that was taken)."""
    boot, seq = st.session_state.get(f"{key}-last-seen", ("", 0))
    return boot, seq


def new_events(key: str, value: object) -> list[Event]:
    """The events in the value of component `key` that were not taken before.

    A value that is not understood gives no events: it comes from the browser.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("boot"), str):
        return []
    boot, done = last_seen(key)
    if boot != value["boot"]:
        done = 0
    events: list[Event] = []
    sent = value.get("events")
    for raw in sent if isinstance(sent, list) else []:
        seq = raw.get("seq") if isinstance(raw, Mapping) else None
        if not isinstance(seq, int) or seq <= done:
            continue
        done = seq
        event = _parse(raw)
        if event is not None:
            events.append(event)
    st.session_state[f"{key}-last-seen"] = (value["boot"], done)
    return events


def _parse(raw: JsonObject) -> Event | None:
    if raw.get("kind") not in KINDS:
        return None
    try:
        return Event(
            kind=str(raw["kind"]),
            id=str(raw.get("id") or raw.get("scene") or ""),
            on=raw.get("on") is True,
            n=int(json_number(raw.get("n") or 0)),
            rectangle=raw.get("rectangle") is True,
            ring=tuple(map(_position, json_list(raw.get("ring") or ()))),
        )
    except (TypeError, ValueError, OverflowError):
        return None


def _position(value: JsonValue) -> tuple[float, float]:
    lon, lat = json_list(value)
    return float(json_number(lon)), float(json_number(lat))
