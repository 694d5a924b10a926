"""The main job as a scientist does it, in a real Chromium, with every part real."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.chromium import fresh_context, requests_outside
from tests.e2e.conftest import data_folder
from tests.e2e.signing_in import sign_in
from tests.running import RunningPortal, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]

_COUNT_SCENES = """\
from modulekit.notebook import open_session
print(len(open_session("active-fire").scenes), "scene")
"""
_LAB = re.compile(r"http://nb-[0-9a-f]{32}\.localhost:\d+/lab")


@pytest.fixture(scope="module")
def portal(with_samples: Path) -> Iterator[RunningPortal]:
    """A started portal; stopped with a notebook running, and checked to leave nothing."""
    with data_folder(with_samples) as data:
        running = RunningPortal(data)
        running.start()
        yield running
        running.stop()
        running.leaves_nothing()


def choose_scenes(page: Page, search: str, count: int) -> list[str]:
    """Search by text, tick the first scenes of the table; their ids."""
    page.get_by_label("Name or id").fill(search)
    page.get_by_label("Name or id").press("Enter")
    expect(page).to_have_url(re.compile(f"[?&]q={re.escape(search)}"))  # the search is over
    rows = page.locator("tbody tr:visible")
    expect(rows.first).to_be_visible()
    others = page.locator(f'tbody tr:visible:not([data-id*="{search}"])')
    expect(others).to_have_count(0)  # the table that was found has arrived
    chosen = []
    for n in range(count):
        row = rows.nth(n)
        identifier = row.get_attribute("data-id")
        assert identifier
        row.locator("input").check()
        chosen.append(identifier)
        expect(page).to_have_url(re.compile(re.escape(identifier)))
    return chosen


def open_lab(page: Page) -> Page:
    """Press the card's link; the tab that opens, with the prepared notebook in it."""
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open in a new tab").click()
    lab = opened.value
    lab.wait_for_url(_LAB)
    expect(lab.locator(".jp-Notebook").first).to_be_visible()
    return lab


def bar_of(lab: Page) -> Locator:
    """What the portal adds to JupyterLab's page."""
    return lab.get_by_role("navigation", name="SceneBridge")


def newest_card(page: Page) -> Locator:
    """The card of what was started last, by its own class: others may come before it."""
    classes = page.locator('[class*="st-key-card-"]').first.get_attribute("class") or ""
    (own,) = re.findall(r"st-key-card-[\w-]+", classes)
    return page.locator(f".{own}")


def stop_newest(page: Page) -> None:
    """On Work: stop what was started last, and see its own card say that it has ended."""
    card = newest_card(page)
    card.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop now").click()
    expect(card).to_contain_text("Ended: stopped")


def run_in_console(lab: Page, code: str, expected: str) -> None:
    """Type code into a new cell of the notebook, run it, and see its output."""
    expect(lab.get_by_text("| Idle")).to_be_visible()
    notebook = lab.locator(".jp-Notebook").first
    notebook.locator(".jp-Cell").first.click()
    lab.keyboard.press("Escape")
    expect(notebook).to_have_class(re.compile("jp-mod-commandMode"))
    lab.keyboard.press("b")
    written = notebook.locator(".jp-Cell.jp-mod-active .cm-content")
    expect(written).to_have_text("")  # the new cell
    lab.keyboard.press("y")
    lab.keyboard.press("Enter")
    expect(notebook).to_have_class(re.compile("jp-mod-editMode"))
    lab.keyboard.insert_text(code)
    expect(written).to_contain_text(code.splitlines()[-1])
    lab.keyboard.press("Shift+Enter")
    expect(lab.locator(".jp-OutputArea-output", has_text=expected).first).to_be_visible()


