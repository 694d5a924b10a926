"""One schema of module events: whatever the gate passes on the portal takes in, and what is
out of bounds is refused by both with the same sentence."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.errors import InvalidInput
from lib.gate.events import EventLog
from lib.model import RunState
from lib.protocol import events
from lib.protocol.codec import decode, encode
from lib.protocol.messages import WatchMessage
from lib.reconciler.results import ResultCollector
from lib.results.folder import ResultFolder
from lib.store import Store
from modulekit import results as module_results
from modulekit import run as module_run
from modulekit import status as module_status
from modulekit.objects import FoundObject
from tests.fakes.stores import new_store
from tests.fakes.things import ALICE, add_run, module_event, object_event

SCENE = "LC08_A"
SCENES = frozenset({SCENE})
GOOD = [
    module_event("run_started", scenes=[SCENE]),
    module_event("scene_started", SCENE),
    module_event("progress", SCENE, fraction=0.5),
    object_event(1),
    module_event("scene_done", SCENE, objects=1, shown=1, searched={"pixels": 7}),
    module_event("scene_failed", SCENE, message="No luck."),
    module_event("run_done", objects=1, failed=0),
]

#: Values at the bounds, just outside them, and of every other type.
EDGES: list[Any] = [
    *(None, True, False, "", "x", "\x00", "\ud800", " a\tb ", "é" * 600, SCENE, "elsewhere"),
    *(0, 1, -1, 2, 1.5, 2.0, 90, 91, -90, -180, 180, 180.5, -360, 10**6, 10**6 + 1, 10**7),
    *(10**9, 10**9 + 1, 10**12, 10**12 + 1, 2**53, 2**53 + 1, 10**40, 1e11, 1e15, 2e15, 1e300),
    *(float("nan"), float("inf"), [], ["cloud"], [""], ["x"] * 32, ["x"] * 33, [1], [SCENE]),
    *([0, 0, 1, 1], [179, -1, -179, 1], [0, 1, 1, 0], [0, 0, 1], [0, 0, 181, 1], [0, -91, 1, 1]),
    *({}, {"a": 1}, {"a\n": "x" * 900}, {"a": float("nan")}, {"a": {"b": {"c": {"d": {}}}}}),
    *({"a": {"b": {"c": {}}}}, {str(n): n for n in range(60)}, {str(n): n for n in range(61)}),
    *({"a": [0] * 200}, {"a": [0] * 201}),
]


@st.composite
def told(draw: st.DrawFn) -> dict[str, Any]:
    """An event, good but for some of its fields."""
    event = dict(draw(st.sampled_from(GOOD)))
    for name in draw(st.lists(st.sampled_from(sorted(event)), max_size=2)):
        event[name] = draw(st.sampled_from(EDGES) | st.floats() | st.text(max_size=50))
    for name in draw(st.lists(st.sampled_from(sorted(event)), max_size=1)):
        if draw(st.booleans()):
            del event[name]
    return event


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = new_store(tmp_path / "portal.sqlite")
    store.people.ensure_user(ALICE)
    yield store
    store.close()


def refusal(read: Any) -> str:
    try:
        read()
    except InvalidInput as exc:
        return exc.message
    return ""


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(told(), min_size=1, max_size=8))
@pytest.mark.slow
def test_whatever_the_gate_passes_on_the_portal_takes_in(
    tmp_path: Path, lines: list[dict[str, Any]]
) -> None:
    passed, control = through_a_gate(tmp_path, lines)
    arrived = decode(WatchMessage, encode(WatchMessage("events", 1e9, events=passed)))
    taken = [events.parse(event, SCENES) for event in arrived.events]
    assert [events.plain(event) for event in taken] == passed
    refused = [refusal(lambda e=e: events.parse(e, SCENES)) for e in lines]
    assert len(control) == refused.count("")
    assert control.dropped == len(lines) - len(control)


@settings(max_examples=300, deadline=None)
@given(told())
def test_both_refuse_with_the_same_sentence(event: dict[str, Any]) -> None:
    line = json.dumps(event).encode()
    by_gate = refusal(lambda: events.parse_line(line, SCENES))
    by_portal = refusal(lambda: events.parse(json.loads(line), SCENES))
    assert by_gate == by_portal
    if by_gate:
        assert by_gate.endswith(".")
        assert by_gate.isprintable()
        assert len(by_gate) < 200


def through_a_gate(
    folder: Path, lines: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], EventLog]:
    control, out = folder / "control", folder / "out"
    for place in (control, out):
        place.mkdir(exist_ok=True)
    for kept in control.iterdir():
        kept.unlink()
    (out / "status.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = EventLog(control, (folder, "out"), SCENES)
    log.take()
    return log.read(0, len(log)), log


def test_every_edge_is_told_alike_by_gate_and_portal(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """All good events with one field at an edge, through a gate and into a portal's store."""
    lines = [{**e, name: edge} for e in GOOD[:4] for name in e for edge in EDGES]
    passed, gate = through_a_gate(tmp_path, lines)
    run = add_run(store, SCENE)
    folder = ResultFolder(tmp_path / "results")
    with caplog.at_level(logging.WARNING):
        ResultCollector(run.id, run.id, store, folder)._take_events(0, passed)
    assert caplog.messages == [], "nothing that the gate passes on is left out"
    found = store.detections.of_run(run.id, limit=None)
    assert {d.n for d in found} == {e["n"] for e in passed if e["event"] == "object"}
    assert store.work.run(run.id).state is RunState.RUNNING

    other = add_run(store, SCENE)
    with caplog.at_level(logging.WARNING):
        collector = ResultCollector(other.id, other.id, store, folder)
        collector._take_events(0, lines)
        (together,) = caplog.messages
        assert f": {gate.dropped} events were left out" in together
        caplog.clear()
        for line in lines:
            collector._checked([line], frozenset(SCENES))
    assert len(caplog.messages) == gate.dropped > 100
    sentences = [
        refusal(lambda e=e: events.parse_line(json.dumps(e).encode(), SCENES)) for e in lines
    ]
    for message, sentence in zip(caplog.messages, filter(None, sentences), strict=True):
        assert message.endswith(sentence)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 2**53 + 1, 10**40])
