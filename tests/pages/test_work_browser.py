"""Work in a real Chromium: it moves by itself, and is sent again only when it looks different."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from playwright.sync_api import Page, expect

from lib.model import AnnouncementKind, EndReason, RunState, Session, SessionState
from lib.store.changes import RunChange, SessionChange
from tests.pages.browser_fixtures import Served, wait_until_drawn

pytestmark = [pytest.mark.browser, pytest.mark.slow]
LEFT = re.compile(r"^(\d+) min (\d\d) s left$")


@pytest.fixture
def ready(served: Served) -> Iterator[Session]:
    """A notebook with nearly an hour left, whose run is done."""
    now = datetime.now(timezone.utc)
    session = served.site.add_session(
        ["LC08_A"],
        SessionState.READY,
        started_at=(now - timedelta(seconds=60)).timestamp(),
        ends_at=(now + timedelta(seconds=3300)).timestamp(),
    )
    served.site.store.work.update_run(session.run, RunChange(state=RunState.DONE))
    yield session
    end(served, session, EndReason.STOPPED)


def end(served: Served, session: Session, reason: EndReason) -> None:
    served.site.store.work.update_session(
        session.id, SessionChange(state=SessionState.ENDED, end_reason=reason, ended_at=time.time())
    )


def seconds_left(page: Page, session: Session) -> int:
    text = page.locator(f".st-key-card-{session.id} .clock").inner_text()
    found = LEFT.match(text)
    assert found, text
    return 60 * int(found[1]) + int(found[2])


def test_the_clock_goes_on_and_the_cards_are_not_sent_again(visit, served, ready):
    page = visit("/healthz", clocked=True)
    page.clock.install()
    frames: list[bytes | str] = []
    page.on("websocket", lambda ws: ws.on("framereceived", lambda f: frames.append(f)))
    page.goto(served.origin + "/work")
    wait_until_drawn(page)
    assert any(b"sb-card-head" in f for f in frames if isinstance(f, bytes))
    frames.clear()
    before = seconds_left(page, ready)
    page.clock.fast_forward(600_000)
    page.clock.run_for(1000)
    assert 595 < before - seconds_left(page, ready) < 660
    announcements = served.site.store.announcements
    number = announcements.add("All is well.", AnnouncementKind.INFO, time.time() + 600)
    page.get_by_text("All is well.").wait_for()  # what has changed is sent, and nothing else
    assert not any(b"sb-card-head" in f for f in frames if isinstance(f, bytes))
    assert sum(map(len, frames)) < 16_000
    announcements.end(number)


def test_the_clock_is_the_portals_and_not_the_browsers(visit, served, ready):
    page = visit("/healthz", clocked=True)
    page.clock.install(time=datetime.now(timezone.utc) + timedelta(hours=3))
    page.goto(served.origin + "/work")
    wait_until_drawn(page)
    page.clock.run_for(3000)
    assert 3000 < seconds_left(page, ready) < 3300


def test_a_change_is_seen_by_itself(visit, served, ready):
    page = visit("/work")
    wait_until_drawn(page)
    card = page.locator(f".st-key-card-{ready.id}")
    expect(card.get_by_role("link", name="Open in a new tab")).to_be_visible()
    end(served, ready, EndReason.NODE_FAILURE)
    expect(card.get_by_text("Ended: node failure")).to_be_visible()
    expect(card.get_by_role("link", name="Open in a new tab")).to_have_count(0)
    expect(card.locator(".clock")).not_to_have_attribute("data-sb-clock", re.compile(".*"))


def test_an_open_notebook_leaves_the_page_when_it_has_ended(visit, served, ready):
    page = visit("/work")
    loads: list[str] = []
    page.on("request", lambda r: loads.append(r.url) if "/open/" in r.url else None)
    wait_until_drawn(page)
    page.locator(f".st-key-card-{ready.id}").get_by_role("button", name="Open here").click()
    page.locator("iframe[src^='/open/']").wait_for()
    waiting = served.site.add_session(["LC08_B"], SessionState.QUEUED, reason="3 jobs are before.")
    page.get_by_text("3 jobs are before.").wait_for()  # the cards were drawn again
    assert len(loads) == 1, "the notebook is not loaded again"
    end(served, ready, EndReason.WALLTIME)
    expect(page.get_by_role("button", name="Close")).to_have_count(0)
    end(served, waiting, EndReason.STOPPED)
