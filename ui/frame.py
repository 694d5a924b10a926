"""What every page shares: page settings, style, the header, who is signed in.

`app.py` calls `begin()`, then `st.navigation(pages(), position="top")`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, cast

import streamlit as st

from lib import portal
from lib.errors import SceneBridgeError
from lib.model import User
from ui.text import esc

_HERE = Path(__file__).resolve().parent
EXPLORE = "pages/explore.py"
WORK = "pages/work.py"
RESULTS = "pages/results.py"
_BEGUN = "frame-begun"

#: No emoji and no Material icon: for those the browser would ask a foreign host for a favicon.
_ICON = str(_HERE / "icon.svg")


def begin() -> None:
    """Page settings and style; the first thing a script run does."""
    st.session_state[_BEGUN] = True
    st.set_page_config(page_title="SceneBridge", page_icon=_ICON, layout="wide")
    st.html(f"<style>{_style()}</style>")
    st.logo(_ICON, size="medium")


def pages() -> list[Any]:
    """The pages in the order of the navigation."""
    return [
        st.Page(EXPLORE, title="Explore", default=True),
        st.Page(WORK, title="Work", url_path="work"),
        st.Page(RESULTS, title="Results", url_path="results"),
    ]


@lru_cache
def link(page: str) -> Any:
    """A page, to be linked to. Given a path instead, Streamlit 1.67 looks it up on the disk for
    every link that it draws."""
    of = {EXPLORE: {"default": True}, WORK: {"url_path": "work"}, RESULTS: {"url_path": "results"}}
    return st.Page(page, **cast(Any, of[page]))


@lru_cache(maxsize=1)
def _style() -> str:
    return (_HERE / "style.css").read_text(encoding="utf-8")


def signed_in() -> tuple[portal.Portal, User]:
    """The portal and who asks; ends the page with how to sign in when nobody does."""
    if _BEGUN not in st.session_state:
        # Streamlit 1.67 runs a script of `pages/` without app.py when a page's own address
        # is the first that a fresh process is asked for. Once `st.navigation` was called,
        # it does not any more, and the next run goes through app.py.
        st.navigation(pages(), position="top")
        st.rerun()
    try:
        here = portal.current()
        user = here.user_of_cookies(st.context.cookies)
    except SceneBridgeError as exc:
        problem(exc)
        st.stop()
    if user is None:
        not_signed_in()
    return here, user


def not_signed_in() -> NoReturn:
    """Say how to sign in and end the page."""
    empty(
        "You are not signed in",
        "Open the sign-in link that was printed when SceneBridge started. "
        "Each link works once; ask for a fresh one with: python admin.py link",
    )
    st.stop()


def heading(title: str, text: str) -> None:
    """The page's own heading: one per page, for people and for screen readers."""
    st.set_page_config(page_title=f"{title} · SceneBridge")
    st.html(f'<div class="sb-heading"><h1>{esc(title)}</h1><p>{esc(text)}</p></div>')


def empty(title: str, text: str) -> None:
    """A page or part with nothing to show yet, and what to do next."""
    st.html(
        f'<div class="sb-empty" role="status"><strong>{esc(title)}</strong><p>{esc(text)}</p></div>'
    )


def problem(error: SceneBridgeError) -> None:
    """Show an error; its message is fit for the user."""
    kind = "warn" if error.transient else "bad"
    st.html(f'<div class="sb-problem {kind}" role="alert">{esc(error.message)}</div>')


def notice(text: str, kind: str = "warn") -> None:
    """One sentence that should be seen. Kinds: "warn", "bad", "info"."""
    st.html(f'<div class="sb-problem {esc(kind)}" role="status">{esc(text)}</div>')
