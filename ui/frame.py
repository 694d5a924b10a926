"""What every page shares: page settings, style, the header, who is signed in.

`app.py` calls `begin()`, then `st.navigation(pages(), position="top")`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import streamlit as st

from lib import portal
from lib.errors import SceneBridgeError
from lib.model import User
from ui.text import esc

_HERE = Path(__file__).resolve().parent
EXPLORE = "pages/explore.py"
WORK = "pages/work.py"
RESULTS = "pages/results.py"

_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    '<rect width="32" height="32" rx="7" fill="#0b5f8a"/>'
    '<path d="M4 22c6 0 6-9 12-9s6 9 12 9" fill="none" stroke="#fff" stroke-width="2.6" '
    'stroke-linecap="round"/><path d="M4 26h24" stroke="#8fd0ee" stroke-width="2.2" '
    'stroke-linecap="round"/><circle cx="16" cy="7.5" r="2.6" fill="#ffb454"/></svg>'
)


def begin() -> None:
    """Page settings and style; the first thing a script run does."""
    st.set_page_config(page_title="SceneBridge", page_icon="🛰️", layout="wide")
    st.html(f"<style>{_style()}</style>")
    st.logo(_ICON, size="medium")


def pages() -> list[Any]:
    """The pages in the order of the navigation."""
    return [
        st.Page(EXPLORE, title="Explore", icon=":material/travel_explore:", default=True),
        st.Page(WORK, title="Work", icon=":material/deployed_code:", url_path="work"),
        st.Page(RESULTS, title="Results", icon=":material/grid_view:", url_path="results"),
    ]


@lru_cache(maxsize=1)
def _style() -> str:
    return (_HERE / "style.css").read_text(encoding="utf-8")


def signed_in() -> tuple[portal.Portal, User]:
    """The portal and who asks; ends the page with how to sign in when nobody does."""
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
