"""What only scheduler `slurm` promises, on a real Slurm; the rest is in `test_schedulers`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.errors import Refused, Unavailable
from lib.jobs.interfaces import JobSpec, Scheduler
from lib.jobs.schedulers import make_scheduler
from lib.model import EndReason, JobState
from tests.contract.test_schedulers import ended, fields_of, gone, job, key, running, until
from tests.running import wait_for
from tests.single_slurm import SingleSlurm, missing, single_slurm

#: Of `low`, jobs give way to those of `high`, after a minute of grace.
_QUEUES = """\
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
PartitionName=low Nodes=ALL PriorityTier=1 GraceTime=60 MaxTime=60 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 MaxTime=60 State=UP
PartitionName=accounts Nodes=ALL AllowAccounts=forest MaxTime=60 State=UP
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SingleSlurm]:
    if missing():
        pytest.skip(missing())
    prolog = tmp_path_factory.mktemp("prolog") / "prolog"
    prolog.write_text("#!/bin/sh\necho export SITE_TMP=/local/$SLURM_JOB_ID\n")
    prolog.chmod(0o755)
    with single_slurm(cores=2, conf=f"TaskProlog={prolog}\n{_QUEUES}") as made:
        yield made


@pytest.fixture
def scheduler(slurm: SingleSlurm, tmp_path: Path) -> Scheduler:
    return make_scheduler("slurm", {**slurm.options, "settle_s": 1}, tmp_path)


async def test_slurm_tells_when_a_job_used_too_much_memory(
    scheduler: Scheduler, slurm: SingleSlurm, tmp_path: Path
) -> None:
    if not slurm.cgroups:
        pytest.skip("Slurm limits memory by control groups, which it cannot use here.")
    script = f'exec "{sys.executable}" -c "bytearray(400 << 20)"'
    view = await ended(scheduler, await scheduler.submit(job(tmp_path, script)))
    assert view.end_reason is EndReason.OUT_OF_MEMORY
    assert "memory" in view.reason


async def test_slurm_tells_when_a_node_failed_and_does_not_start_the_job_again(
    scheduler: Scheduler, slurm: SingleSlurm, tmp_path: Path
) -> None:
    job_id = await scheduler.submit(job(tmp_path, "echo began >> began; sleep 60"))
    await running(scheduler, job_id)
    wait_for("the script", (tmp_path / "began").exists)  # Slurm says RUNNING before it runs
    node = slurm.node
    slurm.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        view = await ended(scheduler, job_id)
    finally:
        slurm.run("scontrol", "update", f"nodename={node}", "state=resume")
        slurm.wait_idle()
    assert view.end_reason is EndReason.NODE_FAILURE
    await ended(scheduler, await scheduler.submit(job(tmp_path, "exit 0", job_name="sb-2")))
    assert (await scheduler.query())[job_id].state is JobState.ENDED
    assert (tmp_path / "began").read_text().split() == ["began"]


