"""The portal's own origin for tests: the real Portal, API and authentication, over a real
store, a real scene folder and a reconciler with a gate in memory."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import rasterio
from rasterio import Affine
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from lib.auth import COOKIE, Auth
from lib.auth.authorization import Access
from lib.auth.secret import digest
from lib.config.clusters import ClusterEntry
from lib.config.offerings import Offerings
from lib.config.settings import Settings
from lib.http.html_pages import sign_in_page
from lib.http.security_headers import page_policies
from lib.model import ClusterId, TokenScope, User
from lib.portal import facade
from lib.reconciler.interfaces import Link
from lib.scenes import stac
from lib.scenes.local_catalog import LocalCatalog
from lib.web import api
from lib.web.auth_middleware import AuthMiddleware
from tests.fakes.reconciler_harness import ReconcilerHarness, running_reconciler
from tests.fakes.things import ALICE, BOB, FIRE, HERE, MEMBERSHIP

ORIGIN = "http://localhost:8501"
SCENES = ("LC08_A", "LC08_B")


class Site:
    """`app` is what a server serves; `client` speaks to it without a socket."""

    def __init__(self, world: ReconcilerHarness) -> None:
        self.world = world
        self.auth = Auth(world.store, MEMBERSHIP)
        titles = {HERE: "This computer"}
        entries = {
            cluster: ClusterEntry(
                cluster, titles.get(cluster, cluster), "Test institute", True, ("everyone",)
            )
            for cluster in world.links
        }
        offerings = Offerings({FIRE.id: FIRE}, entries, {"landsat8": ("everyone",)})
        self.access = Access(self.auth, offerings, world.store.audit)
        root = world.home / "scenes"
        world.gate.data_paths = [str(root)]
        for name in SCENES:
            put_scene(root, name, files=name == "LC08_A")
        self.catalog = LocalCatalog(root)
        self.portal = facade.Portal(
            world.store,
            self.auth,
            self.access,
            offerings,
            self.catalog,
            world.results,
            world.reconciler,
        )
        self.reached: list[Any] = []
        inner = Starlette(
            routes=[
                Route("/api/elsewhere", self._answer, methods=["GET", "POST", "DELETE"]),
                *api.routes(),
                Route("/signin", self._answer),
                WebSocketRoute("/_stcore/stream", self._stream),
                Route("/{path:path}", self._answer, methods=["GET", "POST", "PUT", "DELETE"]),
            ]
        )
        self.app = AuthMiddleware(
            inner,
            origin=ORIGIN,
            auth=self.auth,
            access=self.access,
            policies=page_policies(Settings(data=world.home, runtime=world.home)),
            sign_in_page=lambda onward: sign_in_page({}, onward),
        )

    async def _answer(self, request: Any) -> PlainTextResponse:
        user = getattr(request.state, "user", None)
        self.reached.append(user.id if user else None)
        return PlainTextResponse("inside")

    async def _stream(self, socket: WebSocket) -> None:
        await socket.accept()
        self.reached.append(socket.state.user.id)
        await socket.close()

    def login(self, user: User = ALICE, *, lifetime_s: float = 60.0, login_id: str = "") -> str:
        """A cookie header of a browser in which this user has signed in."""
        secret = f"secret-of-{user.id}-{time.time_ns()}"
        self.world.store.people.add_login(
            login_id or secret[-16:], digest(secret), user.id, time.time() + lifetime_s
        )
        return f"{COOKIE}={secret}"

    def token(
        self,
        user: User = ALICE,
        *,
        lifetime_s: float = 60.0,
        token_id: str = "",
        scopes: Iterable[TokenScope] = tuple(TokenScope),
    ) -> str:
        """A bearer token of this user."""
        token = f"sbt_{user.id}-{time.time_ns()}"
        self.world.store.people.add_token(
            token_id or token[-16:],
            digest(token),
            user.id,
            "test",
            time.time() + lifetime_s,
            scopes=frozenset(scopes),
        )
        return token

    def client(self, user: User | None = None, **headers: str) -> httpx.AsyncClient:
        """A program; with a token where `user` is given."""
        if user is not None:
            headers["authorization"] = f"Bearer {self.token(user)}"
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url=ORIGIN, headers=headers
        )


BANDS = ("red", "green", "blue", "swir22")


def put_scene(root: Path, name: str, *, files: bool = True) -> None:
    """A small scene in the catalog's folder, with or without its files."""
    folder = root / name
    if folder.exists():
        return
    folder.mkdir(parents=True)
    for band in BANDS if files else ():
        with rasterio.open(
            folder / f"{band}.tif",
            "w",
            driver="GTiff",
            width=64,
            height=64,
            count=1,
            dtype="uint16",
            nodata=0,
            crs="EPSG:32621",
            transform=Affine(30.0, 0.0, 400_000.0, 0.0, -30.0, 7_900_000.0),
        ) as raster:
            raster.write(np.arange(1, 4097, dtype="uint16").reshape(1, 64, 64) * 10)
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "collection": "landsat8",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[-58, -19], [-57, -19], [-57, -18], [-58, -18], [-58, -19]]],
        },
        "bbox": [-58, -19, -57, -18],
        "properties": {
            "datetime": "2019-08-25T13:44:22Z",
            "platform": "landsat-8",
            "title": f"Scene {name}",
            "eo:cloud_cover": 3.5,
            "processing:level": "L1TP",
            "scenebridge:synthetic": name.endswith("B"),
        },
        "links": [],
        "assets": {
            band: {
                "href": f"./{band}.tif",
                "bands": [{"name": band, "eo:common_name": band}],
            }
            for band in BANDS
        },
    }
    (folder / "item.json").write_text(json.dumps(item))
    assert stac.from_item(item).id == name


@asynccontextmanager
async def serve_site(
    home: Path, other_links: Mapping[ClusterId, Link] | None = None
) -> AsyncIterator[Site]:
    """A whole portal whose cluster is connected."""
    async with running_reconciler(home, start=False, other_links=other_links) as world:
        it = Site(world)
        world.reconciler.start()
        await world.connected()
        facade.use(it.portal)
        try:
            yield it
        finally:
            facade.use(None)


__all__ = ["ALICE", "BOB", "ORIGIN", "SCENES", "Site", "serve_site"]
