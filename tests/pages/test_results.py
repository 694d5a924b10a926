"""Results: what was found, best first, and what was searched when nothing was."""

from __future__ import annotations

import json

import pytest

from lib.model import RunState, SceneId, SceneState
from lib.store.changes import SceneChange
from tests.pages.sample_portal import HOSTILE, all_html


def chip_grid_data(app):
    """What the chip grid was given to draw."""
    for element in app.get("bidi_component"):
        if element.proto.component_name.endswith("chip_grid"):
            return json.loads(element.proto.json)
    return None


def asked(app):
    """The query of the address."""
    return {k: v if isinstance(v, str) else v[-1] for k, v in app.query_params.items()}


def run_list(app):
    return next(s for s in app.selectbox if s.label == "Run")


@pytest.fixture
def done(site):
    run = site.add_run(["LC08_A", "LC08_B"], RunState.PARTIAL)
    searched = {"pixels": 65_536, "valid_fraction": 0.98, "algorithm": "vote"}
    work = site.store.work
    work.update_scene(
        run.id, SceneId("LC08_A"), SceneChange(state=SceneState.DONE, searched=searched)
    )
    work.update_scene(
        run.id,
        SceneId("LC08_B"),
        SceneChange(state=SceneState.FAILED, message=f"The band is cut off {HOSTILE}."),
    )
    site.add_detections(run, "LC08_A", [0.3, 0.97, 0.6, 0.8, 0.55])
    return site.store.work.run(run.id)


def test_no_run_yet_says_what_to_do(open_page):
    assert "No results yet" in all_html(open_page("results"))


def test_the_chip_grid_is_best_first_and_says_everything_of_a_chip(open_page, done):
    data = chip_grid_data(open_page("results", run=done.id))
    assert [c["score"] for c in data["chips"]] == ["0.97", "0.80", "0.60", "0.55", "0.30"]
    best = data["chips"][0]
    assert best["src"] == f"/api/runs/{done.id}/scenes/LC08_A/chips/2.webp"
    assert best["time"] == "2024-01-15 02:20:00 UTC"
    assert best["size"] == "6 px, 5,400 m²"
    assert best["meaning"] == "Share of the three tests that agree."
    assert best["synthetic"] is True
    assert data["colours"] == "red shows heat."
    assert data["chips"][2]["flags"] == ["cloud"]


def test_filters_narrow_and_are_in_the_address(open_page, done):
    app = open_page("results", run=done.id)
    app.slider[0].set_value(0.7).run()
    assert [c["score"] for c in chip_grid_data(app)["chips"]] == ["0.97", "0.80"]
    assert app.query_params["score"] == "0.7"
    next(s for s in app.selectbox if s.label == "Class").set_value("maybe").run()
    assert [c["label"] for c in chip_grid_data(app)["chips"]] == ["Possible fire"]
    assert app.query_params["class"] == "maybe"


def test_a_link_restores_filter_and_mark(open_page, done):
    app = open_page("results", run=done.id, score="0.5", mark="LC08_A/5", **{"class": "fire"})
    data = chip_grid_data(app)
    assert data["marked"] == "LC08_A/5"
    assert [c["score"] for c in data["chips"]] == ["0.97", "0.60", "0.55"]
    assert any("Marked" in c.value and "score 0" in c.value for c in app.caption)


@pytest.mark.parametrize("query", [{"score": "x"}, {"mark": "LC08_A/x"}, {"mark": "no/99"}])
def test_a_broken_link_shows_the_run_all_the_same(open_page, done, query):
    assert len(chip_grid_data(open_page("results", run=done.id, **query))["chips"]) == 5


def test_an_unknown_run_is_said_and_no_other_is_shown_in_its_place(open_page, done):
    app = open_page("results", run="00000000-0000-0000-0000-000000000000")
    assert "not known here, or it is not yours" in all_html(app)
    assert chip_grid_data(app) is None
    run_list(app).set_value(done.id).run()
    assert len(chip_grid_data(app)["chips"]) == 5
    assert asked(app) == {"run": done.id}
    assert "not known here" not in all_html(app)


