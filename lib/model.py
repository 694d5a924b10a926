"""The words of SceneBridge as types. Standard library only, Python 3.10 or newer.

One word per idea (docs/architecture.md lists them). A Session is the user's
interactive notebook; a Job is the scheduler's view of it; a Run is one module
version with parameters over one or more scenes.

Conventions used everywhere:

* times are timezone-aware UTC `datetime`;
* `bounds_lonlat` and `bbox` are (west, south, east, north), degrees, EPSG:4326;
  west > east means the box crosses the antimeridian;
* cloud cover is a percentage, 0..100, or None where the catalogue does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, NewType

UserId = NewType("UserId", str)
SceneId = NewType("SceneId", str)
SessionId = NewType("SessionId", str)
RunId = NewType("RunId", str)
ClusterId = NewType("ClusterId", str)
ModuleId = NewType("ModuleId", str)

BBox = tuple[float, float, float, float]


class StrEnum(str, Enum):
    """`enum.StrEnum` for Python 3.10: members format as their values."""

    __str__ = str.__str__


# --- people -----------------------------------------------------------------


class Role(StrEnum):
    """What somebody is in the portal as a whole."""

    USER = "user"
    LEAD = "group lead"
    ADMINISTRATOR = "administrator"


class TokenScope(StrEnum):
    """What an access token may be used for; a browser's sign-in may do everything."""

    READ = "read"
    LAUNCH = "launch"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who is signed in, or in whose name a program acts.

    Args:
        groups: ids of the groups that they belong to; `leads` are among them.
        administrator: may administer the portal.
        scopes: what the access token allows; None for a sign-in.
        via: which sign-in ("login:ID") or token ("token:ID") speaks; empty for code of
            our own on the portal's computer. No secret.
        client: the network address that asks; empty where none does.
    """

    id: UserId
    name: str
    groups: frozenset[str] = frozenset()
    leads: frozenset[str] = frozenset()
    administrator: bool = False
    scopes: frozenset[TokenScope] | None = field(default=None, compare=False)
    via: str = field(default="", compare=False)
    client: str = field(default="", compare=False)

    @property
    def role(self) -> Role:
        """The highest that they have."""
        if self.administrator:
            return Role.ADMINISTRATOR
        return Role.LEAD if self.leads else Role.USER


# --- what can be picked -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scene:
    """One image of a catalogue.

    `bands` holds the `eo:common_name` of every band that can be read ("blue",
    "nir08", ...), so a module can be matched without opening a file. `item` is
    the STAC 1.1.0 item that a module receives; its asset `href`s are absolute
    local paths or https addresses.
    """

    id: SceneId
    collection: str
    platform: str
    time: datetime
    footprint: Mapping[str, Any]
    bbox: BBox
    cloud_cover: float | None
    level: str
    bands: frozenset[str]
    synthetic: bool
    title: str
    item: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SceneQuery:
    """A search over all catalogues. Empty fields do not restrict.

    Args:
        area: bounding box, or None for the whole world.
        polygon: GeoJSON Polygon (lon, lat); refines `area` where given.
        start, end: both inclusive.
        max_cloud: percent; scenes with unknown cloud cover are kept.
        platforms: e.g. ("landsat-8", "formosat-2").
        text: part of a scene id or title, case-insensitive.
        limit: newest first, at most this many.
        collections: only these; None means all. The portal sets it to what the user may see.
    """

    area: BBox | None = None
    polygon: Mapping[str, Any] | None = None
    start: datetime | None = None
    end: datetime | None = None
    max_cloud: float | None = None
    platforms: tuple[str, ...] = ()
    text: str = ""
    limit: int = 500
    collections: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class SensorNeed:
    """The bands that a module needs of one platform, by `eo:common_name`.

    `levels` are the processing levels it accepts ("L1TP", "L2SP", ...); empty
    means any.
    """

    platform: str
    bands: tuple[str, ...]
    levels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Module:
    """A versioned detector as its `module.toml` describes it.

    `params_schema` is a JSON Schema (draft 2020-12) of type object whose
    properties all have defaults. `score_meaning` says in one sentence what a
    detection's score is.
    """

    id: ModuleId
    version: str
    title: str
    summary: str
    image: str
    needs: tuple[SensorNeed, ...]
    params_schema: Mapping[str, Any] = field(repr=False)
    score_meaning: str = ""
    classes: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a module can work on some scenes, and if not, why (plain words)."""

    module: Module
    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True when nothing stands against it."""
        return not self.reasons


@dataclass(frozen=True, slots=True)
class Preset:
    """A named set of resources; the name travels, the site's flags stay there."""

    name: str
    title: str
    cores: int
    memory_mb: int
    gpus: int
    max_walltime_s: int
    default_walltime_s: int


class Isolation(StrEnum):
    """How far a job is kept from the account that runs it."""

    NONE = "none"
    CONTAINER = "container"


class Reachability(StrEnum):
    """Second axis of every Session and Run: can the cluster be asked?"""

    REACHABLE = "REACHABLE"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A place that runs jobs, with what its gate last said about itself."""

    id: ClusterId
    title: str
    institute: str
    reachability: Reachability
    unreachable_since: datetime | None = None
    unreachable_reason: str = ""
    scheduler: str = ""
    runtime: str = ""
    isolation: Isolation = Isolation.NONE
    gate_version: str = ""
    modules: tuple[tuple[str, str], ...] = ()
    presets: tuple[Preset, ...] = ()
    max_live: int = 0
    live: int = 0


# --- what users have --------------------------------------------------------


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
        return self in _RUN_OVER


_RUN_OVER = frozenset({RunState.DONE, RunState.PARTIAL, RunState.FAILED, RunState.CANCELLED})


class SceneState(StrEnum):
    """Where one scene of a Run is."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"


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
    params: Mapping[str, Any]
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
    searched: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """One module version with parameters over one or more scenes."""

    id: RunId
    owner: UserId
    title: str
    cluster: ClusterId
    module: ModuleId
    module_version: str
    params: Mapping[str, Any]
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


@dataclass(frozen=True, slots=True)
class Session:
    """An interactive notebook on a cluster.

    `reason` is the plain sentence to show beside the state: why it waits, what
    it is doing, or how it ended. `endpoint_at` is when the job reported its
    endpoint, `ready_at` when the forward was proved. `files_until` is when the
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
    continued_from: SessionId | None = None
    continued_as: SessionId | None = None
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class Detection:
    """One object found by a Run.

    Args:
        n: number within (run, scene), from 1; the module numbers best first.
        score: 0..1; the module's `score_meaning` says what it is.
        geometry: GeoJSON (lon, lat); a box until the scene is done, then the
            outline from `detections.geojson`.
        pixels: size in pixels of the scene's grid.
        has_chip: whether a thumbnail can be fetched.
        flags: what the scene's quality bands say there, e.g. ("cloud",).
    """

    run: RunId
    scene: SceneId
    n: int
    klass: str
    score: float
    lon: float
    lat: float
    geometry: Mapping[str, Any]
    pixels: int
    area_m2: float
    time: datetime
    has_chip: bool
    flags: tuple[str, ...] = ()
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to speak with a running notebook, once a forward leads to it.

    `name` is the symbolic host (`s-UUID`) that the gate resolves. Certificates
    and keys are PEM text, made by the gate for this one session; the notebook's
    relay accepts only `client_cert`, and `server_cert` is the only one to trust.
    """

    name: str
    token: str = field(repr=False)
    server_cert: str = field(repr=False)
    client_cert: str = field(repr=False)
    client_key: str = field(repr=False)
