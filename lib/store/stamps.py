"""What tells that something stored has changed, without reading all of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sqlalchemy import (
    Column,
    ColumnElement,
    Engine,
    Executable,
    Integer,
    PoolProxiedConnection,
    Select,
    Table,
    bindparam,
    func,
    select,
    type_coerce,
)

from lib.model import ClusterId, RunState, SessionId, SessionState, UserId
from lib.store.tables import announcements, detections, run_scenes, runs, sessions

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from lib.model import RunId

_RUN_OVER = [s.value for s in RunState if s.over]
_READY = SessionState.READY.value


class Stamps:
    """Rows that differ where what they are of differs; they mean nothing else."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._watching: PoolProxiedConnection | None = None

    def version(self) -> int:
        """Another number after each change that anybody, of any process, has made.

        SQLite's `data_version` tells it of all connections but the one that asks, so one is kept
        that never writes.
        """
        with self._lock:
            if self._watching is None:
                self._watching = self._engine.raw_connection()
            cursor = self._watching.cursor()
            try:
                cursor.execute("PRAGMA data_version")
                (version,) = cursor.fetchone() or (0,)
                return int(version)
            finally:
                cursor.close()

    def close(self) -> None:
        with self._lock:
            if self._watching is not None:
                self._watching.close()
                self._watching = None

    def work(self) -> dict[str, list[Hashable]]:
        """Of each owner's sessions and runs: all of those that live, the sums of the others."""
        found: dict[str, list[Hashable]] = {}
        for query in _WORK:
            for owner, *row in self._rows(query):
                found.setdefault(str(owner), []).append(tuple(map(str, row)))
        return found

    def ready(self) -> tuple[tuple[UserId, ClusterId, SessionId], ...]:
        """(owner, cluster, session) of every notebook that is READY."""
        rows = self._rows(_READY_ONES)
        return tuple((UserId(str(o)), ClusterId(str(c)), SessionId(str(s))) for o, c, s in rows)

    def run(self, run: RunId) -> list[Hashable]:
        """Of one run, its scenes and what was found."""
        return [tuple(map(str, row)) for query in _RUN for row in self._rows(query, run=run)]

    def announcements(self) -> list[tuple[str, float]]:
        """(id, until) of each; `until` in Unix seconds."""
        query = select(announcements.c.id, announcements.c.until).order_by(announcements.c.id)
        return [(str(number), float(str(until))) for number, until in self._rows(query)]

    def _rows(self, query: Executable, **values: str) -> Sequence[tuple[object, ...]]:
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.execute(query, values)]


def _others(table: Table) -> list[Column[object]]:
    """All columns but the owner, and what is only kept for the books."""
    return [c for c in table.c if c.name not in ("owner", "events_have", "params")]


def _kept(table: Table) -> list[ColumnElement[int]]:
    """What its owner may change of what is over: a name, a note, and that it is there."""
    told = (func.sum(func.length(table.c[name])) for name in ("title", "note"))
    return [*told, func.count(table.c.deleted_at)]


def _how_many(flag: Column[bool]) -> ColumnElement[int]:
    return func.sum(type_coerce(flag, Integer))  # the sum of a Boolean would be one


def _scenes(query: Select[str] | Select[()], group: Column[str]) -> Executable:
    """Sums over the scenes of runs, by `group` and by their state."""
    of = run_scenes.c
    return (
        query.add_columns(
            of.run_id,
            of.state,
            func.count(),
            func.sum(of.fraction),
            func.sum(of.objects),
            func.sum(func.length(of.message)),
            _how_many(of.fetched),
        )
        .group_by(group, of.run_id, of.state)
        .order_by(of.run_id, of.state)
    )


_OVER = sessions.c.state == SessionState.ENDED.value
_ENDED = runs.c.state.in_(_RUN_OVER)
#: Made once: to make them takes longer than to ask them.
_WORK = (
    select(sessions.c.owner, *_others(sessions)).where(~_OVER).order_by(sessions.c.id),
    select(
        sessions.c.owner,
        func.count(),
        func.max(sessions.c.ended_at),
        func.sum(sessions.c.files_until),
        func.count(sessions.c.continued_as),
        *_kept(sessions),
    )
    .where(_OVER)
    .group_by(sessions.c.owner),
    select(runs.c.owner, *_others(runs)).where(~_ENDED).order_by(runs.c.id),
    _scenes(select(runs.c.owner).join(run_scenes).where(~_ENDED), runs.c.owner),
    select(
        runs.c.owner,
        func.count(),
        func.max(runs.c.ended_at),
        func.sum(runs.c.objects),
        *_kept(runs),
    )
    .where(_ENDED)
    .group_by(runs.c.owner),
)
_READY_ONES = (
    select(sessions.c.owner, sessions.c.cluster, sessions.c.id)
    .where(sessions.c.state == _READY)
    .order_by(sessions.c.id)
)
_RUN = (
    select(*_others(runs)).where(runs.c.id == bindparam("run")),
    _scenes(select().where(run_scenes.c.run_id == bindparam("run")), run_scenes.c.run_id),
    select(func.count(), _how_many(detections.c.has_chip)).where(
        detections.c.run_id == bindparam("run")
    ),
)
