"""A served portal in a real Chromium, for every module of page tests that needs one."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.chromium import fresh_context, host_cookie, requests_outside
from tests.pages import sample_portal
from tests.pages.sample_portal import HOSTILE, ROOT, Site
from ui import assets

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
HEIGHT = 1000
Profile = Callable[[int, bool, str], BrowserContext]


class Served:
    """A portal in a process of its own, and this process's view of its store."""

    def __init__(self, site: Site, origin: str) -> None:
        self.site = site
        self.origin = origin


@pytest.fixture(scope="session")
def served_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The portal of this worker."""
    try:
        assets.build()
    except assets.BuildError as exc:
        pytest.skip(f"the front-end files cannot be built: {exc}")
    folder = tmp_path_factory.mktemp("served")
    sample_portal.plant_sample(folder)
    sample_portal.plant_scene(folder, "LC08_HOSTILE", lon=10, lat=50, title=HOSTILE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    site = Site(folder)
    log = (folder / "server.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/pages/serve_sample_portal.py"), str(folder), str(port)],
        stdout=log,
        stderr=log,
    )
    try:
        _wait_for(f"http://localhost:{port}/healthz", process, folder / "server.log")
        yield Served(site, f"http://localhost:{port}")
    finally:
        process.terminate()
        process.wait(300)
        log.close()
        site.store.close()


@pytest.fixture(scope="module")
def served(served_once: Served) -> Iterator[Served]:
    """It has nothing but scenes when a module of tests begins: its store is put back after each."""
    with (
        contextlib.closing(sqlite3.connect(":memory:")) as kept,
        contextlib.closing(sqlite3.connect(served_once.site.folder / "portal.sqlite")) as store,
    ):
        store.backup(kept)
        yield served_once
        kept.backup(store)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=300):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"the portal did not start: {log.read_text()[-2000:]}")


def signed_in(context: BrowserContext, site: Site, who: str) -> None:
    """Give the browser a fresh sign-in of that person."""
    ((name, value),) = site.cookie_of(who).items()
    context.add_cookies([cast(Any, host_cookie(name, value))])


@pytest.fixture(scope="module")
def profiles(browser: Browser, served: Served) -> Iterator[Profile]:
    """One signed-in profile per width, theme and person, so that Streamlit's files load once."""
    with contextlib.ExitStack() as stack:
        made: dict[tuple[int, bool, str], BrowserContext] = {}

        def profile(width: int, dark: bool, who: str) -> BrowserContext:
            if (width, dark, who) not in made:
                context = stack.enter_context(fresh_context(browser, width=width, dark=dark))
                if who:
                    signed_in(context, served.site, who)
                made[width, dark, who] = context
            return made[width, dark, who]

        yield profile


@dataclass
class Tab:
    """A page, and what went wrong in it: errors, refusals, requests to elsewhere."""

    page: Page
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        requests_outside(self.page, self.faults)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda said: _note_refusal(said.text, self.faults))


class Tabs:
    """Tabs of each profile that several tests use, one after the other.

    Chromium keeps a tab's process while the tab stays on one origin, and with it what has been
    compiled there: a page costs a quarter less than in a new tab.
    """

    def __init__(self, profiles: Profile, origin: str) -> None:
        self._profiles = profiles
        self._origin = origin
        self._idle: dict[tuple[int, bool, str], list[Tab]] = {}
        self._lent: list[tuple[int, bool, str, Tab]] = []

    def lend(self, width: int, dark: bool, who: str) -> Page:
        idle = self._idle.setdefault((width, dark, who), [])
        tab = idle.pop() if idle else Tab(self._profiles(width, dark, who).new_page())
        self._lent.append((width, dark, who, tab))
        return tab.page

    def take_back(self) -> list[str]:
        """Leave the pages and forget what they keep for their tab; all of their faults."""
        faults: list[str] = []
        lent, self._lent = self._lent, []
        for width, dark, who, tab in lent:
            faults += tab.faults
            if tab.page.is_closed():
                continue
            tab.page.goto(f"{self._origin}/healthz")
            tab.page.evaluate("sessionStorage.clear()")
            tab.page.emulate_media(color_scheme="dark" if dark else "light")
            tab.page.set_viewport_size({"width": width, "height": HEIGHT})
            tab.faults.clear()
            self._idle[width, dark, who].append(tab)
        return faults


@pytest.fixture(scope="module")
def tabs(profiles: Profile, served: Served) -> Tabs:
    return Tabs(profiles, served.origin)


