"""Sessions and Runs: one transaction per change, life cycles never go backwards."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Engine, Table, bindparam, delete, insert, select, update

from lib.errors import Conflict, NotFound
from lib.model import (
    RUN_RETURNS,
    RUN_TRANSITIONS,
    SCENE_TRANSITIONS,
    SESSION_RETURNS,
    SESSION_TRANSITIONS,
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
from lib.store import rows as read
from lib.store.changes import UNSET, RunChange, SceneChange, SessionChange, Unset, columns
from lib.store.database import transaction
from lib.store.tables import detections, run_scenes, runs, sessions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Executable, RowMapping

    from lib.model import JsonValue, Scene

_S = TypeVar("_S", SessionState, RunState, SceneState)

_RUN_OVER = [s.value for s in RunState if s.over]
_LIVE_SESSIONS = (
    select(sessions.c.cluster).where(sessions.c.state != SessionState.ENDED.value).distinct()
)
_LIVE_RUNS = select(runs.c.cluster).where(runs.c.state.not_in(_RUN_OVER)).distinct()
#: What may still change of a session that has ended.
_AFTER_THE_END = frozenset(("files_until", "continued_as"))
#: What every page asks for: made once, newest first.
_SESSIONS = select(sessions).order_by(sessions.c.created_at.desc())
_RUNS = select(runs).order_by(runs.c.created_at.desc())
_SESSION = _SESSIONS.where(sessions.c.id == bindparam("id"), sessions.c.deleted_at.is_(None))
_SESSIONS_OF = _SESSIONS.where(
    sessions.c.owner == bindparam("owner"), sessions.c.deleted_at.is_(None)
)
_RUN_OR_ITS_MARK = _RUNS.where(runs.c.id == bindparam("id"))
_RUN = _RUN_OR_ITS_MARK.where(runs.c.deleted_at.is_(None))
_RUNS_OF = _RUNS.where(runs.c.owner == bindparam("owner"), runs.c.deleted_at.is_(None))
_SCENES = (
    select(*(c for c in run_scenes.c if c.name != "item"))
    .where(run_scenes.c.run_id.in_(bindparam("run_ids", expanding=True)))
    .order_by(run_scenes.c.position)
)


#: Of what was deleted a row without content stays so long: its cluster may still speak of it,
#: and what is not known there would be asked for from the beginning at each connection.
_MARK_STAYS_S = 100 * 86_400.0


class SessionsRuns:
    """Reads return whole objects; `reachability` is filled in by the portal.

    What was deleted is not found, but by those who ask for it as `deleted` too.
    """

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
        found = self._sessions(_SESSION, id=session_id)
        if not found:
            raise NotFound("There is no such notebook session.")
        return found[0]

    def sessions_of(self, owner: UserId) -> tuple[Session, ...]:
        """Newest first."""
        return self._sessions(_SESSIONS_OF, owner=owner)

    def sessions_of_all(
        self, owners: frozenset[UserId] | None, *, ended: int
    ) -> tuple[Session, ...]:
        """All that live and the last `ended` others, of these owners or, with None, of all."""
        over = sessions.c.state == SessionState.ENDED.value
        return self._sessions(_SESSIONS.where(_recent(sessions, owners, over, ended)))

    def runs_of_all(self, owners: frozenset[UserId] | None, *, ended: int) -> tuple[Run, ...]:
        """As `sessions_of_all`, of runs that are in no session."""
        over = runs.c.state.in_(_RUN_OVER)
        alone = runs.c.session.is_(None)
        return self._runs(_RUNS.where(alone, _recent(runs, owners, over, ended)))

    def live_sessions(self, cluster: ClusterId) -> tuple[Session, ...]:
        live = sessions.c.state != SessionState.ENDED.value
        return self._sessions(_SESSIONS.where(sessions.c.cluster == cluster, live))

    def live_clusters(self) -> frozenset[ClusterId]:
        """Where something lives."""
        with self._engine.connect() as connection:
            found = [*connection.execute(_LIVE_SESSIONS), *connection.execute(_LIVE_RUNS)]
        return frozenset(ClusterId(cluster) for (cluster,) in found)

    def sessions_with_files(self, cluster: ClusterId) -> tuple[Session, ...]:
        """Ended, with files on the cluster that are still kept."""
        return self._sessions(
            _SESSIONS.where(
                sessions.c.cluster == cluster,
                sessions.c.state == SessionState.ENDED.value,
                sessions.c.files_until > time.time(),
                sessions.c.deleted_at.is_(None),
            )
        )

    def run(self, run_id: RunId, *, deleted: bool = False) -> Run:
        """Raises NotFound."""
        found = self._runs(_RUN_OR_ITS_MARK if deleted else _RUN, id=run_id)
        if not found:
            raise NotFound("There is no such run.")
        return found[0]

    def runs_of(self, owner: UserId) -> tuple[Run, ...]:
        """Newest first."""
        return self._runs(_RUNS_OF, owner=owner)

    def live_runs(self, cluster: ClusterId) -> tuple[Run, ...]:
        return self._runs(_RUNS.where(runs.c.cluster == cluster, runs.c.state.not_in(_RUN_OVER)))

    def items(self, run_id: RunId) -> list[dict[str, JsonValue]]:
        """The STAC items that the run was started with, in order."""
        query = (
            select(run_scenes.c.item)
            .where(run_scenes.c.run_id == run_id)
            .order_by(run_scenes.c.position)
        )
        with self._engine.connect() as connection:
            return [read.table(row, "item") for row in connection.execute(query).mappings()]

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
            return tuple(SceneId(scene) for scene in connection.execute(query).scalars())

    def scene_times(self, run_id: RunId) -> dict[SceneId, datetime]:
        """When each scene of the run was taken."""
        query = select(run_scenes.c.scene_id, run_scenes.c.time).where(
            run_scenes.c.run_id == run_id
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query).mappings()
            times = read.each(
                rows, lambda row: (SceneId(read.text(row, "scene_id")), read.moment(row, "time"))
            )
        return dict(times)

    def events_of_cluster(self, cluster: ClusterId) -> dict[str, tuple[int, bool]]:
        """(events here, nothing more is wanted) of every run that began, by its job's id."""
        query = select(runs.c.id, runs.c.session, runs.c.events_have, runs.c.state).where(
            runs.c.cluster == cluster, runs.c.state != RunState.NEW.value
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query).mappings()
            return dict(read.each(rows, _events_of))

    def events_have(self, run_id: RunId) -> int:
        with self._engine.connect() as connection:
            found = connection.execute(
                select(runs.c.events_have).where(runs.c.id == run_id)
            ).scalar()
        return int(found or 0)

    # --- changing ---------------------------------------------------------

    def update_session(self, session_id: SessionId, change: SessionChange) -> None:
        """Set what the change sets.

        With a state that may not follow the present one (`SESSION_TRANSITIONS`), neither it
        nor its reason is taken: the news is late. A session that has ended stays as it ended.
        """
        values = columns(change)
        with transaction(self._engine) as connection:
            present = SessionState(_state(connection, sessions, session_id))
            if present is SessionState.ENDED:
                values = {k: v for k, v in values.items() if k in _AFTER_THE_END}
            elif not _may_follow(change.state, present, SESSION_TRANSITIONS):
                values = {k: v for k, v in values.items() if k not in ("state", "reason")}
            _set(connection, sessions, session_id, values)

    def send_session_back(
        self, session_id: SessionId, state: SessionState, reason: str = ""
    ) -> bool:
        """To a state before the present one (`SESSION_RETURNS`); says whether it went there.

        One that has ended goes only where it was lost and no other session has its files.
        """
        with transaction(self._engine) as connection:
            row = connection.execute(
                select(
                    sessions.c.state,
                    sessions.c.end_reason,
                    sessions.c.continued_as,
                    sessions.c.deleted_at,
                ).where(sessions.c.id == session_id)
            ).one()
            if row.deleted_at is not None:
                return False
            present = SessionState(row.state)
            lost = row.end_reason == EndReason.LOST.value and row.continued_as is None
            if state not in SESSION_RETURNS.get(present, frozenset()):
                return False
            if present is SessionState.ENDED and not lost:
                return False
            anew = {"end_reason": None, "ended_at": None, "files_until": None, "reason": reason}
            _set(connection, sessions, session_id, {"state": state.value, **anew})
        return True

    def send_run_back(self, run_id: RunId, state: RunState, reason: str = "") -> bool:
        """To a state before the present one (`RUN_RETURNS`); says whether it went there.

        Scenes that were being worked on wait again; what was found stays.
        """
        with transaction(self._engine) as connection:
            present = RunState(_state(connection, runs, run_id))
            if state not in RUN_RETURNS.get(present, frozenset()):
                return False
            anew = {"state": state.value, "reason": reason, "started_at": None}
            _set(connection, runs, run_id, anew)
            going = run_scenes.c.state == SceneState.RUNNING.value
            waits = {"state": SceneState.WAITING.value, "fraction": 0.0}
            connection.execute(
                update(run_scenes).where(run_scenes.c.run_id == run_id, going).values(waits)
            )
        return True

    def take_run_back(self, run_id: RunId, *, lost: str, unfinished: str, missing: str) -> bool:
        """A run that ended because its job was lost goes on; says whether this is one.

        Args:
            lost: stands in the reason of a run that ended so.
            unfinished: the message of each scene that was not finished then.
            missing: the message of each scene whose files were given up then.
        """
        with transaction(self._engine) as connection:
            row = connection.execute(
                select(runs.c.state, runs.c.reason).where(runs.c.id == run_id)
            ).one()
            if not RunState(row.state).over or lost not in row.reason:  # nor has a deleted one any
                return False
            again = {"state": RunState.RUNNING.value, "reason": "", "ended_at": None}
            _set(connection, runs, run_id, again)
            of_run = update(run_scenes).where(run_scenes.c.run_id == run_id)
            going = {"state": SceneState.RUNNING.value, "message": ""}
            connection.execute(of_run.where(run_scenes.c.message == unfinished).values(going))
            wanted = {"fetched": False, "message": ""}
            connection.execute(of_run.where(run_scenes.c.message == missing).values(wanted))
        return True

    def update_run(self, run_id: RunId, change: RunChange) -> None:
        """Set what the change sets, by the rules of `update_session` (`RUN_TRANSITIONS`)."""
        values = columns(change)
        with transaction(self._engine) as connection:
            present = RunState(_state(connection, runs, run_id))
            if present.over:
                values = {k: v for k, v in values.items() if k == "events_have"}
            elif not _may_follow(change.state, present, RUN_TRANSITIONS):
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
            present = RunState(_state(connection, runs, run_id))
            if not _may_follow(state, present, RUN_TRANSITIONS) or present.over:
                return
            for scene, (scene_state, message) in unfinished.items():
                _set_scene(
                    connection, run_id, scene, SceneChange(state=scene_state, message=message)
                )
            end = RunChange(state=state, reason=reason, ended_at=time.time())
            _set(connection, runs, run_id, columns(end))

    def update_scene(self, run_id: RunId, scene: SceneId, change: SceneChange) -> None:
        """Set what the change sets, unless its state may not follow the present one
        (`SCENE_TRANSITIONS`): then nothing of it is taken."""
        with transaction(self._engine) as connection:
            _set_scene(connection, run_id, scene, change)

    def describe(self, work_id: SessionId | RunId, title: str, note: str) -> None:
        """Give a session, with the run that it was started with, or a run of its own a name and
        a note."""
        said = {"title": title, "note": note}
        with transaction(self._engine) as connection:
            _set(connection, sessions, work_id, said)
            connection.execute(
                update(runs)
                .where((runs.c.id == work_id) | (runs.c.session == work_id))
                .values(said)
            )

    def delete(self, work_id: SessionId | RunId) -> RunId | None:
        """Take away what is known of a session, or a run of its own, but for a mark that it was.

        Returns:
            the run whose results nobody has any more; None while another session shows it.
        Raises:
            Conflict: it is not over.
        """
        now = time.time()
        nothing = {"title": "", "note": "", "reason": "", "deleted_at": now}
        with transaction(self._engine) as connection:
            session = connection.execute(
                select(sessions.c.run_id, sessions.c.state).where(sessions.c.id == work_id)
            ).one_or_none()
            run_id = RunId(session.run_id) if session is not None else RunId(work_id)
            run_over = RunState(_state(connection, runs, run_id)).over
            if not run_over or (session and session.state != SessionState.ENDED.value):
                raise Conflict("It is not over yet: stop it first, or wait for its results.")
            if session is not None:
                _set(connection, sessions, work_id, nothing)
            shown = select(sessions.c.id).where(
                sessions.c.run_id == run_id, sessions.c.deleted_at.is_(None)
            )
            if connection.execute(shown.limit(1)).first() is not None:
                return None
            _set(connection, runs, run_id, {**nothing, "params": {}, "objects": 0})
            for table in (detections, run_scenes):
                connection.execute(delete(table).where(table.c.run_id == run_id))
            _forget_marks(connection, now - _MARK_STAYS_S)
        return run_id

    def release_files(self, session_id: SessionId) -> None:
        """What continued this session never began: it may be started again."""
        with transaction(self._engine) as connection:
            _set(connection, sessions, session_id, {"continued_as": None})

    # --- inside -----------------------------------------------------------

    def _sessions(self, query: Executable, **values: str) -> tuple[Session, ...]:
        with self._engine.connect() as connection:
            rows = connection.execute(query, values).mappings()
            found = read.each(rows, lambda row: (read.text(row, "run_id"), _session(row)))
            scenes = _scenes(connection, [run for run, _ in found])
        return tuple(
            replace(session, scenes=tuple(scene.scene for scene in scenes.get(run, ())))
            for run, session in found
        )

    def _runs(self, query: Executable, **values: str) -> tuple[Run, ...]:
        with self._engine.connect() as connection:
            found = read.each(connection.execute(query, values).mappings(), _run)
            scenes = _scenes(connection, [run.id for run in found])
        return tuple(replace(run, scenes=tuple(scenes.get(run.id, ()))) for run in found)


