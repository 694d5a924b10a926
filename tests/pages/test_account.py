"""Account: who I am, where I am signed in, what programs may do in my name."""

from __future__ import annotations

import pytest

from lib.auth import OWNER
from lib.errors import NotFound
from lib.model import TokenScope, User, UserId
from tests.pages import sample_people
from tests.pages.apptest_components import component_data, labels, press, press_row, rows
from tests.pages.sample_people import FIREFOX
from tests.pages.sample_portal import HOSTILE, all_html
from ui import data_table
from ui.user_agent import browser_name

WINDOWS_EDGE = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0"
)
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, "
    "like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)


def secret(app):
    """The token that is shown, or None."""
    shown = component_data(app, "token-secret")
    return shown and shown["text"]


def watched(app):
    """For whom the browser watches the sign-in."""
    (user,) = {
        component_data(app, key)["user"]
        for key in ("sign-in-watch", "sign-in-watch-over")
        if component_data(app, key) is not None
    }
    return user


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (FIREFOX, "Firefox on Linux"),
        (WINDOWS_EDGE, "Edge on Windows"),
        (IPHONE, "Safari on iOS"),
        ("Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) Chrome/126.0.0.0", "Chrome on ChromeOS"),
        ("Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/126.0.0.0", "Chromium on Linux"),
        ("Mozilla/5.0 (Linux; Android 14) Firefox/127.0", "Firefox on Android"),
        ("", "Unknown browser"),
        ("  ", "Unknown browser"),
        ("curl/8.5.0", "curl/8.5.0"),
        ("Mozilla/5.0", "Mozilla/5.0"),
        ("x" * 200, "x" * 59 + "…"),
    ],
)
def test_browsers_are_named_as_people_say_it(said, name):
    assert browser_name(said) == name


def test_it_says_who_i_am(open_page, site):
    app = open_page("account", site.person("lead"))
    text = all_html(app)
    assert "Leo Lead" in text
    assert "Group lead" in text
    assert "Forest fires" in text
    app = open_page("account", site.person("other", claims={}))
    assert "You are in no group" in all_html(app)


def test_who_asks_is_looked_up_once_in_each_run_of_a_page(open_page, site, monkeypatch):
    asked = []
    who = site.person("lead")
    monkeypatch.setattr(site.portal, "user_of_browser", lambda *_: asked.append(1) or site.asking)
    app = open_page("account", who)
    assert len(asked) == 1
    site.asking = site.person("other")
    app.run()
    assert len(asked) == 2
    assert "Leo Lead" not in all_html(app)


def test_sign_ins_are_listed_and_this_one_is_marked(open_page, site):
    site.person("user", browser=WINDOWS_EDGE, client="198.51.100.4")
    site.person("other")
    me = site.person("user")
    found = rows(open_page("account", me), "sign-ins")
    assert [cells[0] for cells, _ in found] == [
        "Firefox on Linux | through campus | this browser",
        "Edge on Windows | through campus",
    ]
    assert [cells[1] for cells, _ in found] == ["192.0.2.17", "198.51.100.4"]
    assert [actions for _, actions in found] == [[], ["end"]]


def test_one_sign_in_is_ended_by_its_button(open_page, site):
    site.person("user", browser=WINDOWS_EDGE)
    me = site.person("user")
    app = open_page("account", me)
    (other,) = [login for login in site.auth.logins.of(me.id) if login.browser == WINDOWS_EDGE]
    press_row(app, "sign-ins", other.id, "end")
    assert len(site.auth.logins.of(me.id)) == 1
    assert "Signed out there." in all_html(app)


def test_a_button_that_was_not_offered_does_nothing(open_page, site):
    stranger = site.person("other")
    me = site.person("user")
    app = open_page("account", me)
    (theirs,) = site.auth.logins.of(stranger.id)
    (mine,) = site.auth.logins.of(me.id)
    for row in (theirs.id, mine.id):
        press_row(app, "sign-ins", row, "end")
    assert site.auth.logins.living([theirs.id, mine.id]) == {theirs.id, mine.id}


@pytest.mark.parametrize("value", [None, 3, "x", {"row": 1}, {"row": "a", "action": ["end"]}])
def test_nonsense_from_the_browser_presses_nothing(value):
    assert data_table.parse_press(value) == ("", "")


def test_this_browser_is_signed_out(open_page, site):
    me, elsewhere = site.person("user"), site.person("user")
    app = open_page("account", me)
    press(app, "Sign out")
    assert [f"login:{login.id}" for login in site.auth.logins.of(me.id)] == [elsewhere.via]
    assert "You are not signed in" in all_html(app)


def test_everywhere_asks_first(open_page, site):
    me = site.person("user")
    site.person("user")
    app = open_page("account", me)
    press(app, "Sign out everywhere")
    assert any("go on running" in m.value for m in app.markdown)
    press(app, "Cancel")
    assert len(site.auth.logins.of(me.id)) == 2
    assert "Cancel" not in labels(app)
    press(app, "Sign out everywhere")
    press(app, "Sign out everywhere", key="sign-out-everywhere-now")
    assert not site.auth.logins.of(me.id)


