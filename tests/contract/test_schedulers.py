"""One suite for every scheduler; see the obligations in `lib.jobs.interfaces.Scheduler`."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC221, ASYNC240 (the loop runs nothing else in these tests)

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lib.errors import Unavailable
from lib.jobs import local_runner
from lib.jobs.interfaces import JobKey, JobSpec, JobView, Scheduler
from lib.jobs.schedulers import make_scheduler
from lib.model import EndReason, JobState
from tests.single_slurm import SingleSlurm, missing, single_slurm

SCHEDULERS = [
    "local",
    pytest.param("slurm", marks=pytest.mark.skipif(missing() != "", reason=missing())),
]
#: The shortest time limit that each keeps, seconds: Slurm counts in minutes.
WALLTIME_S = {"local": 1, "slurm": 60}
UNKNOWN = JobKey("4711", "sb-1")


@pytest.fixture(params=SCHEDULERS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def slurm(name: str) -> Iterator[SingleSlurm | None]:
    """One for all tests here; a core is a slot, so it has one core."""
    if name != "slurm":
        yield None
        return
    with single_slurm(cores=1) as made:
        yield made


@pytest.fixture
def options(name: str, slurm: SingleSlurm | None) -> dict[str, Any]:
    return {"slots": 1} if slurm is None else {**slurm.options, "settle_s": 1}


@pytest.fixture
async def scheduler(name: str, options: dict[str, Any], tmp_path: Path) -> AsyncIterator[Scheduler]:
    """Empty, with room for one job at a time; afterwards everything is ended."""
    made = make_scheduler(name, options, tmp_path)
    for view in (await made.query()).values():  # what former tests left in Slurm's memory
        await made.forget(view.key)
    yield made
    for view in (await made.query()).values():
        await made.cancel(view.key)
    for view in (await made.query()).values():
        await ended(made, view.id)


def job(folder: Path, script: str, *, walltime_s: int = 60, job_name: str = "sb-1") -> JobSpec:
    return JobSpec(
        name=job_name,
        argv=("/bin/sh", "-c", script),
        env={"PATH": os.environ["PATH"], "GREETING": "hello"},
        folder=folder,
        output=folder / f"{job_name}.log",
        scratch=folder / f"{job_name}.scratch",
        walltime_s=walltime_s,
        cores=1,
        memory_mb=100,
    )


def key(job_id: str, job_name: str = "sb-1") -> JobKey:
    return JobKey(job_id, job_name)


def gone(job: JobKey) -> JobView:
    return JobView(job.id, job.name, JobState.ENDED, end_reason=EndReason.LOST)


async def until(
    scheduler: Scheduler, job_id: str, wanted: Callable[[JobView], bool], timeout_s: float = 300.0
) -> JobView:
    deadline = time.monotonic() + timeout_s
    view = None
    while time.monotonic() < deadline:
        view = (await scheduler.query()).get(job_id)
        if view is not None and wanted(view):
            return view
        await asyncio.sleep(0.05)
    raise AssertionError(f"not reached: {view}")


async def ended(scheduler: Scheduler, job_id: str) -> JobView:
    return await until(scheduler, job_id, lambda view: view.state is JobState.ENDED)


async def running(scheduler: Scheduler, job_id: str) -> JobView:
    return await until(scheduler, job_id, lambda view: view.state is JobState.RUNNING)


async def test_a_job_runs_with_its_environment_folder_and_output(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    job_id = await scheduler.submit(job(tmp_path, 'echo "$GREETING"; pwd; echo no >&2; exit 0'))
    view = await ended(scheduler, job_id)
    assert (view.end_reason, view.exit_code) == (EndReason.FINISHED, 0)
    assert view.started_at is not None
    assert view.ended_at is not None
    assert (tmp_path / "sb-1.log").read_text().split() == ["hello", str(tmp_path), "no"]


async def test_an_exit_code_is_told(scheduler: Scheduler, tmp_path: Path) -> None:
    view = await ended(scheduler, await scheduler.submit(job(tmp_path, "exit 7")))
    assert (view.end_reason, view.exit_code) == (EndReason.CRASHED, 7)


async def test_a_signal_is_told_as_a_shell_would(scheduler: Scheduler, tmp_path: Path) -> None:
    view = await ended(scheduler, await scheduler.submit(job(tmp_path, "kill -9 $$")))
    assert view.exit_code == 128 + signal.SIGKILL


async def test_jobs_wait_for_their_turn_in_order_and_say_why(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    first = await scheduler.submit(job(tmp_path, "sleep 60", job_name="one"))
    await running(scheduler, first)
    second = await scheduler.submit(job(tmp_path, "echo 2 >> order", job_name="two"))
    third = await scheduler.submit(job(tmp_path, "echo 3 >> order", job_name="three"))
    view = await until(scheduler, second, lambda v: v.reason.startswith("Waiting for "))
    assert view.state is JobState.QUEUED
    await scheduler.cancel(key(first, "one"))
    await ended(scheduler, second)
    await ended(scheduler, third)
    assert (tmp_path / "order").read_text().split() == ["2", "3"]


async def test_a_cancelled_job_gets_term_and_may_tidy_up(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    script = "trap 'echo tidied > tidied; exit 0' TERM; echo up > up; while :; do sleep 0.1; done"
    job_id = await scheduler.submit(job(tmp_path, script))
    while not (tmp_path / "up").exists():
        await asyncio.sleep(0.02)
    await scheduler.cancel(key(job_id))
    await scheduler.cancel(key(job_id))  # idempotent
    view = await ended(scheduler, job_id)
    assert view.end_reason is EndReason.STOPPED
    assert (tmp_path / "tidied").exists()
    await scheduler.cancel(key(job_id))  # ended: no error
    assert (await scheduler.query())[job_id].end_reason is EndReason.STOPPED


async def test_a_waiting_job_is_cancelled_without_running(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    first = await scheduler.submit(job(tmp_path, "sleep 60", job_name="one"))
    second = await scheduler.submit(job(tmp_path, "touch ran", job_name="two"))
    await scheduler.cancel(key(second, "two"))
    assert (await ended(scheduler, second)).end_reason is EndReason.CANCELLED
    assert not (tmp_path / "ran").exists()
    await scheduler.cancel(key(first, "one"))


async def test_the_walltime_is_enforced_after_a_term(
    name: str, scheduler: Scheduler, slurm: SingleSlurm | None, tmp_path: Path
) -> None:
    """Of Slurm's minute its administrators take away what is left; that it is over it sees when it
    looks for such jobs, twice a minute."""
    walltime_s = WALLTIME_S[name]
    script = "trap 'echo tidied > tidied; exit 0' TERM; while :; do sleep 0.1; done"
    job_id = await scheduler.submit(job(tmp_path, script, walltime_s=walltime_s))
    began = await running(scheduler, job_id)
    assert began.started_at is not None
    assert began.ends_at == pytest.approx(began.started_at + walltime_s, abs=1)
    if slurm is not None:
        slurm.run("scontrol", "update", f"jobid={job_id}", "endtime=now+1seconds")
    view = await until(scheduler, job_id, lambda v: v.state is JobState.ENDED, 90)
    assert view.end_reason is EndReason.WALLTIME
    assert view.started_at is not None
    assert view.ended_at is not None
    assert slurm is not None or view.ended_at - view.started_at > 0.9 * walltime_s
    assert (tmp_path / "tidied").exists()


async def test_nothing_of_a_job_is_left(
    scheduler: Scheduler, slurm: SingleSlurm | None, tmp_path: Path
) -> None:
    """Neither background children, nor those with a session of their own, nor scratch."""
    if slurm is not None and not slurm.cgroups:
        pytest.skip("Slurm without control groups finds no children that left their parent.")
    script = "mkdir sb-1.scratch; sleep 3217 & setsid sleep 3217 & (setsid -f sleep 3217); exit 0"
    job_id = await scheduler.submit(job(tmp_path, script))
    await ended(scheduler, job_id)
    listing = subprocess.run(["ps", "-axwwo", "args="], capture_output=True, text=True, check=True)
    assert "sleep 3217" not in listing.stdout
    if slurm is None:  # Slurm leaves node-local folders to the job and the site
        assert not (tmp_path / "sb-1.scratch").exists()


async def test_a_job_that_cannot_be_started_ends_with_a_reason(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    spec = job(tmp_path, "")
    broken = JobSpec(**{**fields_of(spec), "argv": (str(tmp_path / "missing"),)})
    view = await ended(scheduler, await scheduler.submit(broken))
    assert view.end_reason is EndReason.FAILED_TO_START
    assert "could not be started" in view.reason


async def test_another_process_sees_and_controls_the_same_jobs(
    name: str, options: dict[str, Any], scheduler: Scheduler, tmp_path: Path
) -> None:
    """Submitted by a process that is then killed: the job goes on."""
    program = f"""