def test_to_open_the_page_writes_no_address_and_so_needs_one_step_back(open_page, site, done):
    app = open_page("results")
    assert len(chip_grid_data(app)["chips"]) == 5
    assert not app.query_params
    app.slider[0].set_value(0.7).run()
    assert asked(app) == {"run": done.id, "score": "0.7"}
    other = site.add_run(["LC08_A"], RunState.DONE)
    app.run()
    assert run_list(app).value == done.id
    run_list(app).set_value(other.id).run()
    assert asked(app) == {"run": other.id}
    app.query_params["run"] = done.id  # Back
    app.run()
    assert run_list(app).value == done.id


def test_failures_are_told_in_plain_words_and_as_text(open_page, done):
    text = all_html(open_page("results", run=done.id))
    assert "LC08_B: The band is cut off &lt;img" in text
    assert "<img src=x" not in text
    assert "65,536 pixels, 98 % of them valid, with vote" in text


def test_nothing_found_says_what_was_searched(open_page, site):
    run = site.add_run(["LC08_A"], RunState.DONE)
    searched = {"pixels": 600_967, "valid_fraction": 0.5, "algorithm": "vote"}
    site.store.work.update_scene(
        run.id, SceneId("LC08_A"), SceneChange(state=SceneState.DONE, searched=searched)
    )
    text = all_html(open_page("results", run=run.id))
    assert "Nothing was found" in text
    assert "searched 1 scene (LC08_A): 600,967 pixels, 50 % of them valid, with vote" in text
    assert "decide vote" in text


def test_partial_results_show_while_it_runs(open_page, site):
    run = site.add_run(["LC08_A", "LC08_B"], RunState.RUNNING)
    work = site.store.work
    work.update_scene(
        run.id, SceneId("LC08_B"), SceneChange(state=SceneState.RUNNING, fraction=0.42)
    )
    app = open_page("results", run=run.id)
    assert "Nothing found so far" in all_html(app)
    assert 'aria-valuenow="42"' in all_html(app)
    site.add_detections(run, "LC08_A", [0.4])
    app.run()
    assert len(chip_grid_data(app)["chips"]) == 1


def test_the_download_is_the_whole_run(open_page, done):
    app = open_page("results", run=done.id)
    (link,) = app.get("link_button")
    assert link.proto.url == f"/api/runs/{done.id}/detections?download=1"


def test_many_are_shown_in_steps(open_page, site):
    run = site.add_run(["LC08_A"], RunState.DONE)
    site.add_detections(run, "LC08_A", [i / 300 for i in range(250)])
    app = open_page("results", run=run.id)
    assert len(chip_grid_data(app)["chips"]) == 200
    next(b for b in app.button if b.label == "Show more").click().run()
    assert len(chip_grid_data(app)["chips"]) == 250


def test_the_table_says_the_same_as_the_chip_grid(open_page, done):
    app = open_page("results", run=done.id)
    table = app.dataframe[0].value
    assert list(table["Score"]) == [0.97, 0.8, 0.6, 0.55, 0.3]
    assert set(table["Scene"]) == {"LC08_A"}
    assert set(table["Synthetic"]) == {"yes"}


def test_results_show_their_parameters_and_the_list_tells_runs_apart(open_page, site, done):
    other = site.add_run(["LC08_A"], RunState.DONE, params={"decide": "goli", "min_pixels": 1})
    app = open_page("results", run=other.id)
    said = " ".join(c.value for c in app.caption)
    assert "Parameters: decide goli; by default min pixels 1" in said
    titles = run_list(app).options
    assert sum("decide goli" in title for title in titles) == 1


def test_the_list_tells_equal_runs_apart_and_picks_the_one_that_was_picked(open_page, site, done):
    same = [site.add_run(["LC08_A"], RunState.DONE, title="Twins") for _ in range(2)]
    app = open_page("results", run=done.id)
    assert len(set(run_list(app).options)) == 3
    for run in same:
        run_list(app).set_value(run.id).run()
        assert asked(app) == {"run": run.id}
        assert run_list(app).value == run.id


def test_a_run_is_run_again_from_its_results(open_page, site, done):
    app = open_page("results", run=done.id)
    next(b for b in app.button if b.label == "Run again").click().run()
    assert "<h1>Work</h1>" in all_html(app)
    fresh = site.store.work.runs_of(done.owner)[0]
    assert (fresh.id != done.id, fresh.state) == (True, RunState.NEW)
    running = open_page("results", run=fresh.id)
    assert next(b for b in running.button if b.label == "Run again").disabled
