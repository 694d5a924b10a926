"""Work: what runs, what waits and why, and what has ended."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from lib.errors import SceneBridgeError
from lib.model import Session, SessionId, SessionState, User
from lib.portal import Portal
from ui import cards, frame, steps
from ui.steps import Work
from ui.text import esc, md

EARLIER_SHOWN = 10
NOTEBOOK_HEIGHT = 860
#: The cards are drawn again so often: while something moves, and otherwise.
SOON_S, LATER_S = 1.0, 5.0


def all_work(here: Portal, user: User) -> tuple[cards.Desk, list[Work]]:
    """Sessions, and runs that are not inside one; newest first."""
    runs = here.runs(user)
    work: list[Work] = [*here.sessions(user), *(r for r in runs if r.session is None)]
    work.sort(key=lambda w: w.created_at, reverse=True)
    return cards.Desk.of(here, user, runs), work


def notebook_here(here: Portal, user: User) -> None:
    """The notebook that was opened inside this page; outside the ticking part, so it stays."""
    session_id = st.session_state.get("notebook-here")
    if not session_id:
        return
    try:
        session = here.session(user, SessionId(session_id))
    except SceneBridgeError as exc:
        frame.problem(exc)
        return
    if session.state is not SessionState.READY:
        st.session_state.pop("notebook-here", None)
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f'<h2 class="sb-section">{esc(session.title or "Notebook")}</h2>')
        if st.button("Close", key="close-here", icon=":material/close:"):
            st.session_state.pop("notebook-here", None)
            st.rerun()
    st.iframe(here.notebook_path(session), height=NOTEBOOK_HEIGHT, alt="JupyterLab")


def pace(desk: cards.Desk, work: Sequence[Work]) -> float:
    """Seconds from one drawing of the cards to the next."""
    for item in work:
        run = desk.runs.get(str(item.run)) if isinstance(item, Session) else None
        if steps.moving(item, run_over=run is None or run.state.over):
            return SOON_S
    return LATER_S


def show_cards(here: Portal, user: User, pace_s: float) -> None:
    """All cards; drawn again and again without touching the rest of the page."""
    try:
        desk, work = all_work(here, user)
    except SceneBridgeError as exc:
        frame.problem(exc)
        return
    st.session_state["work-pace"] = pace(desk, work)
    if st.session_state["work-pace"] != pace_s:
        st.rerun()  # the whole page, at the new pace
    problem = st.session_state.pop("work-problem", None)
    if isinstance(problem, SceneBridgeError):
        st.toast(md(problem.message), icon=":material/error:")
    live = [w for w in work if not steps.over(w)]
    ended = [w for w in work if steps.over(w)]
    if not work:
        frame.empty(
            "Nothing has been started yet",
            "On Explore, choose scenes and a module, then press Open notebook or Run. "
            "You can close the browser afterwards: the work goes on.",
        )
        st.page_link(
            frame.link(frame.EXPLORE), label="Go to Explore", icon=":material/travel_explore:"
        )
        return
    for item in live:
        cards.show(desk, item)
    if not live:
        frame.empty("Nothing runs at the moment", "What has ended is below; Explore starts more.")
    if ended:
        st.html('<h2 class="sb-section">Ended</h2>')
        limit = st.session_state.get("earlier-shown", EARLIER_SHOWN)
        for item in ended[:limit]:
            cards.show(desk, item)
        if len(ended) > limit:
            st.button(f"Show more ({len(ended) - limit} not shown)", on_click=show_more)


def show_more() -> None:
    """Show more of what has ended."""
    st.session_state["earlier-shown"] = (
        st.session_state.get("earlier-shown", EARLIER_SHOWN) + EARLIER_SHOWN * 2
    )


@frame.in_words()
def main() -> None:
    """The page."""
    here, user = frame.signed_in()
    frame.heading("Work", "Closing the browser changes nothing: the cluster goes on.")
    notebook_here(here, user)
    pace_s = st.session_state.get("work-pace", SOON_S)
    st.fragment(show_cards, run_every=pace_s)(here, user, pace_s)


main()
