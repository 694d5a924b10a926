"""The filters of the search: text, days, cloud, sensor, area."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from ui import explore_state
from ui.explore_url import format_bbox, read_bbox
from ui.text import md


def show(platforms: Sequence[tuple[str, str]]) -> None:
    """Draw the filters and write what they say into the choice."""
    _seed(platforms)
    with st.container(key="filters", horizontal=True, vertical_alignment="bottom"):
        text = st.text_input(
            "Name or id",
            key=explore_state.key("text"),
            placeholder="Any",
            width=200,
            icon=":material/search:",
        )
        start = st.date_input(
            "From", key=explore_state.key("start"), format="YYYY-MM-DD", width=138
        )
        end = st.date_input("To", key=explore_state.key("end"), format="YYYY-MM-DD", width=138)
        cloud = st.slider(
            "Cloud at most",
            0,
            100,
            step=5,
            format="%d %%",
            key=explore_state.key("cloud"),
            width=170,
        )
        _area()
        titles = {p: md(title) for p, title in platforms}
        chosen = st.pills(
            "Sensor",
            list(titles),
            selection_mode="multi",
            format_func=lambda p: titles.get(p, p),
            key=explore_state.key("platforms"),
        )
    explore_state.update(
        text=text.strip(),
        start=start,
        end=end,
        max_cloud=int(cloud),
        platforms=tuple(p for p in titles if p in (chosen or ())),
    )
    if start and end and start > end:
        st.caption(":orange[The first day is after the last, so nothing can match.]")


def _seed(platforms: Sequence[tuple[str, str]]) -> None:
    """Widgets that are not on the page yet begin with the choice."""
    choice = explore_state.current()
    known = [p for p, _ in platforms]
    for name in choice.platforms:
        if name not in known:
            explore_state.add_problem(
                f"The link's sensor “{name}” is not known here and was left out."
            )
    start = {
        "text": choice.text,
        "start": choice.start,
        "end": choice.end,
        "cloud": choice.max_cloud - choice.max_cloud % 5,
        "platforms": [p for p in choice.platforms if p in known],
        "area": format_bbox(choice.area) if choice.area else "",
    }
    for name, value in start.items():
        st.session_state.setdefault(explore_state.key(name), value)


def _area() -> None:
    choice = explore_state.current()
    name = "Drawn area" if choice.ring else "Area" if choice.area else "Whole world"
    with st.popover(name, icon=":material/crop_free:"):
        st.text_input(
            "West, south, east, north (degrees)",
            key=explore_state.key("area"),
            placeholder="119.9, 21.8, 122.1, 25.4",
            on_change=_area_typed,
        )
        if "area-problem" in st.session_state:
            st.caption(f":red[{md(st.session_state['area-problem'])}]")
        st.caption("Or draw a rectangle or polygon with the tools on the map.")
        if choice.area:
            st.button("Search the whole world", on_click=explore_state.clear_area)


def _area_typed() -> None:
    st.session_state.pop("area-problem", None)
    text = st.session_state[explore_state.key("area")].strip()
    if not text:
        explore_state.update(area=None, ring=())
        return
    try:
        box = read_bbox(text)
    except ValueError as exc:
        st.session_state["area-problem"] = str(exc)
        return
    explore_state.update(area=box, ring=())
    explore_state.look_at(box)
