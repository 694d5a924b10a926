"""The words of SceneBridge as types. Standard library only, Python 3.10 or newer.

One word per idea (docs/architecture.md lists them). A Session is the user's
interactive notebook; a Job is the scheduler's view of it; a Run is one module
version with parameters over one or more scenes.

Conventions used everywhere:

* times are timezone-aware UTC `datetime`;
* `bounds_lonlat` and `bbox` are (west, south, east, north), degrees, EPSG:4326;
  west > east means the box crosses the antimeridian;
* cloud cover is a percentage, 0..100, or None where the catalog does not know.
"""

from __future__ import annotations

from lib.model.choices import (
    Fit,
    Module,
    Scene,
    SceneQuery,
    SensorNeed,
)
from lib.model.clusters import (
    Cluster,
    Fault,
    Isolation,
    Preset,
    QueueLoad,
    Reachability,
    Seal,
    Tunnel,
    TunnelState,
)
from lib.model.ids import (
    BBox,
    ClusterId,
    ModuleId,
    RunId,
    SceneId,
    SessionId,
    StrEnum,
    UserId,
)
from lib.model.json_value import (
    JsonObject,
    JsonValue,
    json_list,
    json_number,
    json_object,
    json_text,
)
from lib.model.people import (
    AccessToken,
    Announcement,
    AnnouncementKind,
    Person,
    Role,
    SignIn,
    TokenScope,
    User,
)
from lib.model.work import (
    RUN_RETURNS,
    RUN_TRANSITIONS,
    SCENE_TRANSITIONS,
    SESSION_RETURNS,
    SESSION_TRANSITIONS,
    Detection,
    Endpoint,
    EndReason,
    JobState,
    LaunchRequest,
    Resources,
    Run,
    RunScene,
    RunState,
    SceneState,
    Session,
    SessionState,
)

__all__ = [
    "RUN_RETURNS",
    "RUN_TRANSITIONS",
    "SCENE_TRANSITIONS",
    "SESSION_RETURNS",
    "SESSION_TRANSITIONS",
    "AccessToken",
    "Announcement",
    "AnnouncementKind",
    "BBox",
    "Cluster",
    "ClusterId",
    "Detection",
    "EndReason",
    "Endpoint",
    "Fault",
    "Fit",
    "Isolation",
    "JobState",
    "JsonObject",
    "JsonValue",
    "LaunchRequest",
    "Module",
    "ModuleId",
    "Person",
    "Preset",
    "QueueLoad",
    "Reachability",
    "Resources",
    "Role",
    "Run",
    "RunId",
    "RunScene",
    "RunState",
    "Scene",
    "SceneId",
    "SceneQuery",
    "SceneState",
    "Seal",
    "SensorNeed",
    "Session",
    "SessionId",
    "SessionState",
    "SignIn",
    "StrEnum",
    "TokenScope",
    "Tunnel",
    "TunnelState",
    "User",
    "UserId",
    "json_list",
    "json_number",
    "json_object",
    "json_text",
]
