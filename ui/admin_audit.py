"""The audit log: searched, paged, downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date

import streamlit as st

from lib.model import User
from lib.portal.facade import AuditEntry, Portal
from ui import data_table, layout
from ui.audit_filter import LONGEST, AuditFilter, parse
from ui.data_table import Cell, Row
from ui.text import to_second

PAGE_SIZE = 100
_BEFORE = "audit-before"
_ANY = ""


def show(portal: Portal, user: User) -> None:
    """The filter, a page of lines newest first, and the way to older ones."""
    names = {str(who): name for who, name in portal.administration.names(user).items()}
    filters = _filter(names, portal.administration.audit_actions(user))
    for name, value in filters.address().items():
        layout.set_query_param(name, value)
    entries = portal.administration.audit(user, filters.query(), limit=PAGE_SIZE + 1)
    if not entries:
        layout.empty_state("No line matches", "Search for less, or over more days.")
    else:
        data_table.show(
            "Audit log, newest first",
            ("Time", "Who", "Action", "What", "Result", "Detail", "From"),
            [_row(entry, names) for entry in entries[:PAGE_SIZE]],
            key="admin-audit",
        )
    with st.container(horizontal=True, vertical_alignment="center"):
        if filters.before:
            st.button("Newest", icon=":material/first_page:", on_click=_go_to, args=(None,))
        if len(entries) > PAGE_SIZE:
            st.button(
                "Older",
                icon=":material/chevron_right:",
                on_click=_go_to,
                args=(entries[PAGE_SIZE - 1].id,),
            )
        st.link_button(
            "Download as JSON lines",
            filters.download(),
            key="audit-download",
            icon=":material/download:",
        )


def _filter(names: Mapping[str, str], actions: Sequence[str]) -> AuditFilter:
    wanted = parse(st.query_params)
    st.session_state.setdefault(_BEFORE, wanted.before)
    people = [_ANY, *sorted(names, key=lambda who: names[who].casefold())]
    if wanted.user and wanted.user not in people:
        people.append(wanted.user)
    kinds = [_ANY, *actions, *([wanted.action] if wanted.action not in (_ANY, *actions) else [])]
    for name, value in (
        ("text", wanted.text), ("user", wanted.user), ("action", wanted.action),
        ("refused", wanted.refused), ("since", wanted.since), ("until", wanted.until),
    ):  # fmt: skip
        st.session_state.setdefault(f"audit-{name}", value)
    with st.container(key="audit-filter", horizontal=True, vertical_alignment="bottom"):
        text = st.text_input(
            "Search",
            key="audit-text",
            max_chars=LONGEST,
            placeholder="Any field",
            icon=":material/search:",
            width=230,
            on_change=_go_to,
            args=(None,),
        )
        who = st.selectbox(
            "Person",
            people,
            format_func=lambda p: names.get(p, p) if p else "Everybody",
            key="audit-user",
            width=200,
            on_change=_go_to,
            args=(None,),
        )
        action = st.selectbox(
            "Action",
            kinds,
            format_func=lambda a: a or "All actions",
            key="audit-action",
            width=200,
            on_change=_go_to,
            args=(None,),
        )
        since = _day("From (UTC)", "audit-since")
        until = _day("To (UTC)", "audit-until")
        refused = st.checkbox("Refused only", key="audit-refused", on_change=_go_to, args=(None,))
    filters = AuditFilter(text.strip(), who or _ANY, action or _ANY, refused, since, until)
    return replace(filters, before=st.session_state[_BEFORE])


def _day(label: str, key: str) -> date | None:
    day: date | None = st.date_input(
        label, key=key, format="YYYY-MM-DD", width=138, on_change=_go_to, args=(None,)
    )
    return day


def forget_page() -> None:
    """Another part of the page begins with the newest line."""
    st.session_state.pop(_BEFORE, None)


def _go_to(before: int | None) -> None:
    """Another filter begins with the newest line again."""
    st.session_state[_BEFORE] = before


def _row(entry: AuditEntry, names: Mapping[str, str]) -> Row:
    name = names.get(entry.user, "")
    ok = entry.result == "ok"
    about = names.get(entry.object, "")
    return Row(
        str(entry.id),
        (
            to_second(entry.time),
            Cell(name or entry.user or "a stranger", entry.user if name else ""),
            entry.action,
            Cell(about, entry.object) if about else entry.object,
            Cell("", tags=((entry.result, "good" if ok else "bad"),)),
            entry.detail,
            Cell(entry.client, entry.via),
        ),
    )
