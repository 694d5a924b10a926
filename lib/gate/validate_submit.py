"""Validate a submit against the policy, and rebuild its items for the module.

Nothing of a request reaches a disk or a command line before it passed here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lib.errors import InvalidInput, Refused
from lib.gate.policy import AllowedModule, AllowedPreset, Policy
from lib.model import JsonValue
from lib.protocol.messages import (
    ASSET_PATTERN,
    ID_PATTERN,
    MAX_ITEMS,
    SCENE_ID_PATTERN,
    STAGED_SCHEME,
    SubmitRequest,
)

_MAX_PARAMS_BYTES = 64 * 1024
_MAX_ITEM_BYTES = 256 * 1024
_MAX_ASSETS = 100
_MAX_TEXT = 200
_MIN_WALLTIME_S = 60
#: File names of the module contract that a scene's folder must not take.
_RESERVED = frozenset({"catalog.json", "params.json", "status.jsonl"})
_ITEM_KEYS = (
    "type",
    "stac_version",
    "stac_extensions",
    "id",
    "geometry",
    "bbox",
    "properties",
    "collection",
)


@dataclass(frozen=True, slots=True)
class StagedAsset:
    """An asset that the portal has put before: becomes a file beside the item."""

    scene: str
    asset: str

    @property
    def file_name(self) -> str:
        """Its name in the scene's folder."""
        return f"{self.asset}.tif"


@dataclass(frozen=True, slots=True)
class ValidatedSubmit:
    """A submit that the policy allows.

    `items` are rebuilt: only known keys, checked hrefs. `readable` are the local files
    that they name. `staged` must be there before the job starts.
    """

    module: AllowedModule
    preset: AllowedPreset
    items: tuple[Mapping[str, object], ...]
    readable: tuple[Path, ...]
    staged: tuple[StagedAsset, ...]

    @property
    def scenes(self) -> list[str]:
        """The ids of the items."""
        return [str(item["id"]) for item in self.items]


def validate(request: SubmitRequest, policy: Policy) -> ValidatedSubmit:
    """Decide whether this gate may run it.

    Raises:
        Refused: the policy does not allow it.
        InvalidInput: the request is not well-formed, or a file is missing.
    """
    _check_texts(request, policy)
    module = policy.module(request.module, request.module_version)
    if module is None:
        raise Refused(
            f"This cluster does not offer the module {request.module} {request.module_version}."
        )
    preset = policy.preset(request.preset)
    if preset is None:
        raise Refused(f"This cluster has no resources named {request.preset!r:.60}.")
    longest = preset.preset.max_walltime_s
    if not _MIN_WALLTIME_S <= request.walltime_s <= longest:
        raise Refused(
            f"The time must be between {_MIN_WALLTIME_S // 60} and {longest // 60} minutes here."
        )
    if len(json.dumps(request.params)) > _MAX_PARAMS_BYTES:
        raise InvalidInput("The parameters are too long.")
    return _with_items(request, policy, module, preset)


def _check_texts(request: SubmitRequest, policy: Policy) -> None:
    for job_id in (request.id, request.continue_from or request.id):
        if ID_PATTERN.fullmatch(job_id) is None:
            raise InvalidInput("The id of a job must be a UUID.")
    for name, text in (("owner", request.owner), ("title", request.title)):
        if len(text) > _MAX_TEXT or not text.isprintable():
            raise InvalidInput(f"The {name} must be at most {_MAX_TEXT} printable characters.")
    if not request.owner:
        raise InvalidInput("The owner is missing.")
    if request.portal_origin and not policy.may_frame(request.portal_origin):
        raise Refused(
            f"This cluster does not let {request.portal_origin!r:.80} show its notebooks; "
            "its administrator can add it to portal_origins in the gate's policy."
        )


