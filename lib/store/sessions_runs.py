"""Sessions and Runs: one transaction per change, life cycles never go backwards."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Engine, Table, bindparam, insert, select, true, update

from lib.errors import Conflict, NotFound
from lib.model import (
    ClusterId,
    EndReason,
    ModuleId,
    Reachability,
    Resources,
    Run,
    RunId,
    RunScene,
    RunState,
    SceneId,
    SceneState,
    Session,
    SessionId,
    SessionState,
    UserId,
)
from lib.store.database import transaction
from lib.store.tables import run_scenes, runs, sessions
from lib.store.times import maybe_datetime, to_datetime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Row

    from lib.model import Scene

_S = TypeVar("_S", SessionState, RunState, SceneState)

_SESSION_ORDER = tuple(SessionState)
_RUN_ORDER = (RunState.NEW, RunState.SUBMITTED, RunState.QUEUED, RunState.RUNNING)
_RUN_OVER = [s.value for s in RunState if s.over]
_SCENE_ORDER = (SceneState.WAITING, SceneState.RUNNING)
#: What may still change of a session that has ended.
_AFTER_THE_END = frozenset(("files_until", "continued_as"))
#: What every page asks for: made once, newest first.
_SESSIONS = select(sessions).order_by(sessions.c.created_at.desc())
_RUNS = select(runs).order_by(runs.c.created_at.desc())
_SCENES = (
    select(*(c for c in run_scenes.c if c.name != "item"))
    .where(run_scenes.c.run_id.in_(bindparam("run_ids", expanding=True)))
    .order_by(run_scenes.c.position)
)


class SessionsRuns:
    """Reads return whole objects; `reachability` is filled in by the portal."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- creating ---------------------------------------------------------

    def add_run(self, run: Run, scenes: Sequence[Scene]) -> None:
        with transaction(self._engine) as connection:
            _insert_run(connection, run, scenes)

    def add_session(self, session: Session, run: Run | None, scenes: Sequence[Scene]) -> None:
        """With its run, or, when it continues another one, without a new run.

        Raises:
            Conflict: the session to continue was continued already.
        """
        with transaction(self._engine) as connection:
            if run is not None:
                _insert_run(connection, run, scenes)
            connection.execute(
                insert(sessions).values(
                    id=session.id,
                    owner=session.owner,
                    title=session.title,
                    cluster=session.cluster,
                    module=session.module,
                    run_id=session.run,
                    preset=session.resources.preset,
                    walltime_s=session.resources.walltime_s,
                    state=session.state.value,
                    reason=session.reason,
                    continued_from=session.continued_from,
                    created_at=session.created_at.timestamp(),
                )
            )
            if session.continued_from is not None:
                _hand_over_files(connection, session.continued_from, session.id)

    # --- reading ----------------------------------------------------------

    def session(self, session_id: SessionId) -> Session:
        """Raises NotFound."""
        found = self._sessions(sessions.c.id == session_id)
        if not found:
            raise NotFound("There is no such notebook session.")
        return found[0]

    def sessions_of(self, owner: UserId) -> tuple[Session, ...]:
        """Newest first."""
        return self._sessions(sessions.c.owner == owner)

    def sessions_of_all(
        self, owners: frozenset[UserId] | None, *, ended: int
    ) -> tuple[Session, ...]:
        """All that live and the last `ended` others, of these owners or, with None, of all."""
        over = sessions.c.state == SessionState.ENDED.value
        return self._sessions(_recent(sessions, owners, over, ended))

    def runs_of_all(self, owners: frozenset[UserId] | None, *, ended: int) -> tuple[Run, ...]:
        """As `sessions_of_all`, of runs that are in no session."""
        over = runs.c.state.in_(_RUN_OVER)
        return self._runs(runs.c.session.is_(None) & _recent(runs, owners, over, ended))

    def live_sessions(self, cluster: ClusterId) -> tuple[Session, ...]:
        return self._sessions(
            (sessions.c.cluster == cluster) & (sessions.c.state != SessionState.ENDED.value)
        )

    def sessions_with_files(self, cluster: ClusterId) -> tuple[Session, ...]:
        """Ended, with files on the cluster that are still kept."""
        return self._sessions(
            (sessions.c.cluster == cluster)
            & (sessions.c.state == SessionState.ENDED.value)
            & (sessions.c.files_until > time.time())
        )

    def run(self, run_id: RunId) -> Run:
        """Raises NotFound."""
        found = self._runs(runs.c.id == run_id)
        if not found:
            raise NotFound("There is no such run.")
        return found[0]

    def runs_of(self, owner: UserId) -> tuple[Run, ...]:
        """Newest first."""
        return self._runs(runs.c.owner == owner)

    def live_runs(self, cluster: ClusterId) -> tuple[Run, ...]:
        return self._runs((runs.c.cluster == cluster) & runs.c.state.not_in(_RUN_OVER))

    def items(self, run_id: RunId) -> list[dict[str, Any]]:
        """The STAC items that the run was started with, in order."""
        query = (
            select(run_scenes.c.item)
            .where(run_scenes.c.run_id == run_id)
            .order_by(run_scenes.c.position)
        )
        with self._engine.connect() as connection:
            return [row.item for row in connection.execute(query)]

    def unfetched_scenes(self, run_id: RunId) -> tuple[SceneId, ...]:
        """Scenes that are done and whose result files are not here yet."""
        query = (
            select(run_scenes.c.scene_id)
            .where(
                run_scenes.c.run_id == run_id,
                run_scenes.c.state == SceneState.DONE.value,
                run_scenes.c.fetched.is_(False),
            )
            .order_by(run_scenes.c.position)
        )
        with self._engine.connect() as connection:
            return tuple(SceneId(row.scene_id) for row in connection.execute(query))

    def scene_times(self, run_id: RunId) -> dict[SceneId, datetime]:
        """When each scene of the run was taken."""
        query = select(run_scenes.c.scene_id, run_scenes.c.time).where(
            run_scenes.c.run_id == run_id
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query)
            return {SceneId(row.scene_id): to_datetime(row.time) for row in rows}

    def events_of_cluster(self, cluster: ClusterId) -> dict[str, tuple[int, bool]]:
        """(events here, nothing more is wanted) of every run that began, by its job's id."""
        query = select(runs.c.id, runs.c.session, runs.c.events_have, runs.c.state).where(
            runs.c.cluster == cluster, runs.c.state != RunState.NEW.value
        )
        with self._engine.connect() as connection:
            return {
                row.session or row.id: (row.events_have, row.state in _RUN_OVER)
                for row in connection.execute(query)
            }

    def events_have(self, run_id: RunId) -> int:
        with self._engine.connect() as connection:
            found = connection.execute(
                select(runs.c.events_have).where(runs.c.id == run_id)
            ).scalar()
        return int(found or 0)

    # --- changing ---------------------------------------------------------

    def update_session(self, session_id: SessionId, **values: Any) -> None:
        """Set columns.

        With a state that lies before the present one, neither it nor its reason is
        taken: the news is late. A session that has ended stays as it ended.
        """
        with transaction(self._engine) as connection:
            present = SessionState(_state(connection, sessions.c.state, sessions.c.id, session_id))
            if present is SessionState.ENDED:
                values = {k: v for k, v in values.items() if k in _AFTER_THE_END}
            elif "state" in values and _earlier(values["state"], present, _SESSION_ORDER):
                values = {k: v for k, v in values.items() if k not in ("state", "reason")}
            _set(connection, sessions, session_id, values)

    def update_run(self, run_id: RunId, **values: Any) -> None:
        """Set columns, by the rules of `update_session`."""
        with transaction(self._engine) as connection:
            present = RunState(_state(connection, runs.c.state, runs.c.id, run_id))
            if present.over:
                values = {k: v for k, v in values.items() if k == "events_have"}
            elif "state" in values and _earlier(values["state"], present, _RUN_ORDER):
                values = {k: v for k, v in values.items() if k not in ("state", "reason")}
            _set(connection, runs, run_id, values)

    def end_run(
        self,
        run_id: RunId,
        state: RunState,
        reason: str,
        unfinished: Mapping[SceneId, tuple[SceneState, str]],
    ) -> None:
        """A run's end: its state, and (state, message) of scenes that were not finished."""
        with transaction(self._engine) as connection:
            present = RunState(_state(connection, runs.c.state, runs.c.id, run_id))
            if present.over:
                return
            for scene, (scene_state, message) in unfinished.items():
                connection.execute(
                    update(run_scenes)
                    .where(run_scenes.c.run_id == run_id, run_scenes.c.scene_id == scene)
                    .values(state=scene_state.value, message=message)
                )
            _set(
                connection,
                runs,
                run_id,
                {"state": state, "reason": reason, "ended_at": time.time()},
            )

    def update_scene(self, run_id: RunId, scene: SceneId, **values: Any) -> None:
        """Set columns, unless they come with a state that lies before the present one.

        A scene that is done or failed keeps that state.
        """
        here = (run_scenes.c.run_id == run_id) & (run_scenes.c.scene_id == scene)
        with transaction(self._engine) as connection:
            state = values.get("state")
            if state is not None:
                now = connection.execute(select(run_scenes.c.state).where(here)).scalar_one()
                over = now not in _SCENE_ORDER and state != now
                if over or _earlier(state, SceneState(now), _SCENE_ORDER):
                    return
            connection.execute(update(run_scenes).where(here).values(_plain(values)))

    def release_files(self, session_id: SessionId) -> None:
        """What continued this session never began: it may be started again."""
        with transaction(self._engine) as connection:
            _set(connection, sessions, session_id, {"continued_as": None})

    # --- inside -----------------------------------------------------------

    def _sessions(self, condition: Any) -> tuple[Session, ...]:
        with self._engine.connect() as connection:
            rows = connection.execute(_SESSIONS.where(condition)).all()
            scenes = _scene_rows(connection, [r.run_id for r in rows])
        return tuple(_session(r, [s.scene_id for s in scenes.get(r.run_id, [])]) for r in rows)

    def _runs(self, condition: Any) -> tuple[Run, ...]:
        with self._engine.connect() as connection:
            rows = connection.execute(_RUNS.where(condition)).all()
            scenes = _scene_rows(connection, [r.id for r in rows])
        return tuple(_run(r, scenes.get(r.id, [])) for r in rows)


