"""Checking and writing down what a user wants started. The reconciler does the rest."""

from __future__ import annotations

import dataclasses
import uuid
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from lib.config.offerings import Offerings, complete_params, fit
from lib.errors import ClusterUnreachable, Conflict, InvalidInput, NotFound, Refused
from lib.model import (
    JsonValue,
    Run,
    RunId,
    RunScene,
    RunState,
    SceneState,
    Session,
    SessionId,
    SessionState,
)
from lib.protocol.messages import MAX_ITEMS
from lib.reconciler.states import HANDING_OVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lib.model import LaunchRequest, Module, Scene, SceneId, User
    from lib.portal.clusters import ClusterViews
    from lib.scenes.local_catalog import LocalCatalog
    from lib.store import Store

_SHORTEST_WALLTIME_S = 60


class Launcher:
    def __init__(
        self, store: Store, offerings: Offerings, catalog: LocalCatalog, clusters: ClusterViews
    ) -> None:
        self._work = store.work
        self._offerings = offerings
        self._catalog = catalog
        self._clusters = clusters

    def check(self, request: LaunchRequest) -> dict[str, JsonValue]:
        """The complete parameters of a request that may be started.

        Raises:
            InvalidInput, NotFound, Refused: the sentence says what to change.
            ClusterUnreachable: the cluster has not been heard of yet.
        """
        if not request.scenes:
            raise InvalidInput("Choose at least one scene.")
        if len(request.scenes) > MAX_ITEMS:
            raise InvalidInput(f"Choose at most {MAX_ITEMS} scenes at once.")
        if len(set(request.scenes)) != len(request.scenes):
            raise InvalidInput("A scene is chosen twice.")
        module = self._offerings.module(request.module)
        fitting = fit(module, [self._catalog.get(s) for s in request.scenes])
        if not fitting.ok:
            raise InvalidInput(f"{module.title} cannot work here: {' '.join(fitting.reasons[:3])}")
        params = complete_params(module, request.params)
        self._check_resources(module, request)
        return params

    def _check_resources(self, module: Module, request: LaunchRequest) -> None:
        cluster = self._clusters.view(request.cluster)
        if not cluster.presets:
            raise ClusterUnreachable(
                f"{cluster.title} cannot be asked: {cluster.unreachable_reason} "
                "Try again in a moment."
            )
        if (module.id, module.version) not in cluster.modules:
            raise Refused(
                f"{cluster.title} does not offer {module.title} {module.version}. "
                "Choose another cluster, or ask its administrator."
            )
        wanted = request.resources
        preset = next((p for p in cluster.presets if p.name == wanted.preset), None)
        if preset is None:
            raise InvalidInput(
                f"{cluster.title} has no resources named {wanted.preset!r:.60}. "
                f"It has: {', '.join(p.name for p in cluster.presets)}."
            )
        if not _SHORTEST_WALLTIME_S <= wanted.walltime_s <= preset.max_walltime_s:
            raise InvalidInput(
                f"“{preset.title}” may run for 1 to {preset.max_walltime_s // 60} minutes."
            )

    def open_notebook(self, user: User, request: LaunchRequest) -> Session:
        """Write down a new session with its run. Raises what `check` raises."""
        params = self.check(request)
        session_id = SessionId(str(uuid.uuid4()))
        run = self._new_run(user, request, params, session=session_id)
        session = Session(
            id=session_id,
            owner=user.id,
            title=run.title,
            cluster=request.cluster,
            module=request.module,
            run=run.id,
            scenes=request.scenes,
            resources=request.resources,
            state=SessionState.NEW,
            reachability=run.reachability,
            created_at=run.created_at,
            reason=HANDING_OVER,
        )
        self._work.add_session(session, run, [self._catalog.get(s) for s in request.scenes])
        return session

    def start_run(self, user: User, request: LaunchRequest) -> Run:
        """Write down a new run of its own. Raises what `check` raises."""
        run = self._new_run(user, request, self.check(request), session=None)
        self._work.add_run(run, [self._catalog.get(s) for s in request.scenes])
        return run

    def still_there(self, scenes: Iterable[SceneId]) -> Iterator[Scene]:
        """Those of them that are still in the catalog."""
        for scene_id in scenes:
            with suppress(NotFound):
                yield self._catalog.get(scene_id)

    def start_again(self, old: Session) -> Session:
        """Write down a session that takes over the files of an ended one.

        Raises:
            Conflict: it still runs, its results are still arriving, it was continued
                already, or its files are gone.
        """
        now = datetime.now(timezone.utc)
        if old.state is not SessionState.ENDED:
            raise Conflict("This notebook still runs: open it.")
        if old.continued_as is not None:
            raise Conflict("This notebook was started again already.")
        if old.files_until is None or old.files_until <= now:
            raise Conflict("The files of this notebook are no longer kept.")
        if not self._work.run(old.run).state.over:
            raise Conflict("The results of this notebook still arrive. Try again in a moment.")
        session_id = SessionId(str(uuid.uuid4()))
        fresh = dataclasses.replace(
            old,
            id=session_id,
            state=SessionState.NEW,
            reachability=self._clusters.reachability(old.cluster),
            created_at=now,
            reason=HANDING_OVER,
            continued_from=old.id,
        )
        self._work.add_session(fresh, None, ())
        return self._work.session(session_id)

    def _new_run(
        self,
        user: User,
        request: LaunchRequest,
        params: dict[str, JsonValue],
        *,
        session: SessionId | None,
    ) -> Run:
        module = self._offerings.module(request.module)
        more = len(request.scenes) - 1
        title = f"{module.title} on {request.scenes[0]}" + (f" and {more} more" if more else "")
        return Run(
            id=RunId(str(uuid.uuid4())),
            owner=user.id,
            title=request.title.strip()[:200] or title,
            cluster=request.cluster,
            module=module.id,
            module_version=module.version,
            params=params,
            resources=request.resources,
            scenes=tuple(RunScene(s, SceneState.WAITING) for s in request.scenes),
            state=RunState.NEW,
            reachability=self._clusters.reachability(request.cluster),
            created_at=datetime.now(timezone.utc),
            session=session,
            reason=HANDING_OVER,
        )
