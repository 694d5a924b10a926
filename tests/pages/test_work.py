"""Work: a card per session and run, with what it waits for and what can be done."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qs

import pytest

from lib.auth import OWNER
from lib.errors import ClusterUnreachable
from lib.model import EndReason, RunState, SessionState
from lib.portal import facade
from lib.portal.facade import LogText
from lib.store.changes import SessionChange
from tests.pages.apptest_components import component_data
from tests.pages.sample_portal import FAR, HOSTILE, all_html

FULL = {"decide": "goli", "min_pixels": 1, "threshold": 0.5, "night": False}


def at(seconds):
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).timestamp()


def labels(app):
    return [b.label for b in app.button]


def press(app, label):
    next(b for b in app.button if b.label == label).click()
    return app.run()


def test_nothing_yet_says_what_to_do(open_page):
    app = open_page("work")
    assert "Nothing has been started yet" in all_html(app)


@pytest.mark.parametrize(
    ("state", "more", "step", "says"),
    [
        (SessionState.NEW, {"reason": ""}, "New", "Handing the notebook over"),
        (SessionState.SUBMITTED, {"reason": ""}, "Submitted", "has taken the job"),
        (SessionState.QUEUED, {"reason": "3 jobs are before it."}, "In the queue", "3 jobs are"),
        (SessionState.STARTING, {"reason": ""}, "Starting", "JupyterLab is starting"),
    ],
)
def test_a_waiting_card_shows_step_reason_time_and_cancel(open_page, site, state, more, step, says):
    session = site.add_session(["LC08_A"], state, **more)
    app = open_page("work")
    text = all_html(app)
    assert f'aria-current="step">{step}</li>' in text
    assert says in text
    assert "so far" in text
    assert "no isolation, for trying out" in text
    press(app, "Cancel")
    assert site.store.work.session(session.id).stopping
    app.run()
    assert "Stopping." in all_html(app)
    assert "Cancel" not in labels(app)


def test_a_ready_card_opens_and_shows_the_time_left(open_page, site):
    session = site.add_session(["LC08_A"], SessionState.READY, started_at=at(-60), ends_at=at(3600))
    app = open_page("work")
    text = all_html(app)
    assert "59 min" in text
    assert "left" in text
    link = app.get("link_button")[0].proto
    assert link.url == f"/open/{session.id}"
    press(app, "Open here")
    assert app.get("iframe")[0].proto.src == f"/open/{session.id}"
    press(app, "Close")
    assert not app.get("iframe")


def test_a_card_of_a_notebook_that_is_not_used_warns_and_one_click_keeps_it(
    open_page, site, monkeypatch
):
    session = site.add_session(["LC08_A"], SessionState.READY, started_at=at(-60), ends_at=at(3600))
    assert "Keep it running" not in labels(open_page("work"))
    (site.folder / f"idle-{session.id}").write_text(str(time.time() + 300))
    app = open_page("work")
    assert "Nobody has worked in it for a while. It is ended at" in all_html(app)
    app = press(app, "Keep it running")
    assert "The portal is starting" in " ".join(t.value for t in app.toast)
    monkeypatch.setattr(facade, "ask", lambda _, question: asyncio.run(question()))
    app = press(app, "Keep it running")
    assert not app.exception
    assert "Keep it running" not in labels(app)
    assert "Nobody has worked in it" not in all_html(app)


def test_stop_asks_first_and_then_stops(open_page, site):
    session = site.add_session(["LC08_A"], SessionState.READY, started_at=at(-60), ends_at=at(3600))
    app = open_page("work")
    assert "Files are kept" in " ".join(m.value for m in app.markdown)
    assert not site.store.work.session(session.id).stopping
    press(app, "Stop now")
    assert site.store.work.session(session.id).stopping


def test_a_silent_cluster_is_a_second_axis_and_ends_nothing(open_page, site):
    (site.folder / "far-is-silent").touch()
    site.add_session(["LC08_A"], SessionState.QUEUED, cluster=FAR)
    app = open_page("work")
    text = all_html(app)
    assert "Far cluster cannot be asked since" in text
    assert "The tunnel to its login node is down." in text
    assert 'aria-current="step">In the queue</li>' in text
    assert "sb-steps unknown" in text


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (EndReason.WALLTIME, "Its time was up."),
        (EndReason.OUT_OF_MEMORY, "more memory"),
        (EndReason.LOST, "no longer knows the job"),
    ],
)
def test_an_ended_card_says_why_and_can_start_again(open_page, site, reason, says):
    old = site.add_session(
        ["LC08_A"], SessionState.ENDED, end_reason=reason, ended_at=at(-5), files_until=at(86_400)
    )
    app = open_page("work")
    text = all_html(app)
    assert f"Ended: {reason}" in text
    assert says in text
    assert "files are kept until" in text
    press(app, "Start again here")
    fresh = next(s for s in site.portal.sessions(OWNER) if s.continued_from == old.id)
    assert fresh.state is SessionState.NEW
    app.run()
    assert "Start again here" not in labels(app)
    assert "went on into a newer notebook" in all_html(app)


def test_work_on_the_portals_own_computer_says_that_it_ends_with_the_portal(open_page, site):
    said = "work here ends when the portal is stopped"
    site.add_session(["LC08_A"], SessionState.QUEUED, cluster=FAR)
    assert said not in all_html(open_page("work"))
    session = site.add_session(["LC08_A"], SessionState.QUEUED)
    assert said in all_html(open_page("work"))
    reason = "It was stopped. The portal was stopped, and with it everything."
    site.store.work.update_session(
        session.id,
        SessionChange(state=SessionState.ENDED, end_reason=EndReason.STOPPED, reason=reason),
    )
    text = all_html(open_page("work"))
    assert said not in text
    assert text.count("It was stopped.") == 1
    assert reason in text


def test_a_refused_start_again_is_said(open_page, site):
    site.add_session(
        ["LC08_A"],
        SessionState.ENDED,
        end_reason=EndReason.IDLE,
        files_until=at(86_400),
        run_over=False,
    )
    app = press(open_page("work"), "Start again here")
    assert "results of this notebook still arrive" in app.toast[0].value


def test_without_files_there_is_no_start_again(open_page, site):
    site.add_session(
        ["LC08_A"], SessionState.ENDED, end_reason=EndReason.STOPPED, files_until=at(-1)
    )
    assert "Start again here" not in labels(open_page("work"))


def test_a_run_shows_its_scenes_and_leads_to_results(open_page, site):
    run = site.add_run(["LC08_A", "LC08_B"], RunState.RUNNING, started_at=at(-10))
    site.add_detections(run, "LC08_A", [0.9, 0.5])
    app = open_page("work")
    assert "0 of 2 scenes done" in all_html(app)
    assert "2 objects found so far" in all_html(app)
    (link,) = [p.proto for p in app.get("page_link") if p.proto.page == "results"]
    assert link.label == "Results (2)"
    assert f"run={run.id}" in str(link)


@pytest.mark.parametrize(
    ("scenes", "said"),
    [
        (["LC08_A", "LC08_B"], ">synthetic<"),
        (["LC08_A", "LC08_REAL"], ">1 synthetic<"),
        (["LC08_REAL"], None),
    ],
)
def test_synthetic_scenes_are_labelled_on_cards(open_page, site, scenes, said):
    site.add_session(scenes, SessionState.QUEUED)
    text = all_html(open_page("work"))
    assert said in text if said else "synthetic<" not in text


def test_hostile_text_stays_text(open_page, site):
    site.add_session(["LC08_A"], SessionState.QUEUED, title=HOSTILE, reason=HOSTILE)
    text = all_html(open_page("work"))
    assert "<img" not in text
    assert text.count("&lt;img src=x") >= 2


class Logs:
    """What `portal.log` answers, and which logs were asked for."""

    def __init__(self, site, monkeypatch, **texts):
        self.texts, self.asked = texts, []
        monkeypatch.setattr(site.portal, "log", self.log)

    def log(self, user, work_id, kind):
        self.asked.append(kind)
        return LogText(self.texts.get(kind, ""), truncated=True)


def open_log(open_page, says):
    """Open the first card's log and wait until that stands in it."""
    return run_until(says, press(open_page("work"), "Log"))


