"""Work: what runs, what waits and why, and what has ended."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from lib.errors import SceneBridgeError
from lib.model import SessionId, SessionState, User
from lib.portal.facade import Portal
from ui import clocks, layout, work_cards, work_status
from ui.text import esc, md, now
from ui.work_card_data import CardContext, CardData, card_data
from ui.work_status import Work

EARLIER_SHOWN = 10
NOTEBOOK_HEIGHT = 860
#: So often the page looks whether it should be drawn again: while something moves, and otherwise.
POLL_ACTIVE_S, POLL_IDLE_S = 1.0, 3.0
_DRAWN, _JUST_DRAWN, _POLL, _SHOWN = "work-drawn", "work-just-drawn", "work-poll", "earlier-shown"


def all_work(portal: Portal, user: User) -> tuple[CardContext, list[Work]]:
    """Sessions, and runs that are not inside one; newest first."""
    runs = portal.runs(user)
    work: list[Work] = [*portal.sessions(user), *(r for r in runs if r.session is None)]
    work.sort(key=lambda w: w.created_at, reverse=True)
    return CardContext.load(portal, user, runs), work


def embedded_notebook(portal: Portal, user: User) -> None:
    """The notebook that was opened inside this page; outside the ticking part, so it stays."""
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


@dataclass(frozen=True, slots=True)
class PageContent:
    """What the page shows, but for the time: equal contents need not be drawn again.

    Args:
        more: how many that have ended are not shown.
        poll_s: how often to look whether something has changed.
        problem: why nothing can be shown.
    """

    live: tuple[CardData, ...] = ()
    ended: tuple[CardData, ...] = ()
    more: int = 0
    poll_s: float = POLL_IDLE_S
    problem: str = ""


def page_content(portal: Portal, user: User) -> PageContent:
    """How the page looks now. Raises SceneBridgeError."""
    context, work = all_work(portal, user)
    time = now()
    live = [w for w in work if not work_status.is_over(w)]
    ended = [w for w in work if work_status.is_over(w)]
    shown = ended[: st.session_state.get(_SHOWN, EARLIER_SHOWN)]
    return PageContent(
        tuple(card_data(context, w, time) for w in live),
        tuple(card_data(context, w, time) for w in shown),
        len(ended) - len(shown),
        POLL_ACTIVE_S if any(_may_change(context, w) for w in work) else POLL_IDLE_S,
    )


def _may_change(context: CardContext, work: Work) -> bool:
    run = context.run_of(work)
    return work_status.may_change(work, run_over=run is None or run.state.over)


@st.fragment
def show_cards(portal: Portal, user: User) -> None:
    """All cards. A press of one of their buttons draws them again and not the rest."""
    try:
        content = st.session_state[_DRAWN] = page_content(portal, user)
    except SceneBridgeError as exc:
        st.session_state[_DRAWN] = PageContent(problem=exc.message)
        layout.show_error(exc)
        return
    if st.session_state.get(_POLL, content.poll_s) != content.poll_s:
        st.rerun()  # the whole page, which looks that often
    refused = work_cards.problem()
    if refused is not None:
        st.toast(md(refused.message), icon=":material/error:")
    if not content.live and not content.ended:
        layout.empty_state(
            "Nothing has been started yet",
            "On Explore, choose scenes and a module, then press Open notebook or Run. "
            "You can close the browser afterwards: the work goes on.",
        )
        st.page_link(
            layout.page(layout.EXPLORE), label="Go to Explore", icon=":material/travel_explore:"
        )
        return
    for card in content.live:
        work_cards.show(portal, user, card)
    if not content.live:
        layout.empty_state(
            "Nothing runs at the moment", "What has ended is below; Explore starts more."
        )
    if content.ended:
        st.html('<h2 class="sb-section">Ended</h2>')
        for card in content.ended:
            work_cards.show(portal, user, card)
        if content.more:
            st.button(f"Show more ({content.more} not shown)", on_click=show_more)


def redraw_if_changed(portal: Portal, user: User) -> None:
    """Draws nothing; where the page would look different now, it is drawn again."""
    if st.session_state.pop(_JUST_DRAWN, False):
        return
    try:
        content = page_content(portal, user)
    except SceneBridgeError as exc:
        content = PageContent(problem=exc.message)
    if content != st.session_state.get(_DRAWN):
        st.rerun()


def show_more() -> None:
    """Show more of what has ended."""
    st.session_state[_SHOWN] = st.session_state.get(_SHOWN, EARLIER_SHOWN) + EARLIER_SHOWN * 2


@layout.errors_on_page()
def main() -> None:
    """The page."""
    portal, user = layout.require_user()
    layout.heading("Work", "You can close the browser: the work goes on.")
    clocks.run()
    embedded_notebook(portal, user)
    st.session_state.pop(_POLL, None)
    show_cards(portal, user)
    st.session_state[_POLL] = st.session_state[_DRAWN].poll_s
    st.session_state[_JUST_DRAWN] = True
    st.fragment(redraw_if_changed, run_every=st.session_state[_POLL])(portal, user)


main()