def _recent(table: Table, owners: frozenset[UserId] | None, over: Any, ended: int) -> Any:
    theirs = true() if owners is None else table.c.owner.in_(owners)
    last = select(table.c.id).where(theirs, over).order_by(table.c.created_at.desc()).limit(ended)
    return theirs & (~over | table.c.id.in_(last))


def _insert_run(connection: Any, run: Run, scenes: Sequence[Scene]) -> None:
    connection.execute(
        insert(runs).values(
            id=run.id,
            owner=run.owner,
            title=run.title,
            cluster=run.cluster,
            module=run.module,
            module_version=run.module_version,
            params=dict(run.params),
            preset=run.resources.preset,
            walltime_s=run.resources.walltime_s,
            session=run.session,
            state=run.state.value,
            reason=run.reason,
            created_at=run.created_at.timestamp(),
        )
    )
    connection.execute(
        insert(run_scenes),
        [
            {
                "run_id": run.id,
                "scene_id": scene.id,
                "position": position,
                "state": SceneState.WAITING.value,
                "objects": 0,
                "fraction": 0.0,
                "message": "",
                "searched": {},
                "fetched": False,
                "time": scene.time.timestamp(),
                "item": dict(scene.item),
            }
            for position, scene in enumerate(scenes)
        ],
    )


