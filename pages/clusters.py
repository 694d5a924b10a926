"""Clusters: how each one is, whose its tunnel is, what is free there, and who can mend it."""

from __future__ import annotations

import streamlit as st

from lib.errors import SceneBridgeError
from lib.model import User
from lib.portal.facade import Portal
from ui import cluster_card, layout, live


@st.fragment
def show_cards(portal: Portal, user: User) -> None:
    """All cards; drawn again as clusters change, without touching the rest of the page."""
    with live.following(portal, user, "clusters"):
        try:
            _show_cards(portal, user)
        except SceneBridgeError as exc:
            layout.show_error(exc)


def _show_cards(portal: Portal, user: User) -> None:
    clusters, modules = portal.all_clusters(user), portal.modules(user)
    withheld = portal.withheld(user)
    if not clusters:
        layout.empty_state(
            "No cluster is set up",
            "The administrator of this portal can add one: docs/operate.md says how.",
        )
    if withheld:
        layout.notice(withheld, "info")
    for cluster in clusters:
        cluster_card.show(cluster, modules)


@layout.errors_on_page()
def main() -> None:
    """The page."""
    portal, user = layout.require_user()
    layout.heading("Clusters", "Where work can run, what is free there, and who can mend what.")
    show_cards(portal, user)


main()
