"""Administration of work: everybody's for administrators, that of their groups for leads; it is
listed and stopped, never opened."""

from __future__ import annotations

from functools import partial

import streamlit as st

from lib.errors import SceneBridgeError
from lib.model import Reachability, Run, RunId, Session, SessionId, User
from lib.portal.facade import Portal
from ui import confirm, data_table, layout, live, work_status
from ui.data_table import Cell, Row
from ui.text import count, md, to_minute
from ui.work_status import Work

_STOP = "stop-work"
_GOOD = {"READY", "RUNNING", "DONE"}
_BAD = {"FAILED", "PARTIAL"}
_COLUMNS = ("What", "Owner", "Cluster", "Module", "State", "Since")


def show(portal: Portal, user: User) -> None:
    """What lives and what has ended lately; drawn again as that changes."""
    _question(portal, user)
    _tables(portal, user)


@st.fragment
def _tables(portal: Portal, user: User) -> None:
    confirm.rerun_if_requested()
    with live.following(portal, user, "everybody"):
        _show_tables(portal, user)


def _show_tables(portal: Portal, user: User) -> None:
    try:
        work = portal.administration.work(user)
        names = portal.administration.names(user)
        clusters = {str(c.id): c.title for c in portal.all_clusters(user)}
        modules = {str(m.id): m.title for m in portal.modules(user)}
    except SceneBridgeError as exc:
        layout.show_error(exc)
        return

    def row(item: Work) -> Row:
        kind = "Notebook" if isinstance(item, Session) else "Run"
        live = not work_status.is_over(item)
        return Row(
            str(item.id),
            (
                Cell(item.title or kind, f"{kind}, {count(len(item.scenes), 'scene')}"),
                names.get(item.owner, str(item.owner)),
                clusters.get(str(item.cluster), str(item.cluster)),
                modules.get(str(item.module), str(item.module)),
                Cell("", item.reason.strip(), (_state(item),)),
                to_minute((item.started_at if live else item.ended_at) or item.created_at),
            ),
            (("stop", "Stop"),) if live and not item.stopping else (),
        )

    live = [item for item in work if not work_status.is_over(item)]
    ended = [item for item in work if work_status.is_over(item)]
    st.html(f'<h2 class="sb-section">Live ({len(live)})</h2>')
    if live:
        data_table.show(
            "Notebooks and runs that live",
            _COLUMNS,
            [row(item) for item in live],
            key="admin-live",
            on_press=lambda work_id, _: confirm.request(_STOP, work_id),
        )
    else:
        layout.empty_state("Nothing runs and nothing waits", "What has ended lately is below.")
    if ended:
        st.html('<h2 class="sb-section">Ended lately</h2>')
        data_table.show(
            "What has ended lately", _COLUMNS, [row(i) for i in ended], key="admin-ended"
        )


def _state(work: Work) -> tuple[str, str]:
    """What it is, and how that looks."""
    if work.stopping and not work_status.is_over(work):
        return "Stopping", "warn"
    if work.reachability is Reachability.UNKNOWN and not work_status.is_over(work):
        return f"{str(work.state).capitalize()}, last known", "warn"
    name = str(work.state)
    if isinstance(work, Session) and work_status.is_over(work):
        return f"Ended: {work.end_reason}" if work.end_reason else "Ended", ""
    return name.capitalize(), "good" if name in _GOOD else "bad" if name in _BAD else ""


def _question(portal: Portal, user: User) -> None:
    action, work_id = confirm.pending()
    if action != _STOP:
        return
    work = next((w for w in portal.administration.work(user) if str(w.id) == work_id), None)
    if work is None or work_status.is_over(work):
        confirm.dismiss()
        return
    owner = portal.administration.names(user).get(work.owner, str(work.owner))
    kept = (
        "Running kernels end and what they hold in memory is lost. Files are kept, and the "
        "owner can start the notebook again."
        if isinstance(work, Session)
        else "Scenes that are not done yet are left out. What was found is kept."
    )
    thing = RunId(work_id) if isinstance(work, Run) else SessionId(work_id)
    confirm.dialog(
        "Stop this notebook?" if isinstance(work, Session) else "Stop this run?",
        f"**{md(work.title)}** of **{md(owner)}**. {kept}",
        "Stop now",
        partial(portal.stop, user, thing),
        done="It is being stopped.",
    )