@pytest.fixture
def visit(tabs: Tabs, served: Served) -> Iterator[Any]:
    """Open a page; at the end nothing may have left this computer or failed."""

    def opened(
        path: str = "/", *, width: int = 1400, dark: bool = False, who: str = "owner"
    ) -> Page:
        page = tabs.lend(width, dark, who)
        page.goto(served.origin + path)
        return page

    yield opened
    assert not tabs.take_back()


def _note_refusal(said: str, broken: list[str]) -> None:
    """The browser says so when the page's Content-Security-Policy kept something out."""
    if "Content Security Policy" in said:
        broken.append(said)


#: True once the script has run, nothing is loading, and both have been so for a moment.
_IS_DRAWN = """() => {
  const app = document.querySelector("[data-testid=stApp]");
  const loads = document.querySelector("[data-testid=stSkeleton]");
  const quiet = app && app.dataset.testScriptState === "notRunning" && !loads;
  window.__quietSince = quiet ? window.__quietSince ?? performance.now() : undefined;
  return quiet && performance.now() - window.__quietSince > 300;
}"""


def wait_until_drawn(page: Page) -> None:
    """Wait until the page is drawn, with all that it loads by itself."""
    page.locator(".sb-heading h1").wait_for()
    page.wait_for_function(_IS_DRAWN, polling=100)


#: Streamlit, or a plain page, has taken to dark colours.
_IS_DARK = """() => {
  const body = document.querySelector("[data-testid=stApp]") || document.body;
  const seen = getComputedStyle(body).backgroundColor.match(/[\\d.]+/g).map(Number);
  return seen.length === 3 && seen[0] + seen[1] + seen[2] < 3 * 128;
}"""
#: Nothing moves or fades any more, and what has changed is painted. Each look asks for a frame:
#: what fades unseen comes to no end without one (the buttons of a number, Chromium 156).
_IS_STILL = """async () => {
  const moves = (a) => a.playState === "running" && a.effect.getComputedTiming().endTime < 60000;
  const next = () => new Promise(requestAnimationFrame);
  const paint = () => next().then(next);
  do await paint(); while (document.getAnimations().some(moves));
}"""


def wait_until_still(page: Page) -> None:
    """Wait until sizes and colours have arrived where they go."""
    for frame in page.frames:
        frame.evaluate(_IS_STILL)


#: What lies beside the window or beside the part of it that is for the page.
_TOO_WIDE = """() => [document.documentElement, document.querySelector("[data-testid=stMain]")]
  .filter((e) => e && e.scrollWidth > e.clientWidth).map((e) => e.dataset.testid || e.tagName)"""
#: The rules of axe-core whose answer hangs on colours.
OF_COLOURS = ("color-contrast", "link-in-text-block")


def axe_violations(page: Page, *only: str) -> list[str]:
    """What axe-core finds wrong with the page and its frames as they stand, one line each.

    Args:
        only: rules; none means all that are on.
    """
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: run npm ci")
    wait_until_still(page)
    for frame in page.frames:
        if not frame.evaluate("'axe' in window"):
            frame.evaluate(AXE.read_text())
    options = {"resultTypes": ["violations"], "iframes": True}
    found = page.evaluate(
        "(options) => axe.run(document, options)",
        {**options, **({"runOnly": {"type": "rule", "values": list(only)}} if only else {})},
    )
    return [
        f"{v['id']}: {n['target']} {n['html'][:160]} {n.get('failureSummary', '')[:200]}"
        for v in found["violations"]
        for n in v["nodes"][:3]
    ]


def in_both_themes(page: Page, *widths: int) -> list[str]:
    """What axe-core finds wrong at each width: all in the colours that the page has, and what
    hangs on colours in the others, which it keeps. To change them costs as much as to look.
    """
    told = []
    dark = bool(page.evaluate(_IS_DARK))
    for theme, rules, order in ((dark, (), widths), (not dark, OF_COLOURS, widths[::-1])):
        page.emulate_media(color_scheme="dark" if theme else "light")
        page.wait_for_function(_IS_DARK if theme else f"() => !({_IS_DARK})()")
        for width in order:
            page.set_viewport_size({"width": width, "height": HEIGHT})
            seen = f"{width} px, {'dark' if theme else 'light'}"
            told += [f"{seen}: {line}" for line in axe_violations(page, *rules)]
            told += [f"{seen}: {part} is too wide" for part in page.evaluate(_TOO_WIDE)]
    return told