def test_a_token_is_made_shown_once_and_withdrawn(open_page, site):
    me = site.person("user")
    app = open_page("account", me)
    app.text_input(key="token-name").input(HOSTILE)
    app.checkbox(key="token-launch").check()
    app.text_input(key="token-days").input("7")
    press(app, "Create token")
    shown = secret(app)
    user = site.auth.tokens.user_of(shown)
    assert user.id == me.id
    assert user.scopes == set(TokenScope)
    (token,) = site.auth.tokens.of(me.id)
    assert (token.expires_at - token.created_at).days in (6, 7)
    assert "<img" not in all_html(app)
    assert rows(app, "tokens")[0][0][:2] == [HOSTILE, " | ".join(TokenScope)]
    app.switch_page("pages/explore.py").run()
    app.switch_page("pages/account.py").run()
    assert secret(app) is None
    press_row(app, "tokens", token.id, "withdraw")
    assert "<img" not in app.markdown[-1].value.replace("\\<", "")
    press(app, "Withdraw")
    assert site.auth.tokens.user_of(shown) is None
    assert rows(app, "tokens") is None


def test_a_token_is_gone_when_i_have_it(open_page, site):
    app = open_page("account", site.person("user"))
    app.text_input(key="token-name").input("mine")
    press(app, "Create token")
    assert secret(app).startswith("sbt_")
    assert app.text_input(key="token-name").value == ""
    press(app, "I have it")
    assert secret(app) is None


@pytest.mark.parametrize(
    ("name", "read", "days", "said"),
    [
        ("  ", True, "7", "Give the token a name"),
        ("x", False, "7", "Choose what the token may be used for"),
        ("x", True, "367", "as a whole number, 1 to 366"),
        ("x", True, "0", "as a whole number, 1 to 366"),
        ("x", True, "7.5", "as a whole number, 1 to 366"),
        ("x", True, "", "as a whole number, 1 to 366"),
    ],
)
def test_a_token_that_cannot_be_made_says_why(open_page, site, name, read, days, said):
    me = site.person("user")
    app = open_page("account", me)
    app.text_input(key="token-name").input(name)
    app.checkbox(key="token-read").set_value(read)
    app.text_input(key="token-days").input(days)
    press(app, "Create token")
    assert said in all_html(app)
    assert secret(app) is None
    assert not site.auth.tokens.of(me.id)


def test_somebody_elses_token_is_not_withdrawn(open_page, site):
    other, me = site.person("other"), site.person("user")
    site.portal.my_account.new_token(other, "theirs", [TokenScope.READ], 3)
    (token,) = site.auth.tokens.of(other.id)
    app = open_page("account", me)
    app.session_state["page-state"] = {
        "page": "account",
        "confirm-pending": ("withdraw-token", token.id),
    }
    app.run()
    assert "Withdraw" not in labels(app)
    with pytest.raises(NotFound):
        site.portal.my_account.withdraw_token(me, token.id)


def test_hostile_names_and_browsers_stay_text(open_page, site):
    site.person("user", browser=HOSTILE)
    me = site.person("user", name=HOSTILE)
    app = open_page("account", me)
    assert "<img" not in all_html(app)
    assert "&lt;img src=x" in all_html(app)
    assert any(HOSTILE[:40] in cells[0] for cells, _ in rows(app, "sign-ins"))


def test_every_page_says_who_is_signed_in(open_page, site):
    me = site.person("user", name=HOSTILE)
    app = open_page("explore", me)
    (link,) = [p.proto for p in app.get("page_link") if p.proto.page == "account"]
    assert link.label.startswith("\\<img src=x")
    assert watched(app) == me.id


def test_who_is_not_signed_in_is_told_so(open_page, site, monkeypatch):
    app = open_page("explore", site.person("user"))
    monkeypatch.setattr(site.portal, "user_of_browser", lambda *_: None)
    app.run()
    assert "You are not signed in" in all_html(app)
    assert not app.text_input
    assert watched(app) == ""


def test_another_user_in_the_same_session_sees_nothing_of_the_first(open_page, site):
    first, second = site.person("user"), site.person("other")
    app = open_page("account", first)
    app.text_input(key="token-name").input("mine")
    press(app, "Create token")
    assert secret(app)
    site.asking = second
    app.run()
    assert secret(app) is None
    assert "Sam Other" in all_html(app)


def test_the_owner_of_a_portal_for_one_has_an_account_too(open_page, site):
    key = site.auth.links.new("http://localhost").partition("key=")[2]
    owner = sample_people.user_of(site.auth, site.auth.sign_in(key))
    app = open_page("account", owner)
    assert OWNER.name in all_html(app)
    assert "Administrator" in all_html(app)
    assert rows(app, "sign-ins")[0][0][0].endswith("with a one-time link | this browser")


def test_what_cannot_be_done_is_said(open_page, site):
    app = open_page("account", User(UserId("owner"), "Owner", administrator=True))
    press(app, "Sign out")
    assert "Only a browser that is signed in can sign out." in all_html(app)
