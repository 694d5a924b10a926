"""The jobs of a gate when a module writes without end."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.gate import events as gate_events
from lib.gate.events import EventLog
from lib.model import EndReason, JobState
from lib.protocol.events import ModuleEvent
from lib.protocol.messages import JobStatus
from tests.fakes.gate_jobs import Site, told
from tests.fakes.things import module_event


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.audit.close()


def tell(site: Site, status: JobStatus, *events: dict[str, object], rubbish: int = 0) -> None:
    """What the module of this job writes."""
    out = site.folders.session(status.id) / "work" / "out"
    out.mkdir(exist_ok=True)
    with (out / "status.jsonl").open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)
        file.write("{}\n" * rubbish)


def ended_module(site: Site, status: JobStatus) -> None:
    (site.folders.control(status.id) / "module.json").write_text('{"exit_code": 0}')


async def test_nobody_waits_for_the_reading_of_what_another_job_wrote(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    flood, other = await site.submit(), await site.submit()
    reading, go_on = threading.Event(), threading.Event()
    real = EventLog.take_piece

    def take(self: EventLog) -> bool:
        reading.set()
        assert go_on.wait(300)
        return real(self)

    monkeypatch.setattr(EventLog, "take_piece", take)
    tell(site, flood, module_event("scene_started", "S1"))
    poll = asyncio.ensure_future(site.jobs.poll())
    assert await asyncio.to_thread(reading.wait, 300)
    await site.jobs.cancel(other.id)
    assert (await site.submit()).job == "3"
    assert not poll.done()
    go_on.set()
    await poll
    assert site.status(flood.id).events == 1


async def test_a_job_that_floods_is_read_piece_by_piece_and_others_in_between(site: Site) -> None:
    """Its end waits until it was read, that of the others does not."""
    flood, other = await site.submit(), await site.submit()
    tell(site, flood, rubbish=60_000)
    tell(site, flood, module_event("scene_started", "S1"))
    tell(site, other, module_event("scene_started", "S1"))
    ended_module(site, flood)
    for status in (flood, other):
        site.scheduler.set(status.job, JobState.ENDED, EndReason.FINISHED)
    site.jobs._updater.events.slice_s = 0.0
    await site.jobs.poll()
    assert site.status(other.id).state is JobState.ENDED
    assert site.status(other.id).events == 1
    assert site.status(flood.id).state is JobState.QUEUED
    assert site.status(flood.id).module_exit_code is None
    assert "status lines" in site.status(flood.id).reason
    del site.scheduler.jobs[flood.job]  # nor is it lost when its scheduler forgets it meanwhile
    while site.status(flood.id).state is not JobState.ENDED:
        await site.jobs.poll()
    status = site.status(flood.id)
    assert (status.end_reason, status.module_exit_code) == (EndReason.FINISHED, 0)
    assert status.events == 1


async def test_a_job_that_wrote_too_much_says_so_and_ends_as_ever(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_events, "MAX_LINES", 1000)
    status = await site.submit()
    site.scheduler.set(status.job, JobState.RUNNING)
    tell(site, status, rubbish=1001)
    ended_module(site, status)
    while site.status(status.id).module_exit_code is None:
        await site.jobs.poll()
    status = site.status(status.id)
    assert "wrote more than can be read" in status.reason
    assert "wrote more than can be read" in status.module_message
    site.scheduler.set(status.job, JobState.ENDED, EndReason.FINISHED)
    await site.jobs.poll()
    assert site.status(status.id).state is JobState.ENDED


async def test_a_fault_in_reading_one_job_is_logged_and_the_others_go_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = await site.submit(), await site.submit()
    real = gate_events.parse_line

    def parse(line: bytes, scenes: frozenset[str]) -> ModuleEvent:
        if b'"time": 666' in line:
            raise RecursionError
        return real(line, scenes)

    monkeypatch.setattr(gate_events, "parse_line", parse)
    tell(site, bad, {"time": 666})
    tell(site, good, module_event("scene_started", "S1"))
    for status in (bad, good):
        site.scheduler.set(status.job, JobState.RUNNING)
    for _ in range(3):
        await site.jobs.poll()
    assert site.status(good.id).events == 1
    assert "fault of the gate" in site.status(bad.id).reason
    assert told(caplog) == [bad.id]
    site.scheduler.set(bad.job, JobState.ENDED, EndReason.FINISHED)
    await site.jobs.poll()
    assert site.status(bad.id).state is JobState.ENDED
