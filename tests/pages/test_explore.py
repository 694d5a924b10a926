"""Explore: from filters and clicks to a started session."""

from __future__ import annotations

import pytest

from lib.auth import OWNER
from lib.model import Reachability, RunState, SessionState
from tests.pages.sample_portal import HERE, all_html


def asked(app, name):
    value = app.query_params[name]
    return value if isinstance(value, list) else [value]


def captions(app):
    return " ".join(c.value for c in app.caption)


def button(app, label):
    return next(b for b in app.button if b.label == label)


def place(app, label):
    """Where a button lies in the tree of what is drawn: the index at each depth."""

    def below(node, path):
        if getattr(node, "type", "") == "button" and node.label == label:
            return path
        children = getattr(node, "children", {}).items()
        found = (below(child, (*path, index)) for index, child in children)
        return next(filter(None, found), None)

    return below(app._tree, ())


def test_what_comes_and_goes_on_the_page_moves_no_button(open_page, site):
    """While a page is drawn again, what has moved is there twice: at its old place too."""
    plain = open_page()
    where = place(plain, "Open notebook")
    assert where
    refused = '{"min_pixels": "many"}'
    site.portal.report_sample_scenes("Making the sample scene 3 of 9", "One is missing.")
    for asked_for in (
        {"scene": ["LC08_A"]},
        {"scene": ["LC08_A", "FS2_A"]},
        {"scene": ["LC08_A", "GONE"], "module": "active-fire", "params": refused},
        {"from": "2024-12-31", "to": "2024-01-01", "walltime": "14400", "cluster": "far"},
    ):
        assert place(open_page(**asked_for), "Open notebook") == where, asked_for


def test_an_empty_page_says_what_to_do(open_page):
    app = open_page()
    text = all_html(app)
    assert "Nothing chosen yet" in text
    assert button(app, "Open notebook").disabled
    assert "5 scenes match" in captions(app)


def test_sample_scenes_are_followed_while_they_are_made(open_page, site):
    site.portal.report_sample_scenes("Making the sample scene 3 of 9", "")
    app = open_page()
    assert "Making the sample scene 3 of 9 …" in captions(app)
    site.portal.report_sample_scenes("", "The real ones could not be downloaded.")
    app.run()
    assert "Making" not in captions(app)
    assert "The real ones could not be downloaded." in all_html(app)
    site.portal.report_sample_scenes("", "")
    app.run()
    assert "could not be downloaded" not in all_html(app)


def test_a_link_restores_everything(open_page):
    app = open_page(
        scene=["LC08_A", "LC08_B"],
        module="active-fire",
        cluster="far",
        preset="large",
        walltime="14400",
        cloud="80",
        sensor="landsat-8",
        q="lc08",
        params='{"min_pixels": 7, "decide": "goli"}',
        bbox="119,22,123,26",
        **{"from": "2024-01-01", "to": "2024-12-31"},
    )
    assert "2 scenes chosen" in all_html(app)
    assert app.radio[0].value == "far"
    assert {s.label: s.value for s in app.selectbox}["Resources"] == "large"
    assert {s.label: s.value for s in app.selectbox}["Walltime, at most"] == 14400
    assert {s.label: s.value for s in app.selectbox}["Which test decides"] == "goli"
    assert app.number_input[0].value == 7
    assert app.slider[0].value == 80
    assert "2 scenes match" in captions(app)
    assert asked(app, "params") == ['{"decide": "goli", "min_pixels": 7}']
    assert asked(app, "bbox") == ["119,22,123,26"]


def test_what_a_link_asks_for_in_vain_is_said_and_the_rest_restored(open_page):
    app = open_page(
        scene=["LC08_A", "GONE<b>"],
        module="no-such",
        cluster="nowhere",
        cloud="loud",
        sensor="mars",
    )
    text = all_html(app)
    for part in ("GONE&lt;b&gt;", "no-such", "nowhere", "cloud cover", "mars"):
        assert part in text
    assert "GONE<b>" not in text
    assert "1 scene chosen" in text
    assert asked(app, "scene") == ["LC08_A"]
    assert not button(app, "Open notebook").disabled
    button(app, "Dismiss").click().run()
    assert "GONE" not in all_html(app)


def test_modules_that_do_not_fit_are_listed_with_the_reason(open_page):
    app = open_page(scene=["FS2_A"])
    assert app.selectbox[0].options == ["Offshore objects 1.0.0"]
    assert "1 module does not fit" in app.expander[0].label
    assert "FS2_A is FORMOSAT-2; the module reads Landsat 8." in all_html(app)


def test_scenes_that_no_module_reads_together_can_not_be_started(open_page, site, monkeypatch):
    monkeypatch.setattr(site.portal, "fits", lambda user, ids: site_fits(site))
    app = open_page(scene=["LC08_A"])
    assert "No module fits all the chosen scenes together" in all_html(app)
    assert not [b for b in app.button if b.label == "Open notebook"]


def site_fits(site):
    from lib.model import Fit

    return tuple(Fit(m, ("It lacks a band.",)) for m in site.portal.modules(OWNER))


def test_the_process_runtime_is_marked_wherever_it_is_offered(open_page):
    app = open_page(scene=["LC08_A"])
    labels = app.radio[0].options
    assert "no isolation, for trying out" in labels[0]
    assert "no isolation" not in labels[1]