def _hand_over_files(connection: Any, old: SessionId, new: SessionId) -> None:
    found = connection.execute(
        update(sessions)
        .where(sessions.c.id == old, sessions.c.continued_as.is_(None))
        .values(continued_as=new)
    )
    if found.rowcount != 1:
        raise Conflict("This notebook was started again already.")


def _state(connection: Any, column: Any, key: Any, row_id: str) -> str:
    return str(connection.execute(select(column).where(key == row_id)).scalar_one())


def _earlier(state: _S, present: _S, order: Sequence[_S]) -> bool:
    """Whether `state` lies before `present`; what is not in `order` is an end."""
    last = len(order)
    places = {s: place for place, s in enumerate(order)}
    return places.get(state, last) < places.get(present, last)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: getattr(v, "value", v) for k, v in values.items()}


def _set(connection: Any, table: Table, row_id: str, values: Mapping[str, Any]) -> None:
    if values:
        connection.execute(update(table).where(table.c.id == row_id).values(_plain(values)))


def _scene_rows(connection: Any, run_ids: Sequence[str]) -> dict[str, list[Row[Any]]]:
    found: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(_SCENES, {"run_ids": run_ids}):
        found.setdefault(row.run_id, []).append(row)
    return found


def _session(row: Row[Any], scenes: Sequence[str]) -> Session:
    return Session(
        id=SessionId(row.id),
        owner=UserId(row.owner),
        title=row.title,
        cluster=ClusterId(row.cluster),
        module=ModuleId(row.module),
        run=RunId(row.run_id),
        scenes=tuple(SceneId(s) for s in scenes),
        resources=Resources(row.preset, row.walltime_s),
        state=SessionState(row.state),
        reachability=Reachability.REACHABLE,
        created_at=to_datetime(row.created_at),
        reason=row.reason,
        end_reason=EndReason(row.end_reason) if row.end_reason else None,
        job=row.job,
        submitted_at=maybe_datetime(row.submitted_at),
        started_at=maybe_datetime(row.started_at),
        endpoint_at=maybe_datetime(row.endpoint_at),
        ready_at=maybe_datetime(row.ready_at),
        ends_at=maybe_datetime(row.ends_at),
        ended_at=maybe_datetime(row.ended_at),
        files_until=maybe_datetime(row.files_until),
        starts_at=maybe_datetime(row.starts_at),
        continued_from=SessionId(row.continued_from) if row.continued_from else None,
        continued_as=SessionId(row.continued_as) if row.continued_as else None,
        stopping=row.stopping,
    )


def _run(row: Row[Any], scenes: Sequence[Row[Any]]) -> Run:
    return Run(
        id=RunId(row.id),
        owner=UserId(row.owner),
        title=row.title,
        cluster=ClusterId(row.cluster),
        module=ModuleId(row.module),
        module_version=row.module_version,
        params=row.params,
        resources=Resources(row.preset, row.walltime_s),
        scenes=tuple(
            RunScene(
                SceneId(s.scene_id),
                SceneState(s.state),
                s.objects,
                s.fraction,
                s.message,
                s.searched,
            )
            for s in scenes
        ),
        state=RunState(row.state),
        reachability=Reachability.REACHABLE,
        created_at=to_datetime(row.created_at),
        session=SessionId(row.session) if row.session else None,
        reason=row.reason,
        job=row.job,
        submitted_at=maybe_datetime(row.submitted_at),
        started_at=maybe_datetime(row.started_at),
        ended_at=maybe_datetime(row.ended_at),
        objects=row.objects,
        stopping=row.stopping,
    )