import asyncio, os, signal, sys
from pathlib import Path
from tests.contract.test_schedulers import job, make_scheduler
folder = Path({str(tmp_path)!r})
scheduler = make_scheduler({name!r}, {options!r}, folder)
spec = job(folder, "sleep 1; touch done", job_name="sb-another")
print(asyncio.run(scheduler.submit(spec)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    job_id = done.stdout.strip()
    assert await scheduler.find("sb-another") == job_id
    view = await ended(scheduler, job_id)
    assert view.end_reason is EndReason.FINISHED
    assert (tmp_path / "done").exists()


async def test_a_job_is_found_by_its_name_and_forgotten_after_its_end(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    assert await scheduler.find("sb-2") is None
    job_id = await scheduler.submit(job(tmp_path, "sleep 60", job_name="sb-2"))
    assert await scheduler.find("sb-2") == job_id
    await scheduler.forget(key(job_id, "sb-2"))  # never ends a job
    assert job_id in await scheduler.query()
    await scheduler.cancel(key(job_id, "sb-2"))
    await ended(scheduler, job_id)
    await scheduler.forget(key(job_id, "sb-2"))
    await scheduler.forget(key(job_id, "sb-2"))
    assert job_id not in await scheduler.query()


@pytest.mark.parametrize("differs", ["name", "submit time", "number"])
async def test_a_job_is_not_taken_for_another_of_its_number(
    scheduler: Scheduler, tmp_path: Path, differs: str
) -> None:
    """A scheduler that lost its state numbers anew: the number then belongs to another job."""
    job_id = await scheduler.submit(job(tmp_path, "sleep 60", job_name="sb-a"))
    mine = (await running(scheduler, job_id)).key
    assert mine.submitted_at is not None
    other = {
        "name": replace(mine, name="sb-b"),
        "submit time": replace(mine, submitted_at=mine.submitted_at + 1),
        "number": replace(mine, id=str(int(job_id) + 1)),
    }[differs]
    assert (await scheduler.recall([other, mine]))[other] == gone(other)
    assert not scheduler.vouches(other, "127.0.0.1", 9)
    await scheduler.cancel(other)
    view = (await scheduler.recall([mine]))[mine]
    assert (view.state, view.key) == (JobState.RUNNING, mine)
    await scheduler.cancel(key(job_id, "sb-a"))  # a record of an older gate has no time
    view = await ended(scheduler, job_id)
    assert view.end_reason is EndReason.STOPPED
    await scheduler.forget(other)
    assert job_id in await scheduler.query()
    assert (await scheduler.recall([mine]))[mine].end_reason is EndReason.STOPPED


async def test_unknown_jobs_are_no_error(scheduler: Scheduler) -> None:
    assert await scheduler.recall([UNKNOWN]) == {UNKNOWN: gone(UNKNOWN)}
    await scheduler.cancel(UNKNOWN)
    await scheduler.forget(UNKNOWN)
    assert await scheduler.find("nobody") is None


async def test_an_endpoint_is_vouched_for_only_where_the_job_listens(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    listen = (
        "import socket, time; s = socket.create_server(('127.0.0.1', 0));"
        "open('port.new', 'w').write(str(s.getsockname()[1]));"
        "import os; os.rename('port.new', 'port'); time.sleep(60)"
    )
    job_id = await scheduler.submit(job(tmp_path, f'exec "{sys.executable}" -c "{listen}"'))
    while not (tmp_path / "port").exists():
        await asyncio.sleep(0.02)
    port = int((tmp_path / "port").read_text())
    await running(scheduler, job_id)
    assert scheduler.vouches(key(job_id), "127.0.0.1", port)
    assert not scheduler.vouches(key(job_id), "192.0.2.1", port)
    assert not scheduler.vouches(UNKNOWN, "127.0.0.1", port)
    await scheduler.cancel(key(job_id))
    await ended(scheduler, job_id)
    assert not scheduler.vouches(key(job_id), "127.0.0.1", port)


async def test_whom_a_job_is_for_and_when_it_starts_is_known(
    scheduler: Scheduler, slurm: SingleSlurm | None, tmp_path: Path
) -> None:
    if slurm is None:
        pytest.skip("Nobody but its user sees the jobs of scheduler `local`.")
    first = await scheduler.submit(job(tmp_path, "sleep 60", job_name="one"))
    began = await running(scheduler, first)
    spec = JobSpec(**{**fields_of(job(tmp_path, "exit 0", job_name="two")), "comment": "for ada"})
    second = await scheduler.submit(spec)
    assert slurm.run("squeue", "-h", "-j", second, "-O", "Comment:40").strip() == "for ada"
    view = await until(scheduler, second, lambda v: v.starts_at is not None)
    assert began.ends_at is not None
    assert view.starts_at == pytest.approx(began.ends_at, abs=30)


# --- local: what only it promises -----------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> Scheduler:
    return make_scheduler("local", {"slots": 1}, tmp_path)


async def test_local_vouches_for_no_other_process(local: Scheduler, tmp_path: Path) -> None:
    import socket

    job_id = await local.submit(job(tmp_path, "sleep 60"))
    await running(local, job_id)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not local.vouches(key(job_id), "127.0.0.1", server.getsockname()[1])
    await local.cancel(key(job_id))
    await ended(local, job_id)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs PR_SET_PDEATHSIG")
async def test_local_job_whose_runner_is_killed_is_lost_and_leaves_nothing(
    local: Scheduler, tmp_path: Path
) -> None:
    job_id = await local.submit(job(tmp_path, "exec sleep 4321"))
    await running(local, job_id)
    folder = tmp_path / "local" / "jobs" / job_id
    runner = local_runner.identity(folder / "runner.json")
    assert runner is not None
    assert runner.signal(signal.SIGKILL)
    view = await ended(local, job_id)
    assert view.end_reason is EndReason.LOST
    listing = subprocess.run(["ps", "-axwwo", "args="], capture_output=True, text=True, check=True)
    assert "sleep 4321" not in listing.stdout


async def test_local_never_signals_a_process_that_took_over_a_pid(
    local: Scheduler, tmp_path: Path
) -> None:
    """The recorded pid now belongs to somebody else: another start time."""
    job_id = await local.submit(job(tmp_path, "exit 0"))
    await ended(local, job_id)
    folder = tmp_path / "local" / "jobs" / job_id
    (folder / "end.json").unlink()
    with subprocess.Popen(["sleep", "60"]) as bystander:
        for file in ("runner.json", "state.json"):
            data = json.loads((folder / file).read_text())
            (folder / file).write_text(json.dumps({**data, "pid": bystander.pid}))
        await local.cancel(key(job_id))
        await asyncio.sleep(0.3)
        assert bystander.poll() is None
        bystander.kill()
    with contextlib.suppress(OSError):
        (folder / "cancel").unlink()


async def test_local_says_when_it_cannot_start_anything(tmp_path: Path) -> None:
    (tmp_path / "local").write_text("a file where the folder should be")
    broken = make_scheduler("local", {}, tmp_path)
    with pytest.raises((Unavailable, OSError)):
        await broken.submit(job(tmp_path, "exit 0"))


def fields_of(spec: JobSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in JobSpec.__dataclass_fields__}
