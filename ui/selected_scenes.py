"""The selected scenes with their quicklooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

import streamlit as st

from lib.model import Scene
from ui import explore_state, layout
from ui.map import union_bbox
from ui.text import cloud, count, esc, tag, to_minute

SHOWN = 30


def show(scenes: Sequence[Scene], platforms: Mapping[str, str]) -> None:
    """Draw the scenes and buttons that change the selection; `platforms` maps ids to titles."""
    with st.container(horizontal=True, vertical_alignment="center"):
        title = count(len(scenes), "scene") + " chosen" if scenes else "Chosen scenes"
        st.html(f'<h2 class="sb-section">{esc(title)}</h2>')
        if scenes:
            st.button(
                "Show all",
                type="tertiary",
                icon=":material/center_focus_strong:",
                on_click=explore_state.zoom_to,
                args=(union_bbox([s.bbox for s in scenes]),),
            )
            st.button(
                "Clear",
                type="tertiary",
                icon=":material/delete_sweep:",
                on_click=explore_state.clear_scenes,
            )
    if not scenes:
        layout.empty_state(
            "Nothing chosen yet",
            "Click footprints on the map, or tick scenes in the table below it.",
        )
    for scene in scenes[:SHOWN]:
        _row(scene, platforms.get(scene.platform, scene.platform))
    if len(scenes) > SHOWN:
        st.caption(f"and {len(scenes) - SHOWN} more; the table below the map has them ticked.")


def _row(scene: Scene, platform: str) -> None:
    with st.container(
        horizontal=True, vertical_alignment="top", gap="xsmall", key=f"selected-scene-{scene.id}"
    ):
        st.html(_card(scene, platform), width="stretch")
        st.button(
            f"Show {scene.id} on the map",
            key=f"look-{scene.id}",
            icon=":material/center_focus_strong:",
            type="tertiary",
            on_click=explore_state.zoom_to,
            args=(scene.bbox,),
        )
        st.button(
            f"Remove {scene.id}",
            key=f"remove-{scene.id}",
            icon=":material/close:",
            type="tertiary",
            on_click=explore_state.remove_scene,
            args=(scene.id,),
        )


def _card(scene: Scene, platform: str) -> str:
    image = f"/api/scenes/{quote(scene.id, safe='')}/quicklook.webp?size=256"
    mark = tag("synthetic", "synthetic") if scene.synthetic else ""
    kind = f"{platform} {scene.level}, {cloud(scene.cloud_cover)}"
    return (
        f'<div class="sb-scene"><img src="{esc(image)}" loading="lazy" '
        f'alt="Quicklook of {esc(scene.title)}"><div><b>{esc(scene.title)}</b>'
        f'<span class="line">{esc(to_minute(scene.time))}</span>'
        f'<span class="line">{esc(kind)}</span>{mark}</div></div>'
    )
