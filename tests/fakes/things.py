"""Small complete things for the tests of the portal's core: people, scenes, work."""

from __future__ import annotations

import io
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from PIL import Image

from lib.auth import Membership
from lib.config.settings import Provider
from lib.model import (
    ClusterId,
    Detection,
    Module,
    ModuleId,
    Reachability,
    Resources,
    Run,
    RunId,
    RunScene,
    RunState,
    Scene,
    SceneId,
    SceneState,
    SensorNeed,
    Session,
    SessionId,
    SessionState,
    User,
    UserId,
)
from lib.store import Store

HERE = ClusterId("here")
#: People of one provider; `MEMBERSHIP` lets them in.
PROVIDER = Provider("test", "Test institute", "https://id.test.example", "portal")
ALICE = User(UserId("alice"), "Alice")
BOB = User(UserId("bob"), "Bob")
MEMBERSHIP = Membership([PROVIDER])
TIME = datetime(2019, 8, 25, 13, 44, 22, tzinfo=timezone.utc)

FIRE = Module(
    id=ModuleId("active-fire"),
    version="1.0.0",
    title="Active fire",
    summary="Finds burning pixels.",
    image="scenebridge/active-fire:1.0.0",
    needs=(SensorNeed("landsat-8", ("red", "swir22"), ("L1TP",)),),
    params_schema={
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "min_pixels": {
                "type": "integer",
                "title": "Smallest object",
                "minimum": 1,
                "maximum": 10_000,
                "default": 1,
            },
            "factor": {"type": "number", "default": 0.5},
        },
    },
    score_meaning="How many tests agree.",
    classes={"fire": "Active fire"},
)


def new_id() -> str:
    return str(uuid.uuid4())


def a_scene(
    name: str = "LC08_A",
    *,
    folder: str = "/data/scenes",
    bands: tuple[str, ...] = ("red", "swir22"),
    **fields: Any,
) -> Scene:
    """A scene whose item has one asset per band below `folder`."""
    item = {
        "type": "Feature",
        "id": name,
        "properties": {
            "datetime": "2019-08-25T13:44:22Z",
            "platform": "landsat-8",
            "scenebridge:synthetic": fields.get("synthetic", False),
        },
        "assets": {
            band: {
                "href": f"{folder}/{name}/{band}.tif",
                "bands": [{"name": band, "eo:common_name": band}],
            }
            for band in bands
        },
        "links": [{"rel": "self", "href": "https://example.org/item"}],
    }
    values: dict[str, Any] = {
        "id": SceneId(name),
        "collection": "landsat8",
        "platform": "landsat-8",
        "time": TIME,
        "footprint": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
        "bbox": (0.0, 0.0, 1.0, 1.0),
        "cloud_cover": 3.5,
        "level": "L1TP",
        "bands": frozenset(bands),
        "synthetic": False,
        "title": f"Scene {name}",
        "item": item,
    }
    return Scene(**{**values, **fields})


def a_run(
    *scenes: str,
    owner: User = ALICE,
    session: SessionId | None = None,
    **fields: Any,
) -> Run:
    values: dict[str, Any] = {
        "id": RunId(new_id()),
        "owner": owner.id,
        "title": "Fires",
        "cluster": HERE,
        "module": FIRE.id,
        "module_version": FIRE.version,
        "params": {"min_pixels": 1, "factor": 0.5},
        "resources": Resources("small", 3600),
        "scenes": tuple(RunScene(SceneId(s), SceneState.WAITING) for s in scenes or ("LC08_A",)),
        "state": RunState.NEW,
        "reachability": Reachability.REACHABLE,
        "created_at": datetime.now(timezone.utc),
        "session": session,
        "reason": "The job is being handed to the cluster.",
    }
    return Run(**{**values, **fields})


def a_session(run: Run, session_id: SessionId, **fields: Any) -> Session:
    """The session of `run`, which must name it."""
    values: dict[str, Any] = {
        "id": session_id,
        "owner": run.owner,
        "title": run.title,
        "cluster": run.cluster,
        "module": run.module,
        "run": run.id,
        "scenes": tuple(s.scene for s in run.scenes),
        "resources": run.resources,
        "state": SessionState.NEW,
        "reachability": Reachability.REACHABLE,
        "created_at": run.created_at,
        "reason": run.reason,
    }
    return Session(**{**values, **fields})


def add_session(store: Any, *scenes: str, owner: User = ALICE, **made: Any) -> Session:
    """Store a new session with its run; `made` goes to `a_scene`."""
    session_id = SessionId(new_id())
    run = a_run(*scenes, owner=owner, session=session_id)
    session = a_session(run, session_id)
    store.work.add_session(session, run, [a_scene(s.scene, **made) for s in run.scenes])
    return session


def add_run(store: Any, *scenes: str, owner: User = ALICE, **made: Any) -> Run:
    """Store a new run of its own; `made` goes to `a_scene`."""
    run = a_run(*scenes, owner=owner)
    store.work.add_run(run, [a_scene(s.scene, **made) for s in run.scenes])
    return run


def a_detection(run: RunId, n: int = 1, scene: str = "LC08_A", **fields: Any) -> Detection:
    values: dict[str, Any] = {
        "run": run,
        "scene": SceneId(scene),
        "n": n,
        "kind": "fire",
        "score": 1.0 / n,
        "lon": 0.5,
        "lat": 0.5,
        "geometry": {"type": "Point", "coordinates": [0.5, 0.5]},
        "pixels": 10,
        "area_m2": 9000.0,
        "time": TIME,
        "has_chip": False,
    }
    return Detection(**{**values, **fields})


def object_event(n: int = 1, scene: str = "LC08_A", **fields: Any) -> dict[str, Any]:
    """An `object` event as docs/architecture.md describes it."""
    return {
        "event": "object",
        "scene": scene,
        "n": n,
        "class": "fire",
        "score": 1.0 / n,
        "lon": 0.5,
        "lat": 0.5,
        "bbox": [0.4, 0.4, 0.6, 0.6],
        "pixels": 12,
        "area_m2": 10800.0,
        "chip": True,
        "flags": ["cloud"],
        "properties": {"peak": 0.4},
        "time": 1.0,
        **fields,
    }


def module_event(event: str, scene: str = "", **fields: Any) -> dict[str, Any]:
    """Another event as docs/architecture.md describes it."""
    told: dict[str, Any] = {"event": event, "time": 1.0}
    if scene:
        told["scene"] = scene
    if event == "run_started":
        told.update(format=1, module="active-fire", version="1.0.0", scenes=[])
    return {**told, **fields}


def outlines(*numbers: int, **properties: Any) -> dict[str, Any]:
    """A `detections.geojson` with these objects, each with a triangle as its outline."""
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[0.4, 0.4], [0.6, 0.4], [0.5, 0.6], [0.4, 0.4]]],
                },
                "properties": {
                    "n": n,
                    "class": "fire",
                    "score": 1.0 / n,
                    "pixels": 12,
                    "area_m2": 10800.0,
                    "flags": [],
                    "properties": {},
                    **properties,
                },
            }
            for n in numbers
        ],
    }


def a_picture(width: int = 16, height: int = 16) -> bytes:
    """A real WebP file."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 10)).save(file, "WEBP")
    return file.getvalue()


def introduce(store: Store, user: User, claims: Mapping[str, Any] | None = None) -> None:
    """Let the store know somebody of the test provider."""
    store.people.came(
        user.id, name=user.name, provider=PROVIDER.id, subject=user.id, claims=claims or {}
    )
