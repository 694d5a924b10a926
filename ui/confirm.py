"""Questions before what cannot be undone, and what came of it.

A page keeps what it was asked to do in `frame.once()` until it is answered, so a question
stands until then and is gone with the page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from lib.errors import SceneBridgeError
from ui import layout

_ASKED = "asked"
_SAID = "said"
_FRESH = "asked-fresh"


def for_(action: str, thing: str = "") -> None:
    """Remember that the user wants this; the page asks them whether they are sure."""
    layout.once().update({_ASKED: (action, thing), _FRESH: True})


def asked() -> tuple[str, str]:
    """(action, thing) that waits for an answer; two empty texts where nothing does."""
    action, thing = layout.once().get(_ASKED, ("", ""))
    return action, thing


def whole_page() -> None:
    """In a part that is drawn by itself: have the whole page drawn, with the question."""
    if layout.once().pop(_FRESH, False):
        st.rerun()


def sure(
    title: str, text: str, yes: str, act: Callable[[], Any], *, done: str, key: str = "yes"
) -> None:
    """Ask. `title`, `yes` and `done` are words of our own, `text` is Markdown (`ui.text.md`)."""
    layout.once().pop(_FRESH, None)

    @st.dialog(title, on_dismiss=forget)
    def question() -> None:
        if not asked()[0]:
            st.rerun()  # it was answered
        st.markdown(text)
        with st.container(horizontal=True):
            st.button(yes, type="primary", key=key, on_click=carry_out, args=(act, done))
            st.button("Cancel", key=f"{key}-not", on_click=forget)

    question()


def carry_out(act: Callable[[], Any], done: str) -> None:
    """Do it, and remember what came of it."""
    forget()
    try:
        act()
    except SceneBridgeError as exc:
        layout.once()[_SAID] = (exc.message, "bad")
    else:
        layout.once()[_SAID] = (done, "info")


def forget() -> None:
    """The question was answered, or is no longer asked."""
    layout.once().pop(_ASKED, None)


def say() -> None:
    """What came of the last answer; once."""
    text, kind = layout.once().pop(_SAID, ("", ""))
    if text:
        layout.notice(text, kind)
