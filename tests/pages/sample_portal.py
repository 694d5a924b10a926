"""A whole portal for page tests: real store, sign-in, catalog, Portal, API and pages.

Only the clusters are missing: a fake reconciler says what their gates would have said, and
tests write the states of sessions and runs into the store, as the reconciler does.

`serve_sample_portal.py` serves it.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import sys
import time
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.transform import Affine

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lib.auth import COOKIE, OWNER, Auth
from lib.auth.authorization import EVERYONE, Access
from lib.config.clusters import ClusterEntry
from lib.config.offerings import Offerings
from lib.model import (
    ClusterId,
    Detection,
    Isolation,
    Module,
    ModuleId,
    Preset,
    QueueLoad,
    Reachability,
    Resources,
    Run,
    RunId,
    RunScene,
    RunState,
    SceneId,
    SceneState,
    SensorNeed,
    Session,
    SessionId,
    SessionState,
    User,
)
from lib.model.position import box_geometry
from lib.portal import facade
from lib.portal.tunnels import OuterTunnels
from lib.protocol.messages import ArtifactKind, GateInfo, LogReply, ModuleOffer
from lib.reconciler.cluster import ClusterHealth
from lib.results.folder import ResultFolder
from lib.scenes.local_catalog import LocalCatalog
from lib.store.changes import RunChange, SessionChange
from tests.fakes.stores import open_store
from tests.fakes.tunnels import write_record
from tests.pages import sample_people

LANDSAT_BANDS = ("blue", "green", "red", "nir08", "swir16", "swir22")
FORMOSAT_BANDS = ("blue", "green", "red", "nir")
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><b>"
HERE, FAR = ClusterId("here"), ClusterId("far")

FIRE = Module(
    id=ModuleId("active-fire"),
    version="1.0.0",
    title="Active fire",
    summary="Finds burning pixels with three published tests and lets two of three decide.",
    image="scenebridge/active-fire:1.0.0",
    needs=(SensorNeed("landsat-8", LANDSAT_BANDS, ("L1TP",)),),
    params_schema={
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "decide": {
                "title": "Which test decides",
                "description": "Objects are made of the pixels that this test finds.",
                "type": "string",
                "enum": ["vote", "schroeder", "goli", "murphy", "any"],
                "default": "vote",
            },
            "min_pixels": {
                "title": "Smallest object, pixels",
                "type": "integer",
                "minimum": 1,
                "maximum": 10000,
                "default": 1,
            },
            "threshold": {"title": "Threshold", "type": "number", "minimum": 0, "default": 0.5},
            "night": {"title": "Night scenes too", "type": "boolean", "default": False},
        },
    },
    score_meaning="Share of the three tests that agree.",
    classes={"fire": "Active fire", "maybe": "Possible fire"},
    colours="red shows heat.",
)
SHIPS = Module(
    id=ModuleId("offshore-objects"),
    version="1.0.0",
    title="Offshore objects",
    summary="Finds ships and turbines over water.",
    image="scenebridge/offshore-objects:1.0.0",
    needs=(
        SensorNeed("landsat-8", ("green", "nir08")),
        SensorNeed("formosat-2", ("green", "nir")),
    ),
    params_schema={"type": "object", "properties": {}},
    score_meaning="How far the object stands out from the water around it.",
    classes={"object": "Offshore object"},
)
PRESETS = [
    Preset("small", "Small", 1, 2048, 0, 4 * 3600, 3600),
    Preset("large", "Large", 2, 8192, 1, 24 * 3600, 2 * 3600),
]


LOAD = [
    QueueLoad("gpu", 10, 3, 400, 120, 80, 24, 7, 2 * 86400),
    QueueLoad("cpu", 200, 41, 8000, 1650, 0, 0, 0, 0),
]


class FakeReconciler:
    """Two clusters: `here` answers, `far` does not while FOLDER/far-is-silent exists."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.loop: Any = None
        self.woken: list[str] = []
        self.fault = ""
        self.proved = True
        self.began = time.time()

    def wake(self, cluster: ClusterId) -> None:
        self.woken.append(cluster)

    def idle_at(self, cluster: ClusterId, session: SessionId) -> float | None:
        file = self._folder / f"idle-{session}"
        return float(file.read_text()) if file.exists() else None

    async def keep(self, cluster: ClusterId, session: SessionId) -> None:
        (self._folder / f"idle-{session}").unlink()

    def connected(self, cluster: ClusterId, session: SessionId) -> bool:
        return self.proved

    def health(self, cluster: ClusterId) -> ClusterHealth:
        silent = cluster == FAR and (self._folder / "far-is-silent").exists()
        reason = "The tunnel to its login node is down." if silent else ""
        isolation = Isolation.NONE if cluster == HERE else Isolation.CONTAINER
        modules = [ModuleOffer(m.id, m.version) for m in (FIRE, SHIPS)]
        info = GateInfo(
            1, "0.1.0", cluster, "local", "process" if cluster == HERE else "apptainer",
            isolation, modules, PRESETS, [], [], 4, 1, 7 * 86400, time.time(),
        )  # fmt: skip
        if cluster == FAR:
            info = dataclasses.replace(
                info, account="u1001", node="login1", scheduler="slurm", load=LOAD,
                load_at=self.began - 12, troubles=["The image of ships is missing."],
                modules=modules[:1],
            )  # fmt: skip
        return ClusterHealth(
            not silent, self.began - 90, reason, info, self.fault if silent else ""
        )

    def link(self, cluster: ClusterId) -> Any:
        return self

    async def log(self, request: Any) -> LogReply:
        return LogReply(f"log {request.log}: {HOSTILE}", False)


