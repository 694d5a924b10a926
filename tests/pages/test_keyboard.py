"""Work without a mouse: where Tab leads, whether one sees it, and what Enter does."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from lib.auth import OWNER
from lib.model import RunState
from tests.pages.browser_fixtures import Served, axe_violations, wait_until_drawn
from tests.pages.keyboard import DEEP, focused, reached, tab_to

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_token_is_made_copied_and_withdrawn(visit: Any, served: Served):
    page = visit("/account", who="other")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=served.origin)
    wait_until_drawn(page)
    tab_to(page, "Name")
    page.keyboard.type("by keyboard")
    tab_to(page, "Create token")
    page.keyboard.press("Enter")
    page.get_by_text("It is shown this once").wait_for()
    token = page.get_by_label("The new access token").input_value()
    assert token.startswith("sbt_")
    page.get_by_label("The new access token").focus()
    tab_to(page, "Copy", most=2)
    page.keyboard.press("Enter")
    expect(page.get_by_text("Copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == token
    tab_to(page, "I have it", most=3)
    page.keyboard.press("Enter")
    page.get_by_label("The new access token").wait_for(state="detached")
    page.reload()
    wait_until_drawn(page)
    assert token not in page.content()
    tab_to(page, "Withdraw by keyboard")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    tab_to(page, "Withdraw")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The token counts no more.")).to_be_visible()
    assert served.site.auth.tokens.user_of(token) is None
    page.get_by_role("dialog").wait_for(state="detached")


def test_a_run_is_stopped_and_the_audit_log_searched(visit: Any, served: Served):
    site = served.site
    run = site.add_run(["LC08_A"], RunState.RUNNING, owner=site.person("user"), title="Runaway")
    site.store.audit.write(OWNER.id, "needle-act", "needle-thing")
    page = visit("/work", who="administrator")
    wait_until_drawn(page)
    tab_to(page, "Administration")
    page.keyboard.press("Enter")
    page.wait_for_url("**/administration")
    page.get_by_role("heading", name="Administration").wait_for()
    page.get_by_role("button", name="Stop Runaway").wait_for()
    tab_to(page, "Stop Runaway")
    site.add_run(["LC08_A"], RunState.RUNNING, title="One more")
    page.get_by_role("button", name="Stop One more").wait_for()  # the table is drawn again
    assert focused(page) == "Stop Runaway", "the focus stays in the row"
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Uma User")
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert not site.store.work.run(run.id).stopping
    tab_to(page, "Stop Runaway")
    page.keyboard.press("Enter")
    dialog.wait_for()
    tab_to(page, "Stop now")
    page.keyboard.press("Enter")
    expect(page.get_by_text("It is being stopped.")).to_be_visible()
    assert site.store.work.run(run.id).stopping
    dialog.wait_for(state="detached")
    tab_to(page, "Work")
    while page.get_by_role("radio", name="Work").evaluate(f"e => e !== ({DEEP})()"):
        page.keyboard.press("Tab")  # the page of that name comes first
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.wait_for_url("**part=audit**")
    page.get_by_label("Search").wait_for()
    tab_to(page, "Search")
    page.keyboard.type("needle-act")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=needle-act**")
    expect(page.locator(".data-table tbody tr")).to_have_count(1)
    expect(page.locator(".data-table tbody tr")).to_contain_text("needle-thing")
    link = page.get_by_role("link", name="Download as JSON lines")
    assert link.get_attribute("href") == "/api/audit.jsonl?text=needle-act"


def test_the_menu_of_a_narrow_window(visit: Any, served: Served):
    page = visit("/work", width=390)
    wait_until_drawn(page)
    page.get_by_role("button", name="Menu").wait_for()
    closed = reached(page)
    assert "Menu" in closed
    assert "Results" not in closed, "Tab goes where nothing is to be seen"
    tab_to(page, "Menu")
    page.keyboard.press("Enter")
    close = page.get_by_role("button", name="Close menu")
    expect(close).to_be_focused()
    assert axe_violations(page) == []
    close.click(trial=True)  # nothing lies over it
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Menu", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(close).to_be_focused()
    tab_to(page, "Clusters", most=10)
    page.keyboard.press("Enter")
    page.wait_for_url("**/clusters")
    page.go_back()
    page.wait_for_url("**/work")


def test_a_provider_is_chosen(visit: Any, served: Served):
    page = visit("/signin?next=/work", who="")
    tab_to(page, "Sign in at Campus of Tests", most=3)
    page.keyboard.press("Enter")
    page.wait_for_url("**/signin/campus?next=/work")
    tab_to(page, "Begin again", most=3)
    tab_to(page, "Choose how to sign in", most=3)
    page.keyboard.press("Enter")
    page.wait_for_url("**/signin?next=/work")
