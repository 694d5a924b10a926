"""Where the portal keeps the result files that it fetched. Names are built here only."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from lib.errors import NotFound
from lib.protocol.messages import ID_PATTERN, SCENE_ID_PATTERN, ArtifactKind
from lib.results.reading import is_webp

if TYPE_CHECKING:
    from pathlib import Path

    from lib.model import RunId, SceneId

_NAMES = {
    ArtifactKind.ITEM: "item.json",
    ArtifactKind.DETECTIONS: "detections.geojson",
    ArtifactKind.MASK: "mask.tif",
    ArtifactKind.OVERVIEW: "overview.webp",
    ArtifactKind.SCENE_LOG: "log.txt",
}


#: Larger pictures are not shown: a browser would decode them whole.
LONGEST_SIDE = {ArtifactKind.CHIP: 1024, ArtifactKind.OVERVIEW: 8192}


class ResultFolder:
    """`ROOT/RUN/SCENE/...`; every name in it is checked, none comes from outside."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, run: RunId, scene: SceneId, kind: ArtifactKind, n: int = 0) -> Path:
        """Where this file is or will be.

        Raises:
            NotFound: an id that cannot exist.
        """
        if not ID_PATTERN.fullmatch(run) or not SCENE_ID_PATTERN.fullmatch(scene):
            raise NotFound("There is no such result.")
        folder = self._root / run / scene
        if kind is ArtifactKind.CHIP:
            return folder / "chips" / f"{n:04d}.webp"
        return folder / _NAMES[kind]

    def remove(self, run: RunId) -> None:
        """All files of a run. Those that cannot be removed are left: nothing leads to them.

        Raises:
            NotFound: an id that cannot exist.
        """
        if not ID_PATTERN.fullmatch(run):
            raise NotFound("There is no such result.")
        shutil.rmtree(self._root / run, ignore_errors=True)

    def image(self, run: RunId, scene: SceneId, kind: ArtifactKind, n: int = 0) -> bytes:
        """A WebP picture that is here.

        Raises:
            NotFound: not fetched (yet), or not a WebP file of fit size.
        """
        try:
            content = self.path(run, scene, kind, n).read_bytes()
        except OSError as exc:
            raise NotFound("This picture is not here yet.") from exc
        if not is_webp(content, LONGEST_SIDE[kind]):
            raise NotFound("The module did not write this picture as a WebP of fit size.")
        return content