class Site:
    """A portal over `folder`; several processes may open the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asking: User | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.store = open_store(folder / "portal.sqlite")
        self.auth = Auth(self.store, sample_people.MEMBERSHIP)
        self.results = ResultFolder(folder / "results")
        self.catalog = LocalCatalog(folder / "scenes")
        self.reconciler = FakeReconciler(folder)
        offerings = Offerings(
            {m.id: m for m in (FIRE, SHIPS)},
            {
                HERE: ClusterEntry(HERE, "This computer", "", True, (EVERYONE,)),
                FAR: ClusterEntry(FAR, "Far cluster", "Institute of Tests", False, (EVERYONE,)),
            },
            {"landsat8": (EVERYONE,), "formosat": (EVERYONE,)},
        )
        self.tunnels = folder / "tunnels"
        if not self.tunnels.exists():
            write_record(self.tunnels, FAR, person=OWNER.id)
        self.access = Access(self.auth, offerings, self.store.audit, OuterTunnels(self.tunnels).of)
        self.portal = facade.Portal(
            self.store,
            self.auth,
            self.access,
            offerings,
            self.catalog,
            self.results,
            cast(Any, self.reconciler),
        )

    def cookie(self) -> dict[str, str]:
        """A fresh sign-in of the owner, as a cookie."""
        key = self.auth.links.new("http://localhost").partition("key=")[2]
        return {COOKIE: self.auth.sign_in(key)}

    def cookie_of(self, who: str, **more: Any) -> dict[str, str]:
        """A fresh sign-in of somebody of `sample_people`, or of the owner, as a cookie."""
        if who == "owner":
            return self.cookie()
        return {COOKIE: sample_people.sign_in(self.auth, who, **more)}

    def person(self, who: str, **more: Any) -> User:
        """Somebody of `sample_people` in a browser in which they have just signed in."""
        return sample_people.user_of(self.auth, sample_people.sign_in(self.auth, who, **more))

    # --- work, as the reconciler writes it ------------------------------------------

    def add_run(
        self, scenes: Iterable[str], state: RunState = RunState.NEW, *, cluster: ClusterId = HERE,
        title: str = "", module: Module = FIRE, session: SessionId | None = None,
        owner: User = OWNER, params: dict[str, Any] | None = None, **more: Any,
    ) -> Run:  # fmt: skip
        run = self._run(scenes, state, cluster, title, module, session, owner)
        run = dataclasses.replace(run, params={**run.params, **(params or {})})
        found = [self.catalog.get(SceneId(s.scene)) for s in run.scenes]
        self.store.work.add_run(run, found)
        if more:
            self.store.work.update_run(run.id, RunChange(**more))
        return self.store.work.run(run.id)

    def add_session(
        self, scenes: Iterable[str], state: SessionState = SessionState.NEW, *,
        cluster: ClusterId = HERE, title: str = "", run_over: bool = True, owner: User = OWNER,
        **more: Any,
    ) -> Session:  # fmt: skip
        session_id = SessionId(str(uuid.uuid4()))
        run = self._run(scenes, RunState.NEW, cluster, title, FIRE, session_id, owner)
        session = Session(
            id=session_id, owner=owner.id, title=run.title, cluster=cluster, module=FIRE.id,
            run=run.id, scenes=tuple(s.scene for s in run.scenes), resources=run.resources,
            state=SessionState.NEW, reachability=Reachability.REACHABLE, created_at=run.created_at,
        )  # fmt: skip
        found = [self.catalog.get(SceneId(s)) for s in session.scenes]
        self.store.work.add_session(session, run, found)
        changes = {**({"state": state} if state is not SessionState.NEW else {}), **more}
        if changes:
            self.store.work.update_session(session.id, SessionChange(**changes))
        if state is SessionState.ENDED and run_over:
            self.store.work.update_run(run.id, RunChange(state=RunState.CANCELLED))
        return self.store.work.session(session.id)

    def _run(
        self, scenes: Iterable[str], state: RunState, cluster: ClusterId, title: str,
        module: Module, session: SessionId | None, owner: User,
    ) -> Run:  # fmt: skip
        ids = [SceneId(s) for s in scenes]
        return Run(
            id=RunId(str(uuid.uuid4())), owner=owner.id,
            title=title or f"{module.title} on {ids[0]}",
            cluster=cluster, module=module.id, module_version=module.version,
            params={"decide": "vote", "min_pixels": 1}, resources=Resources("small", 3600),
            scenes=tuple(RunScene(s, SceneState.WAITING) for s in ids), state=state,
            reachability=Reachability.REACHABLE,
            created_at=datetime.now(timezone.utc) - timedelta(seconds=75), session=session,
        )  # fmt: skip

    def add_detections(self, run: Run, scene_id: str, scores: Iterable[float], **more: Any) -> None:
        """Objects in a row across the scene, with chips on disk."""
        scene = self.catalog.get(SceneId(scene_id))
        w, s, e, n = scene.bbox
        numbers = list(enumerate(scores, start=1))
        found = []
        for i, score in numbers:
            lon, lat = w + (e - w) * i / (len(numbers) + 1), s + (n - s) * (0.3 + 0.4 * (i % 3) / 2)
            d = 0.003
            fields = {
                "kind": "fire" if i % 4 else "maybe",
                "flags": ("cloud",) if i % 3 == 0 else (),
            }
            found.append(
                Detection(
                    run=run.id,
                    scene=scene.id,
                    n=i,
                    score=score,
                    lon=lon,
                    lat=lat,
                    geometry=box_geometry((lon - d, lat - d, lon + d, lat + d)),
                    pixels=3 * i,
                    area_m2=2700.0 * i,
                    time=scene.time,
                    has_chip=True,
                    **{**fields, **more},
                )
            )
            place = self.results.path(run.id, scene.id, ArtifactKind.CHIP, i)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(chip(i))
        self.store.detections.put(found, chips_offered=[i for i, _ in numbers])


def all_html(app: Any) -> str:
    """Everything that a page under AppTest draws as HTML, as text."""
    return "\n".join(e.proto.body for e in app.get("html"))


def chip(seed: int) -> bytes:
    """A small picture with a bright spot."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(40, 90, (48, 48, 3), dtype=np.uint8)
    rgb[20:28, 20:28] = (255, 140 + seed % 80, 40)
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "WEBP", quality=90)
    return out.getvalue()


