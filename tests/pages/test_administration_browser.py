"""Pages about people in a real Chromium: where they lead, and that names stay text."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from lib.model import AnnouncementKind, SessionState, TokenScope
from tests.pages.browser_fixtures import Served, wait_until_drawn
from tests.pages.sample_portal import HOSTILE

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_dismissed_announcement_stays_away(visit: Any, served: Served):
    administrator = served.site.person("administrator")
    office = served.site.portal.administration
    page = visit("/work", who="user")
    wait_until_drawn(page)
    number = office.announce(administrator, f"Far rests. {HOSTILE}", AnnouncementKind.INFO, 600)
    notice = page.get_by_role("status").filter(has_text="Far rests. <img src=x")
    notice.wait_for()  # without a new page
    page.get_by_role("button", name="Dismiss").click()
    notice.wait_for(state="detached")
    page.get_by_role("link", name="Results").click()
    page.get_by_role("heading", name="Results").wait_for()
    assert notice.count() == 0
    office.end_announcement(administrator, number)


def test_a_link_restores_a_part_and_its_filter(visit: Any, served: Served):
    for i in range(3):
        served.site.store.audit.write("u-x", "linked", f"thing-{i}")
    page = visit(
        "/administration?part=audit&action=linked&text=thing-1&from=2020-01-01",
        who="administrator",
    )
    expect(page.locator(".data-table tbody tr")).to_have_count(1)
    expect(page.get_by_label("Search")).to_have_value("thing-1")
    with page.expect_download() as started:
        page.get_by_role("link", name="Download as JSON lines").click()
    assert started.value.suggested_filename == "audit.jsonl"
    lines = started.value.path().read_text().splitlines()
    assert len(lines) == 1
    assert '"thing-1"' in lines[0]
    page.get_by_text("Work", exact=True).last.click()
    page.wait_for_url(f"{served.origin}/administration")


def test_names_of_any_origin_stay_text(visit: Any, served: Served):
    site = served.site
    bad = site.person("bad", name=HOSTILE, claims={"email": HOSTILE}, browser=HOSTILE)
    site.portal.my_account.new_token(bad, HOSTILE[:90], [TokenScope.READ], 3)
    site.add_session(["LC08_A"], SessionState.QUEUED, owner=bad, title=HOSTILE, reason=HOSTILE)
    site.store.audit.write(HOSTILE, "hostile", HOSTILE, detail=HOSTILE, client=HOSTILE)
    page = visit("/healthz", who="administrator")
    for part in ("?part=people", "?part=audit&action=hostile", ""):
        page.goto(f"{served.origin}/administration{part}")
        page.locator(".data-table td", has_text="<img src=x").first.wait_for()
        assert page.locator("img[src=x]").count() == 0
        assert page.title() == "Administration · SceneBridge"
    page.get_by_role("button", name="Stop <img").click()
    expect(page.get_by_role("dialog")).to_contain_text("<img src=x")
    assert page.locator("img[src=x]").count() == 0
