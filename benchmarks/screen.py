"""When an open page Work shows what has happened to a notebook, as its browser sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from benchmarks.command import lacking
from tests.chromium import chromium, find_chromium, fresh_context
from tests.running import wait_for
from ui import assets

READY, STOPPED = "Open in a new tab", "Ended: stopped"
#: Notes for each card when a text was first in it; Unix seconds, looked at every 10 ms.
_NOTE = """texts => {
  window.firstSeen = {};
  setInterval(() => {
    for (const card of document.querySelectorAll('[class*="st-key-card-"]')) {
      const id = card.className.match(/st-key-card-([\\w-]+)/)[1];
      const seen = window.firstSeen[id] ||= {};
      for (const text of texts)
        if (!(text in seen) && card.textContent.includes(text)) seen[text] = Date.now() / 1000;
    }
  }, 10);
}"""


def require_screen() -> None:
    """End with one line where there is no Chromium, or what pages load cannot be built."""
    try:
        find_chromium()
        assets.build()
    except (pytest.skip.Exception, assets.BuildError) as exc:
        lacking(str(exc))


class Screen:
    """A page Work that somebody looks at."""

    def __init__(self, page: Page, origin: str) -> None:
        self._page = page
        page.goto(f"{origin}/work")
        page.locator(".sb-heading h1").wait_for()
        page.evaluate(_NOTE, [READY, STOPPED])

    def first_seen(self, session: str, text: str) -> float:
        """Unix seconds at which its card first said `READY` or `STOPPED`; waits for it."""
        asked = "([id, text]) => (window.firstSeen[id] || {})[text] || 0"
        seen: float = wait_for(text, lambda: self._page.evaluate(asked, [session, text]))
        return seen


@contextlib.contextmanager
def screen(link: str, origin: str) -> Iterator[Screen]:
    """Sign in with a link and look at Work."""
    with chromium() as browser, fresh_context(browser) as context:
        page = context.new_page()
        page.goto(link)
        yield Screen(page, origin)