def _recent(
    table: Table, owners: frozenset[UserId] | None, over: ColumnElement[bool], ended: int
) -> ColumnElement[bool]:
    theirs: ColumnElement[bool] = table.c.deleted_at.is_(None)
    if owners is not None:
        theirs &= table.c.owner.in_(owners)
    last = select(table.c.id).where(theirs, over).order_by(table.c.created_at.desc()).limit(ended)
    return theirs & (~over | table.c.id.in_(last))


def _insert_run(connection: Connection, run: Run, scenes: Sequence[Scene]) -> None:
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


def _forget_marks(connection: Connection, before: float) -> None:
    connection.execute(delete(sessions).where(sessions.c.deleted_at < before))
    used = select(sessions.c.run_id)
    connection.execute(delete(runs).where(runs.c.deleted_at < before, runs.c.id.not_in(used)))


def _hand_over_files(connection: Connection, old: SessionId, new: SessionId) -> None:
    found = connection.execute(
        update(sessions)
        .where(sessions.c.id == old, sessions.c.continued_as.is_(None))
        .values(continued_as=new)
    )
    if found.rowcount != 1:
        raise Conflict("This notebook was started again already.")


def _state(connection: Connection, table: Table, row_id: str) -> str:
    return str(connection.execute(select(table.c.state).where(table.c.id == row_id)).scalar_one())


