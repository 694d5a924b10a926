"""`sessions list|stop` and `link`: on the store, so a running portal notices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.auth import LINK_LIFETIME_S
from lib.auth.names import names_of
from lib.cli.output import Commands, Output, command, table
from lib.cli.store_access import BY, auth_on, data_of, portal_of, store_of
from lib.config import settings
from lib.config.data_dir import running_portal
from lib.model import JsonValue, SessionId, SessionState
from lib.portal.audit_words import told
from lib.store.changes import RunChange, SessionChange

if TYPE_CHECKING:
    import argparse

    from lib.model import Session

_ALL = 1_000_000
_NOT_RUNNING = "The portal does not run now; it ends them when it starts the next time."


def add_to(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add all of them."""
    group = commands.add_parser("sessions", help="the notebooks of this portal")
    part = group.add_subparsers(metavar="COMMAND", required=True)
    listing = command(part, "list", _list, common, "List everybody's notebooks, newest first.")
    listing.add_argument("--all", action="store_true", help="those that have ended as well")
    listing.add_argument("--user", default="", metavar="ID", help="those of one person")
    stop = command(part, "stop", _stop, common, "Stop notebooks; their files are kept.")
    stop.add_argument("sessions", metavar="ID", nargs="+")
    command(commands, "link", _link, common, "Print a fresh sign-in link for the owner.")


def _list(options: argparse.Namespace) -> Output:
    with store_of(options) as store:
        sessions = store.work.sessions_of_all(None, ended=_ALL if options.all else 0)
        names = names_of(store.people.accounts())
    shown = [s for s in sessions if options.user in ("", s.owner)]
    rows = [
        (s.id, s.state, f"{s.created_at:%Y-%m-%d %H:%M}", s.cluster, s.module,
         names.get(s.owner, s.owner), s.title)
        for s in shown
    ]  # fmt: skip
    text = table(("ID", "STATE", "STARTED (UTC)", "CLUSTER", "MODULE", "OWNER", "TITLE"), rows)
    return Output([_brief(s) for s in shown], text if rows else "No notebook is running.")


def _stop(options: argparse.Namespace) -> Output:
    """All of them are looked up first: a wrong id stops nothing."""
    with store_of(options) as store:
        sessions = [store.work.session(SessionId(s)) for s in options.sessions]
        live = [s for s in sessions if s.state is not SessionState.ENDED]
        for session in live:
            store.work.update_session(session.id, SessionChange(stopping=True))
            run = store.work.run(session.run)
            if run.session == session.id and not run.state.over:
                store.work.update_run(run.id, RunChange(stopping=True))
            names = names_of(store.people.accounts())
            said = f"{told(session, run)}, of {names.get(session.owner, session.owner)}"
            store.audit.write(BY.id, "stop", session.id, detail=said, via=BY.via)
    lines = [f"Stopping {s.title} ({s.id})" for s in live]
    lines += [f"{s.title} ({s.id}) had ended already" for s in sessions if s not in live]
    if live and running_portal(data_of(options)) is None:
        lines.append(_NOT_RUNNING)
    return Output({"stopping": [s.id for s in live]}, "\n".join(lines))


def _link(options: argparse.Namespace) -> Output:
    data = portal_of(options)
    running = running_portal(data)
    origin = running.origin if running else settings.load(data).origin
    with auth_on(options) as (_, auth):
        link = auth.links.new(origin, via=BY.via)
    note = "" if running else " It will work once the portal runs."
    text = f"{link}\nIt signs one browser in, within {LINK_LIFETIME_S // 60} minutes.{note}"
    return Output({"link": link}, text)


def _brief(session: Session) -> dict[str, JsonValue]:
    return {
        "id": session.id,
        "owner": session.owner,
        "title": session.title,
        "state": session.state.value,
        "reason": session.reason,
        "cluster": session.cluster,
        "module": session.module,
        "run": session.run,
        "scenes": list(session.scenes),
        "created_at": session.created_at.isoformat(),
    }
