"""Every page without a mouse: what Tab reaches, whether one sees it, and what Enter does."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from lib.auth import OWNER
from lib.model import RunState, SessionState
from tests.pages.browser_fixtures import Served, wait_until_drawn

pytestmark = [pytest.mark.browser, pytest.mark.slow]

#: The element that has the focus, also inside our components.
DEEP = """() => { let e = document.activeElement;
  while (e && e.shadowRoot && e.shadowRoot.activeElement) e = e.shadowRoot.activeElement;
  return e; }"""
#: What a screen reader would call it, near enough to find it by.
NAME = """(e) => {
  if (!e || e === document.body) return "";
  const shown = (part) => { const copy = part.cloneNode(true);
    copy.querySelectorAll("[aria-hidden=true]").forEach((x) => x.remove());
    return copy.textContent; };
  const said = e.getAttribute("aria-label") || (e.labels && e.labels[0] && shown(e.labels[0]));
  return (said || shown(e) || e.title || e.tagName).trim();
}"""


MOST_TABS = 150


def focused(page: Page) -> str:
    name: str = page.evaluate(f"() => ({NAME})(({DEEP})())")
    return name.strip()


def reached(page: Page, *, most: int = MOST_TABS) -> list[str]:
    """The names of everything that Tab reaches, in order, once round the page."""
    found: list[str] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        name = focused(page)
        if not name and len(found) > 5:
            break  # the end: the browser's own controls come next
        found.append(name)
    return found


def tab_to(page: Page, name: str, *, most: int = MOST_TABS) -> None:
    """Press Tab until something whose name begins so has the focus, and can be seen to."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if focused(page).startswith(name):
            assert_seen(page, name)
            return
    raise AssertionError(f"Tab does not reach {name!r}; it is at {focused(page)!r}")


def assert_seen(page: Page, name: str) -> None:
    """The focus changes how the thing looks."""
    element = page.evaluate_handle(DEEP).as_element()
    assert element
    element.scroll_into_view_if_needed()
    page.wait_for_timeout(250)  # colours fade
    box = element.bounding_box()
    size = page.viewport_size
    assert box, name
    assert size, name
    x, y = max(0.0, box["x"] - 8), max(0.0, box["y"] - 8)
    clip = {
        "x": x,
        "y": y,
        "width": min(size["width"] - x, box["width"] + 16),
        "height": min(size["height"] - y, box["height"] + 16),
    }
    with_focus = page.screenshot(clip=clip)  # type: ignore[arg-type]
    page.keyboard.press("Shift+Tab")
    page.wait_for_timeout(250)
    without = page.screenshot(clip=clip)  # type: ignore[arg-type]
    page.keyboard.press("Tab")
    assert focused(page).startswith(name)
    assert with_focus != without, f"{name} looks the same with and without the focus"


@pytest.mark.parametrize(
    ("who", "path", "controls"),
    [
        (
            "owner",
            "/?scene=LC08_A",
            ["Work", "Account", "Owner of this portal", "Name or id", "Remove LC08_A",
             "Open notebook", "Run"],
        ),
        ("owner", "/work", ["Explore", "Open in a new tab", "Open here", "Log", "Stop"]),
        ("owner", "/results", ["Explore", "Run", "Score at least", "Download GeoJSON"]),
        (
            "user",
            "/account",
            ["Work", "Uma User", "Sign out", "Sign out everywhere", "Name", "Days that it counts",
             "Read: search scenes, follow work, fetch results", "Create token"],
        ),
        ("administrator", "/administration", ["Account", "Ada Admin", "Work", "Stop Mine"]),
        ("administrator", "/administration?part=people",
         ["Name, e-mail address or id", "Block Leo Lead", "Sign out Leo Lead"]),
        ("administrator", "/administration?part=announcements",
         ["Text", "Kind", "Shown for", "Announce"]),
        ("administrator", "/administration?part=audit",
         ["Work", "Search", "Person", "Action", "Refused only", "Download as JSON lines"]),
        ("lead", "/administration", ["Group", "Leo Lead", "Stop Mine"]),
    ],
)  # fmt: skip
def test_tab_reaches_the_main_controls(visit: Any, served: Served, who, path, controls):
    site = served.site
    site.add_session(["LC08_A"], SessionState.READY, ends_at=time.time() + 3600)
    site.add_run(["LC08_A"], RunState.RUNNING, owner=site.person("user"), title="Mine")
    site.person("lead")
    run = site.add_run(["LC08_A"], RunState.DONE)
    site.add_detections(run, "LC08_A", [0.9, 0.8])
    page = visit(path, who=who)
    wait_until_drawn(page)
    found = reached(page)
    missing = [c for c in controls if not any(name.startswith(c) for name in found)]
    assert not missing, f"{missing} are not among {found}"


def test_a_token_is_made_and_withdrawn(visit: Any, served: Served):
    page = visit("/account", who="other")
    wait_until_drawn(page)
    tab_to(page, "Name")
    page.keyboard.type("by keyboard")
    tab_to(page, "Create token")
    page.keyboard.press("Enter")
    page.get_by_text("It is shown this once").wait_for()
    field = page.get_by_label("The new access token")
    token = field.input_value()
    assert token.startswith("sbt_")
    tab_to(page, "Withdraw by keyboard")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    tab_to(page, "Withdraw")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The token counts no more.")).to_be_visible()
    assert served.site.auth.tokens.user_of(token) is None
    page.get_by_role("dialog").wait_for(state="detached")


def test_a_new_token_is_copied(visit: Any, served: Served):
    page = visit("/account", who="lead")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=served.origin)
    wait_until_drawn(page)
    tab_to(page, "Name")
    page.keyboard.type("to copy")
    tab_to(page, "Create token")
    page.keyboard.press("Enter")
    token = page.get_by_label("The new access token").input_value()
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


def test_a_run_is_stopped(visit: Any, served: Served):
    site = served.site
    run = site.add_run(["LC08_A"], RunState.RUNNING, owner=site.person("user"), title="Runaway")
    page = visit("/administration", who="administrator")
    wait_until_drawn(page)
    tab_to(page, "Stop Runaway")
    page.wait_for_timeout(6000)  # the table is drawn again meanwhile
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


def test_the_audit_log_is_searched(visit: Any, served: Served):
    served.site.store.audit.write(OWNER.id, "needle-act", "needle-thing")
    page = visit("/administration", who="administrator")
    wait_until_drawn(page)
    tab_to(page, "Work", most=20)
    while page.get_by_role("radio", name="Work").evaluate(f"e => e !== ({DEEP})()"):
        page.keyboard.press("Tab")  # the page of that name comes first
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(200)
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


def test_a_provider_is_chosen(visit: Any, served: Served):
    page = visit("/signin?next=/work", who="")
    tab_to(page, "Sign in at Campus of Tests", most=3)
    page.keyboard.press("Enter")
    page.wait_for_url("**/signin/campus?next=/work")
    tab_to(page, "Begin again", most=3)
    tab_to(page, "Choose how to sign in", most=3)
    page.keyboard.press("Enter")
    page.wait_for_url("**/signin?next=/work")
