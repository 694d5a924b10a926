"""`announce add|list|end`: what everybody is told at the top of every page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.cli.output import Commands, Output, command, moment, table
from lib.cli.store_access import BY, store_of
from lib.model import AnnouncementKind
from lib.portal.admin import announce_as, end_announcement_as

if TYPE_CHECKING:
    import argparse


def add_to(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the group."""
    group = commands.add_parser("announce", help="what everybody is told on every page")
    part = group.add_subparsers(metavar="COMMAND", required=True)
    add = command(part, "add", _add, common, "Tell everybody something.")
    add.add_argument("text", metavar="TEXT")
    add.add_argument(
        "--kind",
        choices=[kind.value for kind in AnnouncementKind],
        default=AnnouncementKind.INFO.value,
    )
    add.add_argument("--hours", type=float, default=24.0, help="how long (default: 24)")
    command(part, "list", _list, common, "List what is shown now.")
    end = command(part, "end", _end, common, "Show it no more.")
    end.add_argument("number", metavar="NUMBER", type=int)


def _add(options: argparse.Namespace) -> Output:
    with store_of(options) as store:
        kind = AnnouncementKind(options.kind)
        number = announce_as(store, BY, options.text, kind, options.hours * 3600)
    return Output({"number": number}, f"Announcement {number} is shown from now on.")


def _list(options: argparse.Namespace) -> Output:
    with store_of(options) as store:
        shown = store.announcements.current()
    rows = [(a.id, a.kind.value, moment(a.until), a.text) for a in shown]
    value = [
        {"number": a.id, "kind": a.kind.value, "text": a.text, "until": a.until.isoformat()}
        for a in shown
    ]
    text = table(("NUMBER", "KIND", "UNTIL (UTC)", "TEXT"), rows)
    return Output(value, text if rows else "Nothing is announced.")


def _end(options: argparse.Namespace) -> Output:
    with store_of(options) as store:
        end_announcement_as(store, BY, options.number)
    return Output({"ended": options.number}, f"Announcement {options.number} has ended.")
