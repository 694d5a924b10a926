"""`audit`: search the append-only log, or write it out as JSON lines."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from lib.auth.names import names_of
from lib.cli.output import Commands, Output, command, plain_json, table
from lib.cli.store_access import BY, store_of
from lib.errors import Conflict, InvalidInput
from lib.model import UserId
from lib.portal.admin import by_names, json_line
from lib.store.audit import AuditQuery

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

_AGO = re.compile(r"(\d{1,5})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86400}
_TIME = "2026-05-31, 2026-05-31T08:00 (UTC), or 90m, 12h, 7d ago"


def add_to(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    about = "Search the audit log, newest first."
    audit = command(commands, "audit", _audit, common, about)
    audit.add_argument("text", nargs="?", default="", help="part of any column, or of a name")
    audit.add_argument("--user", default="", metavar="ID", help="what one person did")
    audit.add_argument("--action", default="", help="such as open-notebook, start-run, stop, block")
    audit.add_argument("--refused", action="store_true", help="what did not succeed")
    audit.add_argument("--since", default="", metavar="TIME", help=_TIME)
    audit.add_argument("--until", default="", metavar="TIME", help="before this time")
    audit.add_argument("--limit", type=int, metavar="N", help="at most so many (default: 100)")
    audit.add_argument(
        "--jsonl",
        metavar="FILE",
        help="write all that match as JSON lines, oldest first, into a new file; - prints them",
    )


def _audit(options: argparse.Namespace) -> Output:
    query = AuditQuery(
        text=options.text,
        user=options.user,
        action=options.action,
        refused=options.refused,
        since=_moment(options.since, "--since"),
        until=_moment(options.until, "--until"),
    )
    if options.limit is not None and options.limit < 1:
        raise InvalidInput("--limit must be at least 1.")
    if options.jsonl is not None:
        if options.limit is not None:
            raise InvalidInput("--jsonl writes all lines that match: leave --limit out.")
        return _export(options, query)
    with store_of(options) as store:
        names = names_of(store.people.accounts())
        entries = store.audit.search(by_names(query, names), limit=options.limit or 100)
    rows = [
        (f"{e.time:%Y-%m-%d %H:%M:%S}", e.user or "-", names.get(UserId(e.user), "-"), e.action,
         e.object or "-", e.result, e.client or "-", e.via or "-", e.detail)
        for e in entries
    ]  # fmt: skip
    head = ("TIME (UTC)", "USER", "NAME", "ACTION", "OBJECT", "RESULT", "CLIENT", "VIA", "DETAIL")
    value = [json.loads(json_line(entry, names)) for entry in entries]
    return Output(value, table(head, rows) if rows else "No line matches.")


def _export(options: argparse.Namespace, query: AuditQuery) -> Output:
    """The export is a line of the log too, as on the page for administrators."""
    with store_of(options) as store:
        names = names_of(store.people.accounts())
        query = by_names(query, names)
        if options.jsonl == "-":
            store.audit.write(BY.id, "audit-export", "", detail=query.text, via=BY.via)
            for entry in store.audit.export(query):
                sys.stdout.write(plain_json(json_line(entry, names).decode()))
            return Output(None, "")
        file = Path(options.jsonl).expanduser()
        descriptor = _new_file(file)
        store.audit.write(BY.id, "audit-export", "", detail=query.text, via=BY.via)
        count = _write(descriptor, (json_line(e, names) for e in store.audit.export(query)))
    return Output({"file": str(file), "lines": count}, f"{count} lines are in {file}.")


def _new_file(file: Path) -> int:
    try:
        return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as exc:
        raise Conflict(f"{file} is there already: choose another name.") from exc
    except OSError as exc:
        raise InvalidInput(f"{file} cannot be written: {exc.strerror}.") from exc


def _write(descriptor: int, lines: Iterable[bytes]) -> int:
    count = 0
    with os.fdopen(descriptor, "wb") as out:
        for line in lines:
            out.write(line)
            count += 1
    return count


def _moment(text: str, option: str) -> float | None:
    """Unix seconds; None for an empty text."""
    if not text:
        return None
    ago = _AGO.fullmatch(text)
    if ago:
        return time.time() - int(ago[1]) * _SECONDS[ago[2]]
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidInput(f"{option} must be a time such as {_TIME}.") from exc
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()
