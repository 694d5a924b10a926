"""The jobs of a gate whose scheduler keeps its jobs in memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lib.errors import Refused, Unavailable
from lib.gate.audit import Audit
from lib.gate.job_record import SessionFolders
from lib.gate.jobs import Jobs
from lib.gate.policy import Policy, parse
from lib.jobs.interfaces import JobKey, JobSpec, JobView
from lib.model import EndReason, JobState, QueueLoad
from lib.protocol.messages import JobKind, JobStatus, SubmitRequest
from tests.fakes.things import new_id
from tests.unit.test_gate_policy import GOOD


class SmallScheduler:
    """Keeps jobs in memory; can fall silent, refuse, or take a job and not say so."""

    poll_s = 0.02
    gone_after_s = 60.0
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
    """The jobs of a gate with a small scheduler; `later_s` is for how long one has waited."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.later_s = 0.0
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
        self.jobs = Jobs(
            self.folders,
            self.policy,
            self.scheduler,
            self.audit,
            clock=lambda: time.monotonic() + self.later_s,
        )
        return self.jobs

    def request(self, kind: JobKind = JobKind.RUN) -> SubmitRequest:
        item = {"id": "S1", "assets": {"b": {"href": str(self.root / "data" / "a.tif")}}}
        return SubmitRequest(new_id(), kind, "ada", "small", "1.0.0", {}, [item], "small", 600)

    async def submit(self) -> JobStatus:
        return (await self.jobs.submit(self.request())).status

    def status(self, job_id: str) -> JobStatus:
        return next(s for s in self.jobs.all() if s.id == job_id)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage().partition(":")[0] for r in caplog.records if r.levelname == "ERROR"]