def _with_items(
    request: SubmitRequest, policy: Policy, module: AllowedModule, preset: AllowedPreset
) -> ValidatedSubmit:
    if not 1 <= len(request.items) <= MAX_ITEMS:
        raise InvalidInput(f"A job takes between 1 and {MAX_ITEMS} scenes.")
    reader = _ItemValidator(policy)
    items = tuple(reader.item(item) for item in request.items)
    ids = [item["id"] for item in items]
    if len(set(ids)) != len(ids):
        raise InvalidInput("A scene is named twice.")
    return ValidatedSubmit(module, preset, items, tuple(reader.readable), tuple(reader.staged))


class _ItemValidator:
    """Rebuilds items and collects what their assets point to."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.readable: list[Path] = []
        self.staged: list[StagedAsset] = []

    def item(self, item: Mapping[str, object]) -> Mapping[str, object]:
        scene = item.get("id")
        if (
            not isinstance(scene, str)
            or SCENE_ID_PATTERN.fullmatch(scene) is None
            or scene in _RESERVED
        ):
            raise InvalidInput(f"The scene id {scene!r:.80} cannot be used on a cluster.")
        if len(json.dumps(item)) > _MAX_ITEM_BYTES:
            raise InvalidInput(f"The item of scene {scene} is too long.")
        assets = item.get("assets")
        if not isinstance(assets, dict) or not 1 <= len(assets) <= _MAX_ASSETS:
            raise InvalidInput(f"Scene {scene} has no assets, or too many.")
        rebuilt = {key: item[key] for key in _ITEM_KEYS if key in item}
        rebuilt["assets"] = {key: self._asset(scene, key, a) for key, a in assets.items()}
        rebuilt["links"] = [
            {"rel": rel, "href": "../catalog.json", "type": "application/json"}
            for rel in ("root", "parent")
        ]
        return rebuilt

    def _asset(self, scene: str, key: str, asset: object) -> dict[str, object]:
        if not isinstance(asset, dict) or ASSET_PATTERN.fullmatch(key) is None:
            raise InvalidInput(f"Scene {scene} has an asset {key!r:.60} that is not understood.")
        rebuilt = {k: v for k, v in asset.items() if k != "alternate"}
        rebuilt["href"] = self._href(scene, key, asset.get("href"))
        if _mentions_href(v for k, v in rebuilt.items() if k != "href"):
            raise InvalidInput(f"Scene {scene}, asset {key}: only one address is allowed.")
        return rebuilt

    def _href(self, scene: str, key: str, href: object) -> str:
        if not isinstance(href, str) or not href or "\0" in href:
            raise InvalidInput(f"Scene {scene}, asset {key} has no address.")
        if href.startswith(STAGED_SCHEME):
            staged = StagedAsset(scene, key)
            self.staged.append(staged)
            return f"./{staged.file_name}"
        if href.startswith("/"):
            return str(self._local(scene, key, href))
        if not self._policy.may_read_host(href):
            raise Refused(
                f"Scene {scene}, asset {key}: this cluster does not read from {href!r:.120}."
            )
        return href

    def _local(self, scene: str, key: str, href: str) -> Path:
        """The real path, links resolved, below a folder that jobs may read."""
        try:
            real = Path(os.path.realpath(href, strict=True))
        except OSError as exc:
            self._refuse_outside(Path(os.path.realpath(href)), scene, key)
            raise InvalidInput(f"Scene {scene}, asset {key}: its file is not there.") from exc
        self._refuse_outside(real, scene, key)
        if not real.is_file():
            raise InvalidInput(f"Scene {scene}, asset {key}: that is not a file.")
        self.readable.append(real)
        return real

    def _refuse_outside(self, real: Path, scene: str, key: str) -> None:
        """Outside, nothing is said about what exists."""
        if not any(folder in real.parents for folder in self._policy.data_paths):
            raise Refused(
                f"Scene {scene}, asset {key}: its file lies in no folder that jobs may read."
            )


def _mentions_href(values: Iterable[JsonValue]) -> bool:
    """Whether an address hides deeper in an asset."""
    todo = list(values)
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            if "href" in value:
                return True
            todo += value.values()
        elif isinstance(value, list):
            todo += value
    return False
