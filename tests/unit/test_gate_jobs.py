"""The jobs of a gate when its scheduler is silent, forgetful, or when the disk is full."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lib.errors import StorageFull
from lib.gate.events import EventLog
from lib.gate.job_record import JobRecord, SessionFolders, TrackedJob
from lib.gate.job_table import JobTable
from lib.gate.serve import JobsRunOn, _end_all
from lib.gate.watch import Watch
from lib.jobs.interfaces import JobView
from lib.model import EndReason, JobState
from lib.protocol.messages import JobStatus, WatchMessage, WatchRequest
from tests.fakes.gate_jobs import Site
from tests.fakes.things import new_id


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
    for _ in range(3):
        await site.jobs.poll()
        site.later_s += 61
    assert not site.jobs.asked_ok
    assert "slurmctld does not answer" in site.jobs.asked_reason
    assert site.status(status.id).state is JobState.RUNNING
    site.scheduler.silent = False
    await site.jobs.poll()
    assert site.jobs.asked_ok
    assert site.status(status.id).state is JobState.RUNNING


async def test_a_watch_hears_of_silence_at_once(site: Site) -> None:
    await site.submit()
    messages = Watch(site.jobs, WatchRequest()).messages()

    async def heard() -> WatchMessage:
        return await asyncio.wait_for(anext(messages), 300)

    assert (await heard()).kind == "snapshot"
    site.scheduler.silent = True
    await site.jobs.poll()
    seen = await heard()
    assert (seen.asked_ok, seen.kind) == (False, "jobs")
    site.scheduler.silent = False
    await site.jobs.poll()
    assert (await heard()).asked_ok


async def test_a_job_the_scheduler_no_longer_knows_is_lost_after_some_patience(
    site: Site,
) -> None:
    status = await site.submit()
    del site.scheduler.jobs[status.job]
    await site.jobs.poll()
    await site.jobs.poll()
    assert site.status(status.id).state is not JobState.ENDED  # an answer may lag
    site.later_s += 61
    await site.jobs.poll()
    assert site.status(status.id).end_reason is EndReason.LOST


async def test_a_job_that_reappears_was_never_lost(site: Site) -> None:
    status = await site.submit()
    view = site.scheduler.jobs.pop(status.job)
    await site.jobs.poll()
    site.scheduler.jobs[status.job] = view
    await site.jobs.poll()
    site.later_s += 61
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
    site.later_s += 61  # its patience is over
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
    site.later_s += 61
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
        site.later_s += 61
    assert site.status(status.id).state is JobState.RUNNING
    await site.jobs.cancel(status.id)
    await site.jobs.poll()
    assert site.status(status.id).end_reason is EndReason.STOPPED


async def test_a_job_of_which_nothing_can_be_said_is_unknown_and_counts(site: Site) -> None:
    status = await site.submit()
    site.scheduler.unlisted.add(status.job)
    site.scheduler.unsure_of_the_missing = True
    await site.jobs.poll()
    site.later_s += 61
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
    site.later_s += 61
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
    await _end_all(site.jobs, text="", timeout_s=300.0)
    assert site.scheduler.jobs[status.job].state is JobState.ENDED


async def test_the_end_of_all_finds_what_was_lost(site: Site) -> None:
    status, view = await lost_job(site)
    site.scheduler.jobs[view.id] = view
    await _end_all(site.jobs, text="Switched off.", timeout_s=300.0)
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
    assert await asyncio.to_thread(recorded.wait, 300)
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


def _crash(*_: object) -> None:
    raise KeyboardInterrupt
