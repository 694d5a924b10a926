"""What every page shares: page settings, style, the header, who is signed in.

Within `one_run()`, `app.py` calls `set_up_page()`, `require_user()`,
`st.navigation(navigation_pages(user), position="top")`, and `header()`; then the page runs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from lib.errors import SceneBridgeError, SignInEnded
from lib.model import Role, User
from lib.portal import facade
from ui import announcements, components
from ui.text import esc, md

_HERE = Path(__file__).resolve().parent
EXPLORE = "pages/explore.py"
WORK = "pages/work.py"
RESULTS = "pages/results.py"
CLUSTERS = "pages/clusters.py"
ACCOUNT = "pages/account.py"
ADMINISTRATION = "pages/administration.py"
#: What the page for leads and administrators is called, by who looks at it.
ADMINISTRATION_TITLES = {Role.ADMINISTRATOR: "Administration", Role.LEAD: "Group"}
_SET_UP = "layout-set-up"
_USER = "layout-user"
_PAGE_STATE = "page-state"
_PAGE = "page"

#: No emoji and no Material icon: for those the browser would ask a foreign host for a favicon.
_ICON = str(_HERE / "icon.svg")
#: Who asked in this run of app.py, once that is known.
_asked: ContextVar[list[tuple[facade.Portal, User]] | None] = ContextVar("asked", default=None)
_watch = components.load("sign_in_watch")
_frame = components.load("frame")


@contextmanager
def one_run() -> Iterator[None]:
    """Around a run of app.py: who asks is looked up once, and the page within is told the same."""
    token = _asked.set([])
    try:
        yield
    finally:
        _asked.reset(token)


def set_up_page() -> None:
    """Page settings and style; the first thing a script run does."""
    st.session_state[_SET_UP] = True
    st.set_page_config(page_title="SceneBridge", page_icon=_ICON, layout="wide")
    st.html(f"<style>{_style()}</style>")
    st.logo(_ICON, size="medium")
    _frame(key="frame")


def navigation_pages(user: User | None = None) -> list[StreamlitPage]:
    """The pages in the order of the navigation; what is not for this user is not in it."""
    administration = ADMINISTRATION_TITLES.get(user.role) if user else None
    return [copy.copy(page) for page in _pages(administration)]  # each run lets one of its own run


@lru_cache
def _pages(administration: str | None) -> tuple[StreamlitPage, ...]:
    """Made once: for each, Streamlit 1.67 looks at every folder of its path on the disk."""
    return (
        st.Page(EXPLORE, title="Explore", default=True),
        st.Page(WORK, title="Work", url_path="work"),
        st.Page(RESULTS, title="Results", url_path="results"),
        st.Page(CLUSTERS, title="Clusters", url_path="clusters"),
        st.Page(
            ADMINISTRATION,
            title=administration or "Administration",
            url_path="administration",
            visibility="visible" if administration else "hidden",
        ),
        st.Page(ACCOUNT, title="Account", url_path="account"),
    )


@lru_cache
def page(path: str) -> StreamlitPage:
    """A page, to be linked to. Given a path instead, Streamlit 1.67 looks it up on the disk for
    every link that it draws."""
    if path == EXPLORE:
        return st.Page(path, default=True)
    return st.Page(path, url_path=Path(path).stem)


def header(portal: facade.Portal, user: User) -> None:
    """What stands above every page: who is signed in, and what everybody is told."""
    _watch(key="sign-in-watch", data={"user": str(user.id)})
    with st.container(key="who"):
        st.page_link(page(ACCOUNT), label=md(user.name), icon=":material/person:")
    announcements.show(portal, user)


def page_state() -> dict[str, Any]:
    """What a page keeps for itself; gone when another page is opened."""
    kept: dict[str, Any] = st.session_state.setdefault(_PAGE_STATE, {})
    return kept


@lru_cache(maxsize=1)
def _style() -> str:
    return (_HERE / "style.css").read_text(encoding="utf-8")


def require_user() -> tuple[facade.Portal, User]:
    """The portal and who asks; ends the page with how to sign in when nobody does."""
    known = _asked.get()
    if known:
        return known[0]
    if _SET_UP not in st.session_state:
        # Streamlit 1.67 runs a script of `pages/` without app.py when a page's own address
        # is the first that a fresh process is asked for. Once `st.navigation` was called,
        # it does not any more, and the next run goes through app.py.
        st.navigation(navigation_pages(), position="top")
        st.rerun()
    try:
        portal = facade.current()
        user = portal.user_of_browser(st.context.cookies, st.context.headers)
    except SceneBridgeError as exc:
        show_error(exc)
        st.stop()
    if user is None:
        require_sign_in()
    if st.session_state.setdefault(_USER, user.id) != user.id:
        # Streamlit hands a session's state to whoever knows its id: not to somebody else.
        st.session_state.clear()
        st.session_state.update({_USER: user.id, _SET_UP: True})
    if known is not None:
        known.append((portal, user))
    return portal, user


@contextmanager
def errors_on_page() -> Iterator[None]:
    """Around each page: what it could not handle itself, as a sign-in that ended meanwhile."""
    try:
        yield
    except SceneBridgeError as exc:
        show_error(exc)


def require_sign_in(said: str = "Your sign-in has ended.") -> NoReturn:
    """Say how to sign in and end the page; the browser goes there by itself."""
    _watch(key="sign-in-watch-over", data={"user": ""})
    st.html(
        '<div class="sb-empty" role="status"><strong>You are not signed in</strong>'
        f'<p>{esc(said)} <a href="/signin?why=ended" target="_self">Sign in</a></p></div>'
    )
    st.stop()


def heading(title: str, text: str) -> None:
    """The page's own heading: one per page, for people and for screen readers."""
    if page_state().get(_PAGE) != title:
        st.session_state[_PAGE_STATE] = {_PAGE: title}
    st.set_page_config(page_title=f"{title} · SceneBridge")
    st.html(f'<div class="sb-heading"><h1>{esc(title)}</h1><p>{esc(text)}</p></div>')


def empty_state(title: str, text: str) -> None:
    """A page or part with nothing to show yet, and what to do next."""
    st.html(
        f'<div class="sb-empty" role="status"><strong>{esc(title)}</strong><p>{esc(text)}</p></div>'
    )


def show_error(error: SceneBridgeError) -> None:
    """Show an error; its message is fit for the user."""
    if isinstance(error, SignInEnded):
        require_sign_in(error.message)
    kind = "warn" if error.transient else "bad"
    st.html(f'<div class="sb-problem {kind}" role="alert">{esc(error.message)}</div>')


def notice(text: str, kind: str = "warn") -> None:
    """One sentence that should be seen. Kinds: "warn", "bad", "info"."""
    st.html(f'<div class="sb-problem {esc(kind)}" role="status">{esc(text)}</div>')


def set_query_param(name: str, value: str) -> None:
    """Write one parameter of the query of the address; an empty value removes it."""
    if value:
        if st.query_params.get(name) != value:
            st.query_params[name] = value
    elif name in st.query_params:
        del st.query_params[name]