# --- scenes ---------------------------------------------------------------------------


def plant_scene(
    root: Path, scene_id: str, *, platform: str = "landsat-8", lon: float = 121.0,
    lat: float = 23.5, size: float = 0.4, when: str = "2024-01-15T02:20:00Z",
    cloud: float | None = 12.0,
    title: str = "", synthetic: bool = True, level: str = "L1TP", bands: tuple[str, ...] = (),
    rasters: bool = True,
) -> None:  # fmt: skip
    """Write a scene's folder as the catalog keeps it. Call before the site is opened."""
    folder = root / "scenes" / scene_id
    folder.mkdir(parents=True)
    names = bands or (FORMOSAT_BANDS if platform.startswith("formosat") else LANDSAT_BANDS)
    box = (lon, lat, lon + size, lat + size)
    if rasters:
        _write_bands(folder, names, box)
    w, s, e, n = box
    properties: dict[str, Any] = {
        "datetime": when,
        "platform": platform,
        "title": title or f"{'Synthetic ' if synthetic else ''}{platform} {scene_id}",
        "processing:level": level,
        "scenebridge:synthetic": synthetic,
    }
    if cloud is not None:
        properties["eo:cloud_cover"] = cloud
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": scene_id,
        "collection": "formosat" if platform.startswith("formosat") else "landsat8",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[w, s], [e, s], [e, n], [w, n], [w, s]]],
        },
        "bbox": list(box),
        "properties": properties,
        "links": [],
        "assets": {
            name: {
                "href": f"./{name}.tif",
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "roles": ["data"],
                "bands": [{"name": name, "eo:common_name": name}],
            }
            for name in names
        },
    }
    (folder / "item.json").write_text(json.dumps(item))


