"""One card per session and run: where it is, why it waits, and what can be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import streamlit as st

from lib.errors import SceneBridgeError
from lib.model import LaunchRequest, RunId, SessionId, User
from lib.portal.facade import Portal
from ui import clocks, confirm, layout, live, logs, work_status
from ui.text import esc, md
from ui.work_card_data import CardData
from ui.work_status import Work

LOG_KINDS = {"job": "Job", "module": "Module", "notebook": "Notebook"}
_PROBLEM = "work-problem"
_DESCRIBED = "work-described"
_LOG_CHOSEN = "work-log-chosen"
DELETE = "delete-work"
_WARNINGS = {
    "notebook": "Running kernels end and what they hold in memory is lost. "
    "Files are kept, and the notebook can be started again.",
    "run": "Scenes that are not done yet are left out. What was found is kept.",
}


@dataclass(frozen=True, slots=True)
class Opened:
    """Of which work the log and the form for its name are open, "" for none."""

    log: str
    description: str


def opened() -> Opened:
    """As it is in this run: it is asked once for all cards."""
    described = layout.page_state().get(_DESCRIBED)
    return Opened(str(st.session_state.get("log-open") or ""), str(described or ""))


def show(portal: Portal, user: User, card: CardData, opened: Opened) -> None:
    """Draw one card."""
    with st.container(border=True, key=f"card-{card.work}"):
        st.html(
            f'<div class="sb-card-head"><h2>{card.title}</h2>{clocks.html(card.clock)}</div>'
            f"<div>{card.marks}</div>{card.steps}{card.body}"
        )
        with st.container(horizontal=True, vertical_alignment="center", key=f"acts-{card.work}"):
            _actions(portal, user, card, log_open=opened.log == card.work)
        if opened.description == card.work:
            _description(portal, user, card)
        if opened.log == card.work:
            _log(portal, user, card)


def problem() -> SceneBridgeError | None:
    """Why the last press of a button could not be followed; told once."""
    found = st.session_state.pop(_PROBLEM, None)
    return found if isinstance(found, SceneBridgeError) else None


def _actions(portal: Portal, user: User, card: CardData, *, log_open: bool) -> None:
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
    if card.again:
        st.button(
            "Run again",
            key=f"run-again-{card.work}",
            icon=":material/replay:",
            help="The same scenes, parameters and resources once more.",
            on_click=_run_again,
            args=(portal, user, card.again),
        )
    if card.explore is not None:
        st.page_link(
            layout.page(layout.EXPLORE),
            label="Open in Explore",
            icon=":material/travel_explore:",
            query_params=card.explore,
        )
    st.button(
        "Hide log" if log_open else "Log",
        key=f"log-{card.work}",
        icon=":material/notes:",
        on_click=_toggle_log,
        args=(card.work,),
    )
    st.button(
        "Name and note",
        key=f"describe-{card.work}",
        icon=":material/edit:",
        type="tertiary",
        on_click=_toggle_description,
        args=(card.work,),
    )
    if card.over:
        st.button(
            "Delete",
            key=f"delete-{card.work}",
            icon=":material/delete:",
            type="tertiary",
            on_click=confirm.request,
            args=(DELETE, str(card.work)),
        )
    if card.stop:
        _stop(portal, user, card)


def _toggle_description(work: str) -> None:
    state = layout.page_state()
    state[_DESCRIBED] = None if state.get(_DESCRIBED) == work else work


def _description(portal: Portal, user: User, card: CardData) -> None:
    with st.form(f"description-{card.work}", enter_to_submit=True):
        name, note = f"name-{card.work}", f"note-{card.work}"
        st.text_input("Name", card.name, key=name)
        st.text_area("Note", card.note, key=note, height=100)
        st.form_submit_button(
            "Save", type="primary", on_click=_describe, args=(portal, user, card.work, name, note)
        )


def _describe(
    portal: Portal, user: User, work: SessionId | RunId, name_key: str, note_key: str
) -> None:
    try:
        portal.describe(user, work, st.session_state[name_key], st.session_state[note_key])
    except SceneBridgeError as exc:
        st.session_state[_PROBLEM] = exc
    else:
        layout.page_state().pop(_DESCRIBED, None)


def ask_before_deleting(portal: Portal, user: User, work: Sequence[Work]) -> None:
    """The dialog, while somebody wants to delete one of these."""
    _, target = confirm.pending()
    one = next((w for w in work if w.id == target and work_status.is_over(w)), None)
    if one is None:
        confirm.dismiss()
        return
    confirm.dialog(
        "Delete this?",
        f"**{md(one.title)}**: what it found, its pictures and its note are deleted for good, and "
        "no notebook can be started again in its folder. Files on the cluster go when their time "
        "there is over.",
        "Delete for good",
        partial(portal.delete, user, one.id),
        done="It was deleted.",
    )


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


def _run_again(portal: Portal, user: User, request: LaunchRequest) -> None:
    try:
        portal.start_run(user, request)
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
        st.markdown(_WARNINGS[card.stop])
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
    layout.page_state().pop(_LOG_CHOSEN, None)
    for kind in LOG_KINDS:
        logs.forget(f"{work}-{kind}")


def _choose_log(work: str) -> None:
    layout.page_state()[_LOG_CHOSEN] = work


@st.fragment
def _log(portal: Portal, user: User, card: CardData) -> None:
    """The open log; looked at again while its job lives, and when that has changed."""
    part = f"log-{card.work}"
    with live.following(portal, user, "work", tells_times=False, part=part) as follow:
        follow.again_s = _show_log(portal, user, card)


def _show_log(portal: Portal, user: User, card: CardData) -> float:
    """Draw it; there may be more of it after so many seconds, 0: this is all."""
    work, widget = card.work, f"logkind-{card.work}"

    def read(kind: str) -> logs.Shown:
        ask = partial(portal.log, user, work, kind)
        return logs.read(f"{work}-{kind}", ask, live=not card.over)

    looked_at: dict[str, logs.Shown] = {}
    if layout.page_state().get(_LOG_CHOSEN) != work:
        looked_at = {kind: read(kind) for kind in card.logs_first}
        kind = logs.first_that_says_something(looked_at) or card.logs_first[0]
        st.session_state[widget] = kind
        if looked_at[kind].says_something:
            _choose_log(work)  # nothing moves under a reader's eyes
    picked = st.segmented_control(
        "Which log",
        card.logs,
        format_func=LOG_KINDS.__getitem__,
        key=widget,
        required=True,
        on_change=_choose_log,
        args=(work,),
    )
    name = picked or card.logs_first[0]
    shown = looked_at.get(name) or read(name)
    if shown.error is not None:
        layout.show_error(shown.error)
    if shown.log is None:
        if shown.error is None:
            st.caption("Asking the cluster for the log …")
    else:
        if shown.log.truncated:
            st.caption("Only the end of the log is shown.")
        st.html(_log_html(shown.log.text, LOG_KINDS[name]))
    every = [log.again_s for log in (looked_at or {name: shown}).values()]
    return min((s for s in every if s), default=0.0)


def _log_html(text: str, name: str) -> str:
    body = esc(text) if text.strip() else "The log is empty so far."
    return f'<pre class="sb-log" tabindex="0" aria-label="{esc(name)} log">{body}</pre>'
