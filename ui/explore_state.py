"""The state of Explore: kept in st.session_state, mirrored in the query of the address."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date
from typing import TypedDict, Unpack

import streamlit as st

from lib.model import BBox, JsonObject, Scene
from ui.component_events import Event
from ui.explore_url import (
    ExploreState,
    Ring,
    format_bbox,
    format_query,
    parse_query,
    ring_bbox,
    wrap_ring,
)

_STATE = "explore-state"
_WRITTEN = "explore-address"
_PROBLEMS = "explore-problems"
_WIDGET_EPOCH = "explore-widget-epoch"
_VIEW = "explore-view"
_RECENT = "explore-recent"
_PARAMS = "explore-params"
#: So long a browser may still send the address of before: it learns of the new one only
#: when it has drawn the page.
_BEHIND_S = 3.0
_MOST_BEHIND = 20

Query = dict[str, list[str]]


def current() -> ExploreState:
    """The state of the page: filters, chosen scenes, launch form."""
    state: ExploreState = st.session_state.get(_STATE) or ExploreState()
    return state


class _Changes(TypedDict, total=False):
    """Fields of `ExploreState`."""

    scenes: tuple[str, ...]
    area: BBox | None
    ring: Ring
    start: date | None
    end: date | None
    max_cloud: int
    platforms: tuple[str, ...]
    text: str
    module: str
    cluster: str
    preset: str
    walltime_s: int
    params: JsonObject


def update(**changes: Unpack[_Changes]) -> ExploreState:
    """Change some fields of the state and return it."""
    st.session_state[_STATE] = replace(current(), **changes)
    return current()


def choose_module(module: str) -> None:
    """Take another module. Each has parameters of its own, which wait for it to be chosen again."""
    state = current()
    waiting: dict[str, JsonObject] = st.session_state.setdefault(_PARAMS, {})
    waiting[state.module] = state.params
    update(module=module, params=waiting.get(module, {}))


def choose_cluster(cluster: str) -> None:
    """Work is to run there, with resources of that cluster."""
    update(cluster=cluster, preset="", walltime_s=0)


def widget_key(name: str) -> str:
    """The key of a widget that shows part of the state.

    Widgets begin anew when a state is taken from an address: the browser keeps what it
    holds for a key.
    """
    return f"{name}-{st.session_state.get(_WIDGET_EPOCH, 0)}"


def map_view() -> tuple[BBox | None, int]:
    """What the map should show, and a number that changes with every call of `zoom_to`."""
    box, seq = st.session_state.get(_VIEW, (None, 0))
    return box, seq


def zoom_to(box: BBox | None) -> None:
    """Have the map show a box."""
    if box is not None:
        st.session_state[_VIEW] = (box, map_view()[1] + 1)


# --- address ---------------------------------------------------------------------


def load_from_address() -> bool:
    """Take over the address when something other than this page wrote it.

    True when it was taken over. An empty address keeps the state: so it is when one
    comes back from another page.
    """
    address = {name: st.query_params.get_all(name) for name in st.query_params}
    if address == st.session_state.get(_WRITTEN):
        st.session_state.pop(_RECENT, None)  # it has caught up: an older one is a step back
        return False
    if not address or _is_behind(address):
        return False
    st.session_state[_STATE], st.session_state[_PROBLEMS] = parse_query(address)
    st.session_state[_WIDGET_EPOCH] = st.session_state.get(_WIDGET_EPOCH, 0) + 1
    st.session_state.pop(_PARAMS, None)
    st.session_state[_WRITTEN] = address
    return True


def _is_behind(address: Query) -> bool:
    """Whether the browser only has not shown yet what this page wrote since."""
    recent: tuple[tuple[float, Query], ...] = st.session_state.get(_RECENT, ())
    return any(written == address and time.monotonic() < until for until, written in recent)


def save_to_address() -> None:
    """Write the state to the address."""
    address = {name: st.query_params.get_all(name) for name in st.query_params}
    query = format_query(current())
    before = st.session_state.get(_WRITTEN)
    if before and query != before:
        recent = st.session_state.get(_RECENT, ())[-_MOST_BEHIND:]
        st.session_state[_RECENT] = (*recent, (time.monotonic() + _BEHIND_S, before))
    if query != address:
        st.query_params.from_dict(query)
    st.session_state[_WRITTEN] = query


def problems() -> tuple[str, ...]:
    """What the last address asked for and could not be had."""
    found: tuple[str, ...] = st.session_state.get(_PROBLEMS, ())
    return found


def add_problem(text: str) -> None:
    """Add one more thing that the last address asked for and could not be had."""
    if text not in problems():
        st.session_state[_PROBLEMS] = (*problems(), text)


def clear_problems() -> None:
    """The user has read them."""
    st.session_state[_PROBLEMS] = ()


# --- what the map and the table tell -----------------------------------------------


def on_event(event: Event) -> None:
    """Carry out what the user did on the map or in the table."""
    if event.kind == "toggle" and event.id:
        others = tuple(s for s in current().scenes if s != event.id)
        update(scenes=(*others, event.id) if event.on else others)
    elif event.kind == "area" and len(event.ring) >= 4:
        set_area(event)


def set_area(event: Event) -> None:
    """The user drew a rectangle or a polygon."""
    ring = wrap_ring(event.ring)
    box = ring_bbox(ring)
    update(area=box, ring=() if event.rectangle else ring)
    st.session_state[widget_key("area")] = format_bbox(box)


def clear_area() -> None:
    """Search the whole world again."""
    update(area=None, ring=())
    st.session_state[widget_key("area")] = ""


def clear_filters() -> None:
    """Search for everything again; what is chosen stays chosen."""
    empty = ExploreState()
    update(
        area=None,
        ring=(),
        start=None,
        end=None,
        max_cloud=empty.max_cloud,
        platforms=(),
        text="",
    )
    shown: dict[str, object] = {
        "text": "",
        "start": None,
        "end": None,
        "cloud": empty.max_cloud,
        "platforms": [],
    }
    for name, value in {**shown, "area": ""}.items():
        st.session_state[widget_key(name)] = value


def remove_scene(scene_id: str) -> None:
    """No longer choose this scene."""
    update(scenes=tuple(s for s in current().scenes if s != scene_id))


def clear_scenes() -> None:
    """Choose no scene any more."""
    update(scenes=())


def keep_known_scenes(scenes: tuple[Scene, ...]) -> None:
    """Forget chosen ids that are no scenes here."""
    known = tuple(str(s.id) for s in scenes)
    if known != current().scenes:
        update(scenes=known)