def _may_follow(state: _S | Unset, present: _S, transitions: Mapping[_S, frozenset[_S]]) -> bool:
    return state is UNSET or state == present or state in transitions[present]


def _set(connection: Connection, table: Table, row_id: str, values: Mapping[str, object]) -> None:
    if values:
        connection.execute(update(table).where(table.c.id == row_id).values(values))


def _set_scene(connection: Connection, run_id: RunId, scene: SceneId, change: SceneChange) -> None:
    here = (run_scenes.c.run_id == run_id) & (run_scenes.c.scene_id == scene)
    values = columns(change)
    if not values:
        return
    if change.state is not UNSET:
        present = connection.execute(select(run_scenes.c.state).where(here)).scalar_one()
        if not _may_follow(change.state, SceneState(present), SCENE_TRANSITIONS):
            return
    connection.execute(update(run_scenes).where(here).values(values))


def _scenes(connection: Connection, run_ids: Sequence[str]) -> dict[str, list[RunScene]]:
    found: dict[str, list[RunScene]] = {}
    rows = connection.execute(_SCENES, {"run_ids": run_ids}).mappings()
    for run, scene in read.each(rows, lambda row: (read.text(row, "run_id"), _scene(row))):
        found.setdefault(run, []).append(scene)
    return found


def _scene(row: RowMapping) -> RunScene:
    return RunScene(
        SceneId(read.text(row, "scene_id")),
        SceneState(read.text(row, "state")),
        read.whole(row, "objects"),
        read.number(row, "fraction"),
        read.text(row, "message"),
        read.table(row, "searched"),
    )


