"""Results: what a run has found, best first, as chips, on the map and as a table."""

from __future__ import annotations

from contextlib import suppress

import streamlit as st

from lib.errors import NotFound, SceneBridgeError
from lib.model import Module, Reachability, Run, RunId, Scene, SceneId, User
from lib.portal.facade import Portal
from ui import (
    layout,
    live,
    result_filter,
    results_summary,
    results_view,
    run_params,
    work_status,
)
from ui.result_filter import ResultFilter
from ui.text import md

_PICKED = "results-run"


def choose_run(portal: Portal, user: User) -> Run | None:
    """The run of the address, the newest where it names none; None where there is nothing to show.

    The address is written only when a run is picked: to open the page is one step back.
    """
    runs = {str(r.id): r for r in portal.runs(user)}
    wish = st.query_params.get("run", "")
    unknown = bool(wish) and wish not in runs
    if unknown:
        layout.notice("The run of this link is not known here, or it is not yours.", "bad")
    if not runs:
        layout.empty_state(
            "No results yet",
            "On Explore, choose scenes and a module, then press Open notebook or Run. "
            "Thumbnails appear here as the module finds something.",
        )
        st.page_link(
            layout.page(layout.EXPLORE), label="Go to Explore", icon=":material/travel_explore:"
        )
        return None
    state = layout.page_state()
    if state.get("run") != wish:
        state["run"] = wish
        state[_PICKED] = None if unknown else wish or next(iter(runs))
    if state.get(_PICKED) not in runs and not unknown:
        state[_PICKED] = next(iter(runs))
    run = runs.get(str(state[_PICKED]))
    run_list(portal, user, run)
    return run


@st.fragment
def run_list(portal: Portal, user: User, shown: Run | None) -> None:
    """All runs to pick from, as they are now.

    The page is drawn again when another is picked, or the one that is shown has ended, goes on
    after all, or was deleted.
    """
    with live.following(portal, user, "work", tells_times=False, part="list"):
        try:
            runs = {str(r.id): r for r in portal.runs(user)}
            modules = {str(m.id): m for m in portal.modules(user)}
        except SceneBridgeError as exc:
            layout.show_error(exc)
            return
        if shown is not None and str(shown.id) not in runs:
            st.rerun()  # it was deleted
        titles = results_summary.run_titles(runs.values(), modules)
        # The browser tells what is picked by its title (Streamlit 1.67): with other titles it
        # is another widget, or an old title would pick the first of the list.
        key = f"{_PICKED}-{hash(tuple(titles.items()))}"
        st.session_state[key] = layout.page_state()[_PICKED]
        st.selectbox(
            "Run",
            list(titles),
            format_func=titles.__getitem__,
            key=key,
            on_change=_pick,
            args=(key,),
            placeholder="Choose one of your runs",
            label_visibility="collapsed",
        )
    if _which(runs.get(str(layout.page_state()[_PICKED]))) != _which(shown):
        st.rerun()


def _pick(key: str) -> None:
    state = layout.page_state()
    state["run"] = state[_PICKED] = st.session_state[key]
    st.query_params.from_dict({"run": state["run"]})


def _which(run: Run | None) -> tuple[str, bool] | None:
    return None if run is None else (str(run.id), run.state.over)


def scenes_of(portal: Portal, user: User, run: Run) -> tuple[Scene, ...]:
    """The run's scenes that are still in the catalog."""
    scenes = []
    for entry in run.scenes:
        with suppress(NotFound):
            scenes.append(portal.scene(user, SceneId(entry.scene)))
    return tuple(scenes)


def matching(portal: Portal, user: User, run: Run, filters: ResultFilter) -> int:
    """How many detections of the run pass the filter."""
    counts = portal.detection_counts(user, run.id, min_score=filters.min_score)
    return sum(
        n
        for (scene, kind), n in counts.items()
        if filters.scene in ("", scene) and filters.kind in ("", kind)
    )


def acts(portal: Portal, user: User, run: Run, module: Module | None) -> None:
    """What can be done with the run: the same once more, or the same with a change."""
    with st.container(horizontal=True, vertical_alignment="center"):
        inside = run.session is not None
        if st.button(
            "Run again",
            icon=":material/replay:",
            disabled=inside or not run.state.over,
            help="It belongs to a notebook: start that again on Work, or open it in Explore."
            if inside
            else "The same scenes, parameters and resources once more, when this one is over.",
        ):
            try:
                portal.start_run(user, run_params.again(run))
            except SceneBridgeError as exc:
                layout.show_error(exc)
            else:
                st.switch_page(layout.page(layout.WORK))
        st.page_link(
            layout.page(layout.EXPLORE),
            label="Open in Explore",
            icon=":material/travel_explore:",
            query_params=run_params.explore_query(run, run, module),
        )


def show_run(portal: Portal, user: User, run_id: RunId) -> None:
    """Everything about one run; drawn again as it changes until it is over."""
    run = portal.run(user, run_id)
    scenes = scenes_of(portal, user, run)
    module = next((m for m in portal.modules(user) if m.id == run.module), None)
    titles = {str(s.id): s.title for s in scenes}
    counts = portal.detection_counts(user, run.id)
    acts(portal, user, run, module)
    summary = st.container()
    filters = result_filter.show(run, module, sorted({k for _, k in counts}), titles)
    with summary:
        st.html(results_summary.figures(run, module, matching(portal, user, run, filters)))
        if not run.state.over:
            st.caption(md(results_summary.progress_text(run)))
        if run.reachability is Reachability.UNKNOWN and not run.state.over:
            cluster = next((c for c in portal.all_clusters(user) if c.id == run.cluster), None)
            layout.notice(work_status.unreachable_text(run, cluster))
        for text in results_summary.failures(run.scenes)[:5]:
            layout.notice(text, "bad")
        parameters = results_summary.parameters_text(run, module)
        if parameters:
            st.caption(f"Parameters: {md(parameters)}")
        if run.note:
            st.caption(f"Note: {md(run.note)}")
        if module and module.score_meaning:
            st.caption(f"Score: {md(module.score_meaning)}")
    results_view.show(portal, user, run, filters, scenes, module)
    if st.query_params and "run" not in st.query_params:
        st.query_params["run"] = str(run.id)  # a filter or a mark is one of this run's
    with st.expander("Scenes and what was searched", expanded=run.objects == 0):
        synthetic = frozenset(str(s.id) for s in scenes if s.synthetic)
        st.html(results_summary.scenes_table(run, titles, synthetic))
        if module and module.false_alarms:
            st.caption(md(module.false_alarms))


@st.fragment
def _show_while_it_runs(portal: Portal, user: User, run_id: RunId) -> None:
    with live.following(portal, user, f"run:{run_id}", tells_times=False):
        try:
            show_run(portal, user, run_id)
            over = portal.run(user, run_id).state.over
        except SceneBridgeError as exc:
            layout.show_error(exc)
            return
    if over:
        st.rerun()


@layout.errors_on_page()
def main() -> None:
    """The page."""
    portal, user = layout.require_user()
    layout.heading("Results", "What the modules found, best first.")
    run = choose_run(portal, user)
    if run is None:
        return
    if run.state.over:
        show_run(portal, user, run.id)
        return

    _show_while_it_runs(portal, user, run.id)


main()
