"""The portal's append-only audit log: who did what to what, from where, with which result.

The database itself refuses to change or delete a line (migration 0002), so a flood is counted
(`lib.files.repeated_lines`) instead of written.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Engine, RowMapping, and_, insert, or_, select, true

from lib.files.repeated_lines import LogLine, RepeatedLines
from lib.store import rows
from lib.store.database import transaction
from lib.store.tables import audit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lib.model import UserId

_PAGE = 1000
_DONE = "ok"
_MOST_DETAIL = 1000


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line. `result` is "ok" or an error's code; `via` says which sign-in or token
    spoke, `client` from which network address."""

    id: int
    time: datetime
    user: str
    action: str
    object: str
    result: str
    detail: str
    client: str
    via: str


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """What to look for; empty fields do not restrict.

    Args:
        text: part of any column, case-insensitive.
        named: ids of people who are called so; their lines match `text` too.
        since, until: Unix seconds, `until` exclusive.
        before: only lines older than the one with this id, for paging.
    """

    text: str = ""
    user: str = ""
    action: str = ""
    refused: bool = False
    since: float | None = None
    until: float | None = None
    before: int | None = None
    named: tuple[str, ...] = ()


class Audit:
    """
    Args:
        clock: by which what was written last is forgotten, seconds.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._repeated = RepeatedLines(self._insert, clock)

    def write(
        self,
        user: UserId | str,
        action: str,
        object_id: str,
        *,
        result: str = _DONE,
        detail: str = "",
        client: str = "",
        via: str = "",
    ) -> None:
        """Append one line, or count it beside those that it repeats. `detail` must hold no secret.

        A line about how many there were ends with "and N more like it"; where they were about
        several things, it names none.
        """
        failure = "" if result == _DONE else result
        rest = (("detail", detail), ("client", client), ("via", via))
        self._repeated.add(LogLine(str(user), action, failure, object_id, rest))

    def tell_repeated(self) -> None:
        """Write down what was only counted so far. By itself this is done every ten minutes."""
        self._repeated.tell()

    def _insert(self, line: LogLine, more: int) -> None:
        told = {name: str(value) for name, value in line.rest}
        detail = told.get("detail", "")[:_MOST_DETAIL]
        if more:
            detail = f"{detail} (and {more:,} more like it)".lstrip()
        with transaction(self._engine) as connection:
            connection.execute(
                insert(audit).values(
                    time=time.time(),
                    user_id=line.who,
                    action=line.act,
                    object=line.about[:200],
                    result=line.result or _DONE,
                    detail=detail,
                    client=told.get("client", "")[:100],
                    via=told.get("via", "")[:100],
                )
            )

    def latest(self, limit: int = 100) -> tuple[AuditEntry, ...]:
        """Newest first."""
        return self.search(AuditQuery(), limit=limit)

    def search(self, query: AuditQuery, *, limit: int = 100) -> tuple[AuditEntry, ...]:
        """Lines that match, newest first."""
        statement = select(audit).where(_condition(query)).order_by(audit.c.id.desc()).limit(limit)
        with self._engine.connect() as connection:
            return tuple(rows.each(connection.execute(statement).mappings(), _entry))

    def actions(self) -> tuple[str, ...]:
        """Every action that stands in the log."""
        statement = select(audit.c.action).distinct().order_by(audit.c.action)
        with self._engine.connect() as connection:
            return tuple(connection.execute(statement).scalars())

    def export(self, query: AuditQuery) -> Iterator[AuditEntry]:
        """All lines that match, oldest first, read a page at a time."""
        matching = _condition(query)
        last = 0
        while True:
            ids = select(audit.c.id).where(matching, audit.c.id > last).order_by(audit.c.id)
            with self._engine.connect() as connection:
                of_page = connection.execute(ids.limit(_PAGE)).scalars().all()
                if not of_page:
                    return
                here = audit.c.id.between(of_page[0], of_page[-1])
                statement = select(audit).where(matching, here).order_by(audit.c.id)
                page = rows.each(connection.execute(statement).mappings(), _entry)
            yield from page
            last = of_page[-1]


def _condition(query: AuditQuery) -> ColumnElement[bool]:
    wanted: list[ColumnElement[bool]] = []
    if query.text:
        pattern = f"%{_plain(query.text)}%"
        columns = (
            audit.c.user_id, audit.c.action, audit.c.object, audit.c.result, audit.c.detail,
            audit.c.client, audit.c.via,
        )  # fmt: skip
        has = [column.ilike(pattern, escape="\\") for column in columns]
        wanted.append(or_(*has, audit.c.user_id.in_(query.named)))
    if query.user:
        wanted.append(audit.c.user_id == query.user)
    if query.action:
        wanted.append(audit.c.action == query.action)
    if query.refused:
        wanted.append(audit.c.result != "ok")
    if query.since is not None:
        wanted.append(audit.c.time >= query.since)
    if query.until is not None:
        wanted.append(audit.c.time < query.until)
    if query.before is not None:
        wanted.append(audit.c.id < query.before)
    return and_(true(), *wanted)


def _plain(text: str) -> str:
    """The text with LIKE's own signs taken literally."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _entry(row: RowMapping) -> AuditEntry:
    return AuditEntry(
        rows.whole(row, "id"),
        rows.moment(row, "time"),
        rows.text(row, "user_id"),
        rows.text(row, "action"),
        rows.text(row, "object"),
        rows.text(row, "result"),
        rows.text(row, "detail"),
        rows.text(row, "client"),
        rows.text(row, "via"),
    )
