"""The choice made on Explore: held for the browser session, mirrored in the address."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import streamlit as st

from lib.model import BBox, Scene
from ui.component_events import Event
from ui.explore_url import Choice, box_of, format_, format_bbox, parse, wrap_ring

_CHOICE = "choice"
_WRITTEN = "choice-address"
_PROBLEMS = "choice-problems"
_EPOCH = "choice-epoch"
_VIEW = "choice-view"
_LATELY = "choice-lately"
#: So long a browser may still send the address of before: it learns of the new one only
#: when it has drawn the page.
_BEHIND_S = 3.0
_MOST_BEHIND = 20

Query = dict[str, list[str]]


def current() -> Choice:
    """What is chosen now."""
    choice: Choice = st.session_state.get(_CHOICE) or Choice()
    return choice


def update(**changes: Any) -> Choice:
    """Change some fields of the choice and return it."""
    st.session_state[_CHOICE] = replace(current(), **changes)
    return current()


def key(name: str) -> str:
    """The key of a widget that shows part of the choice.

    Widgets begin anew when a choice is taken from an address: the browser keeps what it
    holds for a key.
    """
    return f"{name}-{st.session_state.get(_EPOCH, 0)}"


def view() -> tuple[BBox | None, int]:
    """What the map should show, and a number that changes with every wish."""
    box, seq = st.session_state.get(_VIEW, (None, 0))
    return box, seq


def look_at(box: BBox | None) -> None:
    """Wish that the map shows a box."""
    if box is not None:
        st.session_state[_VIEW] = (box, view()[1] + 1)


# --- address ---------------------------------------------------------------------


def read_address() -> bool:
    """Take over the address when something other than this page wrote it.

    True when it was taken over. An empty address keeps the choice: so it is when one
    comes back from another page.
    """
    address = {name: st.query_params.get_all(name) for name in st.query_params}
    if address == st.session_state.get(_WRITTEN):
        st.session_state.pop(_LATELY, None)  # it has caught up: an older one is a step back
        return False
    if not address or _is_behind(address):
        return False
    st.session_state[_CHOICE], st.session_state[_PROBLEMS] = parse(address)
    st.session_state[_EPOCH] = st.session_state.get(_EPOCH, 0) + 1
    st.session_state[_WRITTEN] = address
    return True


def _is_behind(address: Query) -> bool:
    """Whether the browser only has not shown yet what this page wrote since."""
    lately: tuple[tuple[float, Query], ...] = st.session_state.get(_LATELY, ())
    return any(written == address and time.monotonic() < until for until, written in lately)


def write_address() -> None:
    """Mirror the choice in the address."""
    address = {name: st.query_params.get_all(name) for name in st.query_params}
    query = format_(current())
    before = st.session_state.get(_WRITTEN)
    if before and query != before:
        lately = st.session_state.get(_LATELY, ())[-_MOST_BEHIND:]
        st.session_state[_LATELY] = (*lately, (time.monotonic() + _BEHIND_S, before))
    if query != address:
        st.query_params.from_dict(query)
    st.session_state[_WRITTEN] = query


def problems() -> tuple[str, ...]:
    """What the last address asked for and could not be had."""
    found: tuple[str, ...] = st.session_state.get(_PROBLEMS, ())
    return found


def add_problem(text: str) -> None:
    """Say once more of the last address what could not be had."""
    if text not in problems():
        st.session_state[_PROBLEMS] = (*problems(), text)


def forget_problems() -> None:
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
    box = box_of(ring)
    update(area=box, ring=() if event.rectangle else ring)
    st.session_state[key("area")] = format_bbox(box)


def clear_area() -> None:
    """Search the whole world again."""
    update(area=None, ring=())
    st.session_state[key("area")] = ""


def remove(scene_id: str) -> None:
    """Take one scene out of the tray."""
    update(scenes=tuple(s for s in current().scenes if s != scene_id))


def clear() -> None:
    """Empty the tray."""
    update(scenes=())


def keep(scenes: tuple[Scene, ...]) -> None:
    """Forget chosen ids that are no scenes here."""
    known = tuple(str(s.id) for s in scenes)
    if known != current().scenes:
        update(scenes=known)