def run_until(says, app):
    """Look again until that stands on the page."""
    deadline = time.monotonic() + 300
    while says not in all_html(app):
        assert time.monotonic() < deadline, all_html(app)
        app.run()
    return app


def opened_log(app):
    return next(g.value for g in app.get("button_group") if g.label == "Which log")


def log_again_s(app):
    """After how many seconds the page looks at its open log again."""
    ids = [e.proto.id for e in app.get("bidi_component")]
    (key,) = [f"live-work-log-{i.partition('-live-work-log-')[2]}" for i in ids if "work-log-" in i]
    return component_data(app, key)["again"]


def test_a_log_is_fetched_beside_the_page(open_page, site, monkeypatch):
    Logs(site, monkeypatch, notebook=f"It says {HOSTILE}")
    site.add_session(["LC08_A"], SessionState.READY, started_at=at(-60), ends_at=at(3600))
    app = open_log(open_page, "It says &lt;img")
    assert any("Only the end" in c.value for c in app.caption)
    press(app, "Hide log")
    assert "It says" not in all_html(app)


@pytest.mark.parametrize(
    ("kind", "texts", "opened"),
    [
        ("session", {"job": "a", "module": "b", "notebook": "c"}, "notebook"),
        ("session", {"job": "a", "module": "b", "notebook": " "}, "module"),
        ("session", {"job": "a"}, "job"),
        ("run", {"job": "a", "module": "b"}, "module"),
        ("run", {"job": "a"}, "job"),
    ],
)
def test_the_log_that_opens_first_is_one_that_says_something(
    open_page, site, monkeypatch, kind, texts, opened
):
    logs = Logs(site, monkeypatch, **texts)
    add = site.add_session if kind == "session" else site.add_run
    add(["LC08_A"], SessionState.READY if kind == "session" else RunState.RUNNING)
    app = open_log(open_page, f">{texts[opened]}<")
    assert opened_log(app) == opened
    logs.texts = {"job": "a", "module": "b", "notebook": "c"}
    assert opened_log(app.run()) == opened, "it moved under the reader's eyes"


