"""Work: what runs, what waits and why, and what has ended."""

from __future__ import annotations

import streamlit as st

from lib.errors import SceneBridgeError
from lib.model import SessionId, SessionState, User
from lib.portal.facade import Portal
from ui import clocks, confirm, layout, live, work_cards, work_status
from ui.text import esc, md, now
from ui.work_card_data import CardContext, card_data, matches
from ui.work_status import Work

EARLIER_SHOWN = 10
NOTEBOOK_HEIGHT = 860
_SHOWN = "earlier-shown"
_FIND = "work-find"


def all_work(portal: Portal, user: User) -> tuple[CardContext, list[Work]]:
    """Sessions, and runs that are not inside one; newest first."""
    runs = portal.runs(user)
    work: list[Work] = [*portal.sessions(user), *(r for r in runs if r.session is None)]
    work.sort(key=lambda w: w.created_at, reverse=True)
    return CardContext.load(portal, user, runs), work


def embedded_notebook(portal: Portal, user: User) -> None:
    """The notebook that was opened inside this page; not drawn again with the cards."""
    session_id = st.session_state.get("notebook-here")
    if not session_id:
        return
    try:
        session = portal.session(user, SessionId(session_id))
    except SceneBridgeError as exc:
        layout.show_error(exc)
        return
    if session.state is not SessionState.READY:
        st.session_state.pop("notebook-here", None)
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f'<h2 class="sb-section">{esc(session.title or "Notebook")}</h2>')
        if st.button("Close", key="close-here", icon=":material/close:"):
            st.session_state.pop("notebook-here", None)
            st.rerun()
    st.iframe(portal.notebook_path(session), height=NOTEBOOK_HEIGHT, alt="JupyterLab")


@st.fragment
def show_cards(portal: Portal, user: User) -> None:
    """All cards. A press of one of their buttons, or a change, draws them again and not the
    rest."""
    confirm.rerun_if_requested()
    with live.following(portal, user, "work") as follow:
        try:
            follow.tells_times = _show_cards(portal, user)
        except SceneBridgeError as exc:
            layout.show_error(exc)


def _show_cards(portal: Portal, user: User) -> bool:
    """Draw them; whether one says when it may start. Clocks go on by themselves."""
    context, work = all_work(portal, user)
    words = str(st.session_state.get(_FIND, "")).strip()
    begun = bool(work)
    if _notebook_is_over(work):
        st.rerun()  # it leaves the page
    work = [w for w in work if matches(context, w, words)]
    living = [w for w in work if not work_status.is_over(w)]
    ended = [w for w in work if work_status.is_over(w)]
    refused = work_cards.problem()
    if refused is not None:
        st.toast(md(refused.message), icon=":material/error:")
    if begun and not work:
        layout.empty_state(
            "Nothing of yours says that", "Look for other words, or for none to see all of it."
        )
        return False
    if not work:
        layout.empty_state(
            "Nothing has been started yet",
            "On Explore, choose scenes and a module, then press Open notebook or Run. "
            "You can close the browser afterwards: the work goes on.",
        )
        st.page_link(
            layout.page(layout.EXPLORE), label="Go to Explore", icon=":material/travel_explore:"
        )
        return False
    time, opened = now(), work_cards.opened()
    for one in living:
        work_cards.show(portal, user, card_data(context, one, time), opened)
    if not living and not words:
        layout.empty_state(
            "Nothing runs at the moment", "What has ended is below; Explore starts more."
        )
    if ended:
        shown = ended[: st.session_state.get(_SHOWN, EARLIER_SHOWN)]
        st.html('<h2 class="sb-section">Ended</h2>')
        for one in shown:
            work_cards.show(portal, user, card_data(context, one, time), opened)
        if len(ended) > len(shown):
            more = len(ended) - len(shown)
            st.button(f"Show more ({more} not shown)", on_click=show_more)
    return any(work_status.is_waiting(one) for one in living)


def _notebook_is_over(living: list[Work]) -> bool:
    """Whether the notebook that is shown inside the page is not READY any more."""
    here = st.session_state.get("notebook-here")
    return bool(here) and all(w.id != here or w.state is not SessionState.READY for w in living)


def show_more() -> None:
    """Show more of what has ended."""
    st.session_state[_SHOWN] = st.session_state.get(_SHOWN, EARLIER_SHOWN) + EARLIER_SHOWN * 2


@layout.errors_on_page()
def main() -> None:
    """The page."""
    portal, user = layout.require_user()
    layout.heading("Work", "You can close the browser: the work goes on.")
    clocks.run()
    with st.container():
        confirm.show_outcome()
    with st.container():
        embedded_notebook(portal, user)
    st.text_input(
        "Find",
        key=_FIND,
        placeholder="Name, note, scene, module, parameter, cluster, job",
        icon=":material/search:",
        width=420,
    )
    show_cards(portal, user)
    if confirm.pending()[0] == work_cards.DELETE:
        work_cards.ask_before_deleting(portal, user, all_work(portal, user)[1])


main()
