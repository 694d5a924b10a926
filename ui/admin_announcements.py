"""Administration of announcements: a list of the current ones, a form for more, ending them."""

from __future__ import annotations

from functools import partial

import streamlit as st

from lib.errors import SceneBridgeError
from lib.model import AnnouncementKind, User
from lib.portal.facade import Portal
from ui import confirm, data_table, layout
from ui.announcements import WORDS
from ui.data_table import Cell, Row
from ui.text import md, to_minute

_END = "end-announcement"
_FAILED = "announcement-failed"
_HOUR_S = 3600
LASTS_S = {
    "1 hour": _HOUR_S,
    "4 hours": 4 * _HOUR_S,
    "1 day": 24 * _HOUR_S,
    "3 days": 72 * _HOUR_S,
    "1 week": 7 * 24 * _HOUR_S,
    "30 days": 30 * 24 * _HOUR_S,
    "90 days": 90 * 24 * _HOUR_S,
}
_KINDS = {AnnouncementKind.INFO: "good", AnnouncementKind.WARNING: "warn"}
_LONGEST = 500


def show(portal: Portal, user: User) -> None:
    """What stands above every page now, and the form for more."""
    current = portal.administration.announcements(user)
    if current:
        data_table.show(
            "Announcements that are shown now",
            ("Text", "Kind", "Since", "Until"),
            [
                Row(
                    str(a.id),
                    (
                        a.text,
                        Cell("", tags=((WORDS[a.kind], _KINDS[a.kind]),)),
                        to_minute(a.since),
                        to_minute(a.until),
                    ),
                    (("end", "End"),),
                )
                for a in current
            ],
            key="admin-announcements",
            on_press=lambda number, _: confirm.request(_END, number),
        )
    else:
        layout.empty_state("Nothing is announced", "What you write here stands above every page.")
    _form(portal, user)
    action, number = confirm.pending()
    text = next((a.text for a in current if str(a.id) == number), "")
    if action == _END and text:
        confirm.dialog(
            "End this announcement?",
            f"“{md(text)}” is shown to nobody any more.",
            "End it",
            partial(portal.administration.end_announcement, user, int(number)),
            done="The announcement has ended.",
        )


def _form(portal: Portal, user: User) -> None:
    with st.form("new-announcement"):
        st.html('<h2 class="sb-section">New announcement</h2>')
        st.text_area("Text", key="announcement-text", max_chars=_LONGEST, height=90)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.selectbox(
                "Kind",
                list(WORDS),
                format_func=WORDS.__getitem__,
                key="announcement-kind",
                width=180,
            )
            st.selectbox("Shown for", list(LASTS_S), index=2, key="announcement-lasts", width=180)
            st.form_submit_button(
                "Announce", type="primary", on_click=_announce, args=(portal, user)
            )
        problem = layout.page_state().pop(_FAILED, "")
        if problem:
            layout.notice(problem, "bad")


def _announce(portal: Portal, user: User) -> None:
    text, kind, lasts = (
        st.session_state[f"announcement-{name}"] for name in ("text", "kind", "lasts")
    )
    try:
        portal.administration.announce(user, text, kind, LASTS_S[lasts])
    except SceneBridgeError as exc:
        layout.page_state()[_FAILED] = exc.message
        return
    st.session_state["announcement-text"] = ""