def test_an_open_log_is_left_alone_when_its_job_is_over(open_page, site, monkeypatch):
    logs = Logs(site, monkeypatch, notebook="first words")
    session = site.add_session(["LC08_A"], SessionState.READY)
    app = open_log(open_page, "first words")
    assert log_again_s(app) > 0
    logs.texts["notebook"] = "last words"
    over = SessionChange(state=SessionState.ENDED, end_reason=EndReason.FINISHED, ended_at=at(0))
    site.store.work.update_session(session.id, over)
    run_until("last words", app)
    logs.asked.clear()
    app.run()
    assert log_again_s(app) == 0
    assert logs.asked == []


def test_a_log_that_cannot_be_fetched_says_so(open_page, site, monkeypatch):
    def log(user, work_id, kind):
        raise ClusterUnreachable("The cluster does not answer. Try again later.")

    monkeypatch.setattr(site.portal, "log", log)
    site.add_run(["LC08_A"], RunState.RUNNING)
    app = open_log(open_page, "The cluster does not answer.")
    assert log_again_s(app) > 0


def link(app, label):
    """(page, query) of a link."""
    found = next(p.proto for p in app.get("page_link") if p.proto.label == label)
    return found.page, parse_qs(found.query_string)


def test_two_runs_that_differ_in_parameters_look_different(open_page, site):
    site.add_run(["LC08_A"], RunState.DONE, params={"decide": "goli"})
    site.add_run(["LC08_A"], RunState.DONE)
    text = all_html(open_page("work"))
    assert text.count("parameters: decide goli") == 1
    assert text.count("default parameters") == 1


