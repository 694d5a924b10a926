"""How far the sample scenes of a first start are: a line on Explore, gone when they are there."""

from __future__ import annotations

import streamlit as st

from lib.errors import SceneBridgeError
from lib.model import User
from lib.portal.facade import Portal
from ui import layout

#: Longer than a browser may keep footprints, so that each turn fetches them anew.
EVERY_S = 6.0
_TURN = "sample-scenes-turn"


def show(portal: Portal, user: User) -> None:
    """The line, and what went wrong; the page is drawn again as scenes arrive."""
    now = portal.sample_scenes(user)
    if now.problem:
        layout.notice(now.problem)
    if now.step:
        st.caption(f"{now.step} …")
        st.fragment(_wait, run_every=EVERY_S)(portal, user, now.step)


def turn(url: str) -> str:
    """`url` as another address for the browser at each turn: map and table fetch it again."""
    number = st.session_state.get(_TURN, 0)
    return f"{url}#{number}" if number else url


def _wait(portal: Portal, user: User, shown: str) -> None:
    try:
        now = portal.sample_scenes(user)
    except SceneBridgeError:
        return  # it cannot be asked now; the page itself says so
    if now.step != shown:
        st.session_state[_TURN] = st.session_state.get(_TURN, 0) + 1
        st.rerun()
