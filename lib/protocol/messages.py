"""Requests and replies between the portal and a gate. Shared by both, trusted by neither.

A verb is one SSH command through the inner connection: the command line is exactly
``scenebridge-1 VERB``; the request is one line of JSON on stdin, followed, for `put`,
by the file's bytes; the reply is one line of JSON on stdout, followed, for `get`, by
the file's bytes. `watch` answers with a line per message until either side closes.

A reply is ``{"ok": true, "result": {...}}`` or
``{"ok": false, "error": {"code": ..., "message": ...}}`` with a code of `lib.errors`.

Times on the wire are Unix seconds (UTC). The type of each field says its bounds
(`lib.model.bounds`); `lib.protocol.codec` enforces them on both sides.
Standard library only, Python 3.10 or newer.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

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
from lib.model.bounds import (
    Bytes,
    CheckedByReader,
    Count,
    ExitCode,
    Json,
    LeftOut,
    Moment,
    Name,
    RowByRow,
    Seconds,
    Sentence,
    UpTo,
    Within,
)
from lib.protocol.events import MAX_EVENTS

VERSION = 1
COMMAND = f"scenebridge-{VERSION}"

MAX_REQUEST_BYTES = 4 * 2**20
MAX_REPLY_BYTES = 16 * 2**20
MAX_PUT_BYTES = 8 * 2**30
MAX_GET_BYTES = 2 * 2**30
MAX_LOG_BYTES = 256 * 1024
MAX_ITEMS = 500
#: Longest WebSocket message to and from a notebook, for its server and for the proxy before it.
MAX_WEBSOCKET_BYTES = 200 * 2**20
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

MAX_JOBS = 50_000

EventCount = Annotated[int, Within(0, MAX_EVENTS)]
Event = Annotated[JsonValue, CheckedByReader("lib.protocol.events.parse")]
Table = Annotated[dict[str, JsonValue], Json()]
#: A whole STAC item; most of it may be its footprint.
ITEM_BOUNDS = Json(depth=16, values=200_000, text=50_000)
Item = Annotated[dict[str, JsonValue], ITEM_BOUNDS]


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

    id: Name
    version: Name


@dataclass(frozen=True, slots=True)
class GateInfo:
    """What a cluster really offers; the portal learns it from here only.

    `data_paths` are folders of the cluster that jobs may read: an asset below one
    of them need not be staged. `https_hosts` are hosts that jobs may read from.
    `account` and `node` say whose gate it is and where. `load` is how busy the queues
    were at `load_at` (empty where the scheduler does not tell). `troubles` are sentences
    about what is offered and cannot work now (an image that is missing). `left_out` says what this
    side could not take of the lists.
    """

    protocol: Count
    gate_version: Name
    cluster: Name
    scheduler: Name
    runtime: Name
    isolation: Isolation
    modules: Annotated[list[ModuleOffer], UpTo(1000), RowByRow()]
    presets: Annotated[list[Preset], UpTo(200), RowByRow()]
    data_paths: Annotated[list[Sentence], UpTo(1000)]
    https_hosts: Annotated[list[Name], UpTo(1000)]
    max_live: Count
    live: Count
    keep_s: Seconds
    time: Moment
    account: Name = ""
    node: Name = ""
    load: Annotated[list[QueueLoad], UpTo(1000), RowByRow()] = field(default_factory=list)
    load_at: Moment | None = None
    troubles: Annotated[list[Sentence], UpTo(100)] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


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

    id: Name
    kind: JobKind
    owner: Name
    module: Name
    module_version: Name
    params: Table
    items: Annotated[list[Item], UpTo(MAX_ITEMS)]
    preset: Name
    walltime_s: Seconds
    title: Sentence = ""
    continue_from: Name = ""
    portal_origin: Name = ""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job as the gate knows it.

    `reason` is a plain sentence for the user; `starts_at` is when the scheduler expects
    to start a waiting job, where it says so; `endpoint` is there from the moment the
    session script reported it until the job ends; `events` counts the module events
    the gate has validated so far; `keep_until` is when the files are deleted, known
    once the job has ended. `module_exit_code` is there from the moment the module has
    ended and all its events were taken (its notebook may go on); where it broke off,
    `module_message` says how, in a sentence with its last words. `idle_at` is when a notebook
    that nobody works in is ended, once that is near.
    """

    id: Name
    kind: JobKind
    job: Name
    state: JobState
    owner: Name = ""
    reason: Sentence = ""
    end_reason: EndReason | None = None
    exit_code: ExitCode | None = None
    submitted_at: Moment | None = None
    started_at: Moment | None = None
    endpoint_at: Moment | None = None
    ends_at: Moment | None = None
    ended_at: Moment | None = None
    keep_until: Moment | None = None
    events: EventCount = 0
    endpoint: Endpoint | None = None
    module_exit_code: ExitCode | None = None
    module_message: Sentence = ""
    starts_at: Moment | None = None
    idle_at: Moment | None = None


@dataclass(frozen=True, slots=True)
class SubmitReply:
    status: JobStatus
    #: False when the id was known already.
    created: bool


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """`have` maps a job's id to how many of its events the portal holds already."""

    have: Annotated[dict[str, EventCount], UpTo(4 * MAX_JOBS)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WatchMessage:
    """One line of the `watch` stream.

    kind "snapshot": `jobs` is everything this gate knows (live, or ended and kept);
    it comes first, once. "jobs": those that changed. "events": new module events of
    the job `id`, the first of them being number `first` (from 0). "ping": nothing
    new. `asked_ok` is false while the scheduler does not answer (`reason` says how).
    `left_out` are the jobs whose status this side could not take.
    """

    kind: Name
    time: Moment
    jobs: Annotated[list[JobStatus], UpTo(MAX_JOBS), RowByRow()] = field(default_factory=list)
    id: Name = ""
    first: EventCount = 0
    events: Annotated[list[Event], UpTo(10_000)] = field(default_factory=list)
    asked_ok: bool = True
    reason: Sentence = ""
    left_out: list[LeftOut] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Idempotent; a job that has ended stays as it ended."""

    id: Name


@dataclass(frozen=True, slots=True)
class CancelReply:
    status: JobStatus


@dataclass(frozen=True, slots=True)
class LogRequest:
    """The last `max_bytes` of one of a job's logs."""

    id: Name
    log: LogKind = LogKind.JOB
    max_bytes: Bytes = 64 * 1024


@dataclass(frozen=True, slots=True)
class LogReply:
    text: Annotated[str, UpTo(MAX_LOG_BYTES)]
    truncated: bool


@dataclass(frozen=True, slots=True)
class GetRequest:
    """One artifact of a job. `scene` is one of the submitted scenes; `n` a chip's number."""

    id: Name
    artifact: ArtifactKind
    scene: Name = ""
    n: Count = 0
    max_bytes: Bytes = MAX_GET_BYTES


@dataclass(frozen=True, slots=True)
class GetReply:
    """Followed by exactly `size` bytes."""

    size: Annotated[int, Within(0, MAX_GET_BYTES)]


@dataclass(frozen=True, slots=True)
class PutRequest:
    """Stage one asset for a job that is not submitted yet; `size` bytes follow.

    Idempotent; refused once the job is submitted. The gate checks `sha256` (hex).
    """

    id: Name
    scene: Name
    asset: Name
    size: Bytes
    sha256: Name


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
