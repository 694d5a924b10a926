"""The filters of the search: text, days, cloud, sensor, area."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from ui import explore_state
from ui.explore_url import format_bbox, parse_bbox
from ui.text import md


def show(platforms: Sequence[tuple[str, str]]) -> None:
    """Draw the filters and write what they say into the state of the page."""
    _seed(platforms)
    with st.container(key="filters", horizontal=True, vertical_alignment="bottom"):
        text = st.text_input(
            "Name or id",
            key=explore_state.widget_key("text"),
            placeholder="Any",
            width=200,
            icon=":material/search:",
        )
        start = st.date_input(
            "From", key=explore_state.widget_key("start"), format="YYYY-MM-DD", width=138
        )
        end = st.date_input(
            "To", key=explore_state.widget_key("end"), format="YYYY-MM-DD", width=138
        )
        cloud = st.slider(
            "Cloud at most",
            0,
            100,
            step=5,
            format="%d %%",
            key=explore_state.widget_key("cloud"),
            width=170,
        )
        _area()
        titles = {p: md(title) for p, title in platforms}
        chosen = st.pills(
            "Sensor",
            list(titles),
            selection_mode="multi",
            format_func=lambda p: titles.get(p, p),
            key=explore_state.widget_key("platforms"),
        )
        state = explore_state.update(
            text=text.strip(),
            start=start,
            end=end,
            max_cloud=int(cloud),
            platforms=tuple(p for p in titles if p in (chosen or ())),
        )
        st.button(
            "Clear filters",
            icon=":material/filter_alt_off:",
            type="tertiary",
            disabled=not state.filtered,
            on_click=explore_state.clear_filters,
        )
    if start and end and start > end:
        st.caption(":orange[The first day is after the last, so nothing can match.]")


def _seed(platforms: Sequence[tuple[str, str]]) -> None:
    """Widgets that are not on the page yet begin with the state."""
    state = explore_state.current()
    known = [p for p, _ in platforms]
    for name in state.platforms:
        if name not in known:
            explore_state.add_problem(
                f"The link's sensor “{name}” is not known here and was left out."
            )
    start = {
        "text": state.text,
        "start": state.start,
        "end": state.end,
        "cloud": state.max_cloud - state.max_cloud % 5,
        "platforms": [p for p in state.platforms if p in known],
        "area": format_bbox(state.area) if state.area else "",
    }
    for name, value in start.items():
        st.session_state.setdefault(explore_state.widget_key(name), value)


def _area() -> None:
    state = explore_state.current()
    name = "Drawn area" if state.ring else "Area" if state.area else "Whole world"
    with st.popover(name, icon=":material/crop_free:"):
        st.text_input(
            "West, south, east, north (degrees)",
            key=explore_state.widget_key("area"),
            placeholder="119.9, 21.8, 122.1, 25.4",
            on_change=_area_typed,
        )
        if "area-problem" in st.session_state:
            st.caption(f":red[{md(st.session_state['area-problem'])}]")
        st.caption("Or draw a rectangle or polygon with the tools on the map.")
        if state.area:
            st.button("Search the whole world", on_click=explore_state.clear_area)


def _area_typed() -> None:
    st.session_state.pop("area-problem", None)
    text = st.session_state[explore_state.widget_key("area")].strip()
    if not text:
        explore_state.update(area=None, ring=())
        return
    try:
        box = parse_bbox(text)
    except ValueError as exc:
        st.session_state["area-problem"] = str(exc)
        return
    explore_state.update(area=box, ring=())
    explore_state.zoom_to(box)