def test_while_no_cluster_offers_the_module_the_page_says_so_and_waits(
    open_page, site, monkeypatch
):
    import dataclasses

    known = site.portal.clusters(OWNER)
    silent = [
        dataclasses.replace(c, modules=(), presets=(), reachability=Reachability.UNKNOWN)
        for c in known
    ]
    monkeypatch.setattr(site.portal, "clusters", lambda user: silent)
    app = open_page(scene=["LC08_A"])
    assert "This computer, Far cluster cannot be asked at the moment" in all_html(app)
    assert not [b for b in app.button if b.label == "Open notebook"]
    monkeypatch.setattr(site.portal, "clusters", lambda user: known)
    assert not button(app.run(), "Open notebook").disabled


def test_open_notebook_goes_to_work(open_page, site):
    app = open_page(scene=["LC08_A", "LC08_B"], module="active-fire")
    button(app, "Open notebook").click().run()
    (session,) = site.portal.sessions(OWNER)
    assert session.state is SessionState.NEW
    assert session.scenes == ("LC08_A", "LC08_B")
    assert session.resources.preset == "small"
    assert site.reconciler.woken == [HERE]
    assert "<h1>Work</h1>" in all_html(app)


def test_run_starts_the_module_with_the_parameters_of_the_form(open_page, site):
    app = open_page(scene=["LC08_A"], module="active-fire")
    app.number_input[0].set_value(12).run()
    button(app, "Run on 1 scene").click().run()
    (run,) = site.portal.runs(OWNER)
    assert run.state is RunState.NEW
    assert run.params == {"decide": "vote", "min_pixels": 12, "threshold": 0.5, "night": False}


def test_a_refusal_of_the_portal_is_shown_and_nothing_is_lost(open_page, site, monkeypatch):
    from lib.errors import Refused

    def refuse(user, request):
        raise Refused("Your group may not use <this> cluster.")

    monkeypatch.setattr(site.portal, "open_notebook", refuse)
    app = open_page(scene=["LC08_A"], module="active-fire")
    app.number_input[0].set_value(12).run()
    button(app, "Open notebook").click().run()
    assert "Your group may not use &lt;this&gt; cluster." in all_html(app)
    assert app.number_input[0].value == 12
    assert asked(app, "scene") == ["LC08_A"]


def test_clear_and_remove(open_page):
    app = open_page(scene=["LC08_A", "LC08_B", "FS2_A"])
    button(app, "Remove LC08_B").click().run()
    assert asked(app, "scene") == ["LC08_A", "FS2_A"]
    button(app, "Clear").click().run()
    assert "scene" not in app.query_params


@pytest.mark.parametrize(
    ("typed", "said"),
    [("1,2,3", "four numbers"), ("0,9,5,8", "South must be less"), ("190,0,5,8", "West and")],
)
def test_an_area_that_cannot_be_read_is_said(open_page, typed, said):
    app = open_page(bbox="119,22,123,26")
    area = next(t for t in app.text_input if t.label.startswith("West"))
    area.set_value(typed).run()
    assert any(said in c.value for c in app.caption)
    assert asked(app, "bbox") == ["119,22,123,26"]


def test_an_area_filters_and_can_be_cleared(open_page):
    app = open_page()
    area = next(t for t in app.text_input if t.label.startswith("West"))
    area.set_value("119 22 123 26").run()
    assert "3 scenes match" in captions(app)
    button(app, "Search the whole world").click().run()
    assert "bbox" not in app.query_params


def test_a_browser_that_lags_behind_takes_nothing_back(open_page, monkeypatch):
    """A tick may come with the address of before the last search: it is no link."""
    app = open_page("explore", q="LC08")
    app.text_input(key="text-1").set_value("LC0").run()
    assert asked(app, "q") == ["LC0"]
    app.query_params["q"] = ["LC08"]
    app.run()
    assert asked(app, "q") == ["LC0"]
    app.run()  # it shows the new one now, so the old one is a step back
    app.query_params["q"] = ["LC08"]
    app.run()
    assert asked(app, "q") == ["LC08"]


def test_an_old_address_counts_again_after_a_while(open_page, monkeypatch):
    app = open_page("explore", q="LC08")
    app.text_input(key="text-1").set_value("LC0").run()
    monkeypatch.setattr("ui.explore_state.time.monotonic", lambda: float("inf"))
    app.query_params["q"] = ["LC08"]
    app.run()
    assert asked(app, "q") == ["LC08"]


def test_coming_back_keeps_the_choice(open_page):
    app = open_page(scene=["LC08_A"], cloud="40")
    app.switch_page("pages/work.py").run()
    app.switch_page("pages/explore.py").run()
    assert asked(app, "scene") == ["LC08_A"]
    assert app.slider[0].value == 40


def test_a_stranger_sees_how_to_sign_in(open_page, site, monkeypatch):
    monkeypatch.setattr(site.portal, "user_of_browser", lambda *_: None)
    app = open_page()
    assert "You are not signed in" in all_html(app)
    assert not app.button


def test_a_sign_in_that_ends_during_a_launch(open_page, site, monkeypatch):
    """The page says so, starts nothing, and goes on where it was after signing in again."""
    login = site.auth.logins.of_cookies(site.cookie())
    monkeypatch.setattr(site.portal, "user_of_browser", lambda *_: login.user)
    app = open_page(scene=["LC08_A"], module="active-fire")
    monkeypatch.setattr(site.portal, "user_of_browser", lambda *_: login.user)
    site.auth.logins.sign_out(login)
    button(app, "Open notebook").click().run()
    assert "Your sign-in has ended. Sign in again; nothing was changed." in all_html(app)
    assert site.store.work.sessions_of(login.user.id) == ()
    assert not app.exception
