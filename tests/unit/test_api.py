"""Each route of the API with its errors; every answer is held against openapi.yaml."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lib.errors import StorageFull
from lib.model import (
    RunId,
    RunState,
    SceneId,
    SceneState,
    SessionId,
    SessionState,
    Tunnel,
    TunnelState,
)
from lib.portal import facade
from lib.protocol.messages import ArtifactKind
from lib.store.changes import SceneChange
from tests.fakes.described import check
from tests.fakes.reconciler_harness import hurry, until
from tests.fakes.site import ALICE, BOB, Site, serve_site
from tests.fakes.things import HERE, a_detection, a_picture, new_id

LAUNCH = {
    "scenes": ["LC08_A"],
    "module": "active-fire",
    "params": {"min_pixels": 2},
    "cluster": "here",
    "resources": {"preset": "small", "walltime_s": 3600},
}


@pytest.fixture
async def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    hurry(monkeypatch)
    async with serve_site(tmp_path) as it:
        yield it


@pytest.fixture
async def api(here: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with here.client(ALICE) as client:
        client.event_hooks = {"response": [check]}
        yield client


def message(answer: httpx.Response) -> str:
    text: str = answer.json()["error"]["message"]
    return text


async def test_alive_and_described(api: httpx.AsyncClient, here: Site) -> None:
    assert (await api.get("/healthz")).json()["status"] == "ok"
    assert (await api.get("/api/openapi.yaml")).text.startswith("openapi: 3.1.0")
    facade.use(None)
    answer = await api.get("/healthz")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"


# --- scenes -------------------------------------------------------------------------


async def test_search(api: httpx.AsyncClient) -> None:
    found = (await api.get("/api/scenes")).json()
    assert (found["numberMatched"], found["numberReturned"]) == (2, 2)
    first = next(f for f in found["features"] if f["id"] == "LC08_A")
    assert first["properties"]["datetime"] == "2019-08-25T13:44:22Z"
    assert "example.org" not in json.dumps(found)
    assert "tif" not in json.dumps(found), "addresses of files stay inside"


QUERIES = [
    ("bbox=-59,-20,-56,-17", 2),
    ("bbox=10,10,20,20", 0),
    ("bbox=170,-20,-50,-17", 2),
    ("start=2019-08-25&end=2019-08-25", 2),
    ("end=2019-08-24", 0),
    ("end=9999-12-31", 2),
    ("start=0001-01-01", 2),
    ("cloud=3", 0),
    ("cloud=4", 2),
    ("platform=landsat-8&platform=formosat-2", 2),
    ("platform=formosat-2", 0),
    ("q=lc08_a", 1),
    ("q=%25", 0),
    ("limit=1", 1),
    ('polygon={"type":"Polygon","coordinates":[[[-58,-19],[-57,-19],[-57,-18],[-58,-19]]]}', 2),
    ("bbox=&polygon=&start=&cloud=&limit=&q=", 2),
    ("q=" + "x" * 200, 0),
]


async def test_search_restricts(api: httpx.AsyncClient) -> None:
    for query, count in QUERIES:
        answer = await api.get(f"/api/scenes?{query}")
        assert answer.status_code == 200, (query, answer.text)
        assert answer.json()["numberReturned"] == count, query
        if "limit" not in query:
            outlines = await api.get(f"/api/footprints?{query}")
            assert outlines.headers["x-total-count"] == str(count), query
            assert len(outlines.json()["features"]) == count, query


BAD_QUERIES = [
    ("bbox=1,2,3", "bbox is west"),
    ("bbox=a,b,c,d", "bbox is west"),
    ("bbox=nan,0,1,1", "bbox is west"),
    ("bbox=0,10,1,5", "bbox is west"),
    ("bbox=0,0,1,inf", "bbox is west"),
    ("polygon={}", "GeoJSON Polygon"),
    ("polygon=[", "GeoJSON Polygon"),
    ('polygon={"type":"Polygon","coordinates":[]}', "GeoJSON Polygon"),
    ('polygon={"type":"Polygon","coordinates":[[["a"]]]}', "polygon"),
    ('polygon={"type":"Polygon","coordinates":[[[0,0],[NaN,1],[1,1],[0,0]]]}', "polygon"),
    ("start=25.8.2019", "start is a date"),
    ("end=2019-02-30", "end is a date"),
    ("cloud=101", "percentage"),
    ("cloud=nan", "percentage"),
    ("limit=0", "limit is a whole number"),
    ("limit=20001", "limit is a whole number"),
    ("limit=-1", "limit is a whole number"),
    ("limit=٣", "limit is a whole number"),
    ("limit=" + "9" * 6000, "limit is a whole number"),
    ("limit=" + "0" * 8 + "99999", "limit is a whole number"),
    ("limit=" + "0" * 6000 + "1", "limit is a whole number"),
    ("limit=5&limit=", "limit may be given once only"),
    ("bbox=x&bbox=", "bbox may be given once only"),
    ("start=&start=2019-08-25", "start may be given once only"),
    ("q=" + "x" * 201, "q has at most 200 characters"),
]


async def test_a_search_that_is_wrong_says_how(api: httpx.AsyncClient) -> None:
    for query, words in BAD_QUERIES:
        for path in ("/api/scenes", "/api/footprints"):
            answer = await api.get(f"{path}?{query}")
            assert answer.status_code == 422, (query, answer.text)
            assert words in message(answer), query


async def test_one_scene_and_its_pictures(api: httpx.AsyncClient) -> None:
    assert (await api.get("/api/scenes/LC08_A")).json()["id"] == "LC08_A"
    quicklook = await api.get("/api/scenes/LC08_A/quicklook.webp?size=64")
    assert quicklook.content[8:12] == b"WEBP"
    assert quicklook.headers["content-security-policy"].startswith("sandbox")
    assert "private" in quicklook.headers["cache-control"]
    tile = await api.get("/api/scenes/LC08_A/tiles/0/0/0.webp")
    assert tile.content[8:12] == b"WEBP"


MISSING_PICTURES = [
    ("/api/scenes/NONE", 404),
    ("/api/scenes/NONE/quicklook.webp", 404),
    ("/api/scenes/NONE/tiles/0/0/0.webp", 404),
    ("/api/scenes/LC08_A/quicklook.webp?size=7", 422),
    ("/api/scenes/LC08_A/quicklook.webp?size=9999", 422),
    ("/api/scenes/LC08_B/quicklook.webp", 503),
    ("/api/scenes/LC08_B/tiles/0/0/0.webp", 503),
    ("/api/scenes/LC08_A/tiles/x/0/0.webp", 404),
    ("/api/scenes/LC08_A/tiles/0/-1/0.webp", 404),
    (f"/api/scenes/LC08_A/tiles/0/0/{'9' * 5000}.webp", 404),
]


async def test_pictures_that_are_not_there(api: httpx.AsyncClient) -> None:
    for path, status in MISSING_PICTURES:
        answer = await api.get(path)
        assert answer.status_code == status, (path, answer.text)
        assert ("retry-after" in answer.headers) == (status == 503), path


async def test_tiles_outside_of_the_grid(api: httpx.AsyncClient) -> None:
    for place in ("0/1/0", "1/2/0", "99/0/0", "999999999/0/0"):
        answer = await api.get(f"/api/scenes/LC08_A/tiles/{place}.webp")
        assert answer.status_code in (404, 422), (place, answer.text)


# --- choices --------------------------------------------------------------------------


async def test_modules_and_clusters(api: httpx.AsyncClient, here: Site) -> None:
    (module,) = (await api.get("/api/modules")).json()
    assert module["needs"] == [
        {"platform": "landsat-8", "bands": ["red", "swir22"], "levels": ["L1TP"]}
    ]
    (cluster,) = (await api.get("/api/clusters")).json()
    assert (cluster["reachability"], cluster["isolation"]) == ("REACHABLE", "none")
    assert cluster["modules"] == [["active-fire", "1.0.0"]]
    here.world.gate.go_away()
    await until(
        lambda: not here.world.reconciler.health(here.portal.clusters(ALICE)[0].id).reachable
    )
    (cluster,) = (await api.get("/api/clusters")).json()
    assert cluster["reachability"] == "UNKNOWN"
    assert cluster["unreachable_reason"] == "The cluster does not answer."
    assert cluster["unreachable_since"].endswith("Z")
    assert cluster["presets"], "what it offered is still known"
    assert cluster["mend"], "somebody can do something"


async def test_every_cluster_with_why_not(api: httpx.AsyncClient, here: Site) -> None:
    """Without `all` those that the asker may use alone; the tunnel decides too."""
    elsewhere = Tunnel(HERE, TunnelState.OPEN, account="ada", person=BOB.id, login_node="u@node")
    here.access.tunnel = lambda _entry: elsewhere
    assert (await api.get("/api/clusters")).json() == []
    (cluster,) = (await api.get("/api/clusters?all=1")).json()
    assert cluster["refused"].endswith("who alone starts work through it.")
    assert cluster["tunnel"]["state"] == "open"
    assert cluster["tunnel"]["login_node"] == "", "that is for those who may"
    here.access.tunnel = lambda _entry: dataclasses.replace(elsewhere, person=ALICE.id)
    (cluster,) = (await api.get("/api/clusters")).json()
    assert cluster["tunnel"]["login_node"] == "u@node"
    assert cluster["refused"] == ""
    assert (await api.get("/api/clusters?all=2")).status_code == 422


# --- sessions ---------------------------------------------------------------------------


async def test_a_session_from_launch_to_stop(api: httpx.AsyncClient, here: Site) -> None:
    answer = await api.post("/api/sessions", json={**LAUNCH, "title": "  Fires  "})
    assert answer.status_code == 201
    opened = answer.json()
    assert answer.headers["location"] == f"/api/sessions/{opened['id']}"
    assert (opened["state"], opened["title"], opened["owner"]) == ("NEW", "Fires", "alice")
    await here.world.session_is(SessionId(opened["id"]), SessionState.QUEUED)
    assert (await api.get(answer.headers["location"])).json()["state"] == "QUEUED"
    run = (await api.get(f"/api/runs/{opened['run']}")).json()
    assert (run["session"], run["params"]) == (opened["id"], {"factor": 0.5, "min_pixels": 2})
    assert [s["id"] for s in (await api.get("/api/sessions")).json()] == [opened["id"]]

    refused = await api.delete(f"/api/runs/{opened['run']}")
    assert refused.status_code == 409
    assert message(refused) == "This run belongs to a notebook: stop the notebook."

    stopped = await api.delete(answer.headers["location"])
    assert stopped.status_code == 202
    await here.world.session_is(SessionId(opened["id"]), SessionState.ENDED)
    before = (await api.get(answer.headers["location"])).json()
    assert before["end_reason"] == "cancelled while queued"
    again = await api.delete(answer.headers["location"])
    assert again.status_code == 202
    assert again.json() == before


async def test_a_run_from_launch_to_its_detections(api: httpx.AsyncClient, here: Site) -> None:
    answer = await api.post("/api/runs", json={**LAUNCH, "scenes": ["LC08_A", "LC08_B"]})
    assert answer.status_code == 201
    run_id = RunId(answer.json()["id"])
    assert answer.json()["title"] == "Active fire on LC08_A and 1 more"
    address = answer.headers["location"]
    await here.world.run_is(run_id, RunState.QUEUED)
    store = here.world.store
    store.detections.put([a_detection(run_id, 1), a_detection(run_id, 2, "LC08_B")])
    store.work.update_scene(
        run_id, SceneId("LC08_A"), SceneChange(state=SceneState.RUNNING, fraction=0.25)
    )
    found = (await api.get(f"{address}/detections")).json()
    assert [(f["id"], f["properties"]["synthetic"]) for f in found["features"]] == [
        ("LC08_A/1", False),
        ("LC08_B/2", True),
    ]
    saved = await api.get(f"{address}/detections?download=1")
    assert saved.headers["content-disposition"] == (
        f'attachment; filename="detections-{run_id[:8]}.geojson"'
    )
    assert (await api.get(address)).json()["scenes"][0]["fraction"] == 0.25
    assert len((await api.get("/api/runs")).json()) == 1
    stopped = await api.delete(address)
    assert stopped.status_code == 202
    await here.world.run_is(run_id, RunState.CANCELLED)
    assert (await api.delete(address)).json()["state"] == "CANCELLED"


async def test_chips_and_overviews(api: httpx.AsyncClient, here: Site) -> None:
    run_id = RunId((await api.post("/api/runs", json=LAUNCH)).json()["id"])
    scene = SceneId("LC08_A")
    address = f"/api/runs/{run_id}/scenes/LC08_A"
    assert (await api.get(f"{address}/chips/1.webp")).status_code == 404
    for kind, n in ((ArtifactKind.CHIP, 1), (ArtifactKind.OVERVIEW, 0)):
        path = here.world.results.path(run_id, scene, kind, n)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(a_picture())
    for name in ("chips/1.webp", "chips/0001.webp", "overview.webp"):
        answer = await api.get(f"{address}/{name}")
        assert answer.content == a_picture()
        assert answer.headers["content-type"] == "image/webp"
        assert answer.headers["content-security-policy"].startswith("sandbox")


# --- launches that cannot be --------------------------------------------------------------


def launch(**changes: Any) -> dict[str, Any]:
    return {**LAUNCH, **changes}


def resources(**changes: Any) -> dict[str, Any]:
    return launch(resources={"preset": "small", "walltime_s": 3600, **changes})


BAD_LAUNCHES: list[tuple[Any, int, str]] = [
    (launch(scenes=[]), 422, "Choose at least one scene"),
    (launch(scenes=["LC08_A", "LC08_A"]), 422, "chosen twice"),
    (launch(scenes=[f"S{i}" for i in range(501)]), 422, "at most 500 scenes"),
    (launch(scenes=["NONE"]), 404, "no scene"),
    (launch(scenes="LC08_A"), 422, "wrong type"),
    (launch(scenes=[["LC08_A"]]), 422, "wrong type"),
    (launch(scenes=[None]), 422, "wrong type"),
    (launch(module="none"), 404, "no module 'none'"),
    (launch(module=None), 422, "wrong type"),
    (launch(cluster="none"), 404, "no cluster 'none'"),
    (launch(params={"min_pixels": 0}), 422, "“Smallest object” is not right"),
    (launch(params={"min_pixels": "2"}), 422, "“Smallest object” is not right"),
    (launch(params={"factor": float("inf")}), 422, "not the JSON object"),
    (launch(params={"nothing": 1}), 422, "has no parameter 'nothing'"),
    (launch(params=[]), 422, "wrong type"),
    (launch(title=7), 422, "wrong type"),
    (launch(title="\ud800"), 422, "wrong type"),
    (resources(preset="huge"), 422, "It has: small."),
    (resources(walltime_s=59), 422, "1 to 120 minutes"),
    (resources(walltime_s=7201), 422, "1 to 120 minutes"),
    (resources(walltime_s=10**30), 422, "1 to 120 minutes"),
    (resources(walltime_s=True), 422, "wrong type"),
    (resources(walltime_s=60.5), 422, "wrong type"),
    (resources(walltime_s=None), 422, "wrong type"),
    (launch(resources="small"), 422, "wrong type"),
    (launch(resources={}), 422, "lacks 'preset'"),
    ({}, 422, "lacks 'resources'"),
    ([], 422, "wrong type"),
    (7, 422, "wrong type"),
    (None, 422, "wrong type"),
]


async def test_a_whole_number_of_json_schema_is_one(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/runs", json=resources(walltime_s=60.0))
    assert answer.status_code == 201, answer.text
    assert answer.json()["resources"]["walltime_s"] == 60


@pytest.mark.parametrize("path", ["/api/sessions", "/api/runs"])
async def test_a_launch_that_cannot_be_says_why(
    api: httpx.AsyncClient, here: Site, path: str
) -> None:
    for body, status, words in BAD_LAUNCHES:
        answer = await api.post(path, content=json.dumps(body))
        assert answer.status_code == status, (body, answer.text)
        assert words in message(answer), body
    assert (await api.get(path)).json() == []


NO_JSON = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    json.dumps(LAUNCH).replace("3600", "9" * 5000).encode(),
    json.dumps(LAUNCH).replace('"min_pixels": 2', '"factor": NaN').encode(),
    json.dumps(LAUNCH).replace('"min_pixels": 2', '"factor": Infinity').encode(),
]


async def test_bodies_that_are_no_json(api: httpx.AsyncClient) -> None:
    for body in NO_JSON:
        for path in ("/api/sessions", "/api/runs"):
            answer = await api.post(path, content=body)
            assert answer.status_code == 422, (body[:50], answer.text)
            assert "is not the JSON object" in message(answer), body[:50]


async def test_a_module_that_the_cluster_does_not_offer(
    api: httpx.AsyncClient, here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    offerings = here.portal._offerings
    newer = {k: dataclasses.replace(m, version="2.0.0") for k, m in offerings.modules.items()}
    monkeypatch.setattr(
        here.portal._launcher, "_offerings", dataclasses.replace(offerings, modules=newer)
    )
    answer = await api.post("/api/runs", json=LAUNCH)
    assert answer.status_code == 403
    assert "does not offer Active fire 2.0.0" in message(answer)
    audited = here.world.store.audit.latest(1)[0]
    assert (audited.action, audited.result, audited.object) == ("start-run", "refused", "here")


async def test_a_full_disk_is_told(
    api: httpx.AsyncClient, here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageFull("The disk that holds the portal's data is full. Free some space.")

    monkeypatch.setattr(here.world.store.work, "add_run", full)
    answer = await api.post("/api/runs", json=LAUNCH)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "storage-full"
    assert answer.headers["retry-after"] == "5"


# --- other people's things ------------------------------------------------------------------


async def test_two_users_never_see_each_other_s_things(api: httpx.AsyncClient, here: Site) -> None:
    session = (await api.post("/api/sessions", json=LAUNCH)).json()
    run = (await api.post("/api/runs", json=LAUNCH)).json()
    here.world.store.detections.put([a_detection(RunId(run["id"]), 1)])
    chip = here.world.results.path(RunId(run["id"]), SceneId("LC08_A"), ArtifactKind.CHIP, 1)
    chip.parent.mkdir(parents=True)
    chip.write_bytes(a_picture())
    theirs = [
        f"/api/sessions/{session['id']}",
        f"/api/runs/{session['run']}",
        f"/api/runs/{run['id']}",
        f"/api/runs/{run['id']}/detections",
        f"/api/runs/{run['id']}/scenes/LC08_A/chips/1.webp",
    ]
    async with here.client(BOB) as bob:
        bob.event_hooks = {"response": [check]}
        nothing = (await bob.get(f"/api/sessions/{new_id()}")).json()
        for path in theirs:
            assert (await api.get(path)).status_code == 200, path
            assert (await bob.get(path)).status_code == 404, path
        assert (await bob.get(theirs[0])).json() == nothing, "it tells not even that it exists"
        for path in theirs[:3]:
            assert (await bob.delete(path)).status_code == 404, path
        assert (await bob.get("/api/sessions")).json() == []
        assert (await bob.get("/api/runs")).json() == []
    assert not here.world.session(SessionId(session["id"])).stopping
    assert not here.world.run(RunId(run["id"])).stopping
