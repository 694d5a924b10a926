"""What cards and chips say: times, sizes, steps, events, and that text stays text."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone

import pytest

from lib.model import (
    ClusterId,
    EndReason,
    ModuleId,
    Reachability,
    Resources,
    RunId,
    SceneId,
    Session,
    SessionId,
    SessionState,
    UserId,
)
from tests.pages.sample_portal import HOSTILE
from ui import component_events, launch_form, results_summary, text, work_status
from ui.chip_grid import parse_mark
from ui.map import union_bbox

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
SESSION = Session(
    id=SessionId("s"),
    owner=UserId("u"),
    title="T",
    cluster=ClusterId("c"),
    module=ModuleId("m"),
    run=RunId("r"),
    scenes=(SceneId("A"),),
    resources=Resources("small", 3600),
    state=SessionState.NEW,
    reachability=Reachability.REACHABLE,
    created_at=NOW - timedelta(seconds=65),
)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-3, "0 s"), (45.9, "45 s"), (185, "3 min 05 s"), (7800, "2 h 10 min"), (187_200, "2 d 4 h")],
)
def test_durations(seconds, said):
    assert text.duration(seconds) == said


@pytest.mark.parametrize(
    ("m2", "said"), [(900, "900 m²"), (27_000, "2.7 ha"), (2_500_000, "2.50 km²")]
)
def test_areas(m2, said):
    assert text.area(m2) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(900, "15 minutes"), (3600, "1 hour"), (9000, "2.5 hours"), (259_200, "3 days")],
)
def test_walltimes(seconds, said):
    assert text.walltime(seconds) == said


def test_listing():
    assert text.join_names(["a"]) == "a"
    assert text.join_names(["a", "b"]) == "a and b"
    assert text.join_names("abcdef", most=3) == "a, b, c and 3 more"


def test_text_stays_text():
    assert "<" not in text.esc(HOSTILE)
    assert '"' not in text.tag(HOSTILE, '" onclick="x').replace('class="', "").replace('">', "")
    assert text.md("**x** [a](b)\n# c") == r"\*\*x\*\* \[a\]\(b\) \# c"


def test_the_clock_counts_up_then_down_then_stands():
    assert work_status.clock_of(SESSION).text(NOW) == "1 min 05 s so far"
    ready = dataclasses.replace(
        SESSION, state=SessionState.READY, ends_at=NOW + timedelta(seconds=61)
    )
    assert work_status.clock_of(ready).text(NOW) == "1 min 01 s left"
    assert work_status.clock_of(ready).text(NOW + timedelta(hours=1)) == "0 s left"
    ended = dataclasses.replace(
        SESSION, state=SessionState.ENDED, ended_at=NOW - timedelta(seconds=60)
    )
    assert work_status.clock_of(ended).text(NOW + timedelta(days=1)) == "5 s in all"


@pytest.mark.parametrize("reason", list(EndReason))
def test_every_end_has_a_sentence(reason):
    ended = dataclasses.replace(SESSION, state=SessionState.ENDED, end_reason=reason)
    assert work_status.status_sentence(ended).endswith(".")
    assert "has ended" not in work_status.status_sentence(ended)


@pytest.mark.parametrize("state", [s for s in SessionState if s is not SessionState.ENDED])
def test_every_state_has_a_step_and_a_sentence(state):
    session = dataclasses.replace(SESSION, state=state)
    assert work_status.steps_html(session).count('aria-current="step"') == 1
    assert work_status.status_sentence(session).endswith(".")
    assert work_status.is_waiting(session) is (state is not SessionState.READY)


def test_what_is_taken_is_not_taken_again(monkeypatch):
    state: dict[str, object] = {}
    monkeypatch.setattr(component_events.st, "session_state", state)
    sent = [{"kind": "toggle", "id": "A", "on": True, "seq": 1}]
    assert [e.id for e in component_events.new_events("k", {"boot": "x", "events": sent})] == ["A"]
    sent.append({"kind": "toggle", "id": "B", "on": False, "seq": 2})
    assert [e.id for e in component_events.new_events("k", {"boot": "x", "events": sent})] == ["B"]
    assert component_events.new_events("k", {"boot": "x", "events": sent}) == []
    assert component_events.last_seen("k") == ("x", 2)
    assert len(component_events.new_events("k", {"boot": "fresh", "events": sent})) == 2


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"boot": 3},
        {"boot": "x", "events": "no"},
        {"boot": "x", "events": [1, {"seq": "1"}, {"seq": 1, "kind": "format-disk"}]},
        {"boot": "x", "events": [{"seq": 1, "kind": "area", "ring": [[1]]}]},
        {"boot": "x", "events": [{"seq": 1, "kind": "mark", "n": "many"}]},
        {"boot": "x", "events": [{"seq": 1, "kind": "mark", "n": float("inf")}]},
    ],
)
def test_what_the_browser_sends_wrong_is_nothing(monkeypatch, value):
    monkeypatch.setattr(component_events.st, "session_state", {})
    assert component_events.new_events("k", value) == []


@pytest.mark.parametrize(
    ("name", "mark"),
    [("A/3", ("A", 3)), ("A/b/3", ("A/b", 3)), ("A", None), ("/3", None), ("A/-1", None)],
)
def test_marks(name, mark):
    assert parse_mark(name) == mark


def test_the_box_around_scenes_crosses_the_antimeridian():
    assert union_bbox([]) is None
    assert union_bbox([(170, 0, -175, 5), (165, 2, 168, 9)]) == (165, 0, 185, 9)


def test_walltimes_end_at_the_presets_limit():
    from lib.model import Preset

    preset = Preset("p", "P", 1, 1024, 0, 3 * 3600, 5400)
    assert launch_form.allowed_walltimes(preset) == [900, 1800, 3600, 5400, 7200]
    assert launch_form.preset_text(preset) == "1 core, 1 GB"


def test_what_was_searched_is_told_whatever_the_module_says():
    said = results_summary.searched_text(
        {"pixels": 1000, "valid_fraction": 0.5, "water_fraction": 0.25, "bad": [1], "note": "x"}
    )
    assert said == "1,000 pixels, 50 % of them valid, water fraction 0.25, note x"
    assert results_summary.searched_text({"pixels": "many"}) == ""
