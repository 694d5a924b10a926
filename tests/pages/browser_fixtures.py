"""A served portal in a real Chromium, for every module of page tests that needs one."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.chromium import connected, fresh_context, host_cookie, requests_outside
from tests.pages import sample_portal
from tests.pages.sample_portal import HOSTILE, ROOT, Site
from ui import assets

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
HEIGHT = 1000


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


@pytest.fixture(scope="package")
def browser(chromium_address: str) -> Iterator[Browser]:
    """One connection for all modules here: none of their tests has an event loop of its own."""
    with connected(chromium_address) as driven:
        yield driven


@dataclass
class Tab:
    """A page, and what went wrong in it: errors, refusals, requests to elsewhere."""

    page: Page
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        requests_outside(self.page, self.faults)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda said: _note_refusal(said.text, self.faults))


class Profile:
    """The tabs of one profile, which all tests use one after the other.

    Streamlit's files load once, and Chromium keeps a tab's process while the tab stays on one
    origin, and with it what has been compiled there: a page costs half of one in a new profile.
    """

    def __init__(self, context: BrowserContext, served: Served) -> None:
        self._context = context
        self._served = served
        self._who = ""
        self._idle: list[Tab] = []
        self._lent: list[Tab] = []

    def lend(self, width: int, who: str) -> Page:
        """A tab, in a browser in which that person alone is signed in."""
        if who != self._who:
            assert not self._lent, "one person at a time has this browser"
            self.sign_out()
            if who:
                signed_in(self._context, self._served.site, who)
            self._who = who
        tab = self._idle.pop() if self._idle else Tab(self._context.new_page())
        self._lent.append(tab)
        tab.page.set_viewport_size({"width": width, "height": HEIGHT})
        return tab.page

    def sign_out(self) -> None:
        """Forget who was signed in."""
        self._context.clear_cookies()
        self._who = ""

    def take_back(self) -> list[str]:
        """Leave the pages and forget what they keep for themselves; all of their faults."""
        faults: list[str] = []
        lent, self._lent = self._lent, []
        for tab in lent:
            faults += tab.faults
            if tab.page.is_closed():
                continue
            tab.page.goto(f"{self._served.origin}/healthz")
            tab.page.evaluate("sessionStorage.clear(), localStorage.clear()")
            tab.page.emulate_media(color_scheme="light")
            tab.faults.clear()
            self._idle.append(tab)
        return faults


@pytest.fixture(scope="package")
def shared_profile(browser: Browser, served_once: Served) -> Iterator[Profile]:
    with fresh_context(browser, height=HEIGHT) as context:
        yield Profile(context, served_once)


@pytest.fixture(scope="module")
def tabs(shared_profile: Profile, served: Served) -> Profile:
    """Nobody is signed in when a module of tests begins."""
    shared_profile.sign_out()
    return shared_profile


@pytest.fixture
def visit(tabs: Profile, browser: Browser, served: Served) -> Iterator[Any]:
    """Open a page; at the end nothing may have left this computer or failed.

    Who installs a clock is `clocked` and has a profile of their own: a clock stays in it, with
    all that was done to it, and a page that is opened there later lives through that again.
    """
    with contextlib.ExitStack() as stack:
        profiles = [tabs]

        def opened(
            path: str = "/", *, width: int = 1400, who: str = "owner", clocked: bool = False
        ) -> Page:
            if clocked:
                context = stack.enter_context(fresh_context(browser, height=HEIGHT))
                profiles.append(Profile(context, served))
            page = profiles[-1].lend(width, who)
            page.goto(served.origin + path)
            return page

        yield opened
        assert not [fault for profile in profiles for fault in profile.take_back()]


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


def in_both_themes(page: Page, width: int, *narrower: int) -> list[str]:
    """What axe-core finds wrong: all in the colours that the page has, and what hangs on colours
    in the others, which it keeps; then all, in those, at each narrower width, which it does not
    keep. To change colours costs as much as to look.
    """
    told = []
    dark = bool(page.evaluate(_IS_DARK))
    looks = [(dark, width, ()), (not dark, width, OF_COLOURS)]
    looks += [(not dark, other, ()) for other in narrower]
    for theme, wide, rules in looks:
        page.set_viewport_size({"width": wide, "height": HEIGHT})
        page.emulate_media(color_scheme="dark" if theme else "light")
        page.wait_for_function(_IS_DARK if theme else f"() => !({_IS_DARK})()")
        seen = f"{wide} px, {'dark' if theme else 'light'}"
        told += [f"{seen}: {line}" for line in axe_violations(page, *rules)]
        told += [f"{seen}: {part} is too wide" for part in page.evaluate(_TOO_WIDE)]
    page.set_viewport_size({"width": width, "height": HEIGHT})
    return told
