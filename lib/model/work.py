"""Sessions, runs, jobs and detections: what users have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from lib.model.bounds import Key, Name
from lib.model.clusters import Reachability
from lib.model.ids import BBox, ClusterId, ModuleId, RunId, SceneId, SessionId, StrEnum, UserId
from lib.model.json_value import JsonObject
from lib.model.position import box_of

_S = TypeVar("_S")


class SessionState(StrEnum):
    NEW = "NEW"
    SUBMITTED = "SUBMITTED"
    QUEUED = "QUEUED"
    STARTING = "STARTING"
    READY = "READY"
    ENDED = "ENDED"


class RunState(StrEnum):
    NEW = "NEW"
    SUBMITTED = "SUBMITTED"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def over(self) -> bool:
        """True when nothing more will happen."""
        return not RUN_TRANSITIONS[self]


class SceneState(StrEnum):
    """Where one scene of a Run is."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"


def _forward(order: tuple[_S, ...], ends: tuple[_S, ...]) -> Mapping[_S, frozenset[_S]]:
    """From each state of `order` to every later one (news may be skipped) and to every end."""
    steps = {state: frozenset(order[n + 1 :] + ends) for n, state in enumerate(order)}
    return {**steps, **{end: frozenset[_S]() for end in ends}}


#: The life cycles: from each state to those that may follow it. `lib.store` enforces them and
#: docs/architecture.md draws them (`python -m tools.transitions`).
SESSION_TRANSITIONS: Mapping[SessionState, frozenset[SessionState]] = _forward(
    (
        SessionState.NEW,
        SessionState.SUBMITTED,
        SessionState.QUEUED,
        SessionState.STARTING,
        SessionState.READY,
    ),
    (SessionState.ENDED,),
)
RUN_TRANSITIONS: Mapping[RunState, frozenset[RunState]] = _forward(
    (RunState.NEW, RunState.SUBMITTED, RunState.QUEUED, RunState.RUNNING),
    (RunState.DONE, RunState.PARTIAL, RunState.FAILED, RunState.CANCELLED),
)
SCENE_TRANSITIONS: Mapping[SceneState, frozenset[SceneState]] = _forward(
    (SceneState.WAITING, SceneState.RUNNING), (SceneState.DONE, SceneState.FAILED)
)


#: Where a session goes back to, when the gate says that its job is begun anew (requeued), or that
#: one that was LOST is there after all: nothing else leads backwards, and out of no other end.
SESSION_RETURNS: Mapping[SessionState, frozenset[SessionState]] = {
    SessionState.STARTING: frozenset({SessionState.QUEUED}),
    SessionState.READY: frozenset({SessionState.QUEUED, SessionState.STARTING}),
    SessionState.ENDED: frozenset({SessionState.QUEUED, SessionState.STARTING}),
}
#: The same of a run; one that was lost is taken back as RUNNING (`SessionsRuns.take_run_back`).
RUN_RETURNS: Mapping[RunState, frozenset[RunState]] = {
    RunState.RUNNING: frozenset({RunState.QUEUED}),
}


class JobState(StrEnum):
    """The scheduler's view, in our words."""

    QUEUED = "queued"
    HELD = "held"
    RUNNING = "running"
    SUSPENDED = "suspended"
    ENDED = "ended"
    UNKNOWN = "unknown"


class EndReason(StrEnum):
    """Why a job is over."""

    FINISHED = "finished"
    STOPPED = "stopped"
    CANCELLED = "cancelled while queued"
    WALLTIME = "walltime"
    IDLE = "idle"
    OUT_OF_MEMORY = "out of memory"
    NODE_FAILURE = "node failure"
    PREEMPTED = "preempted"
    FAILED_TO_START = "failed to start"
    REFUSED = "refused"
    CRASHED = "crashed"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Resources:
    """What a user asks a cluster for."""

    preset: str
    walltime_s: int


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """One press of a button: these scenes, this module, that cluster."""

    scenes: tuple[SceneId, ...]
    module: ModuleId
    params: JsonObject
    cluster: ClusterId
    resources: Resources
    title: str = ""


