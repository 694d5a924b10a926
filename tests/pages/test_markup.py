"""Text that others wrote stays text on every page, in a real Chromium."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, cast
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Page

from lib.auth import OWNER
from lib.model import (
    AnnouncementKind,
    Detection,
    RunState,
    SceneId,
    SceneState,
    SessionState,
    UserId,
)
from lib.store.changes import RunChange, SceneChange
from tests.pages import sample_portal
from tests.pages.browser_fixtures import Served, wait_until_drawn
from tests.pages.sample_portal import ROOT, Site
from tests.pages.test_browser import look, screen_point, the_map, with_footprints
from tests.running import wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]

#: Ways out of an element, an attribute, a script, a template, a style, Markdown, an address.
HOSTILE = (
    "<img src=x onerror=\"window.owned=1;document.title='owned'\">"
    "</script><script>window.owned=2</script></style></pre></textarea>"
    "\"onmouseover=\"window.owned=3\" x='y' onfocus='window.owned=4'"
    "';window.owned=5;//`${window.owned=6}`\\u003cimg src=x onerror=window.owned=7\\u003e"
    "{{window.owned}}{% raw %}[a](javascript:window.owned=8)![b](x):material/home:$x$"
    "<svg onload=window.owned=9><iframe srcdoc='<script>parent.owned=10</script>'>"
)
_LOOK = """() => [
  window.owned, document.title.includes('owned'),
  document.querySelectorAll('img[src="x"], svg[onload], iframe[srcdoc], [onerror], [onmouseover],'
    + '[onfocus], a[href^="javascript:"]').length,
]"""


SCENES = ("LC08_MARKUP_A", "LC08_MARKUP_B")


class Filled(NamedTuple):
    """The served portal with hostile text everywhere: its origin, a run, and all its pages."""

    site: Site
    origin: str
    run: str
    pages: list[str]


def fill(site: Site) -> str:
    """Hostile text in everything that somebody else than the reader may have written."""
    site.add_session(
        [SCENES[0], SCENES[1]], SessionState.READY, title=HOSTILE, reason=HOSTILE,
        ends_at=time.time() + 3600,
    )  # fmt: skip
    site.add_session(
        [SCENES[0]], SessionState.ENDED, title=HOSTILE, reason=HOSTILE, files_until=time.time() + 99
    )
    site.add_run([SCENES[0]], RunState.QUEUED, title=HOSTILE, reason=HOSTILE)
    run = site.add_run([SCENES[0], SCENES[1]], RunState.RUNNING, title=HOSTILE, reason=HOSTILE)
    site.add_detections(
        run, SCENES[0], [0.9, 0.8, 0.7], kind=HOSTILE[:200], flags=(HOSTILE[:100],),
        properties={HOSTILE: HOSTILE, "__proto__": {"owned": 1}},
    )  # fmt: skip
    store = site.store
    store.work.update_scene(
        run.id, SceneId(SCENES[0]), SceneChange(state=SceneState.DONE, objects=3,
        searched={"algorithm": HOSTILE, HOSTILE: HOSTILE, "pixels": HOSTILE}),
    )  # fmt: skip
    store.work.update_scene(
        run.id,
        SceneId(SCENES[1]),
        SceneChange(state=SceneState.FAILED, message=HOSTILE, searched={}),
    )
    store.work.update_run(run.id, RunChange(state=RunState.PARTIAL))
    store.people.came(
        UserId("u-mallory"), name=HOSTILE, provider="", subject=HOSTILE, claims={"email": HOSTILE}
    )
    store.people.add_login(
        "l", "hash", OWNER.id, time.time() + 99, client=HOSTILE, browser=HOSTILE, provider=HOSTILE
    )
    site.auth.tokens.new(HOSTILE[:100], user=OWNER)
    store.announcements.add(HOSTILE, AnnouncementKind.WARNING, time.time() + 3600)
    store.audit.write("u-mallory", "stop", HOSTILE, detail=HOSTILE, client=HOSTILE, via=HOSTILE)
    return str(run.id)


@pytest.fixture(scope="module")
def filled(served: Served) -> Iterator[Filled]:
    """Gone afterwards: the store is put back, and the scenes are taken out."""
    site = served.site
    for name, lon in zip(SCENES, (30.0, 30.1), strict=True):
        sample_portal.plant_scene(site.folder, name, lon=lon, lat=10, title=f"{name} {HOSTILE}")
    (site.folder / "scenes" / "table.parquet").unlink(missing_ok=True)  # it is made anew
    written = (ROOT / "ui" / "layout.py").read_text("utf-8")
    paths = ["/", *(f"/{path}" for path in re.findall(r'url_path="([\w-]+)"', written))]
    yield Filled(site, served.origin, fill(site), paths)
    for name in SCENES:
        site.catalog.remove(SceneId(name))


@pytest.fixture
def page(visit: Any) -> Iterator[Page]:
    tab = visit("/healthz")
    yield tab
    nothing_ran(tab)


def nothing_ran(page: Page) -> None:
    page.wait_for_timeout(300)
    for frame in page.frames:
        assert frame.evaluate(_LOOK) == [None, False, 0], frame.url


def shown(page: Page, times: int = 1) -> None:
    """The text is there, in full, as text."""
    count = "(text) => document.body.innerText.split(text).length - 1"
    wait_for("the text", lambda: page.evaluate(count, "onerror=") >= times)


def map_shows_it(page: Page, filled: Filled) -> None:
    frame = with_footprints(page, 8)
    look(frame, 30.25, 10.2, 9)
    x, y = screen_point(page, frame, 30.25, 10.2)
    page.mouse.move(x, y)
    frame.locator(".sb-hover").wait_for()
    assert "onerror=" in frame.locator(".sb-hover").inner_text()
    nothing_ran(page)
    page.mouse.click(x, y)
    assert frame.locator(".sb-choose li").count() == 2
    assert "onerror=" in frame.locator(".sb-choose").inner_text()


def results_show_it(page: Page, filled: Filled) -> None:
    frame = the_map(page)
    frame.wait_for_function("document.documentElement.dataset.detections === '3'")
    page.locator(".chip").first.wait_for()
    assert "onerror=" in page.locator(".chip .name").first.inner_text()
    page.locator(".chip").first.click()
    frame.wait_for_function("document.documentElement.dataset.mark?.startsWith('LC08_MARKUP_A/')")
    page.get_by_text("Marked:").wait_for()
    found = next(iter(filled.site.portal.detections(OWNER, cast(Any, filled.run))))
    assert isinstance(found, Detection)
    look(frame, found.lon, found.lat, 14)
    nothing_ran(page)
    assert frame.evaluate("({}).owned") is None, "a prototype was polluted"


def log_and_notebook_show_it(page: Page, filled: Filled) -> None:
    page.get_by_role("button", name="Log").first.click()
    page.locator("pre.sb-log").wait_for()
    assert "<img src=x" in page.locator("pre.sb-log").inner_text()
    page.get_by_role("button", name="Open here").first.click()
    page.locator("iframe[src^='/open/']").wait_for()
    nothing_ran(page)
    # The map's frame runs what any window tells it that can reach it: a notebook could.
    assert not [f.url for f in page.frames if "/component/" in f.url]


#: What else shows it where it was opened or pressed.
PARTS = {"/": map_shows_it, "/results": results_show_it, "/work": log_and_notebook_show_it}


def test_every_page_shows_it_as_text(page: Page, filled: Filled) -> None:
    assert set(PARTS) <= set(filled.pages)
    for path in filled.pages:
        of_all = f"run={filled.run}"  # what it found in every scene
        chosen = "&".join([of_all, *(f"scene={name}" for name in SCENES)])
        page.goto(f"{filled.origin}{path}?{of_all if path == '/results' else chosen}")
        wait_until_drawn(page)
        shown(page)
        nothing_ran(page)
        if path in PARTS:
            PARTS[path](page, filled)
            nothing_ran(page)


def test_a_link_cannot_bring_it(page: Page, filled: Filled) -> None:
    bad = quote("x'\"><img src=x onerror=window.owned=1><svg onload=window.owned=1>")
    names = ("scene", "module", "cluster", "class", "q", "bbox", "ring", "mark", "sensor", "cloud")
    query = "&".join(f"{name}={bad}" for name in names)
    for path in ("/?", "/work?", f"/results?run={filled.run}&", f"/results?run={bad}&"):
        page.goto(f"{filled.origin}{path}{query}")
        wait_until_drawn(page)
        nothing_ran(page)


def test_what_the_api_says_is_never_a_page(page: Page, filled: Filled) -> None:
    for path in (
        "/api/scenes", f"/api/scenes/{SCENES[0]}", "/api/sessions", "/api/runs", "/api/footprints",
        f"/api/runs/{filled.run}", f"/api/runs/{filled.run}/detections",
        f"/api/runs/{filled.run}/scenes/{SCENES[0]}/chips/1.webp", "/api/scenes/<img src=x>",
    ):  # fmt: skip
        answer = page.goto(f"{filled.origin}{path}")
        assert answer is not None
        assert "html" not in answer.headers["content-type"], path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert page.evaluate(_LOOK)[0] is None


def test_the_policies_allow_no_foreign_script(filled: Filled) -> None:
    ((name, value),) = filled.site.cookie().items()
    with httpx.Client(base_url=filled.origin, headers={"cookie": f"{name}={value}"}) as client:
        main = client.get("/").headers["content-security-policy"]
        frame = client.get("/component/streamlit_folium.st_folium/index.html")
        inside = frame.headers["content-security-policy"]
    scripts = dict(p.split(" ", 1) for p in main.split("; "))["script-src"]
    assert "unsafe" not in scripts
    for policy in (main, inside):
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'self'" in policy
        assert "*" not in policy.replace("http://*.localhost:", "")
