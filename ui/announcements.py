"""Announcements of administrators, on top of every page until they are dismissed."""

from __future__ import annotations

import streamlit as st

from lib.errors import SceneBridgeError
from lib.model import Announcement, AnnouncementKind, User
from lib.portal.facade import Portal
from ui import live
from ui.text import esc

_DISMISSED = "announcements-dismissed"
WORDS = {AnnouncementKind.INFO: "Announcement", AnnouncementKind.WARNING: "Important"}


@st.fragment
def show(portal: Portal, user: User) -> None:
    """All that this browser session has not dismissed; new ones arrive by themselves."""
    with live.following(portal, user, "announcements", tells_times=False):
        _show(portal, user)


def _show(portal: Portal, user: User) -> None:
    try:
        current = portal.administration.announcements(user)
    except SceneBridgeError:
        return  # it cannot be asked now; the page itself says so
    dismissed: set[int] = st.session_state.setdefault(_DISMISSED, set())
    for announcement in current:
        if announcement.id not in dismissed:
            _one(announcement)


def _one(announcement: Announcement) -> None:
    with st.container(
        key=f"announced-{announcement.kind}-{announcement.id}",
        horizontal=True,
        vertical_alignment="center",
    ):
        st.html(
            f'<div class="sb-announced" role="status"><b>{WORDS[announcement.kind]}</b> '
            f"{esc(announcement.text)}</div>"
        )
        st.button(
            "Dismiss",
            key=f"dismiss-{announcement.id}",
            icon=":material/close:",
            type="tertiary",
            on_click=_dismiss,
            args=(announcement.id,),
        )


def _dismiss(number: int) -> None:
    st.session_state.setdefault(_DISMISSED, set()).add(number)
