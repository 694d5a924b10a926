"""Detections of runs: arrive one by one as boxes, get their outlines when a scene is done."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from sqlalchemy import Engine, Executable, Integer, bindparam, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from lib.model import Detection, RunId, SceneId
from lib.store import rows as read
from lib.store.database import transaction
from lib.store.tables import detections, run_scenes, runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, RowMapping

_CHUNK = 500
#: The limit of SQLite that is none.
_ALL = -1
_REPLACED = ("kind", "score", "lon", "lat", "geometry", "pixels", "area_m2", "flags", "properties")


class Detections:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, found: Iterable[Detection], *, chips_offered: Iterable[int] = ()) -> None:
        """Insert or replace by (run, scene, n).

        Args:
            chips_offered: the numbers whose thumbnail the module has written. What is
                known to be offered or here already stays so.
        """
        offered = frozenset(chips_offered)
        rows = [{**_values(d), "chip_offered": d.n in offered} for d in found]
        with transaction(self._engine) as connection:
            _upsert(connection, rows)
            _recount(connection, {str(r["run_id"]) for r in rows})

    def replace(self, run: RunId, scene: SceneId, found: Sequence[Detection]) -> int:
        """All that the finished scene holds, instead of what was there; how many.

        What is known of thumbnails stays known.
        """
        kept = {d.n for d in found}
        here = (detections.c.run_id == run) & (detections.c.scene_id == scene)
        with transaction(self._engine) as connection:
            known = connection.execute(select(detections.c.n).where(here)).scalars().all()
            for n in set(known) - kept:
                connection.execute(delete(detections).where(here, detections.c.n == n))
            _upsert(connection, [_values(d) for d in found])
            _recount(connection, {run})
        return len(kept)

    def missing_chips(self, run: RunId, limit: int = 50) -> tuple[tuple[SceneId, int], ...]:
        """(scene, n) of thumbnails that are offered and not here yet, best first."""
        query = (
            select(detections.c.scene_id, detections.c.n)
            .where(
                detections.c.run_id == run,
                detections.c.chip_offered.is_(True),
                detections.c.has_chip.is_(False),
            )
            .order_by(detections.c.score.desc(), detections.c.n)
            .limit(limit)
        )
        with self._engine.connect() as connection:
            return tuple((SceneId(row.scene_id), row.n) for row in connection.execute(query))

    def set_chip(self, run: RunId, scene: SceneId, n: int, *, here: bool) -> None:
        """The thumbnail has arrived, or (`here` false) it will never come."""
        with transaction(self._engine) as connection:
            connection.execute(
                update(detections)
                .where(
                    detections.c.run_id == run,
                    detections.c.scene_id == scene,
                    detections.c.n == n,
                )
                .values(has_chip=here, chip_offered=here)
            )

    def of_run(
        self,
        run: RunId,
        *,
        scene: SceneId | None = None,
        kind: str | None = None,
        min_score: float = 0.0,
        limit: int | None = 200,
        offset: int = 0,
    ) -> tuple[Detection, ...]:
        """Best first."""
        values = {
            "run": run, "scene": scene, "kind": kind, "min_score": min_score,
            "limit": _ALL if limit is None else limit, "offset": offset,
        }  # fmt: skip
        query = _best(of_scene=scene is not None, of_kind=kind is not None)
        with self._engine.connect() as connection:
            return tuple(read.each(connection.execute(query, values).mappings(), _detection))

    def counts(self, run: RunId, *, min_score: float = 0.0) -> dict[tuple[SceneId, str], int]:
        values = {"run": run, "min_score": min_score}
        with self._engine.connect() as connection:
            return {(SceneId(s), k): n for s, k, n in connection.execute(_COUNTS, values)}


_OF_RUN = detections.c.run_id == bindparam("run")
_COUNTS = (
    select(detections.c.scene_id, detections.c.kind, func.count())
    .where(_OF_RUN, detections.c.score >= bindparam("min_score"))
    .group_by(detections.c.scene_id, detections.c.kind)
)


@functools.cache
def _best(*, of_scene: bool, of_kind: bool) -> Executable:
    """Those of a run, best first. Made once: to make it takes as long as to ask it."""
    query = (
        select(detections, run_scenes.c.time)
        .join(
            run_scenes,
            (run_scenes.c.run_id == detections.c.run_id)
            & (run_scenes.c.scene_id == detections.c.scene_id),
        )
        .where(_OF_RUN, detections.c.score >= bindparam("min_score"))
        .order_by(
            detections.c.score.desc(),
            detections.c.pixels.desc(),
            detections.c.scene_id,
            detections.c.n,
        )
        .limit(bindparam("limit", type_=Integer))
        .offset(bindparam("offset", type_=Integer))
    )
    if of_scene:
        query = query.where(detections.c.scene_id == bindparam("scene"))
    if of_kind:
        query = query.where(detections.c.kind == bindparam("kind"))
    return query


def _upsert(connection: Connection, rows: Sequence[dict[str, object]]) -> None:
    for start in range(0, len(rows), _CHUNK):
        statement = upsert(detections).values(rows[start : start + _CHUNK])
        new = statement.excluded
        changes: dict[str, object] = {name: new[name] for name in _REPLACED}
        changes["has_chip"] = detections.c.has_chip | new["has_chip"]
        changes["chip_offered"] = detections.c.chip_offered | new["chip_offered"]
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["run_id", "scene_id", "n"], set_=changes
            )
        )


def _recount(connection: Connection, run_ids: set[str]) -> None:
    for run in run_ids:
        total = select(func.count()).where(detections.c.run_id == run).scalar_subquery()
        connection.execute(update(runs).where(runs.c.id == run).values(objects=total))


def _values(d: Detection) -> dict[str, object]:
    return {
        "run_id": d.run,
        "scene_id": d.scene,
        "n": d.n,
        "kind": d.kind,
        "score": d.score,
        "lon": d.lon,
        "lat": d.lat,
        "geometry": dict(d.geometry),
        "pixels": d.pixels,
        "area_m2": d.area_m2,
        "has_chip": d.has_chip,
        "chip_offered": False,
        "flags": list(d.flags),
        "properties": dict(d.properties),
    }


def _detection(row: RowMapping) -> Detection:
    return Detection(
        run=RunId(read.text(row, "run_id")),
        scene=SceneId(read.text(row, "scene_id")),
        n=read.whole(row, "n"),
        kind=read.text(row, detections.c.kind),
        score=read.number(row, "score"),
        lon=read.number(row, "lon"),
        lat=read.number(row, "lat"),
        geometry=read.table(row, "geometry"),
        pixels=read.whole(row, "pixels"),
        area_m2=read.number(row, "area_m2"),
        time=read.moment(row, "time"),
        has_chip=read.flag(row, "has_chip"),
        flags=read.texts(row, "flags"),
        properties=read.table(row, "properties"),
    )
