"""A user's sign-ins (one per browser), and signing out."""

from __future__ import annotations

from functools import partial

import streamlit as st

from lib.model import SignIn, User
from lib.portal.facade import Portal
from ui import confirm, data_table
from ui.data_table import Cell, Row
from ui.text import to_minute
from ui.user_agent import browser_name

_EVERYWHERE = "sign-out-everywhere"


def show(portal: Portal, user: User) -> None:
    """The user's own sign-ins; the one that looks is marked, and has its button above."""
    logins = portal.my_account.logins(user)
    data_table.show(
        "Browsers in which you are signed in",
        ("Browser", "Network address", "Since", "Last act", "Ends at the latest"),
        [_row(login, this=user.via == f"login:{login.id}") for login in logins],
        key="sign-ins",
        on_press=lambda login_id, _: confirm.run_action(
            partial(portal.my_account.end_login, user, login_id), "Signed out there."
        ),
    )
    st.button(
        "Sign out everywhere",
        key=_EVERYWHERE,
        icon=":material/logout:",
        on_click=confirm.request,
        args=(_EVERYWHERE,),
    )
    if confirm.pending()[0] == _EVERYWHERE:
        confirm.dialog(
            "Sign out everywhere?",
            "You are signed out in all browsers, in this one too. Notebooks that are open in "
            "them close at once, but go on running with everything they hold: sign in again "
            "and open them from Work. Access tokens stay.",
            "Sign out everywhere",
            partial(portal.my_account.sign_out_everywhere, user),
            done="You are signed out.",
            key="sign-out-everywhere-now",
        )


def sign_out_button(portal: Portal, user: User) -> None:
    """Sign this browser out; it then goes to the sign-in page by itself."""
    st.button(
        "Sign out",
        key="sign-out",
        icon=":material/logout:",
        on_click=confirm.run_action,
        args=(partial(portal.my_account.sign_out, user), "You are signed out."),
    )


def _row(login: SignIn, *, this: bool) -> Row:
    return Row(
        login.id,
        (
            Cell(
                browser_name(login.browser),
                f"through {login.provider}" if login.provider else "with a one-time link",
                (("this browser", "good"),) if this else (),
            ),
            login.client or "not known",
            to_minute(login.created_at),
            to_minute(login.seen_at),
            to_minute(login.expires_at),
        ),
        () if this else (("end", "Sign out"),),
    )