def test_from_the_map_to_the_notebook_and_back(portal: RunningPortal, browser: Browser) -> None:
    outside: list[str] = []
    with fresh_context(browser) as context:
        page = context.new_page()
        requests_outside(page, outside)
        sign_in(page, portal)
        chosen = choose_scenes(page, "LC08", 1)

        card = page.locator('[class*="st-key-card-"]').first
        page.get_by_role("button", name="Open notebook").click()
        expect(card).to_be_visible()
        expect(card.get_by_role("button", name=re.compile("Cancel|Stop")).first).to_be_visible()

        lab = open_lab(page)
        requests_outside(lab, outside)
        expect(bar_of(lab)).to_have_text(re.compile(r"^Back to SceneBridge.*\d.* left$"))
        run_in_console(lab, "print('forty-two is', 6 * 7)", "forty-two is 42")
        run_in_console(lab, _COUNT_SCENES, "1 scene")

        page.bring_to_front()  # a page in the background draws nothing and loads no picture
        page.get_by_role("link", name=re.compile(r"Results")).last.click()
        chip = page.locator("button.chip img").first
        expect(chip).to_be_visible()
        wait_for("a thumbnail", lambda: chip.evaluate("image => image.naturalWidth") > 0)
        page.locator("button.chip").first.click()
        expect(page.locator('button.chip[aria-pressed="true"]')).to_have_count(1)
        assert chosen[0] in page.content()

        page.goto(f"{portal.origin}/work")
        stop_newest(page)
        lab.reload()
        expect(lab.locator("body")).to_contain_text(re.compile("ended|not running", re.IGNORECASE))
    assert outside == []


def test_a_stranger_gets_nothing(portal: RunningPortal, browser: Browser) -> None:
    with fresh_context(browser) as context:
        page = context.new_page()
        answer = page.goto(portal.origin)
        assert answer is not None
        assert answer.status == 401
        expect(page.get_by_role("heading", name="Please sign in")).to_be_visible()
        for path in ("/work", "/api/scenes", "/_stcore/host-config", "/assets/leaflet/leaflet.js"):
            assert context.request.get(portal.origin + path).status == 401
        link = sign_in(page, portal)
        assert context.request.get(f"{portal.origin}/api/scenes").ok
    with fresh_context(browser) as context:
        answer = context.new_page().goto(link)
        assert answer is not None
        assert answer.status == 403, "the link worked twice"


def test_a_killed_portal_loses_no_kernel(portal: RunningPortal, browser: Browser) -> None:
    """SIGKILL to the portal: the kernel keeps its variables, and the same session is READY
    again, with its link, once the portal is back."""
    with fresh_context(browser) as context:
        page = context.new_page()
        sign_in(page, portal)
        choose_scenes(page, "LC08", 1)
        page.get_by_role("button", name="Open notebook").click()
        lab = open_lab(page)
        run_in_console(lab, "kept = 'still ' + 'here'; print('set', kept)", "set still here")

        def sessions() -> list[dict[str, str]]:
            found = context.request.get(f"{portal.origin}/api/sessions").json()
            return [session for session in found if session["state"] != "ENDED"]

        (before,) = sessions()
        page.evaluate("addEventListener('scenebridge:back', () => { window.isBack = true; })")
        portal.kill()
        page.bring_to_front()
        away = page.get_by_text("The portal does not answer")
        expect(away).to_be_visible()
        expect(page.get_by_role("dialog")).to_have_count(0)  # Streamlit's, for who started it
        away_in_lab = lab.get_by_role("status").get_by_text("The portal does not answer.")
        expect(away_in_lab).to_be_visible()
        expect(lab.locator(".jp-Dialog")).to_have_count(0)  # Lab's own, which says less
        portal.start()
        expect(away).to_have_count(0)
        page.wait_for_function("window.isBack")
        expect(away_in_lab).to_have_count(0)

        wait_for("READY again", lambda: _ready(sessions()))
        (after,) = sessions()
        assert after["id"] == before["id"]
        assert after["job"] == before["job"]
        lab.goto(f"{portal.origin}/open/{before['id']}")
        lab.wait_for_url(_LAB)
        expect(lab.locator(".jp-Notebook").first).to_be_visible()
        run_in_console(lab, "print('found', kept)", "found still here")
        bar_of(lab).get_by_role("link", name="Back to SceneBridge").click()
        expect(lab.get_by_role("heading", name="Work", exact=True)).to_be_visible()


def _ready(sessions: list[dict[str, str]]) -> bool:
    return all(s["state"] == "READY" and s["reachability"] == "REACHABLE" for s in sessions)
