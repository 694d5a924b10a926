"""What one job of a gate leaves behind stops no other, nor do faults of the gate itself."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lib.files import tree
from lib.files.atomic import write_json
from lib.gate.disk_watch import DiskWatch
from lib.gate.events import EventLog
from lib.gate.job_state import RecordUpdater
from lib.gate.job_table import JobTable
from lib.gate.submission import Submitter
from lib.gate.watch import Watch
from lib.jobs.interfaces import JobView
from lib.model import EndReason, JobState
from lib.protocol.messages import JobKind, WatchRequest
from tests.fakes.gate_jobs import Site, SmallScheduler, told
from tests.unit.test_files import dig


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.audit.close()


def plant(
    monkeypatch: pytest.MonkeyPatch, kind: type, name: str, ident: Callable[..., str], bad: str
) -> None:
    """Whatever it is asked about the bad one raises something that nobody foresaw."""
    real = getattr(kind, name)

    def asked(*args: Any, **values: Any) -> Any:
        if ident(*args) == bad:
            raise RecursionError("planted")
        return real(*args, **values)

    monkeypatch.setattr(kind, name, asked)


PLACES: dict[str, tuple[type, str, Callable[..., str]]] = {
    "refresh": (RecordUpdater, "refresh", lambda _, job, *_more: job.record.id),
    "events": (EventLog, "take_piece", lambda log: log._path.parent.parent.name),
    "reconcile": (Submitter, "_reconcile_one", lambda _, job, jobs: job.record.id),
    "scheduler": (SmallScheduler, "forget", lambda _, job: {"1": "first"}.get(job.id, "")),
    "endpoint": (RecordUpdater, "take_endpoint", lambda _, job: job.record.id),
    "disk": (DiskWatch, "look", lambda _, record: record.id),
    "forget": (JobTable, "remove", lambda _, record: record.id),
}


@pytest.mark.parametrize("place", PLACES)
async def test_a_fault_of_one_job_is_logged_once_and_the_others_go_on(
    site: Site, place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = (await site.jobs.submit(site.request(JobKind.SESSION))).status
    other = (await site.jobs.submit(site.request(JobKind.SESSION))).status
    kind, name, ident = PLACES[place]
    plant(monkeypatch, kind, name, ident, "first" if place == "scheduler" else first.id)
    site.restart()
    looked: list[str] = []
    if place == "disk":
        real = DiskWatch.look
        monkeypatch.setattr(
            DiskWatch, "look", lambda self, r: (looked.append(r.id), real(self, r))[1]
        )
        monkeypatch.setattr("lib.gate.disk_watch._EVERY_S", 0.0)
        monkeypatch.setattr("lib.gate.disk_watch._REST", 0.0)
    for status in (first, other):
        site.scheduler.set(status.job, JobState.RUNNING)
        report = {"host": "127.0.0.1", "port": 4711, "time": 1.0}
        write_json(site.folders.control(status.id) / "endpoint.json", report)
    await site.jobs._endpoint_watch.look()
    for _ in range(3):
        await site.jobs.poll()
        await site.jobs.look_at_disk()
    assert site.status(other.id).state is JobState.RUNNING
    assert site.status(other.id).endpoint is not None
    for status in (first, other):
        site.scheduler.set(status.job, JobState.ENDED, EndReason.FINISHED)
    await site.jobs.poll()
    assert site.status(other.id).state is JobState.ENDED
    for status in (first, other):
        site.jobs.record(status.id).keep_until = 1.0
    for _ in range(3):
        await site.jobs.poll()
    assert site.jobs._table.get(other.id) is None
    assert told(caplog) == [first.id]
    assert "planted" in caplog.text
    assert site.jobs.asked == (True, "")
    if place == "disk":
        assert looked.count(other.id) == 3


async def test_every_loop_of_the_gate_outlives_its_faults_and_says_that_it_fails(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lib.loops.FAULT_PAUSE_S", 0.0)
    monkeypatch.setattr("lib.gate.jobs._LOOK_AFTER_DISK_S", 0.0)
    monkeypatch.setattr("lib.gate.jobs._IDLE_POLL_S", 0.0)
    turns: Counter[str] = Counter()
    faulty, all_turned = True, asyncio.Event()
    parts = {
        "look_at_disk": site.jobs,
        "remove_thrown_away": site.jobs,
        "poll": site.jobs,
        "look": site.jobs._endpoint_watch,
    }

    def planted(name: str, real: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def turn() -> None:
            turns[name] += 1
            if len(turns) == len(parts) and min(turns.values()) >= 3:
                all_turned.set()
            if faulty:
                raise RuntimeError("planted")
            await real()

        return turn

    for name, part in parts.items():
        monkeypatch.setattr(part, name, planted(name, getattr(part, name)))
    watching = asyncio.ensure_future(site.jobs.watch_over())
    await all_turned.wait()
    assert len(told(caplog)) == len(parts)
    clock = site.jobs.loops.clock
    site.jobs.loops.clock = lambda: clock() + 31.0
    assert site.jobs.asked[0] is False
    seen = await anext(Watch(site.jobs, WatchRequest()).messages())
    assert not seen.asked_ok
    assert seen.reason.startswith("The gate has not looked after its jobs since ")
    faulty = False
    turns.clear()
    all_turned.clear()
    await all_turned.wait()
    assert site.jobs.asked == (True, "")
    watching.cancel()
    await asyncio.wait({watching})


async def test_an_answer_of_the_scheduler_that_nobody_understands_ends_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    status = await site.submit()
    site.scheduler.set(status.job, JobState.RUNNING)
    await site.jobs.poll()
    with monkeypatch.context() as patch:
        patch.setattr(SmallScheduler, "query", _strange)
        for _ in range(3):
            await site.jobs.poll()
        assert "not understood" in site.jobs.asked[1]
        assert site.status(status.id).state is JobState.RUNNING
        assert told(caplog) == ["asking the scheduler"]
    await site.jobs.poll()
    assert site.jobs.asked == (True, "")


async def test_a_tree_of_any_depth_is_counted_and_goes_with_its_job(site: Site) -> None:
    status = await site.submit()
    site.scheduler.set(status.job, JobState.RUNNING)
    await site.jobs.poll()
    work = site.folders.session(status.id) / "work"
    dig(work, 1500)
    site.jobs._disk_watch._max_bytes = 2**30  # folders count, too
    (work / "out").mkdir()
    await site.jobs.look_at_disk()
    assert not site.jobs.record(status.id).cancelled
    site.scheduler.set(status.job, JobState.ENDED, EndReason.FINISHED)
    await site.jobs.poll()
    site.jobs.record(status.id).keep_until = 1.0
    await site.jobs.poll()
    assert not site.folders.session(status.id).exists()
    site.restart()
    await site.jobs.remove_thrown_away()
    assert list(site.folders.removed.iterdir()) == []


@pytest.mark.parametrize("how", ["bytes", "entries", "closed"])
async def test_a_job_that_uses_or_hides_too_much_is_stopped_with_the_reason(
    site: Site, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"bytes": "grew beyond", "entries": "more than 3 files", "closed": "cannot be counted"}
    monkeypatch.setattr("lib.gate.disk_watch._MAX_ENTRIES", 3 if how == "entries" else 1000)
    status, other = await site.submit(), await site.submit()
    await site.jobs.poll()
    work = site.folders.session(status.id) / "work"
    shutil.rmtree(site.folders.session(other.id) / "work" / "in")
    shutil.rmtree(work / "in")
    if how == "closed":
        work.rmdir()
        work.symlink_to(site.root)
    for n in range(10 if how == "entries" else 0):
        (work / f"f{n}").touch()
    if how == "bytes":
        site.jobs._disk_watch._max_bytes = 0
        shutil.rmtree(site.folders.session(other.id) / "work")
        (work / "f").write_bytes(b"x" * 4096)
    await site.jobs.look_at_disk()
    assert said[how] in site.jobs.record(status.id).cancel_text
    assert not site.jobs.record(other.id).cancelled


@pytest.mark.parametrize("walk", ["measure", "remove"])
async def test_nobody_waits_for_the_tree_of_another_job(
    site: Site, walk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, other = await site.submit(), await site.submit()
    await site.jobs.poll()
    walking, go_on = threading.Event(), threading.Event()
    module = {"measure": "lib.gate.disk_watch", "remove": "lib.gate.clean_up"}[walk]
    real = getattr(tree, walk)

    def slow(*args: Any, **values: Any) -> Any:
        walking.set()
        assert go_on.wait(300)
        return real(*args, **values)

    monkeypatch.setattr(f"{module}.{walk}", slow)
    if walk == "remove":
        site.scheduler.set(large.job, JobState.ENDED, EndReason.FINISHED)
        await site.jobs.poll()
        site.jobs.record(large.id).keep_until = 1.0
    watching = asyncio.ensure_future(site.jobs.watch_over())
    assert await asyncio.to_thread(walking.wait, 300)
    await site.jobs.cancel(other.id)
    new = await site.submit()
    while not (site.status(other.id).state is JobState.ENDED and site.status(new.id).job):
        await site.jobs._table.wait()
    assert not go_on.is_set()
    go_on.set()
    watching.cancel()
    await asyncio.wait({watching})


async def test_what_cannot_be_removed_is_said_once_and_tried_again_later(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []
    monkeypatch.setattr("lib.gate.clean_up.remove", lambda f, timeout_s: tries.append(f.name))
    for name in ("a", "b"):
        (site.folders.removed / name).mkdir(parents=True)
    for _ in range(3):
        await site.jobs.remove_thrown_away()
    assert tries == ["a", "b"]
    assert sum("cannot be removed" in r.getMessage() for r in caplog.records) == 2


async def test_one_broken_record_costs_one_job(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    broken, other = await site.submit(), await site.submit()
    (site.folders.control(broken.id) / "record.json").write_text('{"id": ')
    site.restart()
    assert [status.id for status in site.jobs.all()] == [other.id]
    assert told(caplog) == [f"job {broken.id}"]
    assert site.folders.session(broken.id).exists()


async def _strange(_scheduler: SmallScheduler) -> Mapping[str, JobView]:
    raise ValueError("invalid literal for int()")
