"""Confirmation dialogs before what cannot be undone, and the outcome of the action.

A page keeps the requested action in `layout.page_state()` until it is answered, so a dialog
stands until then and is gone with the page.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from lib.errors import SceneBridgeError
from ui import layout

_PENDING = "confirm-pending"
_OUTCOME = "confirm-outcome"
_NEW = "confirm-new"


def request(action: str, target: str = "") -> None:
    """Remember that the user wants `action` on `target`; the page asks whether they are sure."""
    layout.page_state().update({_PENDING: (action, target), _NEW: True})


def pending() -> tuple[str, str]:
    """(action, target) that waits for an answer; two empty texts where nothing does."""
    action, target = layout.page_state().get(_PENDING, ("", ""))
    return action, target


def rerun_if_requested() -> None:
    """In a fragment: have the whole page drawn, with the dialog of a new request."""
    if layout.page_state().pop(_NEW, False):
        st.rerun()


def dialog(
    title: str, text: str, yes: str, act: Callable[[], object], *, done: str, key: str = "yes"
) -> None:
    """Ask in a dialog; `yes` is the button that carries out `act`, `done` what is said then.

    `title`, `yes` and `done` are words of our own, `text` is Markdown (`ui.text.md`).
    """
    layout.page_state().pop(_NEW, None)

    @st.dialog(title, on_dismiss=dismiss)
    def question() -> None:
        if not pending()[0]:
            st.rerun()  # it was answered
        st.markdown(text)
        with st.container(horizontal=True):
            st.button(yes, type="primary", key=key, on_click=run_action, args=(act, done))
            st.button("Cancel", key=f"{key}-not", on_click=dismiss)

    question()


def run_action(act: Callable[[], object], done: str) -> None:
    """Carry the action out, and remember its outcome."""
    dismiss()
    try:
        act()
    except SceneBridgeError as exc:
        layout.page_state()[_OUTCOME] = (exc.message, "bad")
    else:
        layout.page_state()[_OUTCOME] = (done, "info")


def dismiss() -> None:
    """The request was answered, or is no longer asked."""
    layout.page_state().pop(_PENDING, None)


def show_outcome() -> None:
    """What came of the last action; once."""
    text, kind = layout.page_state().pop(_OUTCOME, ("", ""))
    if text:
        layout.notice(text, kind)