def test_tables_hold_what_every_reader_of_json_can_read(number: float) -> None:
    done = next(event for event in GOOD if event["event"] == "scene_done")
    for searched in ({"a": number}, {"a": [number]}, {"a": {"b": number}}):
        with pytest.raises(InvalidInput, match="'searched' holds a number that is not finite"):
            events.parse({**done, "searched": searched}, SCENES)
    assert events.parse({**done, "searched": {"a": [2**53, 1e300]}}, SCENES)


@pytest.mark.parametrize("event", GOOD, ids=lambda e: e["event"])
def test_the_wire_is_as_documented(event: dict[str, Any]) -> None:
    read = events.parse({**event, "unknown": "<script>"}, SCENES)
    assert events.plain(read) == event
    assert read.event == event["event"]


def test_events_of_an_older_gate_are_read() -> None:
    """As gates wrote them before there was one schema: their widest bounds, but for objects."""
    table = {str(n): ["x" * 500] for n in range(60)}
    for event in (
        module_event("run_started", module="", version="", scenes=[]),
        module_event("scene_done", SCENE, objects=10**9, shown=10**9, searched=table),
        module_event("scene_done", SCENE, objects=0, shown=0, searched={"a": 1e308, "b": 2**53}),
        module_event("scene_failed", SCENE, message=""),
        object_event(10**6, pixels=10**9, area_m2=1e15, flags=["x" * 40] * 32, properties=table),
    ):
        events.parse(event, SCENES)


# --- modulekit, which knows nothing of lib ------------------------------------------------


def test_modulekit_writes_what_the_schema_takes(tmp_path: Path) -> None:
    status = module_status.Status(tmp_path / "status.jsonl")
    ring = [[179.9, 0.0], [180.0, 0.0], [180.0, 0.1], [179.9, 0.0]]
    back = [[-180.0, 0.0], [-179.8, 0.0], [-180.0, 0.1], [-180.0, 0.0]]
    outline = {"type": "MultiPolygon", "coordinates": [[ring], [back]]}
    found = FoundObject("fire", 0.5, {"peak": 0.4}, (), 12, (0, 0, 3, 4), outline)
    detection = module_results.Detection(1, found, outline, 10800.0, ("cloud",))
    status.run_started("active-fire", "1.0.0", [SCENE])
    status.scene_started(SCENE)
    status.progress(SCENE, 2.0)
    status.found(SCENE, detection.event(chip=True))
    status.scene_done(SCENE, 1, 1, {"pixels": 7})
    status.scene_failed(SCENE, "No luck.")
    status.run_done(1, 0)
    status.close()
    written = [json.loads(line) for line in (tmp_path / "status.jsonl").read_text().splitlines()]
    assert [events.plain(events.parse(event, SCENES)) for event in written] == written
    assert [event["event"] for event in written] == [event["event"] for event in GOOD]
    assert (written[3]["lon"], written[3]["bbox"]) == (-179.95, [179.9, 0.0, -179.8, 0.1])


def test_modulekit_keeps_within_the_bounds() -> None:
    assert module_status.FORMAT == events.FORMAT
    assert module_run.SHOWN <= events.MAX_N