async def test_slurm_jobs_inherit_neither_the_callers_environment_nor_a_profile(
    scheduler: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    monkeypatch.setenv("SLURM_CONF", "/nowhere")
    monkeypatch.setenv("LEAKED", "yes")
    spec = JobSpec(**{**fields_of(job(tmp_path, "env -0 > env")), "gpus": 1})
    hostile = 'it\'s "x" $(id) `id`\n#SBATCH --time=99\n\\ \t é 漢'
    spec = JobSpec(**{**fields_of(spec), "env": {**spec.env, "HOSTILE": hostile}})
    view = await ended(scheduler, await scheduler.submit(spec))
    assert view.exit_code == 0
    lines = (tmp_path / "env").read_bytes().decode().split("\0")
    found = dict(line.partition("=")[::2] for line in lines if line)
    assert found["HOSTILE"] == hostile
    assert found.pop("CUDA_VISIBLE_DEVICES") == "0"
    assert found.pop("SLURM_JOB_ID") == view.id
    assert found.keys() - {"ROCR_VISIBLE_DEVICES", "PWD", "OLDPWD", "_", "SHLVL"} == spec.env.keys()


async def test_slurm_hands_on_where_the_site_has_scratch(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    spec = JobSpec(**{**fields_of(job(tmp_path, "env > env")), "scratch": Path("$SITE_TMP/sb-1")})
    view = await ended(scheduler, await scheduler.submit(spec))
    assert f"SITE_TMP=/local/{view.id}" in (tmp_path / "env").read_text().splitlines()


async def test_slurm_tells_that_a_job_is_to_give_way_while_it_has_grace(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    def spec(name: str, queue: str) -> JobSpec:
        flags = (f"--partition={queue}", "--exclusive")
        more = {"flags": flags, "walltime_s": 1800}
        return JobSpec(**{**fields_of(job(tmp_path, "sleep 60", job_name=name)), **more})

    low = await scheduler.submit(spec("sb-low", "low"))
    begun = await running(scheduler, low)
    assert begun.reason == ""
    high = await scheduler.submit(spec("sb-high", "high"))
    warned = await until(scheduler, low, lambda v: "more urgent job" in v.reason)
    assert warned.state is JobState.RUNNING
    assert begun.ends_at is not None
    assert warned.ends_at is not None
    assert warned.ends_at < begun.ends_at
    await scheduler.cancel(key(high, "sb-high"))
    await ended(scheduler, high)
    await scheduler.cancel(warned.key)
    await ended(scheduler, low)


async def test_slurm_tells_whom_a_queue_is_for_and_that_nodes_are_drained(
    scheduler: Scheduler, slurm: SingleSlurm, tmp_path: Path
) -> None:
    spec = JobSpec(**{**fields_of(job(tmp_path, "exit 0")), "flags": ("--partition=accounts",)})
    closed = await scheduler.submit(spec)
    told = await until(scheduler, closed, lambda v: "never start" in v.reason)
    assert (told.state, "(accounts allows forest)" in told.reason) == (JobState.QUEUED, True)
    await scheduler.cancel(key(closed))
    slurm.run("scontrol", "update", f"nodename={slurm.node}", "state=drain", "reason=test")
    try:
        waits = await scheduler.submit(job(tmp_path, "exit 0", job_name="sb-2"))
        await until(scheduler, waits, lambda v: "down, drained, or reserved" in v.reason)
    finally:
        slurm.run("scontrol", "update", f"nodename={slurm.node}", "state=resume")
        slurm.wait_idle()
    await ended(scheduler, waits)


async def test_slurm_holds_are_told(
    scheduler: Scheduler, slurm: SingleSlurm, tmp_path: Path
) -> None:
    spec = JobSpec(**{**fields_of(job(tmp_path, "exit 0")), "flags": ("--hold",)})
    job_id = await scheduler.submit(spec)
    held = await until(scheduler, job_id, lambda v: v.state is JobState.HELD)
    assert "held" in held.reason
    slurm.run("scontrol", "release", job_id)
    assert (await ended(scheduler, job_id)).end_reason is EndReason.FINISHED


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--partition=nowhere",), "Invalid partition name"),
        (("--no-such-option",), "unrecognized option"),
        (("--gres=none:1",), "Invalid generic resource"),
        (("--mem=99999999",), "Memory specification can not be satisfied"),
        (("--reservation=none",), "Requested reservation is invalid"),
    ],
)
async def test_slurm_refusals_are_told_in_its_own_words(
    scheduler: Scheduler, tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    spec = JobSpec(**{**fields_of(job(tmp_path, "exit 0")), "flags": flags})
    with pytest.raises(Refused, match=words):
        await scheduler.submit(spec)


async def test_slurm_is_not_certain_of_an_absence_before_it_has_settled(
    scheduler: Scheduler,
) -> None:
    assert await scheduler.find("nobody") is None  # nobody tried to submit it
    with pytest.raises(Unavailable, match="may still take the job"):
        await scheduler.find("nobody", time.time() + 0.5)
    await asyncio.sleep(0.6)
    tried_until = time.time()
    with pytest.raises(Unavailable, match="may still take the job"):
        await scheduler.find("nobody", tried_until)
    await asyncio.sleep(1.1)
    assert await scheduler.find("nobody", tried_until) is None


async def test_slurm_without_its_programs_cannot_be_asked(tmp_path: Path) -> None:
    absent = make_scheduler("slurm", {"bin": str(tmp_path)}, tmp_path)
    for ask in (absent.query(), absent.load(), absent.cancel(key("1")), absent.find("x")):
        with pytest.raises(Unavailable, match="cannot be started"):
            await ask
    with pytest.raises(Refused, match="cannot be started"):  # certain: there is no job
        await absent.submit(job(tmp_path, "exit 0"))


def lines(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


async def test_slurm_tells_a_job_and_us_that_it_was_begun_anew(
    scheduler: Scheduler, slurm: SingleSlurm, tmp_path: Path
) -> None:
    script = 'echo "${SCENEBRIDGE_RESTARTS-none}" >> runs; exec sleep 60'
    spec = JobSpec(**{**fields_of(job(tmp_path, script)), "flags": ("--requeue",)})
    job_id = await scheduler.submit(spec)
    first = await running(scheduler, job_id)
    wait_for("the first run to say so", lambda: lines(tmp_path / "runs"))
    slurm.run("scontrol", "requeue", job_id)
    waits = await until(scheduler, job_id, lambda v: v.state is JobState.QUEUED)
    assert (first.restarts, waits.restarts, waits.is_of(first.key)) == (0, 1, True)
    assert not first.is_of(waits.key)
    # Within the second in which the first run ended, slurmd would refuse the second's credential.
    slurm.run("scontrol", "update", f"jobid={job_id}", "starttime=now+2")
    second = await running(scheduler, job_id)
    wait_for("the second run to say so", lambda: len(lines(tmp_path / "runs")) == 2)
    await scheduler.cancel(first.key)
    await ended(scheduler, job_id)
    assert second.restarts == 1
    assert lines(tmp_path / "runs") == ["none", "1"]


async def test_slurm_that_lost_its_state_gives_a_number_twice(
    scheduler: Scheduler, slurm: SingleSlurm, tmp_path: Path
) -> None:
    slurm.lose_state()
    job_id = await scheduler.submit(job(tmp_path, "sleep 60", job_name="sb-a"))
    first = (await running(scheduler, job_id)).key
    await scheduler.cancel(first)  # slurmd takes no job of a number that it has running
    await ended(scheduler, job_id)
    slurm.lose_state()
    assert await scheduler.submit(job(tmp_path, "sleep 60", job_name="sb-b")) == job_id
    second = (await running(scheduler, job_id)).key
    assert await scheduler.recall([first]) == {first: gone(first)}
    await scheduler.cancel(first)
    assert not scheduler.vouches(first, "127.0.0.1", 4711)
    assert (await scheduler.query())[job_id].state is JobState.RUNNING
    await scheduler.cancel(second)
    assert (await ended(scheduler, job_id)).end_reason is EndReason.STOPPED
    await scheduler.forget(second)
    slurm.lose_state()
    assert await scheduler.submit(job(tmp_path, "sleep 60", job_name="sb-c")) == job_id
    third = (await running(scheduler, job_id)).key  # the number alone was not forgotten
    await scheduler.cancel(third)
    await ended(scheduler, job_id)


async def test_slurm_whose_list_is_empty_still_knows_its_jobs(
    scheduler: Scheduler, slurm: SingleSlurm, tmp_path: Path
) -> None:
    """`squeue` was seen to print nothing, with exit status 0, while the jobs ran on."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("scancel", "scontrol", "sacct"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    (programs / "squeue").write_text("#!/bin/sh\n")
    (programs / "squeue").chmod(0o755)
    blind = make_scheduler("slurm", {**slurm.options, "bin": str(programs)}, tmp_path)
    job_id = await scheduler.submit(job(tmp_path, "sleep 60"))
    mine = (await running(scheduler, job_id)).key
    assert await blind.query() == {}
    assert (await blind.recall([mine]))[mine].state is JobState.RUNNING
    assert blind.vouches(mine, "127.0.0.1", 4711)
    await blind.cancel(mine)
    assert (await ended(scheduler, job_id)).end_reason is EndReason.STOPPED


async def test_slurm_load_counts_what_is_free(
    scheduler: Scheduler, slurm: SingleSlurm, tmp_path: Path
) -> None:
    spec = JobSpec(**{**fields_of(job(tmp_path, "sleep 60")), "gpus": 1})
    job_id = await scheduler.submit(spec)
    await running(scheduler, job_id)
    debug, short, *_ = await scheduler.load()
    assert (debug.name, debug.nodes, debug.nodes_free) == ("debug", 1, 0)
    assert (debug.cores, debug.cores_free, debug.gpus, debug.gpus_free) == (2, 1, 2, 1)
    assert (debug.longest_s, short.longest_s) == (0, 600)
    await scheduler.cancel(key(job_id))
    await ended(scheduler, job_id)
