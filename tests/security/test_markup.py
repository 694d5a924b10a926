"""Text that others wrote stays text on every page, in a real Chromium."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import httpx
import pytest

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
from tests.chromium import fresh_context, host_cookie
from tests.pages import sample_portal
from tests.pages.browser_fixtures import wait_until_drawn
from tests.pages.sample_portal import ROOT, Site
from tests.running import free_port, wait_for
from ui import assets

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Frame, Page

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


class Served:
    def __init__(self, site: Site, origin: str, run: str, pages: list[str]) -> None:
        self.site = site
        self.origin = origin
        self.run = run
        self.pages = pages


def fill(site: Site) -> str:
    """Hostile text in everything that somebody else than the reader may have written."""
    site.add_session(
        ["LC08_A", "LC08_B"], SessionState.READY, title=HOSTILE, reason=HOSTILE,
        ends_at=time.time() + 3600,
    )  # fmt: skip
    site.add_session(
        ["LC08_A"], SessionState.ENDED, title=HOSTILE, reason=HOSTILE, files_until=time.time() + 99
    )
    site.add_run(["LC08_A"], RunState.QUEUED, title=HOSTILE, reason=HOSTILE)
    run = site.add_run(["LC08_A", "LC08_B"], RunState.RUNNING, title=HOSTILE, reason=HOSTILE)
    site.add_detections(
        run, "LC08_A", [0.9, 0.8, 0.7], kind=HOSTILE[:200], flags=(HOSTILE[:100],),
        properties={HOSTILE: HOSTILE, "__proto__": {"owned": 1}},
    )  # fmt: skip
    store = site.store
    store.work.update_scene(
        run.id, SceneId("LC08_A"), SceneChange(state=SceneState.DONE, objects=3,
        searched={"algorithm": HOSTILE, HOSTILE: HOSTILE, "pixels": HOSTILE}),
    )  # fmt: skip
    store.work.update_scene(
        run.id,
        SceneId("LC08_B"),
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
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    try:
        assets.build()
    except assets.BuildError as exc:
        pytest.skip(f"the front-end files cannot be built: {exc}")
    folder = tmp_path_factory.mktemp("markup")
    for name, lon in (("LC08_A", 10.0), ("LC08_B", 10.1)):
        sample_portal.plant_scene(folder, name, lon=lon, lat=50, title=f"{name} {HOSTILE}")
    site = Site(folder)
    run = fill(site)
    port = free_port()
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "tests/pages/serve_sample_portal.py"),
                str(folder),
                str(port),
            ],
            stdout=out,
            stderr=out,
        )
    try:
        origin = f"http://localhost:{port}"
        wait_for("the portal", lambda: _answers(f"{origin}/healthz"))
        written = (ROOT / "ui" / "layout.py").read_text("utf-8")
        paths = ["/", *(f"/{path}" for path in re.findall(r'url_path="([\w-]+)"', written))]
        yield Served(site, origin, run, paths)
    finally:
        process.terminate()
        process.wait(300)
        site.store.close()


def _answers(address: str) -> bool:
    try:
        return httpx.get(address).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def context(browser: Browser, served: Served) -> Iterator[BrowserContext]:
    with fresh_context(browser) as it:
        ((name, value),) = served.site.cookie().items()
        it.add_cookies([cast(Any, host_cookie(name, value))])
        yield it


@pytest.fixture(scope="module")
def tab(context: BrowserContext) -> Page:
    """The tab of all tests: Streamlit stays compiled in its process."""
    return context.new_page()


@pytest.fixture
def page(tab: Page, served: Served) -> Iterator[Page]:
    yield tab
    nothing_ran(tab)
    tab.goto(f"{served.origin}/healthz")


def nothing_ran(page: Page) -> None:
    page.wait_for_timeout(300)
    for frame in page.frames:
        assert frame.evaluate(_LOOK) == [None, False, 0], frame.url


def shown(page: Page, times: int = 1) -> None:
    """The text is there, in full, as text."""
    count = "(text) => document.body.innerText.split(text).length - 1"
    wait_for("the text", lambda: page.evaluate(count, "onerror=") >= times)


def the_map(page: Page) -> Frame:
    page.locator("iframe[title^=streamlit_folium]").wait_for()

    def drawn() -> Frame | None:
        for frame in page.frames:
            if "st_folium" in frame.url and frame.evaluate("window.map !== undefined"):
                return frame
        return None

    frame: Frame = wait_for("the map", drawn)
    return frame


def test_every_page_shows_it_as_text(page: Page, served: Served) -> None:
    assert {"/", "/work", "/results"} <= set(served.pages)
    for path in served.pages:
        page.goto(f"{served.origin}{path}?run={served.run}&scene=LC08_A&scene=LC08_B")
        wait_until_drawn(page)
        shown(page)
        nothing_ran(page)


def test_the_map_shows_it_as_text(page: Page, served: Served) -> None:
    page.goto(f"{served.origin}/?scene=LC08_A")
    frame = the_map(page)
    frame.wait_for_function("document.documentElement.dataset.footprints === '2'")
    frame.evaluate("void map.setView([50.2, 10.25], 9, {animate: false})")
    page.locator("iframe[title^=streamlit_folium]").scroll_into_view_if_needed()
    box = page.locator("iframe[title^=streamlit_folium]").bounding_box()
    assert box
    at = frame.evaluate("(() => { const p = map.latLngToContainerPoint([50.2, 10.25]);"
                        "return [p.x, p.y]; })()")  # fmt: skip
    x, y = box["x"] + at[0], box["y"] + at[1]
    page.mouse.move(x, y)
    frame.locator(".sb-hover").wait_for()
    assert "onerror=" in frame.locator(".sb-hover").inner_text()
    nothing_ran(page)
    page.mouse.click(x, y)
    assert frame.locator(".sb-choose li").count() == 2
    assert "onerror=" in frame.locator(".sb-choose").inner_text()
    nothing_ran(page)


def test_results_show_it_as_text(page: Page, served: Served) -> None:
    page.goto(f"{served.origin}/results?run={served.run}")
    frame = the_map(page)
    frame.wait_for_function("document.documentElement.dataset.detections === '3'")
    page.locator(".chip").first.wait_for()
    assert "onerror=" in page.locator(".chip .name").first.inner_text()
    page.locator(".chip").first.click()
    frame.wait_for_function("document.documentElement.dataset.mark?.startsWith('LC08_A/')")
    page.get_by_text("Marked:").wait_for()
    found = next(iter(served.site.portal.detections(OWNER, cast(Any, served.run))))
    assert isinstance(found, Detection)
    frame.evaluate(f"void map.setView([{found.lat}, {found.lon}], 14, {{animate: false}})")
    nothing_ran(page)
    assert frame.evaluate("({}).owned") is None, "a prototype was polluted"


def test_logs_and_actions_show_it_as_text(page: Page, served: Served) -> None:
    page.goto(f"{served.origin}/work")
    page.get_by_role("button", name="Log").first.click()
    page.locator("pre.sb-log").wait_for()
    assert "<img src=x" in page.locator("pre.sb-log").inner_text()
    page.get_by_role("button", name="Open here").first.click()
    page.locator("iframe[src^='/open/']").wait_for()
    nothing_ran(page)
    # The map's frame runs what any window tells it that can reach it: a notebook could.
    assert not [f.url for f in page.frames if "/component/" in f.url]


def test_a_link_cannot_bring_it(page: Page, served: Served) -> None:
    bad = quote("x'\"><img src=x onerror=window.owned=1><svg onload=window.owned=1>")
    names = ("scene", "module", "cluster", "class", "q", "bbox", "ring", "mark", "sensor", "cloud")
    query = "&".join(f"{name}={bad}" for name in names)
    for path in ("/?", "/work?", f"/results?run={served.run}&", f"/results?run={bad}&"):
        page.goto(f"{served.origin}{path}{query}")
        wait_until_drawn(page)
        nothing_ran(page)


def test_what_the_api_says_is_never_a_page(page: Page, served: Served) -> None:
    for path in (
        "/api/scenes", "/api/scenes/LC08_A", "/api/sessions", "/api/runs", "/api/footprints",
        f"/api/runs/{served.run}", f"/api/runs/{served.run}/detections",
        f"/api/runs/{served.run}/scenes/LC08_A/chips/1.webp", "/api/scenes/<img src=x>",
    ):  # fmt: skip
        answer = page.goto(f"{served.origin}{path}")
        assert answer is not None
        assert "html" not in answer.headers["content-type"], path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert page.evaluate(_LOOK)[0] is None


def test_the_policies_allow_no_foreign_script(served: Served) -> None:
    ((name, value),) = served.site.cookie().items()
    with httpx.Client(base_url=served.origin, headers={"cookie": f"{name}={value}"}) as client:
        main = client.get("/").headers["content-security-policy"]
        frame = client.get("/component/streamlit_folium.st_folium/index.html")
        inside = frame.headers["content-security-policy"]
    scripts = dict(p.split(" ", 1) for p in main.split("; "))["script-src"]
    assert "unsafe" not in scripts
    for policy in (main, inside):
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'self'" in policy
        assert "*" not in policy.replace("http://*.localhost:", "")
