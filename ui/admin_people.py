"""Administration of people: a searched list, signing out, blocking."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import streamlit as st

from lib.model import Person, Role, User, UserId
from lib.portal.facade import Portal
from ui import confirm, data_table, layout
from ui.data_table import Cell, Row
from ui.text import count, md, to_minute

MOST = 200
_SIGN_OUT, _BLOCK, _UNBLOCK = "sign-out-person", "block-person", "unblock-person"
_ACTIONS = {"sign-out": _SIGN_OUT, "block": _BLOCK, "unblock": _UNBLOCK}
_ROLE_KINDS = {Role.ADMINISTRATOR: "warn", Role.LEAD: "good"}


def show(portal: Portal, user: User, sought: str) -> None:
    """Those in whose name, e-mail address, provider or id the text `sought` stands."""
    people, groups = portal.administration.people(user), portal.administration.groups(user)
    _question(portal, user, people)
    matching = [p for p in people if _has(p, sought)]
    if not matching:
        layout.empty_state(
            "Nobody matches", "Search for a part of a name, an e-mail address or an id."
        )
        return
    left = f"; the first {MOST} are shown: search to narrow" if len(matching) > MOST else ""
    st.caption(f"{count(len(matching), 'person', 'people')}{left}")
    data_table.show(
        "People",
        ("Name", "Role", "Groups", "From", "E-mail", "Last seen", "Signed in"),
        [_row(person, groups, user) for person in matching[:MOST]],
        key="admin-people",
        on_press=lambda who, action: confirm.request(_ACTIONS[action], who),
    )


def _has(person: Person, sought: str) -> bool:
    where = (person.user.name, person.email, person.provider, person.user.id)
    return any(sought.casefold() in text.casefold() for text in where)


def _row(person: Person, groups: Mapping[str, str], asker: User) -> Row:
    who = person.user
    actions = []
    if person.logins:
        actions.append(("sign-out", "Sign out"))
    if person.blocked:
        actions.append(("unblock", "Unblock"))
    elif person.provider and who.id != asker.id:  # the owner of the portal comes from none
        actions.append(("block", "Block"))
    blocked = (("blocked", "bad"),) if person.blocked else ()
    return Row(
        str(who.id),
        (
            Cell(who.name, str(who.id), blocked),
            Cell("", tags=((str(who.role), _ROLE_KINDS.get(who.role, "")),)),
            ", ".join(groups[g] for g in sorted(who.groups) if g in groups) or "none",
            person.provider or "this portal's computer",
            person.email or "not known",
            to_minute(person.seen_at) if person.seen_at else "never",
            f"in {count(person.logins, 'browser')}" if person.logins else "no",
        ),
        tuple(actions),
    )


def _question(portal: Portal, user: User, people: tuple[Person, ...]) -> None:
    action, who = confirm.pending()
    person = next((p for p in people if p.user.id == who), None)
    if person is None:
        return
    name = f"**{md(person.user.name)}**"
    if action == _SIGN_OUT:
        confirm.dialog(
            "Sign this person out?",
            f"{name} is signed out in {count(person.logins, 'browser')}. Open pages and "
            "notebooks close at once; what runs goes on. They can sign in again.",
            "Sign out everywhere",
            partial(portal.administration.sign_out_everywhere, user, UserId(who)),
            done="Signed out everywhere.",
        )
    elif action == _BLOCK:
        confirm.dialog(
            "Block this person?",
            f"{name} is signed out at once, cannot sign in again, and their access tokens are "
            "withdrawn. Their notebooks and runs go on until somebody stops them.",
            "Block",
            partial(portal.administration.block, user, UserId(who), blocked=True),
            done="Blocked.",
        )
    elif action == _UNBLOCK:
        confirm.dialog(
            "Let this person in again?",
            f"{name} can sign in again. Access tokens that were withdrawn stay withdrawn.",
            "Unblock",
            partial(portal.administration.block, user, UserId(who), blocked=False),
            done="They can sign in again.",
        )
