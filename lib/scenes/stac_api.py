"""Search a STAC API on the internet beside the local catalog.

Only addresses that a site wrote into `api.toml` are ever asked: the API's own host, also
for further pages and never by a redirect, and assets on the listed hosts. What an API
says is untrusted: an item that cannot be read is left out and counted, an asset that
lies elsewhere is dropped.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

import requests
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from lib.errors import InvalidInput, SceneUnavailable
from lib.imagery.outline import bbox_of
from lib.model import BBox, JsonObject, JsonValue, Scene, SceneQuery, json_list, json_text
from lib.scenes import stac
from lib.scenes.table import Table, check_area, check_polygon

MAX_ITEMS = 1000
_PAGE = 250
_CONNECT_S, _READ_S = 5.0, 20.0
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """One `[[api]]` of an api.toml."""

    id: str
    title: str
    url: str
    collections: tuple[str, ...]
    asset_hosts: frozenset[str]
    enabled: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class ApiHits:
    """`scenes` newest first; `skipped` items could not be read or lie on other hosts."""

    scenes: tuple[Scene, ...]
    truncated: bool
    skipped: int


def read_settings(path: Path) -> tuple[ApiSettings, ...]:
    """The APIs that an api.toml lists, enabled or not.

    Raises:
        InvalidInput: the file is broken or an address is not https.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        found = tuple(_settings(entry) for entry in table.get("api", []))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise InvalidInput(f"{path} is not a list of STAC APIs: {exc}") from exc
    return found


def search(api: ApiSettings, query: SceneQuery) -> ApiHits:
    """Ask one API.

    Raises:
        SceneUnavailable: it is not enabled, cannot be reached, or answers nonsense.
        InvalidInput: the query's area is no area.
    """
    if not api.enabled:
        raise SceneUnavailable(f"{api.title} is not enabled on this site.")
    check_area(query.area)
    check_polygon(query.polygon)
    limit = max(0, min(query.limit, MAX_ITEMS))
    found: dict[str, Scene] = {}
    skipped, more = 0, False
    try:
        client = Client.open(api.url, stac_io=_OneHost(api.url))
        for box in _boxes(query):
            items = list(_items(client, api, query, box, limit + 1))
            more |= len(items) > limit
            for item in items:
                scene = _scene(item, api)
                if scene is None:
                    skipped += 1
                else:
                    found[scene.id] = scene
    except (APIError, requests.RequestException) as exc:
        raise SceneUnavailable(f"{api.title} cannot be searched now. Try again later.") from exc
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as exc:
        raise SceneUnavailable(f"{api.title} sent an answer that is not understood.") from exc
    scenes = list(found.values())
    # The same rules as for local scenes, whatever the API understood of the query.
    table = Table.from_scenes(scenes)
    rows = table.search(query)
    ids = [fields["id"] for fields in table.scene_fields(rows[:limit])]
    return ApiHits(tuple(found[i] for i in ids), more or rows.size > limit, skipped)


def _settings(entry: JsonObject) -> ApiSettings:
    url = str(entry["url"]).rstrip("/")
    parts = urlsplit(url)
    if not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)):
        raise ValueError(f"the address {url!r} must start with https://")
    ident = json_text(entry["id"])
    if not re.fullmatch(r"[a-z0-9-]{1,40}", ident):
        raise ValueError(f"the id {ident!r} must be lower-case letters and digits")
    return ApiSettings(
        id=ident,
        title=str(entry["title"]),
        url=url,
        collections=tuple(map(json_text, json_list(entry["collections"]))),
        asset_hosts=frozenset(map(json_text, json_list(entry["asset_hosts"]))),
        enabled=entry.get("enabled", False) is True,
        note=str(entry.get("note", "")),
    )


def _boxes(query: SceneQuery) -> list[BBox | None]:
    """Two boxes where the area crosses the antimeridian: not every API understands one."""
    if query.area is not None:
        return list(stac.bbox_parts(query.area))
    if query.polygon is not None:
        return list(stac.bbox_parts(bbox_of(query.polygon)))
    return [None]


def _items(
    client: Client, api: ApiSettings, query: SceneQuery, box: BBox | None, limit: int
) -> Iterator[dict[str, JsonValue]]:
    timed = query.start is not None or query.end is not None
    search = client.search(
        method="GET",
        limit=min(_PAGE, max(1, limit)),
        max_items=limit,
        collections=list(api.collections),
        bbox=None if box is None else list(box),
        datetime=f"{_time(query.start)}/{_time(query.end)}" if timed else None,
    )
    yield from search.items_as_dicts()


def _time(time: datetime | None) -> str:
    if time is None:
        return ".."
    aware = time if time.tzinfo else time.replace(tzinfo=timezone.utc)
    return aware.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _scene(item: JsonValue, api: ApiSettings) -> Scene | None:
    if not isinstance(item, dict) or not isinstance(item.get("assets"), dict):
        return None
    kept = {
        key: asset
        for key, asset in item["assets"].items()
        if isinstance(asset, dict) and _allowed(asset.get("href"), api)
    }
    try:
        scene = stac.from_item({**item, "assets": kept})
    except InvalidInput:
        return None
    return replace(scene, synthetic=False)


def _allowed(href: JsonValue, api: ApiSettings) -> bool:
    parts = urlsplit(href) if isinstance(href, str) else None
    return bool(parts and parts.scheme == "https" and parts.hostname in api.asset_hosts)


class _OneHost(StacApiIO):
    """Requests to the API's own host only; no redirects, no retries, short waits."""

    def __init__(self, url: str) -> None:
        super().__init__(max_retries=None, timeout=(_CONNECT_S, _READ_S))
        self.session.max_redirects = 0
        self._origin = urlsplit(url)[:2]

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, JsonValue] | None = None,
    ) -> str:
        """As the base class, after a look at where `href` leads."""
        if urlsplit(href)[:2] != self._origin:
            raise APIError(f"the API sent us to another host: {href[:80]}")
        return str(super().request(href, method, headers, parameters))
