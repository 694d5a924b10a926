"""`sessions list|stop`, `token` and `link`: on the store, so a running portal notices."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from lib import settings
from lib.auth import LINK_LIFETIME_S, OWNER, Auth
from lib.commands.answer import Answer, Commands, command, table
from lib.errors import NotFound
from lib.model import SessionId, SessionState
from lib.places import running_portal
from lib.store import Store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    from lib.model import Session

_NOT_RUNNING = "The portal does not run now; it ends them when it starts the next time."


def add_to(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add all of them."""
    group = commands.add_parser("sessions", help="the notebooks of this portal")
    part = group.add_subparsers(metavar="COMMAND", required=True)
    listing = command(part, "list", _list, common, "List notebooks, newest first.")
    listing.add_argument("--all", action="store_true", help="those that have ended as well")
    stop = command(part, "stop", _stop, common, "Stop notebooks; their files are kept.")
    stop.add_argument("sessions", metavar="ID", nargs="+")
    token = command(commands, "token", _token, common, "Print a token for the HTTP API.")
    token.add_argument("--name", default="admin.py", help="what it is for, for the audit log")
    command(commands, "link", _link, common, "Print a fresh sign-in link.")


def _list(options: argparse.Namespace) -> Answer:
    with _store(options) as store:
        sessions = store.work.sessions_of(OWNER.id)
    shown = [s for s in sessions if options.all or s.state is not SessionState.ENDED]
    rows = [
        (s.id, s.state, f"{s.created_at:%Y-%m-%d %H:%M}", s.cluster, s.module, s.title)
        for s in shown
    ]
    text = table(("ID", "STATE", "STARTED (UTC)", "CLUSTER", "MODULE", "TITLE"), rows)
    return Answer([_brief(s) for s in shown], text if rows else "No notebook is running.")


def _stop(options: argparse.Namespace) -> Answer:
    """All of them are looked up first: a wrong id stops nothing."""
    with _store(options) as store:
        sessions = [store.work.session(SessionId(s)) for s in options.sessions]
        live = [s for s in sessions if s.state is not SessionState.ENDED]
        for session in live:
            store.work.update_session(session.id, stopping=True)
            run = store.work.run(session.run)
            if run.session == session.id and not run.state.over:
                store.work.update_run(run.id, stopping=True)
            store.audit.write(OWNER.id, "stop", session.id, detail="admin.py")
    lines = [f"Stopping {s.title} ({s.id})" for s in live]
    lines += [f"{s.title} ({s.id}) had ended already" for s in sessions if s not in live]
    if live and running_portal(_data(options)) is None:
        lines.append(_NOT_RUNNING)
    return Answer({"stopping": [s.id for s in live]}, "\n".join(lines))


def _token(options: argparse.Namespace) -> Answer:
    with _store(options) as store:
        token = Auth(store).new_token(options.name)
    return Answer({"token": token}, token)


def _link(options: argparse.Namespace) -> Answer:
    data = _data(options)
    running = running_portal(data)
    origin = running.origin if running else settings.load(data).origin
    with _store(options) as store:
        link = Auth(store).new_sign_in_link(origin)
    note = "" if running else " It will work once the portal runs."
    text = f"{link}\nIt signs one browser in, within {LINK_LIFETIME_S // 60} minutes.{note}"
    return Answer({"link": link}, text)


@contextmanager
def _store(options: argparse.Namespace) -> Iterator[Store]:
    """The store of a portal that has run at least once.

    Raises:
        NotFound: none has, on this data folder.
    """
    data = _data(options)
    if not (data / "portal.sqlite").exists():
        raise NotFound(f"No portal has run on the data folder {data} yet; start ./run first.")
    store = Store(data / "portal.sqlite")
    try:
        yield store
    finally:
        store.close()


def _data(options: argparse.Namespace) -> Path:
    data: Path = options.data.expanduser().resolve()
    return data


def _brief(session: Session) -> dict[str, object]:
    return {
        "id": session.id,
        "title": session.title,
        "state": session.state.value,
        "reason": session.reason,
        "cluster": session.cluster,
        "module": session.module,
        "run": session.run,
        "scenes": list(session.scenes),
        "created_at": session.created_at.isoformat(),
    }
