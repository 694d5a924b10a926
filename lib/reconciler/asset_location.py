"""Asset location: from where a job reads each asset of a scene. What the cluster has beats
what it may fetch, and that beats what the portal must send."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from lib.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lib.model import JsonValue, Module
    from lib.protocol.messages import GateInfo

_QUALITY_ASSETS = ("qa_pixel", "qa_radsat")
_HTTPS = "https://"


def needed_assets(
    item: Mapping[str, JsonValue], module: Module
) -> dict[str, Mapping[str, JsonValue]]:
    """The assets of an item that the module reads, by key."""
    platform = _table(item["properties"]).get("platform")
    bands = {band for need in module.needs if need.platform == platform for band in need.bands}
    return {
        key: _table(asset)
        for key, asset in _table(item["assets"]).items()
        if key in _QUALITY_ASSETS or any(name in bands for name in _band_names(asset))
    }


def locate(scene: str, key: str, asset: Mapping[str, JsonValue], info: GateInfo) -> str | Path:
    """A path or address that jobs of that cluster may read, or the portal's file to send.

    The asset's own address and its alternates (STAC extension "alternate") are looked at;
    only its own can be a file of the portal, an alternate never is. Whether a path is
    really there and may be read is the gate's decision.

    Raises:
        Refused: the cluster may not read it, and the portal has no file of it.
    """
    own = str(asset["href"])
    for href in (own, *_alternates(asset)):
        path = _path(href)
        if path is not None and any(path.is_relative_to(p) for p in info.data_paths):
            return str(path)
    for href in (own, *_alternates(asset)):
        if href.startswith(_HTTPS) and _host(href) in info.https_hosts:
            return href
    file = _path(own)
    if file is None:
        raise Refused(
            f"The scene {scene} ({key}) lies at {_host(own)}, which jobs of this cluster may not "
            "read. Whoever looks after its gate can allow that host."
        )
    return Path(file)


def _alternates(asset: Mapping[str, JsonValue]) -> Iterator[str]:
    others = asset.get("alternate")
    if isinstance(others, dict):
        for other in others.values():
            href = other.get("href") if isinstance(other, dict) else None
            if isinstance(href, str):
                yield href


def _table(value: JsonValue) -> dict[str, JsonValue]:
    """The store holds items as the portal's own catalogue gave them: valid STAC."""
    if not isinstance(value, dict):
        raise TypeError(f"not a JSON object: {value!r:.80}")
    return value


def _band_names(asset: JsonValue) -> Iterator[JsonValue]:
    bands = _table(asset).get("bands")
    for band in bands if isinstance(bands, list) else ():
        yield _table(band).get("eo:common_name")


def _path(href: str) -> PurePosixPath | None:
    """An absolute path without steps upwards; None for anything else."""
    text = unquote(href[len("file://") :]) if href.startswith("file:///") else href
    path = PurePosixPath(text)
    return path if path.is_absolute() and ".." not in path.parts else None


def _host(href: str) -> str:
    try:
        return urlsplit(href).hostname or f"{href:.80}"
    except ValueError:
        return f"{href:.80}"
