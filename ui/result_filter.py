"""The filter of a run's detections: score, kind, scene. All of it is in the address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from lib.model import Module, Run
from ui import chip_grid, layout
from ui.text import md

ALL = ""


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Which detections are shown; empty fields do not restrict."""

    kind: str
    scene: str
    min_score: float


def show(
    run: Run, module: Module | None, kinds: Sequence[str], titles: Mapping[str, str]
) -> ResultFilter:
    """The filter's widgets; each begins with what the address says."""
    with st.container(horizontal=True, vertical_alignment="bottom", key="results-filter"):
        score = st.slider(
            "Score at least",
            0.0,
            1.0,
            step=0.01,
            key=_seed(run, "score", _score_of_address()),
            width=220,
            help=md(module.score_meaning) if module and module.score_meaning else None,
        )
        kind = scene = ALL
        if len(kinds) > 1:
            names = [ALL, *kinds]
            wish = st.query_params.get("class", ALL)
            kind = st.selectbox(
                "Class",
                names,
                format_func=lambda k: chip_grid.kind_title(module, k) if k else "All classes",
                key=_seed(run, "class", wish if wish in names else ALL),
                width=200,
            )
        if len(run.scenes) > 1:
            ids = [ALL, *(str(s.scene) for s in run.scenes)]
            wish = st.query_params.get("scene", ALL)
            scene = st.selectbox(
                "Scene",
                ids,
                format_func=lambda s: titles.get(s, s) if s else "All scenes",
                key=_seed(run, "scene", wish if wish in ids else ALL),
                width=320,
            )
        st.link_button(
            "Download GeoJSON",
            f"/api/runs/{run.id}/detections?download=1",
            icon=":material/download:",
            disabled=run.objects == 0,
        )
    filters = ResultFilter(kind or ALL, scene or ALL, float(score))
    layout.set_query_param("class", filters.kind)
    layout.set_query_param("scene", filters.scene)
    layout.set_query_param("score", f"{filters.min_score:g}" if filters.min_score else "")
    return filters


def _seed(run: Run, name: str, value: object) -> str:
    key = f"results-{name}-{run.id}"
    st.session_state.setdefault(key, value)
    return key


def _score_of_address() -> float:
    try:
        return min(1.0, max(0.0, float(st.query_params.get("score", "0"))))
    except ValueError:
        return 0.0
