"""The jobs of a gate when its scheduler is silent, forgetful, or when the disk is full."""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import shutil
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lib.errors import Refused, StorageFull, Unavailable
from lib.files import tree
from lib.files.atomic import write_json
from lib.gate import events as gate_events
from lib.gate.audit import Audit
from lib.gate.disk_watch import DiskWatch
from lib.gate.events import EventLog
from lib.gate.images.checksum import CheckedFiles
from lib.gate.job_record import JobRecord, SessionFolders, TrackedJob
from lib.gate.job_state import RecordUpdater
from lib.gate.job_table import JobTable
from lib.gate.jobs import Jobs
from lib.gate.policy import Policy, parse
from lib.gate.serve import JobsRunOn, _end_all
from lib.gate.submission import Submitter
from lib.gate.watch import Watch
from lib.jobs.control_files import SessionSpec
from lib.jobs.interfaces import JobKey, JobSpec, JobView
from lib.model import EndReason, JobState, QueueLoad
from lib.protocol.events import ModuleEvent
from lib.protocol.messages import JobKind, JobStatus, SubmitRequest, WatchMessage, WatchRequest
from tests.fakes.things import module_event, new_id
from tests.unit.test_files import dig
from tests.unit.test_gate_policy import GOOD


class SmallScheduler:
    """Keeps jobs in memory; can fall silent, refuse, or take a job and not say so."""

    poll_s = 0.02
    gone_after_s = 0.2
    submit_timeout_s = 5.0

    def __init__(self) -> None:
        self.jobs: dict[str, JobView] = {}
        self.remembered: dict[str, JobView] = {}
        #: What its list leaves out, though it has them.
        self.unlisted: set[str] = set()
        self.unsure_of_the_missing = False
        self.specs: list[JobSpec] = []
        self.forgotten: list[str] = []
        self.silent = False
        self.refuses = ""
        self.swallows_answer = False

    async def submit(self, job: JobSpec) -> str:
        self._speak()
        if self.refuses:
            raise Refused(self.refuses)
        self.specs.append(job)
        job_id = str(len(self.specs))
        self.jobs[job_id] = JobView(
            job_id,
            job.name,
            JobState.QUEUED,
            reason="Waiting.",
            submitted_at=10.0 + len(self.specs),
        )
        if self.swallows_answer:
            self.swallows_answer = False
            raise Unavailable("sbatch gave no answer.")
        return job_id

    async def query(self) -> Mapping[str, JobView]:
        self._speak()
        return {i: view for i, view in self.jobs.items() if i not in self.unlisted}

    async def recall(self, jobs: Sequence[JobKey]) -> Mapping[JobKey, JobView]:
        self._speak()
        known = {**self.jobs, **self.remembered}
        return {} if self.unsure_of_the_missing else {j: _recalled(known, j) for j in jobs}

    async def load(self) -> Sequence[QueueLoad]:
        return ()

    async def find(self, name: str, tried_until: float | None = None) -> str | None:
        self._speak()
        return next((v.id for v in self.jobs.values() if v.name == name), None)

    async def cancel(self, job: JobKey) -> None:
        self._speak()
        if job.id in self.jobs and self.jobs[job.id].is_of(job):
            self.set(job.id, JobState.ENDED, end_reason=EndReason.STOPPED)
            self.unlisted.discard(job.id)

    async def forget(self, job: JobKey) -> None:
        self.forgotten.append(job.id)

    def endpoint_host(self) -> str:
        return "127.0.0.1"

    def vouches(self, job: JobKey, host: str, port: int) -> bool:
        return True

    def set(self, job_id: str, state: JobState, end_reason: EndReason | None = None) -> None:
        self.jobs[job_id] = replace(
            self.jobs[job_id], state=state, reason="", end_reason=end_reason, started_at=1.0
        )

    def _speak(self) -> None:
        if self.silent:
            raise Unavailable("slurmctld does not answer.")


