"""Access tokens: made, shown once, withdrawn."""

from __future__ import annotations

from functools import partial

import streamlit as st

from lib.errors import InvalidInput, SceneBridgeError
from lib.model import AccessToken, TokenScope, User
from lib.portal.facade import Portal
from ui import components, confirm, data_table, layout
from ui.data_table import Cell, Row
from ui.schema_form import number_of
from ui.text import esc, md, to_minute

_WITHDRAW = "withdraw-token"
_MADE = "token-made"
_FAILED = "token-failed"
LONGEST_DAYS = 366
USUAL_DAYS = 90
SCOPE_WORDS = {TokenScope.READ: "read", TokenScope.LAUNCH: "launch"}
_secret = components.load("secret")


def show(portal: Portal, user: User) -> None:
    """The list, the token that was just made, and the form for another."""
    tokens = portal.my_account.tokens(user)
    _made()
    if tokens:
        data_table.show(
            "Your access tokens",
            ("Name", "May", "Made", "Last used", "Ends"),
            [_row(token) for token in tokens],
            key="tokens",
            on_press=lambda token_id, _: confirm.request(_WITHDRAW, token_id),
        )
    else:
        layout.empty_state(
            "No access token", "A program needs one to use the HTTP API in your name."
        )
    _form(portal, user)
    action, token_id = confirm.pending()
    name = next((t.name for t in tokens if t.id == token_id), "")
    if action == _WITHDRAW and name:
        confirm.dialog(
            "Withdraw this token?",
            f"Programs that use **{md(name)}** are refused from now on. This cannot be undone.",
            "Withdraw",
            partial(portal.my_account.withdraw_token, user, token_id),
            done="The token counts no more.",
        )


def _row(token: AccessToken) -> Row:
    return Row(
        token.id,
        (
            token.name,
            Cell("", tags=tuple((SCOPE_WORDS[s], "") for s in TokenScope if s in token.scopes)),
            to_minute(token.created_at),
            to_minute(token.used_at) if token.used_at else "never",
            to_minute(token.expires_at),
        ),
        (("withdraw", "Withdraw"),),
    )


def _form(portal: Portal, user: User) -> None:
    for name, value in (("name", ""), ("read", True), ("launch", False), ("days", str(USUAL_DAYS))):
        st.session_state.setdefault(f"token-{name}", value)
    with st.form("new-token", enter_to_submit=True):
        st.html('<h3 class="sb-section">New token</h3>')
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.text_input(
                "Name", key="token-name", max_chars=100, placeholder="What it is for", width=280
            )
            st.text_input(f"Days that it counts (1 to {LONGEST_DAYS})", key="token-days", width=210)
        st.checkbox("Read: search scenes, follow work, fetch results", key="token-read")
        st.checkbox("Launch: start and stop notebooks and runs", key="token-launch")
        st.form_submit_button("Create token", type="primary", on_click=_create, args=(portal, user))
        problem = layout.page_state().pop(_FAILED, "")
        if problem:
            layout.notice(problem, "bad")


def _create(portal: Portal, user: User) -> None:
    name = st.session_state["token-name"].strip()
    scopes = [scope for scope in TokenScope if st.session_state[f"token-{scope}"]]
    layout.page_state().pop(_MADE, None)
    days = number_of(st.session_state["token-days"])
    try:
        if not isinstance(days, int) or not 1 <= days <= LONGEST_DAYS:
            raise InvalidInput(f"Give the days as a whole number, 1 to {LONGEST_DAYS}.")
        token = portal.my_account.new_token(user, name, scopes, days)
    except SceneBridgeError as exc:
        layout.page_state()[_FAILED] = exc.message
        return
    layout.page_state()[_MADE] = (name, token)
    st.session_state["token-name"] = ""


def _made() -> None:
    """Once: it is gone when the user says so, or opens another page."""
    name, token = layout.page_state().get(_MADE, ("", ""))
    if not token:
        return
    with st.container(border=True, key="token-shown"):
        st.html(
            f'<div role="status"><b>Copy the token “{esc(name)}” now.</b> '
            "It is shown this once; the portal keeps only a fingerprint of it.</div>"
        )
        _secret(key="token-secret", data={"text": token, "label": "The new access token"})
        st.button("I have it", key="token-taken", on_click=_taken)


def _taken() -> None:
    layout.page_state().pop(_MADE, None)
