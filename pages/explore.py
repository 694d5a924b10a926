"""Explore: find scenes, choose them, choose a module and a cluster, press a button."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from lib.errors import NotFound, SceneBridgeError
from lib.model import Scene, SceneId, User
from lib.portal.facade import Portal
from ui import (
    explore_state,
    launch_form,
    layout,
    sample_progress,
    scene_table,
    search_filters,
    selected_scenes,
)
from ui import map as scene_map
from ui.explore_url import footprints_url, nothing_found
from ui.map import MapState, union_bbox
from ui.text import count

MAP_HEIGHT = 560


def chosen_scenes(portal: Portal, user: User) -> tuple[Scene, ...]:
    """The selected scenes; ids that are not known here are said and forgotten."""
    found: list[Scene] = []
    for scene_id in explore_state.current().scenes:
        try:
            found.append(portal.scene(user, SceneId(scene_id)))
        except NotFound:
            explore_state.add_problem(f"The scene “{scene_id}” is not known here and was left out.")
    explore_state.keep_known_scenes(tuple(found))
    return tuple(found)


def show_problems() -> None:
    """What a link asked for and could not be had."""
    found = explore_state.problems()
    if not found:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        layout.notice(" ".join(found))
        st.button("Dismiss", type="tertiary", on_click=explore_state.clear_problems)


def show_search(
    portal: Portal, user: User, scenes: tuple[Scene, ...], platforms: Mapping[str, str]
) -> None:
    """The map and the table of what the filters find."""
    explore = explore_state.current()
    url = sample_progress.turn(footprints_url(explore))
    box, seq = explore_state.map_view()
    state = MapState(
        footprints=url,
        chosen=scenes,
        drape=tuple(s.id for s in scenes[-scene_map.MAX_DRAPED :]),
        pick=True,
        area=explore.shape,
        view=box,
        view_seq=seq,
    )
    scene_map.show(state, key="explore-map", height=MAP_HEIGHT, on_event=explore_state.on_event)
    try:
        hits = portal.search(user, explore.query(limit=1))
        st.caption(count(hits.total, "scene matches", "scenes match") + " these filters.")
    except SceneBridgeError as exc:
        layout.show_error(exc)
    scene_table.show(
        url,
        explore.scenes,
        platforms,
        nothing=nothing_found(explore),
        key="explore-table",
        on_event=explore_state.on_event,
    )


@layout.errors_on_page()
def main() -> None:
    """The page."""
    portal, user = layout.require_user()
    from_link = explore_state.load_from_address()
    layout.heading("Explore", "Choose scenes, a detection module and a cluster.")
    problems = st.container()
    with st.container():
        sample_progress.show(portal, user)
    platforms = portal.platforms(user)
    with st.container():
        search_filters.show(platforms)
    scenes = chosen_scenes(portal, user)
    if from_link:
        explore_state.zoom_to(union_bbox([s.bbox for s in scenes]) or explore_state.current().area)
    left, right = st.columns([5, 2.4], gap="medium")
    with right:  # first, since a press of a button leaves this page
        with st.container():
            selected_scenes.show(scenes, dict(platforms))
        launch_form.show(portal, user, scenes)
    with left:
        show_search(portal, user, scenes, dict(platforms))
    with problems:
        show_problems()
    explore_state.save_to_address()


main()
