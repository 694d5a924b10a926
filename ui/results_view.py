"""A run's detections: the chip grid beside the map, and the same as a table."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import pyarrow as pa
import streamlit as st

from lib.model import Detection, Module, Run, Scene, SceneId, User
from lib.model.position import box_of
from lib.portal.facade import Portal
from ui import chip_grid, layout, results_summary
from ui import map as result_map
from ui.component_events import Event
from ui.map import MapState, union_bbox
from ui.result_filter import ResultFilter
from ui.text import md, to_second

PAGE_SIZE = 200
MAP_HEIGHT = 620


def set_mark(name: str) -> None:
    """Mark one detection on the map and in the address; pressed again, unmark it."""
    layout.set_query_param("mark", "" if st.query_params.get("mark") == name else name)


def on_map_event(event: Event) -> None:
    """A detection was clicked on the map."""
    if event.kind == "mark":
        set_mark(chip_grid.mark_key(event.id, event.n))


def show(
    portal: Portal,
    user: User,
    run: Run,
    filters: ResultFilter,
    scenes: tuple[Scene, ...],
    module: Module | None,
) -> None:
    """The chip grid beside the map, and the table below."""
    limit = st.session_state.get(f"results-limit-{run.id}", PAGE_SIZE)
    detections = portal.detections(
        user,
        run.id,
        scene=SceneId(filters.scene) if filters.scene else None,
        kind=filters.kind or None,
        min_score=filters.min_score,
        limit=limit + 1,
    )
    more, detections = len(detections) > limit, detections[:limit]
    synthetic = frozenset(str(s.id) for s in scenes if s.synthetic)
    mark = st.query_params.get("mark", "")
    marked = _marked_detection(portal, user, run, mark, detections)
    left, right = st.columns([1, 1], gap="medium")
    with right:
        result_map.show(
            MapState(
                chosen=scenes,
                drape=tuple(str(s.id) for s in scenes[: result_map.MAX_DRAPED]),
                view=union_bbox([s.bbox for s in scenes]),
                view_seq=zlib.crc32(run.id.encode()),
                detections=f"/api/runs/{run.id}/detections?v={run.objects}-{run.state}",
                filter={
                    "kind": filters.kind,
                    "scene": filters.scene,
                    "min_score": filters.min_score,
                },
                mark=result_map.mark_of(marked.scene, marked.n, box_of(marked.geometry))
                if marked
                else None,
            ),
            key="results-map",
            height=MAP_HEIGHT,
            on_event=on_map_event,
        )
        if marked:
            st.caption(marked_text(marked, module, synthetic))
    with left:
        if detections:
            chip_grid.show(
                detections,
                module,
                synthetic=synthetic,
                marked=mark,
                key="results-chips",
                on_mark=set_mark,
            )
        elif run.objects:
            layout.empty_state(
                "Nothing matches this filter", "Lower the score, or show all classes and scenes."
            )
        elif run.state.over:
            layout.empty_state("Nothing was found", results_summary.no_detections_text(run, module))
        else:
            layout.empty_state(
                "Nothing found so far", "Thumbnails appear here as the module finds something."
            )
        if more:
            st.button("Show more", on_click=_show_more, args=(str(run.id), limit))
    if detections:
        with st.expander("Table"):
            show_table(detections, module, synthetic)


def _show_more(run_id: str, limit: int) -> None:
    st.session_state[f"results-limit-{run_id}"] = limit + PAGE_SIZE


def _marked_detection(
    portal: Portal, user: User, run: Run, mark: str, detections: Sequence[Detection]
) -> Detection | None:
    """The marked detection, also when the filter or the limit hides its chip."""
    wanted = chip_grid.parse_mark(mark)
    if wanted is None:
        return None
    scene, n = wanted
    candidates = [d for d in detections if (str(d.scene), d.n) == (scene, n)]
    if not candidates:
        every = portal.detections(user, run.id, scene=SceneId(scene), limit=None)
        candidates = [d for d in every if d.n == n]
    return candidates[0] if candidates else None


def marked_text(d: Detection, module: Module | None, synthetic: frozenset[str]) -> str:
    """The marked detection in one line of Markdown."""
    flags = f", flags: {', '.join(d.flags)}" if d.flags else ""
    made = ", synthetic" if d.scene in synthetic else ""
    text = (
        f"{chip_grid.kind_title(module, d.kind)}, score {d.score:.2f}, {to_second(d.time)}, "
        f"{d.lat:.5f}, {d.lon:.5f}, {d.scene}{flags}{made}"
    )
    return f"**Marked:** {md(text)}"


def show_table(
    detections: Sequence[Detection], module: Module | None, synthetic: frozenset[str]
) -> None:
    """The detections as a table, in the order of the chips."""
    rows = pa.table(
        {
            "Class": [chip_grid.kind_title(module, d.kind) for d in detections],
            "Score": [d.score for d in detections],
            "Time (UTC)": [d.time for d in detections],
            "Latitude": [d.lat for d in detections],
            "Longitude": [d.lon for d in detections],
            "Pixels": [d.pixels for d in detections],
            "Area (m²)": [d.area_m2 for d in detections],
            "Flags": [", ".join(d.flags) for d in detections],
            "Scene": [str(d.scene) for d in detections],
            "Synthetic": ["yes" if d.scene in synthetic else "no" for d in detections],
            "No.": [d.n for d in detections],
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
