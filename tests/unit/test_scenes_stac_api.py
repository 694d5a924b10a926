"""A STAC API is searched with pystac-client against a real server on loopback."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from lib.errors import InvalidInput, SceneUnavailable
from lib.model import SceneQuery
from lib.scenes.stac_api import ApiSettings, read_settings, search

CORE = "https://api.stacspec.org/v1.0.0/core"
ITEM_SEARCH = "https://api.stacspec.org/v1.0.0/item-search"
HOST = "files.example.org"
GOOD = '[[api]]\ntitle="t"\ncollections=[]\nasset_hosts=[]\n'


def item(
    number: int, *, lon: float = 139.0, cloud: float = 5.0, host: str = HOST
) -> dict[str, Any]:
    ring = [[lon, 35], [lon + 1, 35], [lon + 1, 36], [lon, 36], [lon, 35]]
    names = ("red", "nir08")
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"LC08_L2SP_{number:06d}",
        "collection": "landsat-c2-l2",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [lon, 35, lon + 1, 36],
        "properties": {
            "datetime": f"2024-01-{number + 1:02d}T00:00:00Z",
            "platform": "landsat-8",
            "eo:cloud_cover": cloud,
        },
        "links": [],
        "assets": {
            name: {
                "href": f"https://{host}/{name}.tif",
                "type": "image/tiff",
                "eo:bands": [{"name": name, "common_name": name}],
            }
            for name in names
        },
    }


@dataclass
class Api:
    """A small STAC API: landing page and GET /search with pages of two items."""

    items: list[Any] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    next_host: str = ""
    answer: Response | None = None
    url: str = ""

    def landing(self, request: Request) -> Response:
        base = str(request.base_url).rstrip("/")
        links = [
            {"rel": "self", "href": f"{base}/"},
            {"rel": "root", "href": f"{base}/"},
            {
                "rel": "search",
                "href": f"{base}/search",
                "type": "application/geo+json",
                "method": "GET",
            },
        ]
        return JSONResponse(
            {"type": "Catalog", "id": "test", "description": "x", "stac_version": "1.0.0",
             "conformsTo": [CORE, ITEM_SEARCH], "links": links}
        )  # fmt: skip

    def search(self, request: Request) -> Response:
        self.asked.append(dict(request.query_params))
        if self.answer is not None:
            return self.answer
        start = int(request.query_params.get("token", "0"))
        page = self.items[start : start + 2]
        links = []
        if start + 2 < len(self.items):
            base = self.next_host or str(request.base_url).rstrip("/")
            links.append(
                {"rel": "next", "href": f"{base}/search?token={start + 2}", "method": "GET"}
            )
        return JSONResponse({"type": "FeatureCollection", "features": page, "links": links})


@pytest.fixture
def api() -> Iterator[Api]:
    found = Api()
    routes = [Route("/", found.landing), Route("/search", found.search)]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        found.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(
            uvicorn.Config(Starlette(routes=routes), log_level="error", ws="none")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        deadline = time.monotonic() + 300
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield found
        finally:
            server.should_exit = True
            thread.join(300)


def settings(api: Api, **changes: Any) -> ApiSettings:
    base = ApiSettings(
        "test", "Test API", api.url, ("landsat-c2-l2",), frozenset({HOST}), enabled=True
    )
    return replace(base, **changes)


def test_scenes_of_all_pages_newest_first(api: Api) -> None:
    api.items = [item(n) for n in range(5)]
    hits = search(settings(api), SceneQuery())
    assert [s.id[-1] for s in hits.scenes] == ["4", "3", "2", "1", "0"]
    assert (hits.truncated, hits.skipped) == (False, 0)
    assert hits.scenes[0].item["stac_version"] == "1.1.0"
    assert hits.scenes[0].bands == {"red", "nir08"}


def test_what_was_asked(api: Api) -> None:
    start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    search(settings(api), SceneQuery(area=(1, 2, 3, 4), start=start))
    (asked,) = api.asked
    assert asked["bbox"] == "1.0,2.0,3.0,4.0"
    assert asked["datetime"] == "2024-01-01T00:00:00Z/.."
    assert asked["collections"] == "landsat-c2-l2"


def test_an_area_across_the_antimeridian_is_asked_in_two(api: Api) -> None:
    api.items = [item(0, lon=178.5), item(1, lon=0.0)]
    hits = search(settings(api), SceneQuery(area=(170, 30, -170, 40)))
    assert {a["bbox"] for a in api.asked} == {
        "170.0,30.0,180.0,40.0",
        "-180.0,30.0,-170.0,40.0",
    }
    assert [s.id[-1] for s in hits.scenes] == ["0"]


def test_the_query_holds_whatever_the_api_understood(api: Api) -> None:
    api.items = [item(0), item(1, cloud=80), item(2, lon=-50)]
    hits = search(settings(api), SceneQuery(area=(130, 30, 150, 40), max_cloud=20))
    assert [s.id[-1] for s in hits.scenes] == ["0"]


def test_the_limit_ends_the_paging(api: Api) -> None:
    api.items = [item(n) for n in range(9)]
    hits = search(settings(api), SceneQuery(limit=3))
    assert len(hits.scenes) == 3
    assert hits.truncated
    assert len(api.asked) == 2


def test_broken_items_are_counted(api: Api) -> None:
    api.items = [item(0), {"type": "Feature"}, {**item(1), "geometry": None}]
    hits = search(settings(api), SceneQuery())
    assert (len(hits.scenes), hits.skipped) == (1, 2)


@pytest.mark.parametrize(
    "host", ["evil.example.org", "files.example.org.evil.example", "127.0.0.1"]
)
def test_files_on_other_hosts_are_dropped(api: Api, host: str) -> None:
    api.items = [item(0, host=host)]
    hits = search(settings(api), SceneQuery())
    assert (hits.scenes, hits.skipped) == ((), 1)


@pytest.mark.parametrize(
    "href", ["file:///etc/passwd", "/etc/passwd", "http://files.example.org/a.tif", "s3://x/y"]
)
def test_only_https_files_are_kept(api: Api, href: str) -> None:
    one = item(0)
    one["assets"]["red"]["href"] = href
    api.items = [one]
    (scene,) = search(settings(api), SceneQuery()).scenes
    assert scene.bands == {"nir08"}


def test_a_page_on_another_host_is_not_fetched(api: Api) -> None:
    api.items = [item(n) for n in range(4)]
    api.next_host = "http://localhost:1"
    with pytest.raises(SceneUnavailable, match="cannot be searched now"):
        search(settings(api), SceneQuery())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (PlainTextResponse("busy", 503), "cannot be searched now"),
        (PlainTextResponse("<html>log in</html>"), "not understood"),
        (JSONResponse({"features": 5}), "not understood"),
        (JSONResponse([]), "not understood"),
        (RedirectResponse("http://localhost:1/search"), "cannot be searched now"),
    ],
)
def test_answers_that_are_none(api: Api, answer: Response, message: str) -> None:
    api.answer = answer
    with pytest.raises(SceneUnavailable, match=message) as caught:
        search(settings(api), SceneQuery())
    assert caught.value.transient


def test_an_api_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    gone = ApiSettings("x", "Gone API", url, (), frozenset(), enabled=True)
    with pytest.raises(SceneUnavailable, match="Gone API cannot be searched now"):
        search(gone, SceneQuery())


def test_an_api_that_is_off_is_not_asked(api: Api) -> None:
    with pytest.raises(SceneUnavailable, match="not enabled"):
        search(settings(api, enabled=False), SceneQuery())
    assert api.asked == []


def test_the_apis_that_come_with_the_project_are_all_off() -> None:
    path = Path(__file__).resolve().parents[2] / "catalogs" / "landsat8" / "api.toml"
    found = read_settings(path)
    assert {a.id for a in found} == {"earth-search", "planetary-computer", "usgs"}
    assert not any(a.enabled for a in found)
    assert all(a.asset_hosts for a in found)


@pytest.mark.parametrize(
    "text",
    [
        "[[api",
        "[[api]]\nid='x'",
        f'{GOOD}url="http://example.org"\nid="x"',
        f'{GOOD}url="https://example.org"\nid="X Y"',
        '[[api]]\ntitle="t"\ncollections="abc"\nasset_hosts=[]\nurl="https://example.org"\nid="x"',
        "api = 5",
    ],
)
def test_broken_settings_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "api.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"api\.toml"):
        read_settings(path)


@pytest.mark.parametrize("name", ["landsat8", "formosat"])
def test_the_collections_are_stac(name: str) -> None:
    path = Path(__file__).resolve().parents[2] / "catalogs" / name / "collection.json"
    collection = json.loads(path.read_text())
    assert (collection["type"], collection["id"], collection["stac_version"]) == (
        "Collection",
        name,
        "1.1.0",
    )
    assert {"license", "extent", "providers", "links", "scenebridge:readers"} <= set(collection)