def _recalled(known: Mapping[str, JobView], job: JobKey) -> JobView:
    view = known.get(job.id)
    if view is not None and view.is_of(job):
        return view
    return JobView(job.id, job.name, JobState.ENDED, end_reason=EndReason.LOST)


class Site:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.scheduler = SmallScheduler()
        (root / "data").mkdir()
        (root / "data" / "a.tif").write_bytes(b"II*")
        (root / "gate" / "sessions").mkdir(parents=True)
        data = {**GOOD, "data_paths": [str(root / "data")]}
        data["modules"] = [{"id": "small", "version": "1.0.0", "entry": "small"}]
        self.policy: Policy = parse(data, root / "gate")
        self.folders = SessionFolders(root / "gate")
        self.audit = Audit(root / "audit.jsonl")
        self.jobs = self.restart()

    def restart(self) -> Jobs:
        """What a new gate process would find."""
        self.jobs = Jobs(self.folders, self.policy, self.scheduler, self.audit)
        return self.jobs

    def request(self, kind: JobKind = JobKind.RUN) -> SubmitRequest:
        item = {"id": "S1", "assets": {"b": {"href": str(self.root / "data" / "a.tif")}}}
        return SubmitRequest(new_id(), kind, "ada", "small", "1.0.0", {}, [item], "small", 600)

    async def submit(self) -> JobStatus:
        return (await self.jobs.submit(self.request())).status

    def status(self, job_id: str) -> JobStatus:
        return next(s for s in self.jobs.all() if s.id == job_id)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.audit.close()


async def test_silence_ends_nothing_and_is_said(site: Site) -> None:
    status = await site.submit()
    site.scheduler.set(status.job, JobState.RUNNING)
    await site.jobs.poll()
    site.scheduler.silent = True
    for _ in range(20):
        await site.jobs.poll()
        await asyncio.sleep(0.02)
    assert not site.jobs.asked_ok
    assert "slurmctld does not answer" in site.jobs.asked_reason
    assert site.status(status.id).state is JobState.RUNNING
    site.scheduler.silent = False
    await site.jobs.poll()
    assert site.jobs.asked_ok
    assert site.status(status.id).state is JobState.RUNNING


async def test_a_watch_hears_of_silence_at_once(site: Site) -> None:
    await site.submit()
    seen: list[WatchMessage] = []

    async def listen() -> None:
        async for message in Watch(site.jobs, WatchRequest()).messages():
            seen.append(message)

    task = asyncio.ensure_future(listen())
    await asyncio.sleep(0.05)
    assert [m.kind for m in seen] == ["snapshot"]
    site.scheduler.silent = True
    await site.jobs.poll()
    await asyncio.sleep(0.05)
    assert (seen[-1].asked_ok, seen[-1].kind) == (False, "jobs")
    site.scheduler.silent = False
    await site.jobs.poll()
    await asyncio.sleep(0.05)
    assert seen[-1].asked_ok
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_job_the_scheduler_no_longer_knows_is_lost_after_some_patience(
    site: Site,
) -> None:
    status = await site.submit()
    del site.scheduler.jobs[status.job]
    await site.jobs.poll()
    await site.jobs.poll()
    assert site.status(status.id).state is not JobState.ENDED  # an answer may lag
    await asyncio.sleep(0.25)
    await site.jobs.poll()
    assert site.status(status.id).end_reason is EndReason.LOST


async def test_a_job_that_reappears_was_never_lost(site: Site) -> None:
    status = await site.submit()
    view = site.scheduler.jobs.pop(status.job)
    await site.jobs.poll()
    site.scheduler.jobs[status.job] = view
    await site.jobs.poll()
    await asyncio.sleep(0.25)
    del site.scheduler.jobs[status.job]
    await site.jobs.poll()
    assert site.status(status.id).state is not JobState.ENDED


# --- a job is more than its number -------------------------------------------------------


