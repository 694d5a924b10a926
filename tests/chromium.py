"""A stock Chromium for tests, driven by Playwright over its debugging port.

Playwright's own launcher switches storage partitioning off, which changes how a notebook
inside a page of the portal behaves; so the browser is started here, as a user's would be.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    expect,
    sync_playwright,
)

# Two cores may be busy with a job, a kernel and this browser at once.
expect.set_options(timeout=120_000)

#: A name of somebody else that leads to this computer (DNS rebinding).
REBOUND = "rebound.example"
#: The first is Chromium without what draws windows: a third less to compute for the same pages.
_NAMES = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)
_ARGUMENTS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    # Whatever a page asks for outside this computer fails at once.
    f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE localhost, "
    "EXCLUDE *.localhost, EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
    "--window-size=1400,1000",
    "about:blank",
)


def find_chromium() -> str:
    """The browser's path; skips the test where there is none."""
    for name in _NAMES:
        path = shutil.which(name)
        if path:
            return path
    pytest.skip("no Chromium on this computer: install the package chromium to run this test")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of one's own; gone at the end."""
    with started() as address, connected(address) as browser:
        yield browser


@contextlib.contextmanager
def started() -> Iterator[str]:
    """A running browser with an empty profile; the address at which it is driven."""
    path = find_chromium()
    with tempfile.TemporaryDirectory(prefix="sb-chromium-", ignore_cleanup_errors=True) as profile:
        arguments = [path, f"--user-data-dir={profile}", *_ARGUMENTS]
        if os.geteuid() == 0:
            arguments.insert(1, "--no-sandbox")
        log = Path(profile) / "stderr"
        with log.open("wb") as stderr:
            process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=stderr)
        try:
            yield _debugging_address(log, process)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it with its children: what is installed may be a shell script that starts the browser."""
    parent = psutil.Process(process.pid)
    left = [parent, *parent.children(recursive=True)]
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for it in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(it)
        _, left = psutil.wait_procs(left, 10)
    process.wait()


@contextlib.contextmanager
def connected(address: str) -> Iterator[Browser]:
    """Drive it. Playwright runs an event loop in this thread meanwhile, so that tests with one
    of their own cannot run between: a module connects, a worker does not."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.connect_over_cdp(address)
        yield browser
        browser.close()


def _debugging_address(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = re.search(r"DevTools listening on (ws://\S+)", log.read_text(errors="replace"))
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    pytest.fail(f"Chromium did not start: {log.read_text(errors='replace')[-2000:]}")


@contextlib.contextmanager
def fresh_context(
    browser: Browser, *, width: int = 1400, height: int = 1000, dark: bool = False
) -> Iterator[BrowserContext]:
    """A profile of its own, without cookies."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
    )
    context.set_default_timeout(120_000)
    try:
        yield context
    finally:
        context.close()


def requests_outside(page: Page, seen: list[str]) -> None:
    """Collect every request that leaves this computer."""

    def note(request: object) -> None:
        url: str = request.url  # type: ignore[attr-defined]
        host = re.match(r"\w+://([^/:]+)", url)
        local = host and re.fullmatch(r"localhost|127\.0\.0\.1|.*\.localhost", host[1])
        if host and not local:
            seen.append(url)

    page.on("request", note)


def host_cookie(name: str, value: str) -> dict[str, Any]:
    """A `__Host-` cookie of localhost, as the portal sets it."""
    return {"name": name, "value": value, "url": "https://localhost", "httpOnly": True}