def _events_of(row: RowMapping) -> tuple[str, tuple[int, bool]]:
    over = RunState(read.text(row, "state")).over
    job = read.maybe_text(row, "session") or read.text(row, "id")
    return job, (read.whole(row, "events_have"), over)


def _session(row: RowMapping) -> Session:
    """Without its scenes."""
    continued_from = read.maybe_text(row, "continued_from")
    continued_as = read.maybe_text(row, "continued_as")
    return Session(
        id=SessionId(read.text(row, "id")),
        owner=UserId(read.text(row, "owner")),
        title=read.text(row, "title"),
        cluster=ClusterId(read.text(row, "cluster")),
        module=ModuleId(read.text(row, "module")),
        run=RunId(read.text(row, "run_id")),
        scenes=(),
        resources=Resources(read.text(row, "preset"), read.whole(row, "walltime_s")),
        state=SessionState(read.text(row, "state")),
        reachability=Reachability.REACHABLE,
        created_at=read.moment(row, "created_at"),
        reason=read.text(row, "reason"),
        end_reason=read.maybe_word(row, "end_reason", EndReason),
        job=read.text(row, "job"),
        submitted_at=read.maybe_moment(row, "submitted_at"),
        started_at=read.maybe_moment(row, "started_at"),
        endpoint_at=read.maybe_moment(row, "endpoint_at"),
        ready_at=read.maybe_moment(row, "ready_at"),
        ends_at=read.maybe_moment(row, "ends_at"),
        ended_at=read.maybe_moment(row, "ended_at"),
        files_until=read.maybe_moment(row, "files_until"),
        starts_at=read.maybe_moment(row, "starts_at"),
        continued_from=SessionId(continued_from) if continued_from else None,
        continued_as=SessionId(continued_as) if continued_as else None,
        stopping=read.flag(row, "stopping"),
        note=read.text(row, "note"),
    )


def _run(row: RowMapping) -> Run:
    """Without its scenes."""
    session = read.maybe_text(row, "session")
    return Run(
        id=RunId(read.text(row, "id")),
        owner=UserId(read.text(row, "owner")),
        title=read.text(row, "title"),
        cluster=ClusterId(read.text(row, "cluster")),
        module=ModuleId(read.text(row, "module")),
        module_version=read.text(row, "module_version"),
        params=read.table(row, "params"),
        resources=Resources(read.text(row, "preset"), read.whole(row, "walltime_s")),
        scenes=(),
        state=RunState(read.text(row, "state")),
        reachability=Reachability.REACHABLE,
        created_at=read.moment(row, "created_at"),
        session=SessionId(session) if session else None,
        reason=read.text(row, "reason"),
        job=read.text(row, "job"),
        submitted_at=read.maybe_moment(row, "submitted_at"),
        started_at=read.maybe_moment(row, "started_at"),
        ended_at=read.maybe_moment(row, "ended_at"),
        objects=read.whole(row, "objects"),
        stopping=read.flag(row, "stopping"),
        note=read.text(row, "note"),
    )
