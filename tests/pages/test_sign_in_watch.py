"""A page in a real Chromium leaves with its sign-in, and bothers nobody until then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from sqlalchemy import update

from lib.auth import COOKIE
from lib.auth.secret import digest
from lib.store.tables import logins
from tests.chromium import fresh_context
from tests.pages.browser_fixtures import Served, signed_in

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def profile(browser: Browser) -> Iterator[BrowserContext]:
    """It keeps Streamlit's files, so that they load once."""
    with fresh_context(browser) as fresh:
        yield fresh


@pytest.fixture
def context(profile: BrowserContext, served: Served) -> Iterator[BrowserContext]:
    """Its first tab stays for the next test: in it a page costs less."""
    yield profile
    first, *others = profile.pages or [profile.new_page()]
    first.unroute_all()
    first.goto(served.origin + "/healthz")
    for page in others:
        page.close()
    profile.clear_cookies()


def tab(context: BrowserContext) -> Page:
    """The first that shows nothing, or a new one."""
    empty = (page for page in context.pages if page.url.endswith("/healthz"))
    return next(empty, None) or context.new_page()


def opened(context: BrowserContext, served: Served, path: str) -> Page:
    page = tab(context)
    page.goto(served.origin + path)
    page.locator(".sb-heading h1").wait_for()
    page.wait_for_function("() => window[Symbol.for('scenebridge-sign-in-watch')]?.asked > 0")
    return page


def login_of(context: BrowserContext, served: Served) -> Any:
    """The sign-in of this browser, as the store knows it."""
    (secret,) = [c["value"] for c in context.cookies("https://localhost") if c["name"] == COOKIE]
    login = served.site.store.people.login_by_hash(digest(secret))
    assert login is not None
    return login


def user_of(context: BrowserContext, served: Served) -> Any:
    login = served.site.auth.logins.by_id(login_of(context, served).id)
    assert login is not None
    return login.user


def asks(page: Page) -> None:
    """The page comes to the front, which makes it ask."""
    with page.expect_response("**/api/me"):
        page.evaluate("dispatchEvent(new Event('focus'))")


def test_a_sign_out_in_another_tab_ends_every_page_at_once(context, served):
    signed_in(context, served.site, "user")
    work = opened(context, served, "/work?session=S&more=50")
    account = opened(context, served, "/account")
    account.get_by_role("button", name="Sign out", exact=True).first.click()
    account.wait_for_url("**/signin?why=out")
    expect(account.get_by_text("You are signed out.")).to_be_visible()
    work.wait_for_url("**/signin?why=ended&next=%2Fwork%3Fsession%3DS**")
    link = work.get_by_role("link", name="Sign in at Campus of Tests")
    assert "next=/work%3Fsession%3DS" in str(link.get_attribute("href"))


def test_an_administrator_ends_pages_too(context, served):
    signed_in(context, served.site, "user")
    page = opened(context, served, "/results")
    site = served.site
    administrator = site.person("administrator")
    site.portal.administration.sign_out_everywhere(administrator, user_of(context, served).id)
    page.wait_for_url("**/signin?why=ended&next=%2Fresults")
    expect(page.get_by_text("Your sign-in has ended.")).to_be_visible()


def test_everywhere_is_this_browser_too(context, served):
    signed_in(context, served.site, "user")
    page = opened(context, served, "/account")
    page.get_by_role("button", name="Sign out everywhere").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("go on running")
    dialog.get_by_role("button", name="Sign out everywhere").click()
    page.wait_for_url("**/signin?why=out")


def test_a_page_that_comes_to_the_front_asks_and_leaves_only_for_another_person(context, served):
    """A network that fails changes nothing."""
    signed_in(context, served.site, "user")
    page = opened(context, served, "/account")
    for target, event in (
        ("window", "focus"),
        ("window", "pageshow"),
        ("document", "visibilitychange"),
    ):
        with page.expect_response("**/api/me"):
            page.evaluate(f"{target}.dispatchEvent(new Event('{event}'))")
    page.route("**/api/me", lambda route: route.abort())
    with page.expect_event("requestfailed"):
        page.evaluate("dispatchEvent(new Event('focus'))")
    page.unroute("**/api/me")
    page.route("**/api/me", lambda route: route.fulfill(status=503, body="busy"))
    asks(page)
    page.unroute("**/api/me")
    asks(page)
    assert page.url.endswith("/account")
    expect(page.locator(".st-key-who")).to_contain_text("Uma User")
    signed_in(context, served.site, "other")
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(page.locator(".st-key-who")).to_contain_text("Sam Other")
    expect(page.locator(".st-key-myself")).to_contain_text("Ships and ports")


@pytest.fixture
def clocked(browser: Browser) -> Iterator[BrowserContext]:
    """Of one test: a clock stays in a profile, with all that was done to it."""
    with fresh_context(browser) as fresh:
        yield fresh


def test_asking_is_no_act_and_nobody_sees_it(clocked, served):
    context = clocked
    signed_in(context, served.site, "user")
    page = context.new_page()
    page.clock.install()
    said: list[str] = []
    asked: list[Any] = []
    page.on("console", lambda message: said.append(f"{message.text} {message.location['url']}"))
    page.on("request", lambda r: asked.append(r) if r.url.endswith("/api/me") else None)
    page.goto(served.origin + "/account")
    page.get_by_label("Name", exact=True).wait_for()
    page.get_by_label("Name", exact=True).focus()
    before = login_of(context, served).seen_at
    for _ in range(2):
        with page.expect_response("**/api/me"):
            page.clock.run_for(15_000)
    assert 2 <= len(asked) <= 4
    for request in asked:
        headers = request.all_headers()
        assert request.method == "GET"
        assert headers["sec-fetch-mode"] == "cors", "not a navigation"
        assert "text/html" not in headers["accept"]
    assert login_of(context, served).seen_at == before
    assert page.evaluate("document.activeElement.tagName") == "INPUT"
    assert page.locator(".st-key-sign-in-watch").bounding_box() is None
    # Streamlit 1.67 itself warns about its own features; of ours there is not a word.
    assert not [text for text in said if "/api/me" in text or "blob:" in text]


def test_the_question_does_not_prolong_the_sign_in(context, served):
    signed_in(context, served.site, "user")
    login = login_of(context, served).id
    people = served.site.store.people
    with people._engine.begin() as connection:
        connection.execute(update(logins).where(logins.c.id == login).values(seen_at=1000.0))
    page = tab(context)
    page.goto(served.origin + "/healthz")  # a page of the portal's that does nothing
    asked = (
        "fetch('/api/me', {credentials: 'same-origin', cache: 'no-store'}).then((r) => r.status)"
    )
    assert page.evaluate(asked) == 200
    assert login_of(context, served).seen_at == 1000.0
    opened(context, served, "/work")
    assert login_of(context, served).seen_at > 1000.0
