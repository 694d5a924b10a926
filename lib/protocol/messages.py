"""Requests and replies between the portal and a gate. Shared by both, trusted by neither.

A verb is one SSH command through the inner connection: the command line is exactly
``scenebridge-1 VERB``; the request is one line of JSON on stdin, followed, for `put`,
by the file's bytes; the reply is one line of JSON on stdout, followed, for `get`, by
the file's bytes. `watch` answers with a line per message until either side closes.

A reply is ``{"ok": true, "result": {...}}`` or
``{"ok": false, "error": {"code": ..., "message": ...}}`` with a code of `lib.errors`.

Times on the wire are Unix seconds (UTC). Standard library only, Python 3.10 or newer.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field

from lib.model import (
    Endpoint,
    EndReason,
    Isolation,
    JobState,
    JsonValue,
    Preset,
    QueueLoad,
    StrEnum,
)

VERSION = 1
COMMAND = f"scenebridge-{VERSION}"

MAX_REQUEST_BYTES = 4 * 2**20
MAX_REPLY_BYTES = 16 * 2**20
MAX_PUT_BYTES = 8 * 2**30
MAX_GET_BYTES = 2 * 2**30
MAX_LOG_BYTES = 256 * 1024
MAX_ITEMS = 500
WATCH_PING_S = 5.0

#: Session and run ids: a UUID in its canonical form.
ID_PATTERN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: Scene ids become folder names, so they are narrower than STAC allows.
SCENE_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,119}")
#: Asset keys of a scene.
ASSET_PATTERN = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")
#: Module ids, preset names.
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
#: In an item's asset, this instead of an address: the portal `put` it before.
STAGED_SCHEME = "staged:"


class Verb(StrEnum):
    INFO = "info"
    SUBMIT = "submit"
    WATCH = "watch"
    CANCEL = "cancel"
    LOG = "log"
    GET = "get"
    PUT = "put"


class JobKind(StrEnum):
    """A notebook (with the module running beside it), or the module alone."""

    SESSION = "session"
    RUN = "run"


class LogKind(StrEnum):
    JOB = "job"
    MODULE = "module"
    NOTEBOOK = "notebook"


class ArtifactKind(StrEnum):
    """Everything that can be fetched from a job. The gate alone turns it into a path."""

    CATALOG = "catalog"
    ITEM = "item"
    DETECTIONS = "detections"
    MASK = "mask"
    OVERVIEW = "overview"
    SCENE_LOG = "scene-log"
    CHIP = "chip"


@dataclass(frozen=True, slots=True)
class ModuleOffer:
    """A module that this gate is willing to run."""

    id: str
    version: str


@dataclass(frozen=True, slots=True)
class GateInfo:
    """What a cluster really offers; the portal learns it from here only.

    `data_paths` are folders of the cluster that jobs may read: an asset below one
    of them need not be staged. `https_hosts` are hosts that jobs may read from.
    `account` and `node` say whose gate it is and where. `load` is how busy the queues
    were at `load_at` (empty where the scheduler does not tell). `troubles` are sentences
    about what is offered and cannot work now (an image that is missing).
    """

    protocol: int
    gate_version: str
    cluster: str
    scheduler: str
    runtime: str
    isolation: Isolation
    modules: list[ModuleOffer]
    presets: list[Preset]
    data_paths: list[str]
    https_hosts: list[str]
    max_live: int
    live: int
    keep_s: int
    time: float
    account: str = ""
    node: str = ""
    load: list[QueueLoad] = field(default_factory=list)
    load_at: float | None = None
    troubles: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class InfoRequest:
    pass


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """Start a job. Idempotent: the same id again answers with the job it has.

    Args:
        id: chosen by the portal; a session's or a run's UUID.
        owner: who it is for, for attribution on the cluster (not an authorisation).
        items: STAC items; asset hrefs are absolute paths below `data_paths`, https
            addresses on `https_hosts`, or ``staged:``.
        continue_from: an ended session whose `work/` folder this one takes over.
        portal_origin: the origin that may frame the notebook.
    """

    id: str
    kind: JobKind
    owner: str
    module: str
    module_version: str
    params: dict[str, JsonValue]
    items: list[dict[str, JsonValue]]
    preset: str
    walltime_s: int
    title: str = ""
    continue_from: str = ""
    portal_origin: str = ""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job as the gate knows it.

    `reason` is a plain sentence for the user; `starts_at` is when the scheduler expects
    to start a waiting job, where it says so; `endpoint` is there from the moment the
    session script reported it until the job ends; `events` counts the module events
    the gate has validated so far; `keep_until` is when the files are deleted, known
    once the job has ended. `module_exit_code` is there from the moment the module has
    ended and all its events were taken (its notebook may go on); where it broke off,
    `module_message` says how, in a sentence with its last words.
    """

    id: str
    kind: JobKind
    job: str
    state: JobState
    owner: str = ""
    reason: str = ""
    end_reason: EndReason | None = None
    exit_code: int | None = None
    submitted_at: float | None = None
    started_at: float | None = None
    endpoint_at: float | None = None
    ends_at: float | None = None
    ended_at: float | None = None
    keep_until: float | None = None
    events: int = 0
    endpoint: Endpoint | None = None
    module_exit_code: int | None = None
    module_message: str = ""
    starts_at: float | None = None


@dataclass(frozen=True, slots=True)
class SubmitReply:
    status: JobStatus
    #: False when the id was known already.
    created: bool


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """`have` maps a job's id to how many of its events the portal holds already."""

    have: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WatchMessage:
    """One line of the `watch` stream.

    kind "snapshot": `jobs` is everything this gate knows (live, or ended and kept);
    it comes first, once. "jobs": those that changed. "events": new module events of
    the job `id`, the first of them being number `first` (from 0). "ping": nothing
    new. `asked_ok` is false while the scheduler does not answer (`reason` says how).
    """

    kind: str
    time: float
    jobs: list[JobStatus] = field(default_factory=list)
    id: str = ""
    first: int = 0
    events: list[dict[str, JsonValue]] = field(default_factory=list)
    asked_ok: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Idempotent; a job that has ended stays as it ended."""

    id: str


@dataclass(frozen=True, slots=True)
class CancelReply:
    status: JobStatus


@dataclass(frozen=True, slots=True)
class LogRequest:
    """The last `max_bytes` of one of a job's logs."""

    id: str
    log: LogKind = LogKind.JOB
    max_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True)
class LogReply:
    text: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class GetRequest:
    """One artifact of a job. `scene` is one of the submitted scenes; `n` a chip's number."""

    id: str
    artifact: ArtifactKind
    scene: str = ""
    n: int = 0
    max_bytes: int = MAX_GET_BYTES


@dataclass(frozen=True, slots=True)
class GetReply:
    """Followed by exactly `size` bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class PutRequest:
    """Stage one asset for a job that is not submitted yet; `size` bytes follow.

    Idempotent; refused once the job is submitted. The gate checks `sha256` (hex).
    """

    id: str
    scene: str
    asset: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PutReply:
    stored: bool


Request = (
    InfoRequest
    | SubmitRequest
    | WatchRequest
    | CancelRequest
    | LogRequest
    | GetRequest
    | PutRequest
)

REQUESTS: Mapping[Verb, type[Request]] = types.MappingProxyType(
    {
        Verb.INFO: InfoRequest,
        Verb.SUBMIT: SubmitRequest,
        Verb.WATCH: WatchRequest,
        Verb.CANCEL: CancelRequest,
        Verb.LOG: LogRequest,
        Verb.GET: GetRequest,
        Verb.PUT: PutRequest,
    }
)
