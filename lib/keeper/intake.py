"""Taking in what a module says and finds: events into the store, files into the results.

Driven by the store, so that a portal that died goes on where it was: an event counts as
taken in when its number is stored, a file when the store says it is here.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lib.errors import InvalidInput, NotFound, ProtocolError, Refused, StorageFull
from lib.model import RunId, RunState, SceneId, SceneState
from lib.protocol import ArtifactKind, GetRequest
from lib.results import reading
from lib.store.times import to_datetime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lib.keeper.ports import Link
    from lib.model import Detection
    from lib.results.folder import ResultFolder
    from lib.store import Store

log = logging.getLogger(__name__)

_CHIPS_AT_ONCE = 4
_LIMITS = {
    ArtifactKind.DETECTIONS: reading.MAX_FILE_BYTES,
    ArtifactKind.OVERVIEW: 8 * 2**20,
    ArtifactKind.CHIP: 2**20,
    ArtifactKind.ITEM: 4 * 2**20,
    ArtifactKind.SCENE_LOG: 4 * 2**20,
}
_SCENE_FILES = (
    ArtifactKind.DETECTIONS,
    ArtifactKind.OVERVIEW,
    ArtifactKind.ITEM,
    ArtifactKind.SCENE_LOG,
)


class Intake:
    """One Run's events and files.

    Args:
        job: the id that the gate knows it by (the session's, where it has one).
    """

    def __init__(self, run: RunId, job: str, store: Store, folder: ResultFolder) -> None:
        self._run = run
        self._job = job
        self._store = store
        self._folder = folder
        self._lock = asyncio.Lock()
        self._times: dict[str, datetime] = {}
        self.module_message = ""

    async def take_events(self, first: int, events: Sequence[dict[str, Any]]) -> None:
        """Store events that are new; `first` is the number of the first one, from 0."""
        async with self._lock:
            await asyncio.to_thread(self._take_events, first, events)

    def _take_events(self, first: int, events: Sequence[dict[str, Any]]) -> None:
        have = self._store.work.events_have(self._run)
        if first > have:
            raise ProtocolError("The gate left out some of the module's events.")
        found: list[Detection] = []
        chips: set[tuple[str, int]] = set()
        for event in events[have - first :]:
            if event.get("event") == "object":
                self._take_object(event, found, chips)
            else:
                self._take_step(event)
        for scene in {d.scene for d in found}:
            of_scene = [d for d in found if d.scene == scene]
            offered = {n for s, n in chips if s == scene}
            self._store.detections.put(of_scene, chips_offered=offered)
        self._store.work.update_run(self._run, events_have=max(have, first + len(events)))

    def _take_object(
        self, event: dict[str, Any], found: list[Detection], chips: set[tuple[str, int]]
    ) -> None:
        time = self._scene_time(str(event.get("scene")))
        if time is None:
            return
        try:
            detection = reading.from_event(event, self._run, time)
        except InvalidInput as exc:
            log.warning("run %s: an object was left out: %s", self._run, exc)
            return
        found.append(detection)
        if event.get("chip") is True:
            chips.add((detection.scene, detection.n))

    def _take_step(self, event: dict[str, Any]) -> None:
        work, kind = self._store.work, event.get("event")
        if kind == "run_started":
            work.update_run(self._run, state=RunState.RUNNING, reason="")
            return
        if kind == "run_failed":
            self.module_message = str(event.get("message", ""))[:500]
            return
        scene = SceneId(str(event.get("scene", "")))
        if self._scene_time(scene) is None:
            return
        if kind == "scene_started":
            work.update_scene(self._run, scene, state=SceneState.RUNNING)
            work.update_run(self._run, state=RunState.RUNNING, reason="")
        elif kind == "progress":
            fraction = event.get("fraction")
            if isinstance(fraction, (int, float)):
                work.update_scene(self._run, scene, fraction=min(1.0, max(0.0, float(fraction))))
        elif kind == "scene_done":
            objects, searched = event.get("objects"), event.get("searched")
            work.update_scene(
                self._run,
                scene,
                state=SceneState.DONE,
                fraction=1.0,
                objects=objects if isinstance(objects, int) else 0,
                searched=searched if isinstance(searched, dict) else {},
            )
        elif kind == "scene_failed":
            message = str(event.get("message", ""))[:500] or "The module gave no reason."
            work.update_scene(self._run, scene, state=SceneState.FAILED, message=message)

    def _scene_time(self, scene: str) -> datetime | None:
        if not self._times:
            for item in self._store.work.items(self._run):
                stamp = item["properties"]["datetime"]
                self._times[item["id"]] = _parse_time(stamp)
        return self._times.get(scene)

    async def fetch(self, link: Link) -> None:
        """Bring everything that is offered and not here yet: thumbnails, then scene files.

        Raises:
            ClusterUnreachable, StorageFull: try again later; nothing is lost.
        """
        async with self._lock:
            while missing := await asyncio.to_thread(
                self._store.detections.missing_chips, self._run
            ):
                for start in range(0, len(missing), _CHIPS_AT_ONCE):
                    batch = missing[start : start + _CHIPS_AT_ONCE]
                    await asyncio.gather(*(self._fetch_chip(link, s, n) for s, n in batch))
            for scene in await asyncio.to_thread(self._store.work.unfetched_scenes, self._run):
                await self._fetch_scene(link, scene)

    async def _fetch_chip(self, link: Link, scene: SceneId, n: int) -> None:
        here = await self._get(link, scene, ArtifactKind.CHIP, n)
        await asyncio.to_thread(self._store.detections.set_chip, self._run, scene, n, here=here)

    async def _fetch_scene(self, link: Link, scene: SceneId) -> None:
        for kind in _SCENE_FILES:
            await self._get(link, scene, kind)
        await asyncio.to_thread(self._take_outlines, scene)

    def _take_outlines(self, scene: SceneId) -> None:
        time = self._scene_time(scene)
        if time is None:
            return
        path = self._folder.path(self._run, scene, ArtifactKind.DETECTIONS)
        columns: dict[str, Any] = {"fetched": True}
        try:
            found = reading.from_file(path, self._run, scene, time)
            columns["objects"] = self._store.detections.replace(self._run, scene, found)
        except (InvalidInput, OSError) as exc:
            reason = exc.message if isinstance(exc, InvalidInput) else "It cannot be read."
            columns["message"] = f"The outlines of the objects are missing. {reason}"
            log.warning("run %s scene %s: %s", self._run, scene, exc)
        self._store.work.update_scene(self._run, scene, **columns)

    async def _get(self, link: Link, scene: SceneId, kind: ArtifactKind, n: int = 0) -> bool:
        into = self._folder.path(self._run, scene, kind, n)
        request = GetRequest(id=self._job, artifact=kind, scene=scene, n=n, max_bytes=_LIMITS[kind])
        try:
            into.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            await link.get(request, into)
        except (NotFound, Refused, InvalidInput) as exc:
            log.info("run %s: %s of %s is not to be had: %s", self._run, kind, scene, exc)
            return False
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(
                    "The disk that holds the portal's data is full. "
                    "Free some space; the results then arrive by themselves."
                ) from exc
            raise
        return True


def _parse_time(stamp: str) -> datetime:
    return to_datetime(datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp())
