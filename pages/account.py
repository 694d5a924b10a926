"""Account: who I am here, where I am signed in, what programs may do in my name."""

from __future__ import annotations

import streamlit as st

from lib.model import User
from lib.portal.facade import Portal
from ui import confirm, layout, sign_ins, tokens
from ui.text import esc, tag, tags


def who(portal: Portal, user: User) -> None:
    """Name, role and groups of the moment, and the way out."""
    groups = tags((title, "") for title in portal.group_titles(user))
    with st.container(border=True, horizontal=True, vertical_alignment="center", key="myself"):
        st.html(
            f'<div class="sb-card-head"><h2>{esc(user.name)}</h2></div>'
            f"<div>{tag(str(user.role).capitalize(), 'good')}{groups}</div>"
            f'<p class="sb-facts">{esc("Groups" if groups else "You are in no group")}'
            f"{' come from your institute' if groups else ''} · id {esc(user.id)}</p>"
        )
        sign_ins.sign_out_button(portal, user)


def parts(portal: Portal, user: User) -> None:
    """Everything below the heading."""
    who(portal, user)
    st.html(
        '<h2 class="sb-section">Where you are signed in</h2>'
        '<p class="sb-facts">Sign out whatever you do not know or no longer use.</p>'
    )
    sign_ins.show(portal, user)
    st.html(
        '<h2 class="sb-section">Access tokens</h2>'
        '<p class="sb-facts">For programs that use the HTTP API in your name. A token opens no '
        "page and no notebook.</p>"
    )
    tokens.show(portal, user)


@layout.errors_on_page()
def main() -> None:
    """The page."""
    portal, user = layout.require_user()
    layout.heading("Account", "Who you are here, and what may act in your name.")
    confirm.show_outcome()
    parts(portal, user)


main()