def test_what_has_ended_can_be_run_again_and_opened_in_explore(open_page, site):
    run = site.add_run(["LC08_A", "LC08_B"], RunState.DONE, cluster=FAR, params=FULL)
    app = open_page("work")
    page, query = link(app, "Open in Explore")
    assert page == ""
    assert query == {
        "scene": ["LC08_A", "LC08_B"], "module": ["active-fire"], "cluster": ["far"],
        "preset": ["small"], "walltime": ["3600"], "params": ['{"decide": "goli"}'],
    }  # fmt: skip
    press(app, "Run again")
    fresh, old = site.portal.runs(OWNER)
    assert old.id == run.id
    assert (fresh.state, fresh.scenes[1].scene) == (RunState.NEW, "LC08_B")
    for part in ("module", "params", "cluster", "resources"):
        assert getattr(fresh, part) == getattr(old, part), part
    restored = open_page("explore", **query)
    assert not restored.session_state["explore-problems"]
    assert restored.session_state["explore-state"].params == {"decide": "goli"}


def test_what_runs_cannot_be_run_again_yet(open_page, site):
    site.add_run(["LC08_A"], RunState.RUNNING)
    app = open_page("work")
    assert "Run again" not in labels(app)
    assert not [p for p in app.get("page_link") if p.proto.label == "Open in Explore"]


def test_a_run_that_cannot_be_started_again_says_why(open_page, site):
    site.add_run(["LC08_A"], RunState.DONE, params={**FULL, "min_pixels": 0})
    app = press(open_page("work"), "Run again")
    assert "0 is less than the minimum of 1" in app.toast[0].value
    assert len(site.portal.runs(OWNER)) == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [("goli", 1), ("LC08_B", 1), ("fire this computer", 2), ("fire goli far", 0), (" ", 2)],
)
def test_work_is_found_by_what_its_card_says(open_page, site, text, found):
    site.add_run(["LC08_A"], RunState.DONE, params={"decide": "goli"})
    site.add_session(["LC08_B"], SessionState.QUEUED)
    app = open_page("work")
    app.text_input(key="work-find").set_value(text).run()
    assert all_html(app).count('class="sb-card-head"') == found
    assert ("Nothing of yours says that" in all_html(app)) is (found == 0)


def test_work_gets_a_name_and_a_note(open_page, site):
    run = site.add_run(["LC08_A"], RunState.RUNNING)
    app = press(open_page("work"), "Name and note")
    assert app.text_input(key=f"name-{run.id}").value == run.title
    app.text_input(key=f"name-{run.id}").input("Before the rain")
    app.text_area(key=f"note-{run.id}").input(HOSTILE)
    press(app, "Save")
    text = all_html(app)
    assert "<h2>Before the rain</h2>" in text
    assert "&lt;img src=x" in text
    assert "<img src=x" not in text
    assert "Save" not in labels(app)
    app.text_input(key="work-find").set_value("rain onerror").run()
    assert "<h2>Before the rain</h2>" in all_html(app)


def test_a_name_that_cannot_be_is_refused_and_what_was_typed_stays(open_page, site):
    run = site.add_run(["LC08_A"], RunState.RUNNING)
    app = press(open_page("work"), "Name and note")
    app.text_input(key=f"name-{run.id}").input(" ")
    app.text_area(key=f"note-{run.id}").input("long thoughts")
    press(app, "Save")
    assert "Give a name of 1 to 200 characters" in app.toast[0].value
    assert app.text_area(key=f"note-{run.id}").value == "long thoughts"


def test_what_has_ended_is_deleted_after_a_question(open_page, site):
    run = site.add_run(["LC08_A"], RunState.DONE, title="Old one")
    running = site.add_run(["LC08_A"], RunState.RUNNING)
    app = open_page("work")
    assert labels(app).count("Delete") == 1
    press(app, "Delete")
    assert any("deleted for good" in m.value for m in app.markdown)
    press(app, "Cancel")
    assert len(site.portal.runs(OWNER)) == 2
    app.button(key=f"delete-{run.id}").click().run()
    press(app, "Delete for good")
    assert [r.id for r in site.portal.runs(OWNER)] == [running.id]
    assert "It was deleted." in all_html(app)
    assert "Old one" not in all_html(app)
