"""One card per session and run: where it is, why it waits, and what can be done."""

from __future__ import annotations

import streamlit as st

from lib.errors import SceneBridgeError
from lib.model import RunId, SessionId, User
from lib.portal.facade import Portal
from ui import clocks, layout, logs
from ui.text import esc, md
from ui.work_card_data import CardData

LOG_KINDS = {"job": "Job", "module": "Module", "notebook": "Notebook"}
#: An open log is looked at so often.
LOG_EVERY_S = 1.0
_PROBLEM = "work-problem"
_WARNINGS = {
    "notebook": "Running kernels end and what they hold in memory is lost. "
    "Files are kept, and the notebook can be started again.",
    "run": "Scenes that are not done yet are left out. What was found is kept.",
}


def show(portal: Portal, user: User, card: CardData) -> None:
    """Draw one card."""
    with st.container(border=True, key=f"card-{card.work}"):
        st.html(
            f'<div class="sb-card-head"><h2>{card.title}</h2>{clocks.html(card.clock)}</div>'
            f"<div>{card.marks}</div>{card.steps}{card.body}"
        )
        with st.container(horizontal=True, vertical_alignment="center", key=f"acts-{card.work}"):
            _actions(portal, user, card)
        if st.session_state.get("log-open") == card.work:
            _log(portal, user, card)


def problem() -> SceneBridgeError | None:
    """Why the last press of a button could not be followed; told once."""
    found = st.session_state.pop(_PROBLEM, None)
    return found if isinstance(found, SceneBridgeError) else None


def _actions(portal: Portal, user: User, card: CardData) -> None:
    if card.notebook:
        st.link_button(
            "Open in a new tab",
            card.notebook,
            type="primary",
            icon=":material/open_in_new:",
            key=f"open-{card.work}",
        )
        if st.button("Open here", key=f"here-{card.work}", icon=":material/web_asset:"):
            st.session_state["notebook-here"] = card.work
            st.rerun()
    if card.keep:
        st.button(
            "Keep it running",
            key=f"keep-{card.work}",
            icon=":material/more_time:",
            on_click=_keep,
            args=(portal, user, card.keep),
        )
    if card.restartable:
        st.button(
            "Start again here",
            key=f"again-{card.work}",
            icon=":material/restart_alt:",
            type="primary",
            on_click=_start_again,
            args=(portal, user, card.restartable),
        )
    if card.results:
        run, objects = card.results
        st.page_link(
            layout.page(layout.RESULTS),
            label=f"Results ({objects:,})",
            icon=":material/grid_view:",
            query_params={"run": run},
        )
    open_ = st.session_state.get("log-open") == card.work
    st.button(
        "Hide log" if open_ else "Log",
        key=f"log-{card.work}",
        icon=":material/notes:",
        on_click=_toggle_log,
        args=(card.work,),
    )
    if card.stop:
        _stop(portal, user, card)


def _start_again(portal: Portal, user: User, session: SessionId) -> None:
    try:
        portal.start_again(user, session)
    except SceneBridgeError as exc:
        st.session_state[_PROBLEM] = exc


def _keep(portal: Portal, user: User, session: SessionId) -> None:
    try:
        portal.keep(user, session)
    except SceneBridgeError as exc:
        st.session_state[_PROBLEM] = exc


def _stop(portal: Portal, user: User, card: CardData) -> None:
    if card.stop == "cancel":
        st.button(
            "Cancel",
            key=f"stop-{card.work}",
            icon=":material/close:",
            on_click=_do_stop,
            args=(portal, user, card.work),
        )
        return
    with st.popover("Stop", icon=":material/stop_circle:", key=f"ask-{card.work}"):
        st.write(_WARNINGS[card.stop])
        st.button(
            "Stop now",
            key=f"stop-{card.work}",
            type="primary",
            on_click=_do_stop,
            args=(portal, user, card.work),
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
def _log(portal: Portal, user: User, card: CardData) -> None:
    kind = st.segmented_control(
        "Which log",
        card.logs,
        default=card.log,
        format_func=LOG_KINDS.__getitem__,
        key=f"logkind-{card.work}",
        required=True,
    )
    work, name = card.work, str(kind or card.log)
    shown = logs.read(f"{work}-{name}", lambda: portal.log(user, work, name), live=not card.over)
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
