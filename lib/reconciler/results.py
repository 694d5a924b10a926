"""Collecting results: what a module says goes into the store, its files into the results.

Driven by the store, so that a portal that died goes on where it was: an event counts as
taken in when its number is stored, a file when the store says it is here.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from lib.errors import InvalidInput, NotFound, ProtocolError, SceneBridgeError, StorageFull
from lib.model import RunId, RunState, SceneId, SceneState
from lib.protocol.events import (
    ObjectFound,
    Progress,
    RunStarted,
    SceneDone,
    SceneEvent,
    SceneFailed,
    SceneStarted,
    parse,
)
from lib.protocol.messages import ArtifactKind, GetRequest
from lib.results import reading
from lib.store.changes import RunChange, SceneChange

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from lib.model import Detection, JsonValue
    from lib.protocol.events import ModuleEvent
    from lib.reconciler.interfaces import Link
    from lib.results.folder import ResultFolder
    from lib.store import Store

log = logging.getLogger(__name__)

_CHIPS_AT_ONCE = 4
_UNFINISHED = (SceneState.WAITING, SceneState.RUNNING)
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


class ResultCollector:
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
        self._times: dict[SceneId, datetime] = {}

    # --- events ---------------------------------------------------------------

    async def take_events(self, first: int, told: Sequence[JsonValue]) -> None:
        """Store events that are new; `first` is the number of the first one, from 0.

        Rubbish is left out and counts as taken in.

        Raises:
            ProtocolError: events are missing between those here and these.
            StorageFull: nothing counts as taken in.
        """
        async with self._lock:
            await asyncio.to_thread(self._take_events, first, told)

    def _take_events(self, first: int, told: Sequence[JsonValue]) -> None:
        have = self._store.work.events_have(self._run)
        if first > have:
            raise ProtocolError("The gate left out some of the module's events.")
        scenes = self._store.work.run(self._run, deleted=True).scenes
        events = self._checked(told[have - first :], frozenset(s.scene for s in scenes))
        unfinished = {s.scene for s in scenes if s.state in _UNFINISHED}
        new = [e for e in events if isinstance(e, SceneEvent) and e.scene in unfinished]
        # Objects before steps: a scene's files may be fetched as soon as it says DONE,
        # and outlines must not be overwritten by boxes.
        self._take_objects(new)
        if any(isinstance(e, RunStarted) for e in events):
            self._begun()
        for event in new:
            self._take_step(event)
        self._store.work.update_run(self._run, RunChange(events_have=max(have, first + len(told))))

    def _checked(self, told: Sequence[JsonValue], scenes: frozenset[SceneId]) -> list[ModuleEvent]:
        events: list[ModuleEvent] = []
        problems: list[str] = []
        for one in told:
            try:
                events.append(parse(one, scenes))
            except InvalidInput as exc:  # the gate should have dropped it: an older one?
                problems.append(exc.message)
        if problems:  # one line, however many they are
            log.warning(
                "run %s: %d events were left out, the first: %s",
                self._run, len(problems), problems[0],
            )  # fmt: skip
        return events

    def _take_objects(self, events: Sequence[SceneEvent]) -> None:
        found: list[Detection] = []
        offered: dict[SceneId, set[int]] = {}
        over: set[SceneId] = set()
        for event in events:
            if isinstance(event, (SceneDone, SceneFailed)):
                over.add(event.scene)
            if not isinstance(event, ObjectFound) or event.scene in over:
                continue
            detection = reading.from_event(event, self._run, self._time(event.scene))
            found.append(detection)
            if event.chip:
                offered.setdefault(event.scene, set()).add(detection.n)
        for scene in {d.scene for d in found}:
            of_scene = [d for d in found if d.scene == scene]
            self._store.detections.put(of_scene, chips_offered=offered.get(scene, ()))

    def _take_step(self, event: SceneEvent) -> None:
        if isinstance(event, SceneStarted):
            self._begun()
        change = _scene_change(event)
        if change is not None:
            self._store.work.update_scene(self._run, event.scene, change)

    def _begun(self) -> None:
        self._store.work.update_run(self._run, RunChange(state=RunState.RUNNING, reason=""))

    def _time(self, scene: SceneId) -> datetime:
        if not self._times:
            self._times = self._store.work.scene_times(self._run)
        return self._times[scene]

    # --- files ----------------------------------------------------------------

    async def fetch(self, link: Link) -> None:
        """Bring everything that is offered and not here yet: thumbnails, then scene files.

        Raises:
            ClusterUnreachable, StorageFull: try again later; nothing is lost.
        """
        while missing := await asyncio.to_thread(self._store.detections.missing_chips, self._run):
            for start in range(0, len(missing), _CHIPS_AT_ONCE):
                batch = missing[start : start + _CHIPS_AT_ONCE]
                await asyncio.gather(*(self._fetch_chip(link, s, n) for s, n in batch))
        for scene in await asyncio.to_thread(self._store.work.unfetched_scenes, self._run):
            await self._fetch_scene(link, scene)

    def all_here(self) -> bool:
        """Whether nothing that is offered is still to be fetched."""
        return not (
            self._store.detections.missing_chips(self._run, limit=1)
            or self._store.work.unfetched_scenes(self._run)
        )

    async def _fetch_chip(self, link: Link, scene: SceneId, n: int) -> None:
        trouble = await self._get(link, scene, ArtifactKind.CHIP, n)
        await asyncio.to_thread(self._take_chip, scene, n, not trouble)

    def _take_chip(self, scene: SceneId, n: int, came: bool) -> None:
        here = came
        if came:
            try:
                self._folder.image(self._run, scene, ArtifactKind.CHIP, n)
            except NotFound as exc:
                log.warning("run %s scene %s chip %s: %s", self._run, scene, n, exc)
                self._folder.path(self._run, scene, ArtifactKind.CHIP, n).unlink(missing_ok=True)
                here = False
        self._store.detections.set_chip(self._run, scene, n, here=here)

    async def _fetch_scene(self, link: Link, scene: SceneId) -> None:
        trouble = [await self._get(link, scene, kind) for kind in _SCENE_FILES]
        await asyncio.to_thread(self._take_outlines, scene, trouble[0])

    def _take_outlines(self, scene: SceneId, trouble: str) -> None:
        change = SceneChange(fetched=True)
        try:
            if trouble:
                raise InvalidInput(trouble)
            path = self._folder.path(self._run, scene, ArtifactKind.DETECTIONS)
            found = reading.from_file(path, self._run, scene, self._time(scene))
            objects = self._store.detections.replace(self._run, scene, found)
            change = replace(change, objects=objects)
        except (InvalidInput, OSError) as exc:
            why = exc.message if isinstance(exc, InvalidInput) else "They cannot be read."
            message = f"The outlines of the objects are missing. {why}"
            change = replace(change, message=message)
            log.warning("run %s scene %s: %s", self._run, scene, exc)
        self._store.work.update_scene(self._run, scene, change)

    async def _get(self, link: Link, scene: SceneId, kind: ArtifactKind, n: int = 0) -> str:
        """Fetch one file; "" when it is here, or why it is not to be had."""
        into = self._folder.path(self._run, scene, kind, n)
        request = GetRequest(id=self._job, artifact=kind, scene=scene, n=n, max_bytes=_LIMITS[kind])
        try:
            into.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            await link.get(request, into)
        except OSError as exc:
            raise _cannot_write(exc) from exc
        except SceneBridgeError as exc:
            if exc.transient:
                raise
            log.info("run %s: %s of %s is not to be had: %s", self._run, kind, scene, exc)
            return exc.message
        return ""


def _cannot_write(exc: OSError) -> StorageFull:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(
            "The disk that holds the portal's data is full. "
            "Free some space; the results then arrive by themselves."
        )
    return StorageFull(
        f"The portal cannot write its results folder ({exc.strerror}). "
        "When that is mended, the results arrive by themselves."
    )


def _scene_change(event: SceneEvent) -> SceneChange | None:
    """What an event changes of its scene."""
    match event:
        case SceneStarted():
            return SceneChange(state=SceneState.RUNNING)
        case Progress():
            return SceneChange(state=SceneState.RUNNING, fraction=event.fraction)
        case SceneDone():
            return SceneChange(
                state=SceneState.DONE,
                fraction=1.0,
                objects=event.objects,
                searched=event.searched,
            )
        case SceneFailed():
            message = event.message or "The module gave no reason."
            return SceneChange(state=SceneState.FAILED, message=message)
    return None
