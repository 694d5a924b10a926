"""Results: what a run has found, best first, as chips, on the map and as a table."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from lib.errors import NotFound, SceneBridgeError
from lib.model import Detection, Module, Reachability, Run, RunId, Scene, SceneId, User
from lib.portal import Portal
from ui import findings, frame, steps, wall
from ui import map as result_map
from ui.events import Event
from ui.map import MapState, union
from ui.text import exactly, md

STEP = 200
MAP_HEIGHT = 620
ALL = ""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which detections are shown; empty fields do not restrict."""

    klass: str
    scene: str
    min_score: float


def choose_run(here: Portal, user: User) -> Run | None:
    """The run of the address, or the newest; None where there is none at all."""
    runs = {str(r.id): r for r in here.runs(user)}
    wish = st.query_params.get("run", "")
    if wish and wish not in runs:
        frame.notice("The run of this link is not known here, or it is not yours.", "bad")
        wish = ""
    if not runs:
        frame.empty(
            "No results yet",
            "On Explore, choose scenes and a module, then press Open notebook or Run. "
            "Thumbnails appear here as the module finds something.",
        )
        st.page_link(frame.EXPLORE, label="Go to Explore", icon=":material/travel_explore:")
        return None
    names = list(runs)
    if st.session_state.get("results-run") not in runs or (
        wish and st.session_state.get("results-address") != wish
    ):
        st.session_state["results-run"] = wish or names[0]
    picked = st.selectbox(
        "Run",
        names,
        format_func=lambda name: findings.run_title(runs[name]),
        key="results-run",
        label_visibility="collapsed",
    )
    name = str(picked or names[0])
    if st.query_params.get("run") != name:
        st.query_params.from_dict({"run": name})
    st.session_state["results-address"] = name
    return runs[name]


def scenes_of(here: Portal, user: User, run: Run) -> tuple[Scene, ...]:
    """The run's scenes that are still in the catalogue."""
    found = []
    for entry in run.scenes:
        try:
            found.append(here.scene(user, SceneId(entry.scene)))
        except NotFound:
            continue
    return tuple(found)


