"""Everything the pages and the API may ask, and nothing about ssh.

Every method takes the `User` who asks, and asks `lib.auth.authorization` whether they may.
Methods are synchronous and quick, except where a docstring says that a cluster is asked. All
raise errors of `lib.errors`, whose messages are fit to be shown.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from lib import __version__
from lib.auth import CLIENT_HEADER
from lib.auth.authorization import Access, Act
from lib.config.offerings import PLATFORMS, complete_params, fit
from lib.errors import ClusterUnreachable, Conflict, InvalidInput, NotFound, SceneBridgeError
from lib.imagery.quicklook import Quicklook, quicklook
from lib.imagery.tiles import tile
from lib.model import (
    Cluster,
    Detection,
    JsonValue,
    Reachability,
    Run,
    RunId,
    SceneId,
    Session,
    SessionId,
    SessionState,
)
from lib.portal import audit_words
from lib.portal.admin import Administration
from lib.portal.asking import ask
from lib.portal.changes import Changes
from lib.portal.clusters import ClusterViews
from lib.portal.launch import Launcher
from lib.portal.logs import JobLogs, LogText
from lib.portal.my_account import MyAccount
from lib.portal.reads import Reads
from lib.portal.sample_scenes import SampleScenes
from lib.protocol.messages import ID_PATTERN, MAX_ITEMS, ArtifactKind
from lib.results.export import geojson
from lib.store.audit import AuditEntry, AuditQuery
from lib.store.changes import RunChange, SessionChange

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lib.auth import Auth
    from lib.auth.authorization import Ask
    from lib.config.offerings import Offerings
    from lib.model import (
        ClusterId,
        Fit,
        JsonObject,
        JsonValue,
        LaunchRequest,
        Module,
        ModuleId,
        Scene,
        SceneQuery,
        User,
    )
    from lib.reconciler.reconciler import Reconciler
    from lib.results.folder import ResultFolder
    from lib.scenes.local_catalog import Footprints, LocalCatalog, SceneHits
    from lib.store import Store

__all__ = ["AuditEntry", "AuditQuery", "LogText", "Portal", "current", "use"]

_MOST_KNOWN = 500
#: So much of what was read is kept: people's work, single runs, lists of detections.
_PEOPLE_READ, _RUNS_READ, _LISTS_READ = 200, 200, 50
#: Longer lists are read each time.
_LONGEST_READ = 1000
LONGEST_TITLE = 200
LONGEST_NOTE = 2000


class Portal:
    """One per process (`current`). Safe to call from any thread.

    `my_account` is what users see of themselves, `administration` what leads and
    administrators see, `changes` tells open pages when to look again.
    Besides what a method's docstring says, each raises `SignInEnded` where the user is no
    longer signed in, `NotFound` where they may not know of the thing, and `Refused` where
    they may know of it but not do this.
    """

    version = __version__

    def __init__(
        self,
        store: Store,
        auth: Auth,
        access: Access,
        offerings: Offerings,
        catalog: LocalCatalog,
        results: ResultFolder,
        reconciler: Reconciler,
    ) -> None:
        self._store = store
        self._auth = auth
        self._access = access
        self.my_account = MyAccount(auth, access)
        self.administration = Administration(store, auth, access)
        self._offerings = offerings
        self._catalog = catalog
        self._results = results
        self._reconciler = reconciler
        self._sample_scenes = SampleScenes()
        self._known: dict[RunId, Run] = {}
        version = store.stamps.version
        self._sessions_read = Reads[tuple[Session, ...]](version, _PEOPLE_READ)
        self._runs_read = Reads[tuple[Run, ...]](version, _PEOPLE_READ)
        self._run_read = Reads[Run](version, _RUNS_READ)
        self._counts_read = Reads[dict[tuple[SceneId, str], int]](version, _RUNS_READ)
        self._detections_read = Reads[tuple[Detection, ...]](version, _LISTS_READ)
        self._logs = JobLogs(reconciler)
        self._clusters = ClusterViews(offerings, reconciler, access)
        self._launcher = Launcher(store, offerings, catalog, self._clusters)
        self.changes = Changes(store, access, self._clusters, self._now_of, self.run)

    # --- who ----------------------------------------------------------------

    def user_of_browser(
        self, cookies: Mapping[str, str], headers: Mapping[str, str]
    ) -> User | None:
        """Who is signed in with these cookies, if anybody. It counts as an act of theirs."""
        login = self._auth.logins.of_cookies(cookies, headers.get(CLIENT_HEADER, ""))
        if login is None:
            return None
        self._auth.logins.touch(login.id)
        return dataclasses.replace(login.user, name=self._auth.name_of(login.user.id))

    def me(self, user: User) -> dict[str, JsonValue]:
        """Who asks, as a program may know it."""
        now = self._access.require(user, Act.SEARCH)
        return {
            "id": now.id,
            "name": now.name,
            "role": now.role,
            "groups": sorted(now.groups),
            "scopes": None if now.scopes is None else sorted(now.scopes),
        }

    def group_titles(self, user: User) -> tuple[str, ...]:
        """The titles of the user's groups."""
        now = self._access.require(user, Act.ACCOUNT)
        titles = self._auth.membership.groups
        return tuple(titles[group] for group in sorted(now.groups) if group in titles)

    # --- scenes ---------------------------------------------------------------

    def search(self, user: User, query: SceneQuery) -> SceneHits:
        """Scenes of all catalogues, newest first."""
        return self._catalog.search(self._seen_by(user, query))

    def scene(self, user: User, scene_id: SceneId) -> Scene:
        """Raises NotFound."""
        return self._scene(self._asking(user), scene_id)

    def footprints(self, user: User, query: SceneQuery) -> Footprints:
        """The outlines of a search's scenes as GeoJSON for the map."""
        return self._catalog.footprints(self._seen_by(user, query))

    def _seen_by(self, user: User, query: SceneQuery) -> SceneQuery:
        now = self._access.require(user, Act.SEARCH)
        return dataclasses.replace(query, collections=self._access.collections(now))

    def quicklook(
        self, user: User, scene_id: SceneId, max_size: int = 512, composite: str | None = None
    ) -> Quicklook:
        """A preview of a scene and where on the map it belongs.

        Raises:
            NotFound, SceneUnavailable, InvalidInput: see `lib.imagery.quicklook`.
        """
        return quicklook(self.scene(user, scene_id), max_size=max_size, composite=composite)

    def tile(self, user: User, scene_id: SceneId, z: int, x: int, y: int) -> bytes:
        """One map tile of a scene, 256 x 256 pixels, WebP. Errors as of `quicklook`."""
        return tile(self.scene(user, scene_id), z, x, y)

    def platforms(self, user: User) -> tuple[tuple[str, str], ...]:
        """(id, title) of every platform that a scene can be of."""
        self._access.require(user, Act.SEARCH)
        return tuple(PLATFORMS.items())

    def sample_scenes(self, user: User) -> SampleScenes:
        """How far the sample scenes are that a first start makes."""
        self._access.require(user, Act.SEARCH)
        return self._sample_scenes

    def report_sample_scenes(self, step: str, problem: str) -> None:
        """For whoever makes them: what is done now and what went wrong, "" for nothing."""
        self._sample_scenes = SampleScenes(step, problem)

    # --- modules and clusters -------------------------------------------------

    def modules(self, user: User) -> tuple[Module, ...]:
        """All modules that this portal offers."""
        self._access.require(user, Act.SEARCH)
        return tuple(self._offerings.modules.values())

    def fits(self, user: User, scene_ids: Sequence[SceneId]) -> tuple[Fit, ...]:
        """Every module, those that fit all these scenes first, the others with reasons."""
        self._access.require(user, Act.SEARCH)
        scenes = [self.scene(user, s) for s in scene_ids]
        fits = [fit(module, scenes) for module in self._offerings.modules.values()]
        return tuple(sorted(fits, key=lambda f: not f.ok))

    def clusters(self, user: User) -> tuple[Cluster, ...]:
        """The clusters on which the user may start work, with what their gates last said."""
        self._access.require(user, Act.SEARCH)
        return self._clusters.launchable(user)

    def all_clusters(self, user: User) -> tuple[Cluster, ...]:
        """All clusters, with why the user may not start work on some."""
        self._access.require(user, Act.SEARCH)
        return self._clusters.all(user)

    def withheld(self, user: User) -> str:
        """Why a cluster that people may miss is not offered; empty where none is."""
        self._access.require(user, Act.SEARCH)
        return self._offerings.withheld

    # --- launching ------------------------------------------------------------

    def check_launch(self, user: User, request: LaunchRequest) -> None:
        """Whether this could be started now.

        Raises:
            InvalidInput, NotFound, Refused: the sentence says what to change.
            ClusterUnreachable: the cluster has not been heard of yet.
        """
        self._may_launch(self._asking(user), request)
        self._launcher.check(request)

    def check_params(self, user: User, module_id: ModuleId, params: JsonObject) -> None:
        """Whether a module takes these parameters. Raises NotFound, InvalidInput."""
        self._access.require(user, Act.SEARCH)
        complete_params(self._offerings.module(module_id), params)

    def open_notebook(self, user: User, request: LaunchRequest) -> Session:
        """Begin a notebook session with its run; returns at once, the reconciler goes on.

        Raises what `check_launch` raises.
        """
        with self._access.audited(user, "open-notebook", request.cluster) as act:
            self._may_launch(act.require, request)
            session = self._launcher.open_notebook(user, request)
            act.object, act.detail = session.id, self._told(user, session)
        self._reconciler.wake(request.cluster)
        return session

    def start_run(self, user: User, request: LaunchRequest) -> Run:
        """Begin a run of its own; as `open_notebook`, and raises what it raises."""
        with self._access.audited(user, "start-run", request.cluster) as act:
            self._may_launch(act.require, request)
            run = self._launcher.start_run(user, request)
            act.object, act.detail = run.id, self._told(user, run)
        self._reconciler.wake(request.cluster)
        return run

    def start_again(self, user: User, session_id: SessionId) -> Session:
        """A new session that takes over the notebook and files of an ended one.

        Raises:
            Conflict: it still runs, was continued already, or its files are gone.
        """
        with self._access.audited(user, "start-again", session_id) as act:
            old = self._session(act.require, session_id)
            act.require(Act.OPEN, old)
            act.require(Act.LAUNCH, self._offerings.cluster(old.cluster))
            for scene in self._launcher.still_there(old.scenes):
                act.require(Act.READ_SCENE, scene)
            session = self._launcher.start_again(old)
            act.object, act.detail = session.id, self._told(user, session)
        self._reconciler.wake(session.cluster)
        return session

    def _may_launch(self, ask: Ask, request: LaunchRequest) -> None:
        ask(Act.LAUNCH, self._offerings.cluster(request.cluster))
        if len(request.scenes) <= MAX_ITEMS:  # else the launcher says that they are too many
            for scene_id in request.scenes:
                self._scene(ask, scene_id)

    # --- watching and stopping --------------------------------------------------

    def sessions(self, user: User) -> tuple[Session, ...]:
        """The user's notebook sessions, newest first."""
        self._access.require(user, Act.SEARCH)
        read = partial(self._store.work.sessions_of, user.id)
        return tuple(self._seen(s) for s in self._sessions_read.of(user.id, read))

    def session(self, user: User, session_id: SessionId) -> Session:
        """Raises NotFound, also where it is somebody else's."""
        return self._session(self._asking(user), session_id)

    def runs(self, user: User) -> tuple[Run, ...]:
        """The user's runs, newest first; those inside a session too."""
        self._access.require(user, Act.SEARCH)
        read = partial(self._store.work.runs_of, user.id)
        return tuple(self._seen_run(r) for r in self._runs_read.of(user.id, read))

    def run(self, user: User, run_id: RunId) -> Run:
        """Raises NotFound, also where it is somebody else's."""
        return self._run(self._asking(user), run_id)

    def stop(self, user: User, work_id: SessionId | RunId) -> None:
        """Stop or cancel a session or a run; what has ended stays as it is.

        Raises:
            Conflict: a run inside a session is stopped with its session.
        """
        with self._access.audited(user, "stop", work_id) as act:
            work = self._work(act.require, work_id)
            act.require(Act.STOP, work)
            act.detail = self._told(user, work)
            if isinstance(work, Session):
                if work.state is not SessionState.ENDED:
                    self._stop_session(work)
            elif work.session is not None:
                raise Conflict("This run belongs to a notebook: stop the notebook.")
            else:
                self._store.work.update_run(work.id, RunChange(stopping=True))
        self._reconciler.wake(work.cluster)

    def keep(self, user: User, session_id: SessionId) -> None:
        """Somebody still works in this notebook: its idle time starts again. May take seconds.

        Raises:
            Conflict: it is not ready.
            ClusterUnreachable: it cannot be asked now.
        """
        with self._access.audited(user, "keep", session_id) as act:
            session = self._session(act.require, session_id)
            act.require(Act.STOP, session)
            act.detail = self._told(user, session)
            if session.state is not SessionState.READY:
                raise Conflict("This notebook is not ready, so that nothing can keep it running.")
            ask(self._reconciler, lambda: self._reconciler.keep(session.cluster, session.id))

    def describe(self, user: User, work_id: SessionId | RunId, title: str, note: str) -> None:
        """Give a notebook or run a name and a note. A notebook's run is called as it is.

        Raises:
            InvalidInput: no name, or one of the two is too long.
            Conflict: a run inside a session is named with its session.
        """
        title, note = title.strip(), note.strip()
        if not 0 < len(title) <= LONGEST_TITLE or not title.isprintable():
            raise InvalidInput(f"Give a name of 1 to {LONGEST_TITLE} characters, on one line.")
        if len(note) > LONGEST_NOTE:
            raise InvalidInput(f"A note may have {LONGEST_NOTE} characters; this has {len(note)}.")
        with self._access.audited(user, "describe", work_id) as act:
            work = self._own_work(act.require, work_id)
            self._store.work.describe(work_id, title, note)
            act.detail = self._told(user, dataclasses.replace(work, title=title))

    def delete(self, user: User, work_id: SessionId | RunId) -> None:
        """Take away a notebook or run that is over, with its results. It cannot be undone.

        Raises:
            Conflict: it is not over, or a run belongs to a session.
        """
        with self._access.audited(user, "delete", work_id) as act:
            work = self._own_work(act.require, work_id)
            act.detail = self._told(user, work)
            run = self._store.work.delete(work_id)
            if run is not None:
                self._known.pop(run, None)
                self._results.remove(run)

    def log(self, user: User, work_id: SessionId | RunId, kind: str = "job") -> LogText:
        """The end of a log. Asks the cluster: may take seconds.

        Args:
            kind: "job", "module" or "notebook".
        Raises:
            InvalidInput: there is no such kind.
            ClusterUnreachable: the cluster cannot be asked now.
        """
        work = self._work(self._asking(user), work_id)
        self._access.require(user, Act.READ, work)
        job = work.session if isinstance(work, Run) and work.session else work.id
        return self._logs.read(work.cluster, job, kind)

    def notebook(self, user: User, session_id: SessionId) -> Session:
        """A session whose notebook this user may open now. The opening is logged.

        Raises:
            NotFound, Refused: they may not.
        """
        if not ID_PATTERN.fullmatch(session_id):
            raise NotFound("There is no such notebook session.")
        with self._access.audited(user, "open", session_id) as act:
            session = self._session(act.require, session_id)
            act.require(Act.OPEN, session)
            act.detail = self._told(user, session)
        return session

    def notebook_path(self, session: Session) -> str:
        """The portal's own path that leads to the notebook."""
        return f"/open/{session.id}"

    # --- results ----------------------------------------------------------------

    def detections(
        self,
        user: User,
        run_id: RunId,
        *,
        scene: SceneId | None = None,
        kind: str | None = None,
        min_score: float = 0.0,
        limit: int | None = 200,
        offset: int = 0,
    ) -> tuple[Detection, ...]:
        """What a run has found so far, best first."""
        self._may_read(user, run_id)
        read = partial(
            self._store.detections.of_run,
            run_id,
            scene=scene,
            kind=kind,
            min_score=min_score,
            limit=limit,
            offset=offset,
        )
        if limit is None or limit > _LONGEST_READ:
            return read()
        return self._detections_read.of((run_id, scene, kind, min_score, limit, offset), read)

    def detection_counts(
        self, user: User, run_id: RunId, *, min_score: float = 0.0
    ) -> dict[tuple[SceneId, str], int]:
        """How many objects of which kind in which scene have at least that score."""
        self._may_read(user, run_id)
        read = partial(self._store.detections.counts, run_id, min_score=min_score)
        return dict(self._counts_read.of((run_id, min_score), read))

    def export_geojson(self, user: User, run_id: RunId) -> bytes:
        """All detections of a run as GeoJSON, UTF-8."""
        self._may_read(user, run_id)
        run = self.run(user, run_id)
        items = self._store.work.items(run_id)
        synthetic = frozenset(str(item["id"]) for item in items if _is_synthetic(item))
        found = self._store.detections.of_run(run_id, limit=None)
        return geojson(run, found, synthetic=synthetic)

    def picture(
        self, user: User, run_id: RunId, scene: SceneId, kind: ArtifactKind, n: int = 0
    ) -> bytes:
        """A chip or an overview, WebP. Raises NotFound while it is not here."""
        self._may_read(user, run_id)
        return self._results.image(run_id, scene, kind, n)

    # --- inside -------------------------------------------------------------------

    def _asking(self, user: User) -> Ask:
        """For what is asked as part of no act that has a name of its own."""
        return partial(self._access.require, user)

    def _scene(self, ask: Ask, scene_id: SceneId) -> Scene:
        scene = self._catalog.get(scene_id)
        ask(Act.READ_SCENE, scene)
        return scene

    def _session(self, ask: Ask, session_id: SessionId) -> Session:
        session = self._store.work.session(session_id)
        ask(Act.SEE, session)
        return self._seen(session)

    def _run(self, ask: Ask, run_id: RunId) -> Run:
        run = self._run_read.of(run_id, partial(self._store.work.run, run_id))
        ask(Act.SEE, run)
        return self._seen_run(run)

    def _work(self, ask: Ask, work_id: str) -> Session | Run:
        try:
            return self._session(ask, SessionId(work_id))
        except NotFound:
            return self._run(ask, RunId(work_id))

    def _own_work(self, ask: Ask, work_id: SessionId | RunId) -> Session | Run:
        work = self._work(ask, work_id)
        ask(Act.EDIT, work)
        if isinstance(work, Run) and work.session is not None:
            raise Conflict("This run belongs to a notebook: choose the notebook.")
        return work

    def _told(self, user: User, work: Session | Run) -> str:
        """What stands in the audit log of it; whose it is, where it is somebody else's."""
        try:
            run = work if isinstance(work, Run) else self._store.work.run(work.run, deleted=True)
        except SceneBridgeError:  # a row that cannot be read keeps nobody from ending its work
            return ""
        said = audit_words.told(work, run)
        if work.owner == user.id:
            return said
        return f"{said}, of {self._auth.name_of(work.owner)}"

    def _may_read(self, user: User, run_id: RunId) -> None:
        if len(self._known) > _MOST_KNOWN:  # for its owner, who never changes
            self._known.clear()
        run = self._known.get(run_id) or self._store.work.run(run_id)
        self._known[run_id] = run
        self._access.require(user, Act.READ, run)

    def _stop_session(self, session: Session) -> None:
        self._store.work.update_session(session.id, SessionChange(stopping=True))
        run = self._store.work.run(session.run)
        if run.session == session.id:
            self._store.work.update_run(run.id, RunChange(stopping=True))

    def _seen(self, session: Session) -> Session:
        if session.state is SessionState.ENDED:
            return session
        seen = self._clusters.reachability(session.cluster)
        if session.state is SessionState.READY and not self._reconciler.connected(
            session.cluster, session.id
        ):
            seen = Reachability.UNKNOWN
        idle = self._reconciler.idle_at(session.cluster, session.id)
        idle_at = None if idle is None else datetime.fromtimestamp(idle, UTC)
        return dataclasses.replace(session, reachability=seen, idle_at=idle_at)

    def _now_of(self, cluster: ClusterId, session: SessionId) -> object:
        asked = self._reconciler
        return asked.connected(cluster, session), asked.idle_at(cluster, session)

    def _seen_run(self, run: Run) -> Run:
        if run.state.over:
            return run
        return dataclasses.replace(run, reachability=self._clusters.reachability(run.cluster))


_current: Portal | None = None


def use(portal: Portal | None) -> None:
    """Make this the Portal of the process."""
    global _current
    _current = portal


def current() -> Portal:
    """The Portal of this process.

    Raises:
        Unavailable: the portal is still starting.
    """
    if _current is None:
        raise ClusterUnreachable("The portal is starting. Try again in a moment.")
    return _current


def _is_synthetic(item: Mapping[str, JsonValue]) -> bool:
    properties = item["properties"]
    return isinstance(properties, dict) and properties.get("scenebridge:synthetic") is True
