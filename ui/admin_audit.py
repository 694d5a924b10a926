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
from ui.result_filter import to_address
from ui.text import exactly

PAGE = 100
_BEFORE = "audit-before"
_ANY = ""


def show(portal: Portal, user: User) -> None:
    """The filter, a page of lines newest first, and the way to older ones."""
    names = {str(who): name for who, name in portal.office.names(user).items()}
    chosen = _filter(names, portal.office.audit_actions(user))
    for name, value in chosen.address().items():
        to_address(name, value)
    found = portal.office.audit(user, chosen.query(), limit=PAGE + 1)
    if not found:
        layout.empty_state("No line matches", "Search for less, or over more days.")
    else:
        data_table.show(
            "Audit log, newest first",
            ("Time", "Who", "Action", "What", "Result", "Detail", "From"),
            [_row(entry, names) for entry in found[:PAGE]],
            key="admin-audit",
        )
    with st.container(horizontal=True, vertical_alignment="center"):
        if chosen.before:
            st.button("Newest", icon=":material/first_page:", on_click=_page, args=(None,))
        if len(found) > PAGE:
            st.button(
                "Older",
                icon=":material/chevron_right:",
                on_click=_page,
                args=(found[PAGE - 1].id,),
            )
        st.link_button(
            "Download as JSON lines",
            chosen.download(),
            key="audit-download",
            icon=":material/download:",
        )


def _filter(names: Mapping[str, str], actions: Sequence[str]) -> AuditFilter:
    asked = parse(st.query_params)
    st.session_state.setdefault(_BEFORE, asked.before)
    people = [_ANY, *sorted(names, key=lambda who: names[who].casefold())]
    if asked.user and asked.user not in people:
        people.append(asked.user)
    kinds = [_ANY, *actions, *([asked.action] if asked.action not in (_ANY, *actions) else [])]
    for name, value in (
        ("text", asked.text), ("user", asked.user), ("action", asked.action),
        ("refused", asked.refused), ("since", asked.since), ("until", asked.until),
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
            on_change=_page,
            args=(None,),
        )
        who = st.selectbox(
            "Person",
            people,
            format_func=lambda p: names.get(p, p) if p else "Everybody",
            key="audit-user",
            width=200,
            on_change=_page,
            args=(None,),
        )
        action = st.selectbox(
            "Action",
            kinds,
            format_func=lambda a: a or "All actions",
            key="audit-action",
            width=200,
            on_change=_page,
            args=(None,),
        )
        since = _day("From", "audit-since")
        until = _day("To", "audit-until")
        refused = st.checkbox("Refused only", key="audit-refused", on_change=_page, args=(None,))
    chosen = AuditFilter(text.strip(), who or _ANY, action or _ANY, refused, since, until)
    return replace(chosen, before=st.session_state[_BEFORE])


def _day(label: str, key: str) -> date | None:
    day: date | None = st.date_input(
        label, key=key, format="YYYY-MM-DD", width=138, on_change=_page, args=(None,)
    )
    return day


def forget_page() -> None:
    """Another part of the page begins with the newest line."""
    st.session_state.pop(_BEFORE, None)


def _page(before: int | None) -> None:
    """Another filter begins with the newest line again."""
    st.session_state[_BEFORE] = before


def _row(entry: AuditEntry, names: Mapping[str, str]) -> Row:
    name = names.get(entry.user, "")
    ok = entry.result == "ok"
    return Row(
        str(entry.id),
        (
            exactly(entry.time).removesuffix(" UTC"),
            Cell(name or entry.user or "a stranger", entry.user if name else ""),
            entry.action,
            entry.object,
            Cell("", tags=((entry.result, "good" if ok else "bad"),)),
            entry.detail,
            Cell(entry.client, entry.via),
        ),
    )