def _write_bands(
    folder: Path, names: Iterable[str], box: tuple[float, float, float, float]
) -> None:
    for i, name in enumerate(names):
        (folder / f"{name}.tif").write_bytes(_band(i, box))


@functools.cache
def _band(i: int, box: tuple[float, float, float, float]) -> bytes:
    side = 256
    w, s, e, n = box
    grid = Affine((e - w) / side, 0, w, 0, (s - n) / side, n)
    yy, xx = np.mgrid[0:side, 0:side] / side
    rng = np.random.default_rng(i)
    data = 7000 + 3000 * np.sin(6 * xx + i) * np.cos(5 * yy) + rng.normal(0, 250, (side, side))
    with MemoryFile() as file:
        with file.open(
            driver="COG", height=side, width=side, count=1,
            dtype="uint16", crs="EPSG:4326", transform=grid, nodata=0,
        ) as out:  # fmt: skip
            out.write(data.astype(np.uint16), 1)
        written: bytes = file.read()
        return written


def plant_sample(root: Path) -> list[str]:
    """Five scenes: two of them over each other, one FORMOSAT, one that fits no fire module."""
    plant_scene(root, "LC08_A", lon=120.9, lat=23.4, when="2024-01-15T02:20:00Z", cloud=4)
    plant_scene(root, "LC08_B", lon=121.1, lat=23.6, when="2024-02-16T02:20:00Z", cloud=35)
    plant_scene(
        root,
        "LC08_REAL",
        lon=135.0,
        lat=34.2,
        when="2023-05-01T01:40:00Z",
        synthetic=False,
        cloud=61,
    )
    plant_scene(
        root,
        "FS2_A",
        platform="formosat-2",
        lon=120.2,
        lat=22.5,
        size=0.2,
        when="2012-07-03T02:00:00Z",
        cloud=None,
        level="L2",
    )
    plant_scene(
        root, "LC08_L2", lon=140.0, lat=38.0, level="L2SP", when="2022-03-03T01:20:00Z", cloud=0
    )
    return ["LC08_A", "LC08_B", "LC08_REAL", "FS2_A", "LC08_L2"]