@dataclass(frozen=True, slots=True)
class RunScene:
    """One scene of a Run. `searched` is what the module says it looked at."""

    scene: SceneId
    state: SceneState
    objects: int = 0
    fraction: float = 0.0
    message: str = ""
    searched: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """One module version with parameters over one or more scenes."""

    id: RunId
    owner: UserId
    title: str
    cluster: ClusterId
    module: ModuleId
    module_version: str
    params: JsonObject
    resources: Resources
    scenes: tuple[RunScene, ...]
    state: RunState
    reachability: Reachability
    created_at: datetime
    session: SessionId | None = None
    reason: str = ""
    job: str = ""
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    objects: int = 0
    stopping: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """An interactive notebook on a cluster.

    `reason` is the plain sentence to show beside the state: why it waits, what
    it is doing, or how it ended. `endpoint_at` is when the job reported its
    endpoint, `ready_at` when the forward was proved, `starts_at` when the scheduler
    expects to start it, while it waits. `idle_at` is when it is ended because nobody works in
    it, once that is near. `files_until` is when the
    files of an ended session are deleted; `continued_as` names the session that
    took them over.
    """

    id: SessionId
    owner: UserId
    title: str
    cluster: ClusterId
    module: ModuleId
    run: RunId
    scenes: tuple[SceneId, ...]
    resources: Resources
    state: SessionState
    reachability: Reachability
    created_at: datetime
    reason: str = ""
    end_reason: EndReason | None = None
    job: str = ""
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    endpoint_at: datetime | None = None
    ready_at: datetime | None = None
    ends_at: datetime | None = None
    ended_at: datetime | None = None
    files_until: datetime | None = None
    starts_at: datetime | None = None
    continued_from: SessionId | None = None
    continued_as: SessionId | None = None
    idle_at: datetime | None = None
    stopping: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Detection:
    """One object found by a Run.

    Its position, from the module to the export: `bbox` is the smallest box around its
    outline, (west, south, east, north) in degrees, EPSG:4326; `lon` and `lat` are that
    box's centre, to 7 decimals, -180 <= lon < 180. An object over the antimeridian has
    west > east, an outline cut at 180 degrees into a MultiPolygon (RFC 7946, 3.1.9),
    and its centre on the side where the middle of the box is. `lib.model.position`
    computes them.

    Args:
        n: number within (run, scene), from 1; the module numbers best first.
        kind: one of the module's classes. What is stored, sent or shown calls it "class":
            events, files, the database's column, exports, pages and their addresses.
        score: 0..1; the module's `score_meaning` says what it is.
        geometry: GeoJSON (lon, lat), a Point, Polygon or MultiPolygon; the bbox until
            the scene is done, then the outline from `detections.geojson`.
        pixels: size in pixels of the scene's grid.
        has_chip: whether a thumbnail can be fetched.
        flags: what the scene's quality bands say there, e.g. ("cloud",).
    """

    run: RunId
    scene: SceneId
    n: int
    kind: str
    score: float
    lon: float
    lat: float
    geometry: JsonObject
    pixels: int
    area_m2: float
    time: datetime
    has_chip: bool
    flags: tuple[str, ...] = ()
    properties: JsonObject = field(default_factory=dict)

    @property
    def bbox(self) -> BBox:
        return box_of(self.geometry)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to speak with a running notebook, once a forward leads to it.

    `name` is the symbolic host (`s-UUID`) that the gate resolves. Certificates
    and keys are PEM text, made by the gate for this one session; the notebook's
    relay accepts only `client_cert`, and `server_cert` is the only one to trust.
    """

    name: Name
    token: Key = field(repr=False)
    server_cert: Key = field(repr=False)
    client_cert: Key = field(repr=False)
    client_key: Key = field(repr=False)
