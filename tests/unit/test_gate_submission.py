"""Between record and scheduler: hanging submits, late jobs, twins, and endpoints in time."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from lib.errors import Unavailable
from lib.files.atomic import write_json
from lib.gate.job_record import JobRecord, SessionFolders
from lib.gate.session_dir import _comment
from lib.jobs.interfaces import JobKey, JobSpec, JobView
from lib.model import EndReason, JobState
from lib.protocol.messages import JobKind, JobStatus
from tests.fakes.gate_jobs import Site, SmallScheduler
from tests.fakes.reconciler_harness import until


class SlowScheduler(SmallScheduler):
    """A site's scheduler: asked rarely, sure late, and it can hang."""

    poll_s = 3600.0

    def __init__(self) -> None:
        super().__init__()
        self.hangs = asyncio.Event()
        self.hangs.set()
        #: A submit hangs.
        self.submitting = asyncio.Event()
        self.unsure = False
        self.no_answers = 0
        self.queries = 0
        self.cancelled: list[str] = []
        self.node_known: bool | None = True

    async def submit(self, job: JobSpec) -> str:
        if not self.hangs.is_set():
            self.submitting.set()
        await self.hangs.wait()
        if self.no_answers:
            self.no_answers -= 1
            raise Unavailable("sbatch gave no answer.")
        return await super().submit(job)

    async def query(self) -> Mapping[str, JobView]:
        self.queries += 1
        found = await super().query()
        if self.node_known is None:
            self.node_known = True
        return found

    async def find(self, name: str, tried_until: float | None = None) -> str | None:
        found = await super().find(name, tried_until)
        if found is None and self.unsure:
            raise Unavailable("It may still take the job.")
        return found

    async def cancel(self, job: JobKey) -> None:
        await super().cancel(job)
        self.cancelled.append(job.id)

    def vouches(self, job: JobKey, host: str, port: int) -> bool | None:  # type: ignore[override]
        return self.node_known

    def add(self, name: str, state: JobState = JobState.QUEUED) -> str:
        """A job that nobody here knows the id of."""
        job_id = str(100 + len(self.jobs))
        self.jobs[job_id] = JobView(job_id, name, state)
        return job_id


class SlowSite(Site):
    scheduler: SlowScheduler

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.scheduler = SlowScheduler()
        self.restart()

    def record(self, job_id: str) -> JobRecord:
        return self.jobs.record(job_id)


@pytest.fixture
async def site(tmp_path: Path) -> Iterator[SlowSite]:  # type: ignore[misc]
    made = SlowSite(tmp_path)
    yield made
    made.audit.close()


async def started_session(site: SlowSite) -> JobStatus:
    status = (await site.jobs.submit(site.request(JobKind.SESSION))).status
    site.scheduler.set(status.job, JobState.RUNNING)
    return status


def report_endpoint(site: SlowSite, job_id: str) -> None:
    endpoint = {"host": "n1", "port": 4711, "time": time.time()}
    write_json(site.folders.control(job_id) / "endpoint.json", endpoint)


# --- endpoints ------------------------------------------------------------------------


@pytest.mark.parametrize("node_known", [True, None])
async def test_an_endpoint_is_seen_before_the_next_poll(
    site: SlowSite, node_known: bool | None
) -> None:
    """When the node is not known yet, the scheduler is asked once more, at once."""
    status = await started_session(site)
    watching = asyncio.ensure_future(site.jobs.watch_over())
    await until(lambda: site.status(status.id).state is JobState.RUNNING)  # it was polled
    before = site.scheduler.queries
    site.scheduler.node_known = node_known
    report_endpoint(site, status.id)
    await until(lambda: site.status(status.id).endpoint is not None)
    assert site.scheduler.queries - before == (0 if node_known else 1)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_an_endpoint_elsewhere_is_never_taken_and_asks_for_nothing_more(
    site: SlowSite,
) -> None:
    status = await started_session(site)
    site.scheduler.node_known = False
    watching = asyncio.ensure_future(site.jobs.watch_over())
    await until(lambda: site.status(status.id).state is JobState.RUNNING)  # it was polled
    before = site.scheduler.queries
    report_endpoint(site, status.id)
    await until(lambda: "endpoint" in (site.root / "audit.jsonl").read_text())
    report_endpoint(site, status.id)
    await asyncio.sleep(0.3)  # as long as three looks: that nothing happens has no event
    assert site.status(status.id).endpoint is None
    assert site.jobs.where(status.id) is None
    assert site.scheduler.queries - before <= 2
    lines = [json.loads(line) for line in (site.root / "audit.jsonl").read_text().splitlines()]
    assert [line.get("what") for line in lines].count("endpoint") == 1
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_an_endpoint_once_vouched_for_is_served_while_the_node_is_not_known(
    site: SlowSite,
) -> None:
    """A gate that has just started, on a scheduler that is silent."""
    status = await started_session(site)
    report_endpoint(site, status.id)
    await site.jobs.poll()
    assert site.jobs.where(status.id) == ("n1", 4711)
    site.restart()
    site.scheduler.silent = True
    site.scheduler.node_known = None
    assert site.jobs.where(status.id) == ("n1", 4711)
    site.scheduler.node_known = False
    assert site.jobs.where(status.id) is None