def show_filter(
    run: Run, module: Module | None, classes: Sequence[str], titles: dict[str, str]
) -> Filter:
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
        klass = scene = ALL
        if len(classes) > 1:
            names = [ALL, *classes]
            wish = st.query_params.get("class", ALL)
            klass = st.selectbox(
                "Class",
                names,
                format_func=lambda k: wall.class_title(module, k) if k else "All classes",
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
    chosen = Filter(klass or ALL, scene or ALL, float(score))
    _to_address("class", chosen.klass)
    _to_address("scene", chosen.scene)
    _to_address("score", f"{chosen.min_score:g}" if chosen.min_score else "")
    return chosen


def _seed(run: Run, name: str, value: object) -> str:
    key = f"results-{name}-{run.id}"
    st.session_state.setdefault(key, value)
    return key


def _score_of_address() -> float:
    try:
        return min(1.0, max(0.0, float(st.query_params.get("score", "0"))))
    except ValueError:
        return 0.0


def _to_address(name: str, value: str) -> None:
    if value:
        if st.query_params.get(name) != value:
            st.query_params[name] = value
    elif name in st.query_params:
        del st.query_params[name]


def set_mark(name: str) -> None:
    """Mark one detection on the map and in the address; pressed again, unmark it."""
    _to_address("mark", "" if st.query_params.get("mark") == name else name)


def on_map(event: Event) -> None:
    """A detection was clicked on the map."""
    if event.kind == "mark":
        set_mark(wall.mark_key(event.id, event.n))


def show_found(
    here: Portal,
    user: User,
    run: Run,
    chosen: Filter,
    scenes: tuple[Scene, ...],
    module: Module | None,
) -> None:
    """The wall beside the map, and the table below."""
    limit = st.session_state.get(f"results-limit-{run.id}", STEP)
    found = here.detections(
        user,
        run.id,
        scene=SceneId(chosen.scene) if chosen.scene else None,
        klass=chosen.klass or None,
        min_score=chosen.min_score,
        limit=limit + 1,
    )
    more, found = len(found) > limit, found[:limit]
    mark = st.query_params.get("mark", "")
    marked = _marked(here, user, run, mark, found)
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
            st.caption(describe(marked, module))
    with left:
        if found:
            wall.show(
                found,
                module,
                synthetic=frozenset(str(s.id) for s in scenes if s.synthetic),
                marked=mark,
                key="results-wall",
                on_mark=set_mark,
            )
        elif run.objects:
            frame.empty(
                "Nothing matches this filter", "Lower the score, or show all classes and scenes."
            )
        elif run.state.over:
            frame.empty("Nothing was found", findings.nothing_found(run, module))
        else:
            frame.empty(
                "Nothing found so far", "Thumbnails appear here as the module finds something."
            )
        if more:
            st.button("Show more", on_click=_show_more, args=(str(run.id), limit))
    if found:
        with st.expander("Table"):
            show_table(found, module)


def _show_more(run_id: str, limit: int) -> None:
    st.session_state[f"results-limit-{run_id}"] = limit + STEP


def _marked(
    here: Portal, user: User, run: Run, mark: str, found: Sequence[Detection]
) -> Detection | None:
    """The marked detection, also when the filter or the limit hides its chip."""
    wanted = wall.read_mark(mark)
    if wanted is None:
        return None
    scene, n = wanted
    candidates = [d for d in found if (str(d.scene), d.n) == (scene, n)]
    if not candidates:
        every = here.detections(user, run.id, scene=SceneId(scene), limit=None)
        candidates = [d for d in every if d.n == n]
    return candidates[0] if candidates else None


def describe(d: Detection, module: Module | None) -> str:
    """The marked detection in one line of Markdown."""
    flags = f", flags: {', '.join(d.flags)}" if d.flags else ""
    text = (
        f"{wall.class_title(module, d.klass)}, score {d.score:.2f}, {exactly(d.time)}, "
        f"{d.lat:.5f}, {d.lon:.5f}, {d.scene}{flags}"
    )
    return f"**Marked:** {md(text)}"


def show_table(found: Sequence[Detection], module: Module | None) -> None:
    """The detections as a table, in the order of the wall."""
    rows = pd.DataFrame(
        {
            "Class": [wall.class_title(module, d.klass) for d in found],
            "Score": [d.score for d in found],
            "Time (UTC)": [d.time for d in found],
            "Latitude": [d.lat for d in found],
            "Longitude": [d.lon for d in found],
            "Pixels": [d.pixels for d in found],
            "Area (m²)": [d.area_m2 for d in found],
            "Flags": [", ".join(d.flags) for d in found],
            "Scene": [str(d.scene) for d in found],
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


def show_run(here: Portal, user: User, run_id: RunId) -> None:
    """Everything about one run; drawn again every second until it is over."""
    run = here.run(user, run_id)
    scenes = scenes_of(here, user, run)
    module = next((m for m in here.modules(user) if m.id == run.module), None)
    titles = {str(s.id): s.title for s in scenes}
    counts = here.detection_counts(user, run.id)
    summary = st.container()
    chosen = show_filter(run, module, sorted({k for _, k in counts}), titles)
    with summary:
        matching = sum(
            n
            for (scene, klass), n in counts.items()
            if chosen.scene in ("", scene) and chosen.klass in ("", klass)
        )
        st.html(findings.figures(run, module, matching if not chosen.min_score else run.objects))
        if not run.state.over:
            st.caption(md(findings.progress_text(run)))
        if run.reachability is Reachability.UNKNOWN and not run.state.over:
            frame.notice(steps.unknown_text("The cluster", None, ""))
        for text in findings.failures(run.scenes)[:5]:
            frame.notice(text, "bad")
        if module and module.score_meaning:
            st.caption(f"Score: {md(module.score_meaning)}")
    show_found(here, user, run, chosen, scenes, module)
    with st.expander("Scenes and what was searched", expanded=run.objects == 0):
        synthetic = frozenset(str(s.id) for s in scenes if s.synthetic)
        st.html(findings.scenes_table(run, titles, synthetic))


def main() -> None:
    """The page."""
    here, user = frame.signed_in()
    frame.heading("Results", "What the modules found, best first.")
    run = choose_run(here, user)
    if run is None:
        return
    if run.state.over:
        show_run(here, user, run.id)
        return

    @st.fragment(run_every=1.0)
    def ticking() -> None:
        try:
            show_run(here, user, run.id)
            finished = here.run(user, run.id).state.over
        except SceneBridgeError as exc:
            frame.problem(exc)
            return
        if finished:
            st.rerun()

    ticking()


main()