async def test_a_job_is_not_taken_for_another_that_got_its_number(site: Site) -> None:
    """The controller lost its state and numbered anew."""
    mine = await site.submit()
    await site.jobs.poll()
    other = replace(
        site.scheduler.jobs[mine.job], name="others", state=JobState.RUNNING, ends_at=99.0
    )
    site.scheduler.jobs[mine.job] = other
    await site.jobs.poll()
    assert (site.status(mine.id).state, site.status(mine.id).ends_at) == (JobState.QUEUED, None)
    await site.jobs.cancel(mine.id)
    assert site.scheduler.jobs[mine.job] == other
    await asyncio.sleep(0.25)  # its patience
    await site.jobs.poll()
    assert site.status(mine.id).end_reason is EndReason.STOPPED
    await site.jobs.cancel(mine.id)
    assert site.scheduler.jobs[mine.job] == other


async def test_two_jobs_that_got_one_number_one_after_the_other(site: Site) -> None:
    first = await site.submit()
    await site.jobs.poll()
    del site.scheduler.jobs[first.job]
    site.scheduler.specs.clear()  # numbers begin anew
    second = await site.submit()
    assert second.job == first.job
    site.scheduler.set(second.job, JobState.RUNNING)
    await site.jobs.poll()
    assert site.status(first.id).state is JobState.QUEUED
    assert site.status(second.id).state is JobState.RUNNING
    await asyncio.sleep(0.25)
    await site.jobs.poll()
    assert site.status(first.id).end_reason is EndReason.LOST
    assert site.status(second.id).state is JobState.RUNNING
    await site.jobs.cancel(second.id)
    await site.jobs.poll()
    assert site.status(second.id).end_reason is EndReason.STOPPED


async def test_a_record_of_an_older_gate_learns_when_its_job_was_submitted(site: Site) -> None:
    status = await site.submit()
    record = site.jobs.record(status.id)
    assert record.job_submitted_at is None
    site.scheduler.set(status.job, JobState.RUNNING)
    await site.jobs.poll()
    assert site.status(status.id).state is JobState.RUNNING
    assert record.job_submitted_at == 11.0


# --- lost is not known, until it is proved ------------------------------------------------


async def test_a_job_that_is_not_listed_and_runs_is_not_lost(site: Site) -> None:
    """`squeue` was empty for a minute, with exit status 0."""
    status = await site.submit()
    site.scheduler.set(status.job, JobState.RUNNING)
    site.scheduler.unlisted.add(status.job)
    for _ in range(3):
        await site.jobs.poll()
        await asyncio.sleep(0.15)
    assert site.status(status.id).state is JobState.RUNNING
    await site.jobs.cancel(status.id)
    await site.jobs.poll()
    assert site.status(status.id).end_reason is EndReason.STOPPED


async def test_a_job_of_which_nothing_can_be_said_is_unknown_and_counts(site: Site) -> None:
    status = await site.submit()
    site.scheduler.unlisted.add(status.job)
    site.scheduler.unsure_of_the_missing = True
    await site.jobs.poll()
    await asyncio.sleep(0.25)
    await site.jobs.poll()
    seen = site.status(status.id)
    assert (seen.state, seen.end_reason) == (JobState.UNKNOWN, None)
    assert "counts as running" in seen.reason
    assert site.jobs.live == 1
    assert site.jobs.still_running() == [f"run {status.id} of ada (job 1, unknown)"]
    site.restart()
    site.scheduler.unlisted.clear()
    await site.jobs.poll()
    assert site.status(status.id).state is JobState.QUEUED


async def lost_job(site: Site) -> tuple[JobStatus, JobView]:
    """One that the scheduler had lost for sure, and what it had said of it."""
    status = await site.submit()
    await site.jobs.poll()
    view = replace(site.scheduler.jobs.pop(status.job), state=JobState.RUNNING)
    await site.jobs.poll()
    await asyncio.sleep(0.25)
    await site.jobs.poll()
    assert site.status(status.id).end_reason is EndReason.LOST
    return status, view


