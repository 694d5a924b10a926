"""Administration: people, everybody's work, announcements, audit log; for leads of groups,
the work of their members."""

from __future__ import annotations

import streamlit as st

from lib.model import Role, User
from lib.portal.facade import Portal
from ui import admin_announcements, admin_audit, admin_people, admin_work, confirm, layout

PARTS = {
    "work": "Work",
    "people": "People",
    "announcements": "Announcements",
    "audit": "Audit log",
}


def part() -> str:
    """Which part is shown; it stands in the address."""
    wish = st.query_params.get("part", "work")
    st.session_state.setdefault("admin-part", wish if wish in PARTS else "work")
    chosen = st.segmented_control(
        "Part",
        list(PARTS),
        format_func=PARTS.__getitem__,
        key="admin-part",
        label_visibility="collapsed",
        required=True,
        on_change=leave_part,
    )
    name = str(chosen or "work")
    layout.set_query_param("part", "" if name == "work" else name)
    return name


def leave_part() -> None:
    """Another part begins without what was chosen in this one."""
    confirm.dismiss()
    admin_audit.forget_page()
    st.query_params.clear()


def people(portal: Portal, user: User) -> None:
    """A search over everybody."""
    st.session_state.setdefault("people-text", st.query_params.get("text", "")[:200])
    sought = st.text_input(
        "Name, e-mail address or id", key="people-text", icon=":material/search:", width=320
    )
    layout.set_query_param("text", sought.strip())
    admin_people.show(portal, user, sought.strip())


def administrator(portal: Portal, user: User) -> None:
    """All parts."""
    match part():
        case "people":
            people(portal, user)
        case "announcements":
            admin_announcements.show(portal, user)
        case "audit":
            admin_audit.show(portal, user)
        case _:
            admin_work.show(portal, user)


SAYS = {
    Role.ADMINISTRATOR: "People, everybody's work, announcements and the audit log.",
    Role.LEAD: "What the members of the groups that you lead run.",
    Role.USER: "For administrators of the portal and leads of groups.",
}


@layout.errors_on_page()
def main() -> None:
    """The page."""
    portal, user = layout.require_user()
    layout.heading(layout.ADMINISTRATION_TITLES.get(user.role, "Administration"), SAYS[user.role])
    confirm.show_outcome()
    portal.administration.names(user)  # Refused for whoever has nothing to look for here
    if user.role is Role.ADMINISTRATOR:
        administrator(portal, user)
    else:
        admin_work.show(portal, user)


main()
