"""Explore: from filters and clicks to a started session."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lib.auth import OWNER
from lib.model import Fit, Reachability, RunState, SessionState
from tests.pages.sample_portal import FAR, FIRE, HERE, all_html


def asked(app, name):
    value = app.query_params[name]
    return value if isinstance(value, list) else [value]


def address(app):
    return {name: asked(app, name) for name in app.query_params}


def captions(app):
    return " ".join(c.value for c in app.caption)


def button(app, label):
    return next(b for b in app.button if b.label == label)


def param(app, label):
    return next(t for t in app.text_input if t.label.startswith(label))


def module_field(app):
    return next(s for s in app.selectbox if s.label == "Detection module")


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


def test_beside_the_buttons_stands_what_they_start_or_that_they_cannot(open_page):
    for asked_for, said in (
        ({}, "Choose at least one scene first."),
        ({"scene": ["LC08_A"]}, "Active fire on This computer."),
        ({"scene": ["FS2_A"], "module": "active-fire"}, "Cannot be started: the form says why."),
    ):
        assert said in all_html(open_page(**asked_for))


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
    assert param(app, "Smallest object").value == "7"
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
    assert module_field(app).value == "offshore-objects"
    assert "1 module does not fit" in app.expander[0].label
    assert "FS2_A is FORMOSAT-2; the module reads Landsat 8." in all_html(app)


def test_a_scene_that_does_not_fit_changes_neither_the_module_nor_its_parameters(open_page):
    app = open_page(scene=["LC08_A"])
    assert module_field(app).value == "active-fire"
    param(app, "Smallest object").set_value("12").run()
    where = place(app, "Open notebook")
    app.query_params["scene"] = ["LC08_A", "FS2_A"]
    app.session_state["explore-state"] = replace(
        app.session_state["explore-state"], scenes=("LC08_A", "FS2_A")
    )
    app.session_state["explore-address"] = {**address(app), "scene": ["LC08_A", "FS2_A"]}
    app.run()
    assert module_field(app).value == "active-fire"
    assert param(app, "Smallest object").value == "12"
    said = all_html(app)
    assert "Active fire does not fit all the chosen scenes. FS2_A is FORMOSAT-2" in said
    assert "What fits: Offshore objects." in said
    assert button(app, "Open notebook").disabled
    assert place(app, "Open notebook") == where
    button(app, "Remove FS2_A").click().run()
    assert module_field(app).value == "active-fire"
    assert "does not fit" not in all_html(app)
    assert not button(app, "Open notebook").disabled
    assert asked(app, "params") == ['{"min_pixels": 12}']


def test_each_module_keeps_its_own_parameters(open_page):
    app = open_page(scene=["LC08_A"], module="active-fire", params='{"min_pixels": 12}')
    module_field(app).set_value("offshore-objects").run()
    assert "params" not in app.query_params
    module_field(app).set_value("active-fire").run()
    assert asked(app, "params") == ['{"min_pixels": 12}']
    assert param(app, "Smallest object").value == "12"


def test_without_a_scene_the_module_is_only_proposed(open_page):
    app = open_page()
    assert module_field(app).value == "active-fire"
    assert "module" not in app.query_params


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("5000000", "“Smallest object, pixels” is not right: 5000000 is greater than the maximum"),
        ("0", "“Smallest object, pixels” is not right: 0 is less than the minimum of 1"),
        ("2.5", "“Smallest object, pixels” is not right: 2.5 is not a whole number"),
        ("many", "“Smallest object, pixels” is not right: &quot;many&quot; is not a whole number"),
    ],
)
@pytest.mark.parametrize("scenes", [["LC08_A"], []])
def test_nothing_starts_with_another_value_than_was_typed(open_page, site, typed, said, scenes):
    """Nor does a press that was on its way when the button was disabled."""
    app = open_page(scene=scenes, module="active-fire")
    field = param(app, "Smallest object")
    assert field.label == "Smallest object, pixels (1 to 10000)"
    field.set_value(typed)
    if scenes:
        app.button(key="run").click()
    app.run()
    assert said in all_html(app)
    assert param(app, "Smallest object").value == typed
    assert app.button(key="run").disabled
    assert button(app, "Open notebook").disabled
    assert site.portal.runs(OWNER) == ()


def test_what_could_not_be_read_does_not_start_as_the_default(open_page, site, monkeypatch):
    module = replace(FIRE, params_schema={"properties": {"limits": {"type": "object"}}})
    monkeypatch.setattr(site.portal, "fits", lambda user, ids: (Fit(module, ()),))
    app = open_page(scene=["LC08_A"])
    app.text_area[0].set_value('{"n": ')
    app.button(key="run").click().run()
    assert "limits: this is not JSON." in all_html(app)
    assert app.button(key="run").disabled
    assert site.portal.runs(OWNER) == ()


def test_a_value_of_a_link_is_shown_as_it_is_or_said_to_be_left_out(open_page):
    params = '{"min_pixels": 99999, "decide": "coin", "speed": 3}'
    app = open_page(scene=["LC08_A"], module="active-fire", params=params)
    assert param(app, "Smallest object").value == "99999"
    text = all_html(app)
    assert "99999 is greater than the maximum of 10000" in text
    assert "The link&#x27;s value of “Which test decides” is none that Active fire knows" in text
    assert "The link&#x27;s value of “speed” is none" in text
    assert button(app, "Open notebook").disabled


@pytest.mark.parametrize(
    ("preset", "walltime", "left", "said"),
    [
        ("huge", 3600, ("small", 3600), "resources “huge” are not offered by This computer"),
        ("small", 90_000, ("small", 3600), "walltime is none that “Small” allows"),
        ("large", 5000, ("large", 5000), ""),
        ("large", 86_400, ("large", 86_400), ""),
    ],
)
def test_resources_of_a_link_are_taken_as_they_are_or_said_to_be_left_out(
    open_page, preset, walltime, left, said
):
    app = open_page(scene=["LC08_A"], cluster="here", preset=preset, walltime=str(walltime))
    shown = {s.label: s.value for s in app.selectbox}
    assert (shown["Resources"], shown["Walltime, at most"]) == left
    assert said in all_html(app)
    assert ("was left out" in all_html(app)) is ("walltime" in said)


def test_what_is_chosen_afterwards_is_no_link(open_page):
    app = open_page(scene=["LC08_A"], cluster="here", preset="large", walltime="86400")
    next(s for s in app.selectbox if s.label == "Resources").set_value("small").run()
    app.radio[0].set_value("far").run()
    assert "left out" not in all_html(app)


def test_scenes_that_no_module_reads_together_can_not_be_started(open_page, site, monkeypatch):
    monkeypatch.setattr(site.portal, "fits", lambda user, ids: site_fits(site))
    app = open_page(scene=["LC08_A"])
    assert "No module does: remove some of them." in all_html(app)
    assert button(app, "Open notebook").disabled


def site_fits(site):
    return tuple(Fit(m, ("It lacks a band.",)) for m in site.portal.modules(OWNER))


def test_the_process_runtime_is_marked_wherever_it_is_offered(open_page):
    app = open_page(scene=["LC08_A"])
    labels = app.radio[0].options
    assert "no isolation, for trying out" in labels[0]
    assert "no isolation" not in labels[1]


def test_while_the_cluster_offers_nothing_the_page_says_why_and_waits(open_page, site, monkeypatch):
    known = site.portal.clusters(OWNER)
    silent = [
        replace(
            c,
            modules=(),
            presets=(),
            gate_version="",
            reachability=Reachability.UNKNOWN,
            unreachable_reason="Its gate has not been set up: admin.py gate deploy here",
        )
        for c in known
    ]
    monkeypatch.setattr(site.portal, "clusters", lambda user: silent)
    app = open_page(scene=["LC08_A"])
    text = all_html(app)
    assert "What This computer offers is not known yet. Its gate has not been set up" in text
    assert "does not offer" not in text
    assert button(app, "Open notebook").disabled
    monkeypatch.setattr(site.portal, "clusters", lambda user: known)
    assert not button(app.run(), "Open notebook").disabled


def test_the_chosen_cluster_stays_when_it_lacks_the_module(open_page):
    app = open_page(scene=["LC08_A"], module="active-fire", cluster="far")
    module_field(app).set_value("offshore-objects").run()
    assert app.radio[0].value == "far"
    assert "Far cluster does not offer Offshore objects 1.0.0." in all_html(app)
    assert button(app, "Open notebook").disabled
    app.radio[0].set_value("here").run()
    assert not button(app, "Open notebook").disabled
    assert asked(app, "cluster") == ["here"]


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
    param(app, "Smallest object").set_value("12").run()
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
    param(app, "Smallest object").set_value("12").run()
    button(app, "Open notebook").click().run()
    assert "Your group may not use &lt;this&gt; cluster." in all_html(app)
    assert param(app, "Smallest object").value == "12"
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


def test_all_filters_are_cleared_at_once_and_nothing_else(open_page):
    app = open_page(
        scene=["LC08_A"], bbox="119,22,123,26", cloud="40", sensor="landsat-8", q="lc08",
        **{"from": "2024-01-01", "to": "2024-12-31"},
    )  # fmt: skip
    button(app, "Clear filters").click().run()
    assert set(app.query_params) & {"bbox", "cloud", "sensor", "q", "from", "to"} == set()
    assert asked(app, "scene") == ["LC08_A"]
    assert "5 scenes match" in captions(app)
    assert button(app, "Clear filters").disabled
    app.slider[0].set_value(20).run()
    assert not button(app, "Clear filters").disabled


def test_to_open_the_page_writes_no_address(open_page):
    app = open_page()
    assert not app.query_params
    next(s for s in app.selectbox if s.label == "Resources").set_value("large").run()
    assert asked(app, "preset") == ["large"]


def test_a_cluster_that_is_missed_is_not_passed_over_in_silence(open_page, site, monkeypatch):
    assert "is not offered" not in captions(open_page()) + all_html(open_page("clusters"))
    monkeypatch.setattr(site.portal, "withheld", lambda user: "“This computer” is not offered.")
    assert "the page Clusters says why" in captions(open_page())
    assert "“This computer” is not offered." in all_html(open_page("clusters"))


def test_a_cluster_without_its_tunnel_is_not_called_unknown(open_page, site):
    """Whoever could use it is told so, and the form is there as soon as it is open."""
    offerings, record = site.portal._offerings, site.tunnels / "ada" / "far.json"
    offerings.clusters = {FAR: offerings.clusters[FAR]}
    opened = record.read_bytes()
    record.unlink()
    site.access.tunnel.__self__._known.clear()
    app = open_page(scene=["LC08_A"], cluster=FAR)
    text = all_html(app)
    assert "You can start work on Far cluster once somebody has opened the tunnel to it." in text
    assert "was left out: No tunnel to Far cluster has been opened yet" in text
    assert "not known here" not in text
    record.write_bytes(opened)
    site.access.tunnel.__self__._known.clear()
    app.run()
    assert "once somebody has opened" not in all_html(app)
    assert any("Far cluster" in option for radio in app.radio for option in radio.options)


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