async def test_a_lost_job_that_turns_up_goes_on_and_can_be_stopped(site: Site) -> None:
    status, view = await lost_job(site)
    site.scheduler.jobs[view.id] = view
    site.restart()
    await site.jobs.poll()
    seen = site.status(status.id)
    assert (seen.state, seen.end_reason, seen.ended_at) == (JobState.RUNNING, None, None)
    assert seen.keep_until is None
    assert "taken-back" in (site.root / "audit.jsonl").read_text()
    await site.jobs.cancel(status.id)
    await site.jobs.poll()
    assert site.status(status.id).end_reason is EndReason.STOPPED


async def test_a_lost_job_whose_number_went_to_another_stays_lost(site: Site) -> None:
    status, view = await lost_job(site)
    site.scheduler.jobs[view.id] = replace(view, name="of-somebody-else")
    await site.jobs.poll(lost_too=True)
    await site.jobs.cancel(status.id)
    assert site.status(status.id).end_reason is EndReason.LOST
    assert site.scheduler.jobs[view.id].state is JobState.RUNNING


async def test_a_lost_job_can_be_stopped_before_it_is_listed_again(site: Site) -> None:
    status, view = await lost_job(site)
    site.scheduler.jobs[view.id] = view
    site.scheduler.unlisted.add(view.id)
    await site.jobs.cancel(status.id)
    assert site.scheduler.jobs[view.id].state is JobState.ENDED


@pytest.mark.parametrize("end", [EndReason.FINISHED, EndReason.STOPPED, EndReason.LOST])
async def test_a_job_that_goes_on_after_its_end_is_ended(site: Site, end: EndReason) -> None:
    """Begun anew by an operator; or lost, and its files are another session's now."""
    status, view = await lost_job(site)
    record = site.jobs.record(status.id)
    record.end_reason = end
    record.continued_as = new_id() if end is EndReason.LOST else ""
    site.scheduler.jobs[view.id] = view
    site.scheduler.set(view.id, JobState.RUNNING)
    await site.submit()  # so that the scheduler is asked
    await site.jobs.poll()
    assert site.scheduler.jobs[view.id].state is JobState.ENDED
    assert site.status(status.id).end_reason is end


async def test_the_end_of_all_lists_what_runs_on(site: Site) -> None:
    status = await site.submit()
    site.scheduler.unlisted.add(status.job)
    site.scheduler.unsure_of_the_missing = True
    with pytest.raises(JobsRunOn, match=f"1 job has not ended yet: run {status.id} of ada"):
        await _end_all(site.jobs, text="", timeout_s=0.0)
    site.scheduler.unlisted.clear()
    await _end_all(site.jobs, text="", timeout_s=30.0)
    assert site.scheduler.jobs[status.job].state is JobState.ENDED


async def test_the_end_of_all_finds_what_was_lost(site: Site) -> None:
    status, view = await lost_job(site)
    site.scheduler.jobs[view.id] = view
    await _end_all(site.jobs, text="Switched off.", timeout_s=30.0)
    assert site.scheduler.jobs[view.id].state is JobState.ENDED
    assert site.status(status.id).reason == "Switched off."


async def test_the_end_of_all_is_not_told_while_the_scheduler_is_silent(site: Site) -> None:
    await lost_job(site)
    site.scheduler.silent = True
    with pytest.raises(JobsRunOn, match="does not answer"):
        await _end_all(site.jobs, text="", timeout_s=0.0)


async def test_a_refusal_of_the_scheduler_is_the_jobs_end(site: Site) -> None:
    site.scheduler.refuses = "Invalid account."
    status = await site.submit()
    assert (status.state, status.end_reason) == (JobState.ENDED, EndReason.REFUSED)
    assert status.reason == "Invalid account."


