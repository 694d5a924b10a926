"""Every page and every part of it: axe-core finds nothing, light and dark, wide and narrow; it
fits its window; and Tab reaches what matters."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from lib.auth import OWNER
from lib.http.html_pages import sign_in_page
from lib.model import (
    AnnouncementKind,
    RunState,
    SceneId,
    SceneState,
    SessionState,
    TokenScope,
    TunnelState,
)
from lib.store.changes import SceneChange
from tests.fakes.tunnels import write_record
from tests.pages.browser_fixtures import Profile, Served, in_both_themes, wait_until_drawn
from tests.pages.keyboard import reached
from tests.pages.sample_portal import FAR

pytestmark = [pytest.mark.browser, pytest.mark.slow]
WIDTHS = (1400, 390)
#: Who opens what, and the main controls that Tab has to reach there.
PAGES = [
    ("owner", "/?scene=LC08_A",
     ["Work", "Account", "Owner of this portal", "Name or id", "Remove LC08_A", "Open notebook",
      "Run"]),
    ("owner", "/work", ["Explore", "Open in a new tab", "Open here", "Log", "Stop"]),
    ("owner", "/results?run=RUN", ["Explore", "Run", "Score at least", "Download GeoJSON"]),
    ("owner", "/clusters", []),
    ("user", "/clusters", []),
    ("user", "/account",
     ["Work", "Uma User", "Sign out", "Sign out everywhere", "Name", "Days that it counts",
      "Read: search scenes, follow work, fetch results", "Create token"]),
    ("administrator", "/administration", ["Account", "Ada Admin", "Work", "Stop Mine"]),
    ("administrator", "/administration?part=people",
     ["Name, e-mail address or id", "Block Leo Lead", "Sign out Leo Lead"]),
    ("administrator", "/administration?part=announcements",
     ["Text", "Kind", "Shown for", "Announce"]),
    ("administrator", "/administration?part=audit",
     ["Work", "Search", "Person", "Action", "Refused only", "Download as JSON lines"]),
    ("lead", "/administration", ["Group", "Leo Lead", "Stop Mine"]),
    ("user", "/administration", []),
]  # fmt: skip
#: Where they may go, as the navigation says it.
NAVIGATION = {
    "user": ["Explore", "Work", "Results", "Clusters", "Account"],
    "lead": ["Explore", "Work", "Results", "Clusters", "Group", "Account"],
    "administrator": ["Explore", "Work", "Results", "Clusters", "Administration", "Account"],
}
PLAIN = [
    ("", "/signin", 200),
    ("", "/signin?why=ended&next=/work", 200),
    ("", "/signin?key=used", 403),
    ("", "/work", 401),
    ("", "/signin/campus", 503),
    ("", "/signin/nobody", 404),
    ("owner", "/open/WAITING", 409),
    ("owner", "/open/nothing", 404),
    ("lead", "/open/WAITING-OF-A-USER", 403),
]


@pytest.fixture(scope="module")
def things(served: Served) -> dict[str, str]:
    """Something to see on every page; the names that addresses use."""
    site = served.site
    user = site.person("user")
    run = site.add_run(["LC08_A", "LC08_B"], RunState.RUNNING)
    site.add_detections(run, "LC08_A", [0.9 - i / 100 for i in range(12)])
    site.store.work.update_scene(run.id, SceneId("LC08_A"), SceneChange(state=SceneState.DONE))
    site.add_session(["LC08_A"], SessionState.READY, ends_at=time.time() + 3600)
    waiting = site.add_session(["LC08_B"], SessionState.QUEUED, reason="3 jobs are before it.")
    theirs = site.add_session(["LC08_B"], SessionState.QUEUED, owner=user)
    site.add_run(["LC08_A"], RunState.RUNNING, owner=user, title="Mine")
    site.person("lead")
    site.add_run(["LC08_A"], RunState.FAILED, owner=user, reason="It ended with code 3.")
    site.add_session(["LC08_A"], SessionState.ENDED, owner=user)
    site.portal.my_account.new_token(user, "nightly search", [TokenScope.READ], 30)
    for kind in AnnouncementKind:
        site.portal.administration.announce(
            OWNER, f"The cluster rests on Friday ({kind}).", kind, 3600
        )
    other = site.person("other")
    site.portal.administration.block(site.person("administrator"), other.id, blocked=True)
    site.auth.log_refusal("/api/me", "a token that does not count", "203.0.113.9")
    return {"RUN": run.id, "WAITING-OF-A-USER": theirs.id, "WAITING": waiting.id}


def address(path: str, things: dict[str, str]) -> str:
    for name, value in things.items():
        path = path.replace(name, value)
    return path


@pytest.mark.parametrize(("who", "path", "controls"), PAGES)
def test_a_page(visit: Any, things: dict[str, str], who: str, path: str, controls: list[str]):
    page = visit(address(path, things), who=who)
    wait_until_drawn(page)
    if who in NAVIGATION:
        expect(page.get_by_test_id("stTopNavLink")).to_have_text(NAVIGATION[who])
    found = reached(page) if controls else []
    missing = [c for c in controls if not any(name.startswith(c) for name in found)]
    assert not missing, f"{missing} are not among {found}"
    assert in_both_themes(page, *WIDTHS) == []
    for look_at in PARTS.get((who, path), ()):
        look_at(page)


def question(press: str) -> Callable[[Page], None]:
    """The dialog behind a button."""

    def look_at(page: Page) -> None:
        page.get_by_role("button", name=press).first.click()
        page.get_by_role("dialog").wait_for()
        assert in_both_themes(page, WIDTHS[0]) == []
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("dialog").wait_for(state="detached")

    return look_at


def a_new_token(page: Page) -> None:
    page.get_by_role("button", name="Create token").click()
    page.get_by_text("Give the token a name").wait_for()
    assert in_both_themes(page, WIDTHS[0]) == []
    page.get_by_label("Name", exact=True).fill("a token")
    page.get_by_role("button", name="Create token").click()
    page.get_by_text("It is shown this once").wait_for()
    assert in_both_themes(page, WIDTHS[0]) == []


def what_is_planted(page: Page) -> None:
    """It finds a picture without words, a text too dark for dark colours, and a wide one."""
    page.locator(".data-table").first.evaluate(
        """e => { e.append(document.createElement("img")); e.insertAdjacentHTML("beforeend",
        "<p style='color: light-dark(black, #222); background: light-dark(white, #111)'>text");
        document.querySelector(".sb-heading").insertAdjacentHTML("afterend",
        "<p style='width: 3000px'>wide</p>"); }"""
    )
    told = in_both_themes(page, WIDTHS[0])
    assert any("image-alt" in line for line in told)
    assert {line.partition(":")[0] for line in told if "color-contrast" in line} == {
        f"{WIDTHS[0]} px, dark"
    }
    assert sum("too wide" in line for line in told) == 2


#: What else is on a page, or comes when something is pressed there.
PARTS: dict[tuple[str, str], list[Callable[[Page], None]]] = {
    ("user", "/account"): [
        question("Sign out everywhere"),
        question("Withdraw nightly search"),
        a_new_token,
        what_is_planted,
    ],
    ("administrator", "/administration"): [question("Stop Active fire on LC08_B")],
    ("administrator", "/administration?part=people"): [question("Block Leo Lead")],
}


def test_a_cluster_that_cannot_be_asked(visit: Any, served: Served):
    silent = served.site.folder / "far-is-silent"
    silent.touch()
    closed = {"state": TunnelState.CLOSED, "reason": "The login node was restarted."}
    write_record(served.site.tunnels, FAR, person=OWNER.id, **closed)
    try:
        page = visit("/clusters")
        wait_until_drawn(page)
        page.get_by_text("python admin.py tunnel up far --person owner").wait_for()
        assert in_both_themes(page, *WIDTHS) == []
    finally:
        silent.unlink()
        write_record(served.site.tunnels, FAR, person=OWNER.id)


def test_the_plain_pages(tabs: Profile, served: Served, things: dict[str, str]):
    for who, path, status in PLAIN:
        page = tabs.lend(WIDTHS[0], who)
        answer = page.goto(served.origin + address(path, things))
        assert answer is not None
        assert answer.status == status, path
        assert in_both_themes(page, *WIDTHS) == [], path
        tabs.take_back()


def test_the_sign_in_page_of_a_portal_for_one(visit: Any):
    page = visit("/healthz", width=390, who="")
    page.set_content(sign_in_page({}, "/", "out"))
    assert in_both_themes(page, 390) == []
