"""What a run has found: the wall beside the map, and the same as a table."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from lib.model import Detection, Module, Run, Scene, SceneId, User
from lib.portal.facade import Portal
from ui import chip_grid, layout, results_summary
from ui import map as result_map
from ui.component_events import Event
from ui.map import MapState, union
from ui.result_filter import Filter, to_address
from ui.text import exactly, md

STEP = 200
MAP_HEIGHT = 620


def set_mark(name: str) -> None:
    """Mark one detection on the map and in the address; pressed again, unmark it."""
    to_address("mark", "" if st.query_params.get("mark") == name else name)


def on_map(event: Event) -> None:
    """A detection was clicked on the map."""
    if event.kind == "mark":
        set_mark(chip_grid.mark_key(event.id, event.n))


def show(
    portal: Portal,
    user: User,
    run: Run,
    chosen: Filter,
    scenes: tuple[Scene, ...],
    module: Module | None,
) -> None:
    """The wall beside the map, and the table below."""
    limit = st.session_state.get(f"results-limit-{run.id}", STEP)
    found = portal.detections(
        user,
        run.id,
        scene=SceneId(chosen.scene) if chosen.scene else None,
        klass=chosen.klass or None,
        min_score=chosen.min_score,
        limit=limit + 1,
    )
    more, found = len(found) > limit, found[:limit]
    synthetic = frozenset(str(s.id) for s in scenes if s.synthetic)
    mark = st.query_params.get("mark", "")
    marked = _marked(portal, user, run, mark, found)
    left, right = st.columns([1, 1], gap="medium")
    with right:
        result_map.show(
            MapState(
                chosen=scenes,
                drape=tuple(str(s.id) for s in scenes[: result_map.MAX_DRAPED]),
                view=union([s.bbox for s in scenes]),
                view_seq=zlib.crc32(run.id.encode()),
                detections=f"/api/runs/{run.id}/detections?v={run.objects}-{run.state}",
                filter={
                    "klass": chosen.klass,
                    "scene": chosen.scene,
                    "min_score": chosen.min_score,
                },
                mark={"scene": marked.scene, "n": marked.n, "lon": marked.lon, "lat": marked.lat}
                if marked
                else None,
            ),
            key="results-map",
            height=MAP_HEIGHT,
            on_event=on_map,
        )
        if marked:
            st.caption(describe(marked, module, synthetic))
    with left:
        if found:
            chip_grid.show(
                found,
                module,
                synthetic=synthetic,
                marked=mark,
                key="results-wall",
                on_mark=set_mark,
            )
        elif run.objects:
            layout.empty_state(
                "Nothing matches this filter", "Lower the score, or show all classes and scenes."
            )
        elif run.state.over:
            layout.empty_state("Nothing was found", results_summary.nothing_found(run, module))
        else:
            layout.empty_state(
                "Nothing found so far", "Thumbnails appear here as the module finds something."
            )
        if more:
            st.button("Show more", on_click=_show_more, args=(str(run.id), limit))
    if found:
        with st.expander("Table"):
            show_table(found, module, synthetic)


def _show_more(run_id: str, limit: int) -> None:
    st.session_state[f"results-limit-{run_id}"] = limit + STEP


def _marked(
    portal: Portal, user: User, run: Run, mark: str, found: Sequence[Detection]
) -> Detection | None:
    """The marked detection, also when the filter or the limit hides its chip."""
    wanted = chip_grid.read_mark(mark)
    if wanted is None:
        return None
    scene, n = wanted
    candidates = [d for d in found if (str(d.scene), d.n) == (scene, n)]
    if not candidates:
        every = portal.detections(user, run.id, scene=SceneId(scene), limit=None)
        candidates = [d for d in every if d.n == n]
    return candidates[0] if candidates else None


def describe(d: Detection, module: Module | None, synthetic: frozenset[str]) -> str:
    """The marked detection in one line of Markdown."""
    flags = f", flags: {', '.join(d.flags)}" if d.flags else ""
    made = ", synthetic" if d.scene in synthetic else ""
    text = (
        f"{chip_grid.class_title(module, d.klass)}, score {d.score:.2f}, {exactly(d.time)}, "
        f"{d.lat:.5f}, {d.lon:.5f}, {d.scene}{flags}{made}"
    )
    return f"**Marked:** {md(text)}"


def show_table(
    found: Sequence[Detection], module: Module | None, synthetic: frozenset[str]
) -> None:
    """The detections as a table, in the order of the wall."""
    rows = pd.DataFrame(
        {
            "Class": [chip_grid.class_title(module, d.klass) for d in found],
            "Score": [d.score for d in found],
            "Time (UTC)": [d.time for d in found],
            "Latitude": [d.lat for d in found],
            "Longitude": [d.lon for d in found],
            "Pixels": [d.pixels for d in found],
            "Area (m²)": [d.area_m2 for d in found],
            "Flags": [", ".join(d.flags) for d in found],
            "Scene": [str(d.scene) for d in found],
            "Synthetic": ["yes" if d.scene in synthetic else "no" for d in found],
            "No.": [d.n for d in found],
        }
    )
    st.dataframe(
        rows,
        hide_index=True,
        alt="Detections, best first",
        column_config={
            "Score": st.column_config.NumberColumn(format="%.3f"),
            "Latitude": st.column_config.NumberColumn(format="%.5f"),
            "Longitude": st.column_config.NumberColumn(format="%.5f"),
            "Area (m²)": st.column_config.NumberColumn(format="localized"),
            "Time (UTC)": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm:ss"),
        },
    )
