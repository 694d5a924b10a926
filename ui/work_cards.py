"""One card per session and run: where it is, why it waits, and what can be done."""

from __future__ import annotations

import streamlit as st

from lib.errors import SceneBridgeError
from lib.model import RunId, SessionId, User
from lib.portal.facade import Portal
from ui import clocks, layout, logs
from ui.text import esc, md
from ui.work_card_data import Face

LOG_KINDS = {"job": "Job", "module": "Module", "notebook": "Notebook"}
#: An open log is looked at so often.
LOG_EVERY_S = 1.0
_PROBLEM = "work-problem"
_WARNINGS = {
    "notebook": "Running kernels end and what they hold in memory is lost. "
    "Files are kept, and the notebook can be started again.",
    "run": "Scenes that are not done yet are left out. What was found is kept.",
}


def show(portal: Portal, user: User, face: Face) -> None:
    """Draw one card."""
    with st.container(border=True, key=f"card-{face.work}"):
        st.html(
            f'<div class="sb-card-head"><h2>{face.title}</h2>{clocks.html(face.clock)}</div>'
            f"<div>{face.marks}</div>{face.steps}{face.body}"
        )
        with st.container(horizontal=True, vertical_alignment="center", key=f"acts-{face.work}"):
            _actions(portal, user, face)
        if st.session_state.get("log-open") == face.work:
            _log(portal, user, face)


def problem() -> SceneBridgeError | None:
    """Why the last press of a button could not be followed; told once."""
    found = st.session_state.pop(_PROBLEM, None)
    return found if isinstance(found, SceneBridgeError) else None


def _actions(portal: Portal, user: User, face: Face) -> None:
    if face.notebook:
        st.link_button(
            "Open in a new tab",
            face.notebook,
            type="primary",
            icon=":material/open_in_new:",
            key=f"open-{face.work}",
        )
        if st.button("Open here", key=f"here-{face.work}", icon=":material/web_asset:"):
            st.session_state["notebook-here"] = face.work
            st.rerun()
    if face.again:
        st.button(
            "Start again here",
            key=f"again-{face.work}",
            icon=":material/restart_alt:",
            type="primary",
            on_click=_start_again,
            args=(portal, user, face.again),
        )
    if face.results:
        run, objects = face.results
        st.page_link(
            layout.page(layout.RESULTS),
            label=f"Results ({objects:,})",
            icon=":material/grid_view:",
            query_params={"run": run},
        )
    open_ = st.session_state.get("log-open") == face.work
    st.button(
        "Hide log" if open_ else "Log",
        key=f"log-{face.work}",
        icon=":material/notes:",
        on_click=_toggle_log,
        args=(face.work,),
    )
    if face.stop:
        _stop(portal, user, face)


def _start_again(portal: Portal, user: User, session: SessionId) -> None:
    try:
        portal.start_again(user, session)
    except SceneBridgeError as exc:
        st.session_state[_PROBLEM] = exc


def _stop(portal: Portal, user: User, face: Face) -> None:
    if face.stop == "cancel":
        st.button(
            "Cancel",
            key=f"stop-{face.work}",
            icon=":material/close:",
            on_click=_do_stop,
            args=(portal, user, face.work),
        )
        return
    with st.popover("Stop", icon=":material/stop_circle:", key=f"ask-{face.work}"):
        st.write(_WARNINGS[face.stop])
        st.button(
            "Stop now",
            key=f"stop-{face.work}",
            type="primary",
            on_click=_do_stop,
            args=(portal, user, face.work),
        )


def _do_stop(portal: Portal, user: User, work: SessionId | RunId) -> None:
    try:
        portal.stop(user, work)
    except SceneBridgeError as exc:
        st.session_state[_PROBLEM] = exc


def _toggle_log(work: str) -> None:
    was = st.session_state.get("log-open")
    st.session_state["log-open"] = None if was == work else work
    for kind in LOG_KINDS:
        logs.forget(f"{work}-{kind}")


@st.fragment(run_every=LOG_EVERY_S)
def _log(portal: Portal, user: User, face: Face) -> None:
    kind = st.segmented_control(
        "Which log",
        face.logs,
        default=face.log,
        format_func=LOG_KINDS.__getitem__,
        key=f"logkind-{face.work}",
        required=True,
    )
    work, name = face.work, str(kind or face.log)
    shown = logs.read(f"{work}-{name}", lambda: portal.log(user, work, name), live=not face.over)
    if shown.error is not None:
        layout.show_error(shown.error)
    if shown.log is None:
        if shown.error is None:
            st.caption("Asking the cluster for the log …")
        return
    if shown.log.truncated:
        st.caption("Only the end of the log is shown.")
    st.html(_log_html(shown.log.text, md(LOG_KINDS[name])))


def _log_html(text: str, name: str) -> str:
    body = esc(text) if text.strip() else "The log is empty so far."
    return f'<pre class="sb-log" tabindex="0" aria-label="{esc(name)} log">{body}</pre>'