async def test_a_job_that_is_begun_anew_gets_the_endpoint_of_the_run_that_runs(
    site: SlowSite,
) -> None:
    """What the run before left behind counts for nothing, and its port is another's by now."""
    status = await started_session(site)
    report_endpoint(site, status.id)
    control = site.folders.control(status.id)
    write_json(control / "module.json", {"exit_code": 0, "message": "", "time": 1.0})
    await site.jobs.poll()
    assert site.jobs.where(status.id) == ("n1", 4711)
    assert site.status(status.id).module_exit_code == 0
    again = replace(site.scheduler.jobs[status.job], state=JobState.QUEUED, restarts=1)
    site.scheduler.jobs[status.job] = replace(again, started_at=None, submitted_at=99.0)
    await site.jobs.poll()
    seen = site.status(status.id)
    assert (seen.state, seen.endpoint, seen.module_exit_code) == (JobState.QUEUED, None, None)
    assert (seen.started_at, site.jobs.where(status.id)) == (None, None)
    begun = time.time() + 5  # what lies there was written before
    site.scheduler.jobs[status.job] = replace(again, state=JobState.RUNNING, started_at=begun)
    await site.jobs.poll()
    assert site.status(status.id).state is JobState.RUNNING
    assert site.status(status.id).endpoint is None
    report = {"host": "n2", "port": 4712, "time": time.time(), "restarts": 0}
    write_json(control / "endpoint.json", report)  # late news of the run before
    os.utime(control / "endpoint.json", (begun + 5, begun + 5))
    await site.jobs.poll()
    assert site.status(status.id).endpoint is None
    report["restarts"] = 1
    write_json(control / "endpoint.json", report)
    site.restart()
    await site.jobs.poll()
    assert site.jobs.where(status.id) == ("n2", 4712)
    assert site.status(status.id).endpoint is not None


async def test_a_script_of_an_older_gate_that_is_begun_anew_is_known_by_when_it_wrote(
    site: SlowSite,
) -> None:
    """It does not say which run it is."""
    status = await started_session(site)
    endpoint = site.folders.control(status.id) / "endpoint.json"
    begun = time.time()
    view = replace(site.scheduler.jobs[status.job], state=JobState.RUNNING, restarts=1)
    site.scheduler.jobs[status.job] = replace(view, started_at=begun)
    for written, taken in ((begun - 60, None), (begun + 1, ("n1", 4711))):
        report_endpoint(site, status.id)
        os.utime(endpoint, (written, written))
        for _ in range(2):  # when it began is known first
            await site.jobs.poll()
        assert site.jobs.where(status.id) == taken


async def test_when_a_notebook_is_ended_for_want_of_use_is_told_while_it_is_near(
    site: SlowSite,
) -> None:
    status = await started_session(site)
    idle = site.folders.control(status.id) / "idle.json"
    report_endpoint(site, status.id)
    now = time.time()
    for said in (now, None, now + 60, "soon", now + 90, 1e308):
        told = said if isinstance(said, float) and said < 1e308 else None
        write_json(idle, {"idle_at": said})
        await site.jobs.poll()
        assert site.status(status.id).idle_at == told
    write_json(idle, {"idle_at": now})
    await site.jobs.poll()
    site.scheduler.set(status.job, JobState.ENDED, EndReason.FINISHED)
    await site.jobs.poll()
    assert site.status(status.id).idle_at is None


# --- submits that hang or get no answer ----------------------------------------------


async def test_a_submit_that_hangs_holds_up_nothing_else(site: SlowSite) -> None:
    other = (await site.jobs.submit(site.request())).status
    site.scheduler.hangs.clear()
    request = site.request()
    submits = [asyncio.ensure_future(site.jobs.submit(request)) for _ in range(2)]
    await site.scheduler.submitting.wait()
    site.scheduler.set(other.job, JobState.RUNNING)
    await site.jobs.poll()
    assert site.status(other.id).state is JobState.RUNNING
    assert (await site.jobs.cancel(other.id)).id == other.id
    assert site.scheduler.cancelled == [other.job]
    assert site.status(request.id).state is JobState.QUEUED
    site.scheduler.hangs.set()
    replies = await asyncio.gather(*submits)
    assert sorted(reply.created for reply in replies) == [False, True]
    assert {reply.status.job for reply in replies} == {"2"}
    assert len(site.scheduler.specs) == 2


