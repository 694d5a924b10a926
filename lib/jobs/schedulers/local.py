"""Scheduler `local`: this computer, with a queue and a fixed number of slots.

There is no daemon. Each job has a folder and a detached runner process
(`lib.jobs.local_runner`) that waits for its slot, so jobs outlive the gate and need
nobody to start them. Memory and cores are not enforced.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from lib.errors import Unavailable
from lib.files.atomic import read_json, write_json
from lib.files.tree import remove
from lib.jobs import local_runner
from lib.jobs.config_table import ConfigTable
from lib.jobs.interfaces import JobKey, JobSpec, JobView
from lib.jobs.processes import listens
from lib.model import EndReason, JobState, QueueLoad

_ROOT = Path(__file__).resolve().parents[3]
_HOST = "127.0.0.1"
_SUBMIT_TIMEOUT_S = 20.0
_REMOVE_S = 20.0

_END_REASONS = {
    "walltime": EndReason.WALLTIME,
    "cancelled": EndReason.STOPPED,
    "cancelled-queued": EndReason.CANCELLED,
    "not-started": EndReason.FAILED_TO_START,
}


class LocalScheduler:
    """See `lib.jobs.interfaces.Scheduler`. Keeps its files in `HOME/local/`."""

    poll_s = 0.1
    gone_after_s = 0.0
    submit_timeout_s = _SUBMIT_TIMEOUT_S

    def __init__(self, state_dir: Path, *, slots: int) -> None:
        self._jobs = state_dir / "local" / "jobs"
        self._slots = slots
        self._over: dict[str, JobView] = {}

    @classmethod
    def from_options(cls, options: Mapping[str, object], state_dir: Path) -> LocalScheduler:
        """From the policy's `[scheduler]` table: `slots`. Raises `InvalidInput`."""
        table = ConfigTable(options, "policy [scheduler]")
        slots = table.whole("slots", 2, low=1, high=1000)
        table.close()
        return cls(state_dir, slots=slots)

    async def submit(self, job: JobSpec) -> str:
        """Writes the job down, then starts its runner and waits until that has detached."""
        folder = await asyncio.to_thread(self._write, job)
        log = os.open(folder / "runner.log", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            starter = await asyncio.create_subprocess_exec(
                *(sys.executable, "-S", "-m", "lib.jobs.local_runner", str(folder)),
                cwd="/",
                env={"PYTHONPATH": str(_ROOT), "PATH": os.environ.get("PATH", os.defpath)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        except OSError as exc:
            await asyncio.to_thread(remove, folder, timeout_s=_REMOVE_S)
            raise Unavailable(f"The job could not be started: {exc.strerror}.") from exc
        finally:
            os.close(log)
        if await asyncio.wait_for(starter.wait(), _SUBMIT_TIMEOUT_S) != 0:
            raise Unavailable("The job could not be started; the gate's computer may be full.")
        return folder.name

    async def query(self) -> Mapping[str, JobView]:
        """Reads the job folders."""
        return await asyncio.to_thread(self._views)

    async def recall(self, jobs: Sequence[JobKey]) -> Mapping[JobKey, JobView]:
        """Its folders remember until `forget`; what is gone from there is gone."""
        views = await asyncio.to_thread(self._views)
        return {job: _found(job, views.get(job.id)) for job in jobs}

    async def find(self, name: str, _tried_until: float | None = None) -> str | None:
        """By the name written into `job.json` before the runner starts."""
        return await asyncio.to_thread(self._find, name)

    async def cancel(self, job: JobKey) -> None:
        """Leaves a mark, then wakes the runner."""
        await asyncio.to_thread(self._cancel, job)

    async def forget(self, job: JobKey) -> None:
        """Removes the folder of an ended job."""
        folder = self._folder(job)
        if folder is not None and self._view(folder).state is JobState.ENDED:
            await asyncio.to_thread(remove, folder, timeout_s=_REMOVE_S)
            self._over.pop(job.id, None)

    async def load(self) -> Sequence[QueueLoad]:
        """It keeps no queues that anybody shares."""
        return ()

    def endpoint_host(self) -> str:
        """Loopback: every job runs on this computer."""
        return _HOST

    def vouches(self, job: JobKey, host: str, port: int) -> bool:
        """Only for a listener that the job's own command holds, never one of its children."""
        folder = self._folder(job)
        main = local_runner.identity(folder / "state.json") if folder is not None else None
        return host == _HOST and main is not None and main.alive() and listens(main.pid, host, port)

    def _write(self, job: JobSpec) -> Path:
        """Claim the next number and commit `job.json`."""
        self._jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        counter = self._jobs.with_name("last.json")
        number = max([read_json(counter) or 0, *(int(f.name) for f in self._folders())])
        while True:
            number += 1
            folder = self._jobs / f"{number:08d}"
            try:
                folder.mkdir(mode=0o700)
                break
            except FileExistsError:
                continue
        self._over.pop(folder.name, None)
        write_json(counter, number)  # a number is never given twice, even after `forget`
        paths = {"folder": str(job.folder), "output": str(job.output), "scratch": str(job.scratch)}
        more = {"slots": self._slots, "submitted_at": time.time()}
        write_json(folder / "job.json", {**asdict(job), **paths, **more})
        return folder

    def _folder(self, job: JobKey) -> Path | None:
        """Where this job lies; None where there is none, or another one of its number."""
        folder = self._jobs / job.id
        known = read_json(folder / "job.json") if job.id.isdigit() else None
        if known is None:
            return None
        view = JobView(job.id, known["name"], JobState.UNKNOWN, submitted_at=_submitted(known))
        return folder if view.is_of(job) else None

    def _folders(self) -> list[Path]:
        if not self._jobs.exists():
            return []
        return sorted(f for f in self._jobs.iterdir() if f.name.isdigit())

    def _find(self, name: str) -> str | None:
        for folder in self._folders():
            job = read_json(folder / "job.json")
            if job is not None and job["name"] == name and (folder / "runner.json").exists():
                return folder.name
        return None

    def _views(self) -> dict[str, JobView]:
        views = {}
        for folder in self._folders():
            view = self._over.get(folder.name) or self._view(folder)
            if view.state is JobState.ENDED:
                self._over[folder.name] = view
            views[folder.name] = view
        return self._with_queue_reasons(views)

    def _with_queue_reasons(self, views: dict[str, JobView]) -> dict[str, JobView]:
        busy = sum(v.state is JobState.RUNNING for v in views.values())
        ahead = 0
        for job_id, view in views.items():
            if view.state is not JobState.QUEUED:
                continue
            reason = f"Waiting for a free slot: {busy} of {self._slots} are in use."
            if ahead:
                reason += f" {ahead} waiting before it."
            views[job_id] = replace(view, reason=reason if busy >= self._slots else "Starting.")
            ahead += 1
        return views

    def _view(self, folder: Path) -> JobView:
        job = read_json(folder / "job.json")
        end = read_json(folder / "end.json")
        state = read_json(folder / "state.json")
        name = job["name"] if job else ""
        started = state["started_at"] if state else None
        ends = started + job["walltime_s"] if started and job else None
        view = JobView(
            folder.name,
            name,
            JobState.QUEUED,
            started_at=started,
            ends_at=ends,
            submitted_at=_submitted(job),
        )
        if end is not None:
            return _ended(view, end)
        runner = local_runner.identity(folder / "runner.json")
        main = local_runner.identity(folder / "state.json")
        if runner is None and _age_s(folder) < _SUBMIT_TIMEOUT_S:
            return view  # its runner is being started
        if (main is not None and main.alive()) or (runner is not None and runner.alive()):
            return replace(view, state=JobState.RUNNING if state else JobState.QUEUED)
        end = read_json(folder / "end.json")  # it may have ended between the two looks
        if end is not None:
            return _ended(view, end)
        reason = "The job disappeared; this computer was probably restarted."
        return replace(view, state=JobState.ENDED, end_reason=EndReason.LOST, reason=reason)

    def _cancel(self, job: JobKey) -> None:
        folder = self._folder(job)
        if folder is None or (folder / "end.json").exists():
            return
        (folder / "cancel").touch(mode=0o600)
        runner = local_runner.identity(folder / "runner.json")
        if runner is not None and runner.signal(signal.SIGTERM):
            return
        main = local_runner.identity(folder / "state.json")
        if main is not None:  # its runner was killed: ask the command itself
            main.signal(signal.SIGTERM)


def _found(job: JobKey, view: JobView | None) -> JobView:
    if view is not None and view.is_of(job):
        return view
    return JobView(job.id, job.name, JobState.ENDED, end_reason=EndReason.LOST)


def _submitted(job: Mapping[str, float] | None) -> float | None:
    """What `job.json` says; those of older gates do not."""
    return job.get("submitted_at") if job else None


def _age_s(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _ended(view: JobView, end: local_runner.JobEnd) -> JobView:
    why, code = end["why"], end["exit_code"]
    reason = _END_REASONS.get(why) or (EndReason.FINISHED if code == 0 else EndReason.CRASHED)
    return replace(
        view,
        state=JobState.ENDED,
        reason=end["message"],
        end_reason=reason,
        exit_code=code,
        ended_at=end["ended_at"],
    )