async def test_a_lost_answer_is_looked_up_and_never_submitted_twice(site: Site) -> None:
    site.scheduler.swallows_answer = True
    status = await site.submit()
    assert status.job == "1"
    await site.jobs.poll()
    assert len(site.scheduler.specs) == 1


async def test_a_poll_between_record_and_submit_submits_it_no_second_time(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorded, go_on = threading.Event(), threading.Event()
    real = JobTable.add

    def add(self: JobTable, record: JobRecord) -> TrackedJob:
        job = real(self, record)
        recorded.set()
        assert go_on.wait(300)
        return job

    monkeypatch.setattr(JobTable, "add", add)
    submitting = asyncio.ensure_future(site.submit())
    await asyncio.to_thread(recorded.wait, 30)
    await site.jobs._submitter.reconcile({}, patience_s=0.1)
    go_on.set()
    status = await submitting
    assert (status.job, site.jobs.record(status.id).tries) == ("1", 1)
    assert len(site.scheduler.specs) == 1
    assert not caplog.records


async def test_a_silent_scheduler_gets_the_job_once_it_answers(site: Site) -> None:
    site.scheduler.silent = True
    status = await site.submit()
    assert status.state is JobState.QUEUED
    assert status.job == ""
    assert "not known yet" in status.reason
    site.restart()
    await site.jobs.poll()
    assert len(site.scheduler.specs) == 0
    site.scheduler.silent = False
    await site.jobs.poll()
    await site.jobs.poll()
    assert site.status(status.id).job == "1"
    assert len(site.scheduler.specs) == 1


async def test_a_job_cancelled_before_it_was_submitted_never_is(site: Site) -> None:
    site.scheduler.silent = True
    status = await site.submit()
    await site.jobs.cancel(status.id)
    site.scheduler.silent = False
    await site.jobs.poll()
    assert site.status(status.id).end_reason is EndReason.CANCELLED
    assert site.scheduler.specs == []


async def test_a_crash_before_the_record_leaves_nothing_and_may_be_repeated(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = site.request()
    with monkeypatch.context() as patch:
        patch.setattr(SessionFolders, "save", _crash)
        with pytest.raises(KeyboardInterrupt):
            await site.jobs.submit(request)
    site.restart()
    assert site.jobs.all() == []
    reply = await site.jobs.submit(request)
    assert reply.created
    assert len(site.scheduler.specs) == 1


async def test_ended_jobs_are_forgotten_by_the_scheduler_once(site: Site) -> None:
    status = await site.submit()
    site.scheduler.set(status.job, JobState.ENDED, EndReason.FINISHED)
    for _ in range(3):
        await site.jobs.poll()
    assert site.scheduler.forgotten == [status.job]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process may grow beyond a few bytes: writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_refuses_new_jobs_plainly(site: Site) -> None:
    request = site.request()
    with full_disk(), pytest.raises(StorageFull, match="cannot store the job"):
        await site.jobs.submit(request)
    assert (await site.jobs.submit(request)).created


async def test_a_full_disk_hides_no_change_and_loses_none(site: Site) -> None:
    status = await site.submit()
    site.scheduler.set(status.job, JobState.RUNNING)
    with full_disk():
        await site.jobs.poll()
        assert site.status(status.id).state is JobState.RUNNING
        assert site.scheduler.forgotten == []
    await site.jobs.poll()
    site.restart()
    assert site.status(status.id).state is JobState.RUNNING


def test_a_full_disk_loses_no_event(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "control").mkdir()
    line = '{"event":"scene_started","scene":"S1","time":1}\n'
    (tmp_path / "out" / "status.jsonl").write_text(line * 3)

    def log() -> EventLog:
        return EventLog(tmp_path / "control", (tmp_path, "out"), frozenset({"S1"}))

    events = log()
    with full_disk(), pytest.raises(OSError, match="too large"):
        events.take()
    assert len(events) == 0
    assert events.take()
    assert len(events.read(0, 10)) == 3
    assert len(log().read(0, 10)) == 3


# --- a module that writes without end ----------------------------------------------------


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
    await asyncio.to_thread(reading.wait, 30)
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


# --- what one job leaves behind stops no other ------------------------------------------


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


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage().partition(":")[0] for r in caplog.records if r.levelname == "ERROR"]


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
    await asyncio.to_thread(walking.wait, 30)
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


def _crash(*_: object) -> None:
    raise KeyboardInterrupt


# --- images ------------------------------------------------------------------------------


class ImageSite(Site):
    """A site whose module runs in an image that must be read before its jobs start."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.sif = root / "small.sif"
        self.sif.write_bytes(b"an image")
        module = {
            "id": "small",
            "version": "1.0.0",
            "entry": "small",
            "image": str(self.sif),
            "sha256": hashlib.sha256(b"an image").hexdigest(),
        }
        data = {**GOOD, "data_paths": [], "modules": [module], "runtime": {"name": "apptainer"}}
        self.policy = replace(
            parse(data, root / "gate"), data_paths=(root / "data",)
        )  # below /tmp, where a real policy may have none
        self.restart()

    async def until(self, job_id: str, true: Callable[[JobStatus], object]) -> JobStatus:
        for _ in range(1000):
            if true(self.status(job_id)):
                return self.status(job_id)
            await self.jobs.poll()
            await asyncio.sleep(0.01)
        raise AssertionError(self.status(job_id))


@pytest.fixture
def images(tmp_path: Path) -> Iterator[ImageSite]:
    made = ImageSite(tmp_path)
    yield made
    made.audit.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Reading an image takes until this is set."""
    go_on = threading.Event()
    real = CheckedFiles.checksum

    def wait(self: CheckedFiles, path: Path, progress: Callable[[int, int], None]) -> str:
        progress(45, 100)
        assert go_on.wait(300)
        return real(self, path, progress)

    monkeypatch.setattr(CheckedFiles, "checksum", wait)
    return go_on


async def test_a_job_waits_in_the_gate_until_its_image_is_there(
    images: ImageSite, slow: threading.Event
) -> None:
    status = await images.submit()
    assert (status.state, status.job) == (JobState.QUEUED, "")
    status = await images.until(status.id, lambda s: "45 %" in s.reason)
    assert status.reason == "Checking the image: 45 %."
    assert images.scheduler.specs == []
    for task in list(images.jobs._submitter._tasks.values()):
        task.cancel()  # as the end of the process does
    images.restart()  # a gate that is started again goes on
    await images.until(status.id, lambda s: "Checking" in s.reason)
    slow.set()
    status = await images.until(status.id, lambda s: s.job)
    assert status.reason in ("", "Waiting.")
    (spec,) = images.scheduler.specs
    assert SessionSpec.read(spec.folder).image == str(images.sif)
    again = await images.submit()  # known from now on
    assert again.job == "2"


async def test_a_job_cancelled_while_it_waits_for_its_image_is_never_submitted(
    images: ImageSite, slow: threading.Event
) -> None:
    status = await images.submit()
    await images.jobs.cancel(status.id)
    status = await images.until(status.id, lambda s: s.state is JobState.ENDED)
    assert status.end_reason is EndReason.CANCELLED
    slow.set()
    await images.jobs.poll()
    assert images.scheduler.specs == []


@pytest.mark.parametrize(
    ("content", "words"), [(None, "is missing"), (b"another", "has the checksum")]
)
async def test_a_job_without_the_right_image_is_refused_with_a_sentence(
    images: ImageSite, content: bytes | None, words: str
) -> None:
    images.sif.unlink()
    if content is not None:
        images.sif.write_bytes(content)
    status = await images.submit()
    status = await images.until(status.id, lambda s: s.state is JobState.ENDED)
    assert status.end_reason is EndReason.REFUSED
    assert words in status.reason
    assert "who looks after the gate" in status.reason
    assert images.scheduler.specs == []