async def test_a_submit_is_answered_in_time_though_it_hangs(
    site: SlowSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.gate.jobs._SUBMIT_ANSWER_S", 0.2)
    site.scheduler.hangs.clear()
    reply = await site.jobs.submit(site.request())
    assert reply.status.state is JobState.QUEUED
    assert "not known yet" in reply.status.reason
    site.scheduler.hangs.set()
    await until(lambda: site.status(reply.status.id).job == "1")
    assert "not known yet" not in site.status(reply.status.id).reason


async def test_a_job_whose_submit_still_hangs_is_seen_in_the_list(site: SlowSite) -> None:
    site.scheduler.hangs.clear()
    request = site.request()
    asking = asyncio.ensure_future(site.jobs.submit(request))
    await site.scheduler.submitting.wait()
    taken = site.scheduler.add(site.record(request.id).name, JobState.RUNNING)
    await site.jobs.poll()
    assert site.status(request.id).job == taken
    assert site.status(request.id).state is JobState.RUNNING
    site.scheduler.no_answers = 1
    site.scheduler.hangs.set()
    await asking
    assert site.status(request.id).job == taken
    assert site.status(request.id).reason == ""
    assert site.scheduler.specs == []


async def test_a_submit_goes_on_when_who_asked_for_it_has_gone(site: SlowSite) -> None:
    site.scheduler.hangs.clear()
    request = site.request()
    asking = asyncio.ensure_future(site.jobs.submit(request))
    await site.scheduler.submitting.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    site.scheduler.hangs.set()
    await until(lambda: site.status(request.id).job == "1")


async def test_a_job_cancelled_during_its_submit_is_ended_once_it_is_there(
    site: SlowSite,
) -> None:
    site.scheduler.hangs.clear()
    request = site.request()
    asking = asyncio.ensure_future(site.jobs.submit(request))
    await site.scheduler.submitting.wait()
    await site.jobs.cancel(request.id)
    site.scheduler.hangs.set()
    await asking
    assert site.scheduler.cancelled == ["1"]


async def test_an_unanswered_submit_waits_until_the_scheduler_is_sure(site: SlowSite) -> None:
    site.scheduler.no_answers, site.scheduler.unsure = 1, True
    status = (await site.jobs.submit(site.request())).status
    assert (status.state, status.job) == (JobState.QUEUED, "")
    for _ in range(3):
        await site.jobs.poll()
    assert site.scheduler.specs == []
    assert site.record(status.id).tried_until == pytest.approx(time.time(), abs=5)
    site.restart()
    await site.jobs.poll()
    assert site.scheduler.specs == []
    site.scheduler.unsure = False
    await site.jobs.poll()
    assert site.status(status.id).job == "1"
    assert len(site.scheduler.specs) == 1


async def test_a_job_taken_late_is_adopted_and_not_submitted_again(site: SlowSite) -> None:
    site.scheduler.no_answers, site.scheduler.unsure = 1, True
    status = (await site.jobs.submit(site.request())).status
    late = site.scheduler.add(site.record(status.id).name)
    await site.jobs.poll()
    assert site.status(status.id).job == late
    assert site.scheduler.specs == []


async def test_submits_are_not_repeated_for_ever(site: SlowSite) -> None:
    site.scheduler.no_answers, site.scheduler.unsure = 9, True
    status = (await site.jobs.submit(site.request())).status
    for _ in range(10):
        site.scheduler.unsure = False
        task = asyncio.ensure_future(site.jobs.poll())
        await asyncio.sleep(0)
        await task
        if site.status(status.id).state is JobState.ENDED:
            break
    assert site.status(status.id).end_reason is EndReason.REFUSED
    assert site.scheduler.no_answers >= 9 - 3


async def test_a_job_that_ran_unseen_is_not_started_again(site: SlowSite) -> None:
    site.scheduler.no_answers, site.scheduler.unsure = 1, True
    status = (await site.jobs.submit(site.request())).status
    (site.folders.control(status.id) / "job.log").write_text("it ran\n")
    site.scheduler.unsure = False
    await site.jobs.poll()
    assert site.status(status.id).end_reason is EndReason.LOST
    assert site.scheduler.specs == []


async def test_a_cancel_that_was_not_heard_is_asked_for_again(site: SlowSite) -> None:
    status = (await site.jobs.submit(site.request())).status
    site.scheduler.silent = True
    with pytest.raises(Unavailable):
        await site.jobs.cancel(status.id)
    await site.jobs.poll()
    site.restart()
    site.scheduler.silent = False
    await site.jobs.poll()
    await site.jobs.poll()
    assert site.scheduler.cancelled == [status.job]


# --- never two ------------------------------------------------------------------------


async def test_of_two_jobs_the_later_is_ended(site: SlowSite) -> None:
    status = (await site.jobs.submit(site.request())).status
    twin = site.scheduler.add(site.record(status.id).name)
    await site.jobs.poll()
    assert site.scheduler.cancelled == [twin]
    assert site.status(status.id).job == status.job


async def test_of_two_jobs_the_one_that_runs_is_kept(site: SlowSite) -> None:
    status = (await site.jobs.submit(site.request())).status
    twin = site.scheduler.add(site.record(status.id).name, JobState.RUNNING)
    await site.jobs.poll()
    assert site.scheduler.cancelled == [status.job]
    assert site.status(status.id).job == twin


async def test_a_job_that_comes_up_after_its_record_ended_is_ended(site: SlowSite) -> None:
    site.scheduler.no_answers = 1
    status = (await site.jobs.submit(site.request())).status
    assert status.end_reason is EndReason.REFUSED  # sure, and mistaken
    late = site.scheduler.add(site.record(status.id).name)
    other = site.scheduler.add("somebody-elses-job")
    await site.jobs.poll()
    assert site.scheduler.cancelled == [late]
    assert site.scheduler.jobs[other].state is JobState.QUEUED


async def test_after_a_clear_refusal_nobody_is_asked(site: SlowSite) -> None:
    site.scheduler.refuses = "Invalid account."
    await site.jobs.submit(site.request())
    before = site.scheduler.queries
    await site.jobs.poll()
    assert site.scheduler.queries == before


# --- what the scheduler's list has dropped ---------------------------------------------


async def test_the_end_of_a_job_that_left_the_list_is_recalled(site: SlowSite) -> None:
    status = (await site.jobs.submit(site.request())).status
    view = site.scheduler.jobs.pop(status.job)
    site.scheduler.remembered[status.job] = JobView(
        view.id, view.name, JobState.ENDED, end_reason=EndReason.NODE_FAILURE, started_at=1.0
    )
    await site.jobs.poll()
    assert site.status(status.id).end_reason is EndReason.NODE_FAILURE


# --- records --------------------------------------------------------------------------


async def test_records_of_an_older_gate_are_read(site: SlowSite) -> None:
    status = (await site.jobs.submit(site.request())).status
    path = site.folders.control(status.id) / "record.json"
    data = json.loads(path.read_text())
    for name in ("tries", "tried_until", "starts_at"):
        del data[name]
    path.write_text(json.dumps(data))
    (record,) = SessionFolders(site.root / "gate").load()
    assert (record.job, record.tries, record.starts_at) == (status.job, 0, None)


async def test_a_job_names_its_session_and_owner_for_the_site(site: SlowSite) -> None:
    status = (await site.jobs.submit(site.request())).status
    (spec,) = site.scheduler.specs
    assert spec.comment == f"SceneBridge run {status.id} for ada"
    record = site.record(status.id)
    record.owner = "Åsa\n--x \x7f" + "y" * 200
    assert _comment(record).isascii()
    assert _comment(record).isprintable()
    assert len(_comment(record)) < 200


async def test_a_start_estimate_is_told_and_its_jitter_is_not(site: SlowSite) -> None:
    status = (await site.jobs.submit(site.request())).status
    view = site.scheduler.jobs[status.job]
    told = []
    for starts_at in (1000.0, 1010.0, 1100.0, None):
        site.scheduler.jobs[status.job] = JobView(
            view.id, view.name, JobState.QUEUED, starts_at=starts_at
        )
        await site.jobs.poll()
        told.append(site.status(status.id).starts_at)
    assert told == [1000.0, 1000.0, 1100.0, None]


async def test_a_poll_without_news_writes_and_tells_nothing(
    site: SlowSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    await started_session(site)
    await site.jobs.poll()
    told = []
    site.jobs.listen(lambda: told.append(1))
    saved = []
    monkeypatch.setattr(SessionFolders, "save", lambda _, record: saved.append(record))
    for _ in range(3):
        await site.jobs.poll()
    assert (told, saved) == ([], [])
