"""A real gate on a real Slurm, when submits go wrong: never two jobs, and nobody waits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib.jobs.processes import ProcessId
from lib.model import EndReason, JobState
from lib.protocol.messages import InfoRequest, JobKind, JobStatus, SubmitRequest, Verb
from tests.fixtures.gate_site import GateSite, Watching, running_site
from tests.single_slurm import SingleSlurm, missing, single_slurm

pytestmark = pytest.mark.skipif(missing() != "", reason=missing())

SUBMIT_TIMEOUT_S = 4  # several questions to a gate on a busy computer
SETTLE_S = 1
POLL_S = 0.2
_SQUEUE = """#!/bin/sh
echo >> "$(dirname "$0")/asked"
exec /usr/bin/squeue "$@"
"""
_SBATCH = """#!/bin/sh
# Stands in for sbatch. What it does once is the content of the file `mode` beside it.
here=$(dirname "$0")
mode=$(cat "$here/mode" 2>/dev/null)
rm -f "$here/mode"
echo "${mode:-plain}" >> "$here/calls"
date +%s.%N >> "$here/times"
case "$mode" in
  taken-then-hangs) /usr/bin/sbatch "$@" > /dev/null; exec sleep 600 ;;
  taken-then-fails) /usr/bin/sbatch "$@" > /dev/null; echo "sbatch: error: oh" >&2; exit 1 ;;
  hangs-then-gone) exec sleep 600 ;;
  fails) echo "sbatch: error: oh" >&2; exit 1 ;;
  *) exec /usr/bin/sbatch "$@" ;;
esac
"""
_PRESETS = """
[[presets]]
name = "elsewhere"
title = "A queue that does not exist"
cores = 1
memory_mb = 100
max_walltime_s = 3600
flags = ["--partition=nowhere"]
[[presets]]
name = "short"
title = "A queue of ten minutes"
cores = 1
memory_mb = 100
max_walltime_s = 3600
flags = ["--partition=short"]
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[SingleSlurm]:
    with single_slurm(cores=4) as made:
        yield made


class Programs:
    """A folder of Slurm's programs in which sbatch does as it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("scancel", "scontrol", "sinfo", "sacct"):
            (folder / name).symlink_to(f"/usr/bin/{name}")
        for name, script in (("sbatch", _SBATCH), ("squeue", _SQUEUE)):
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)
        self._asked = folder / "asked"
        self._asked.touch()

    def once(self, mode: str) -> None:
        (self.folder / "mode").write_text(mode)

    def calls(self) -> list[str]:
        """What each `sbatch` did."""
        file = self.folder / "calls"
        return file.read_text().split() if file.exists() else []

    def times(self) -> list[float]:
        """When each `sbatch` began, Unix time."""
        return [float(line) for line in (self.folder / "times").read_text().split()]

    def settled(self) -> None:
        """Wait until the gate has asked Slurm for longer than it waits for a late job."""
        until = self._asked.stat().st_size + SETTLE_S / POLL_S + 3
        _until(lambda: self._asked.stat().st_size >= until)


@pytest.fixture(scope="module")
def gate(
    slurm: SingleSlurm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GateSite, Programs]]:
    root = tmp_path_factory.mktemp("site")
    programs = Programs(root / "bin")
    options = [
        'name = "slurm"',
        f'bin = "{programs.folder}"',
        f'conf = "{slurm.conf}"',
        f"poll_s = {POLL_S}",
        "timeout_s = 3",
        f"settle_s = {SETTLE_S}",
        f"submit_timeout_s = {SUBMIT_TIMEOUT_S}",
    ]
    for site in running_site(root, scheduler="\n".join(options), presets=_PRESETS, max_live=50):
        yield site, programs


@pytest.fixture
def programs(gate: tuple[GateSite, Programs]) -> Programs:
    for name in ("calls", "times", "mode"):
        (gate[1].folder / name).unlink(missing_ok=True)
    return gate[1]


@pytest.fixture
def site(gate: tuple[GateSite, Programs], programs: Programs) -> Iterator[GateSite]:
    """The gate; what a test has started is told to end after it."""
    site = gate[0]
    yield site
    with Watching(site) as watching:
        next(watching.messages())
    for status in watching.jobs.values():
        if status.state is not JobState.ENDED:
            site.cancel(status.id)


def jobs_of(slurm: SingleSlurm, session: str) -> list[tuple[str, str]]:
    """Id and state of every job that was ever taken for a session."""
    return [(i, state) for i, state, name in slurm.jobs() if session in name]


def in_background(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def lingering(site: GateSite) -> SubmitRequest:
    return site.request(params={"linger_s": 60})


def tried_until(site: GateSite, request: SubmitRequest) -> float:
    """Until when a submit of it may still reach Slurm, by the gate's record."""
    record = json.loads((site.control(request.id) / "record.json").read_text())
    return float(record["tried_until"])


def has_job(status: JobStatus) -> bool:
    return status.job != ""


def test_a_notebook_becomes_ready_and_leaves_nothing(site: GateSite, slurm: SingleSlurm) -> None:
    status = site.submit(JobKind.SESSION, portal_origin="http://localhost:8501")
    ready = site.ready(status.id)
    assert ready.endpoint is not None
    spec = json.loads((site.control(status.id) / "spec.json").read_text())
    assert spec["host"] == ""
    site.cancel(status.id)
    ended = site.ended(status.id)
    assert ended.end_reason is EndReason.STOPPED
    assert [state for _, state in jobs_of(slurm, status.id)] == ["CANCELLED"]
    listing = subprocess.run(["ps", "-axwwo", "args="], capture_output=True, text=True, check=True)
    assert status.id not in listing.stdout
    assert not Path(spec["scratch"]).exists()


def test_info_tells_the_load(site: GateSite) -> None:
    info, _ = site.ask(Verb.INFO, InfoRequest())
    assert [(q.name, q.nodes, q.cores, q.gpus) for q in info.load] == [
        ("debug", 1, 4, 2),
        ("short", 1, 4, 2),
    ]
    assert info.load_at is not None
    assert info.account == "root"
    assert info.node


def test_a_submit_that_hangs_after_it_was_taken_is_found_and_holds_up_nobody(
    site: GateSite, slurm: SingleSlurm, programs: Programs
) -> None:
    """One that nobody wants any more is cancelled when its job appears."""
    other = site.submit(params={"linger_s": 60})
    site.wait(other.id, lambda s: s.state is JobState.RUNNING)
    programs.once("taken-then-hangs")
    request = lingering(site)
    hanging = in_background(lambda: site.ask(Verb.SUBMIT, request))
    _until(lambda: len(jobs_of(slurm, request.id)) == 1)
    site.cancel(other.id)
    assert site.ended(other.id).end_reason is EndReason.STOPPED
    assert site.wait(request.id, has_job).state is not JobState.ENDED
    assert hanging.is_alive()  # all that while sbatch hung
    again, _ = site.ask(Verb.SUBMIT, request)
    assert not again.created
    programs.once("taken-then-hangs")
    unwanted = lingering(site)
    in_background(lambda: site.ask(Verb.SUBMIT, unwanted))
    _until(lambda: len(jobs_of(slurm, unwanted.id)) == 1)
    site.cancel(unwanted.id)
    assert site.ended(unwanted.id).end_reason in (EndReason.STOPPED, EndReason.CANCELLED)
    hanging.join(timeout=300)
    found = site.wait(request.id, has_job)
    programs.settled()
    assert [job for job, _ in jobs_of(slurm, request.id)] == [found.job]
    assert [state for _, state in jobs_of(slurm, unwanted.id)] == ["CANCELLED"]
    assert programs.calls() == ["plain", "taken-then-hangs", "taken-then-hangs"]


def test_a_submit_that_fails_after_it_was_taken_is_found(
    site: GateSite, slurm: SingleSlurm, programs: Programs
) -> None:
    programs.once("taken-then-fails")
    request = lingering(site)
    site.ask(Verb.SUBMIT, request)
    found = site.wait(request.id, has_job)
    programs.settled()
    assert [job for job, _ in jobs_of(slurm, request.id)] == [found.job]


def test_a_submit_that_came_to_nothing_is_tried_again_after_a_while(
    site: GateSite, slurm: SingleSlurm, programs: Programs
) -> None:
    programs.once("fails")
    request = lingering(site)
    reply, _ = site.ask(Verb.SUBMIT, request)
    assert reply.status.state is JobState.QUEUED
    assert "not known yet" in reply.status.reason
    assert jobs_of(slurm, request.id) == []
    found = site.wait(request.id, has_job)
    first, second = programs.times()
    assert second - first > SETTLE_S
    assert [job for job, _ in jobs_of(slurm, request.id)] == [found.job]
    assert programs.calls() == ["fails", "plain"]


def test_a_gate_killed_during_a_submit_finds_its_job(
    site: GateSite, slurm: SingleSlurm, programs: Programs
) -> None:
    programs.once("taken-then-hangs")
    request = lingering(site)
    in_background(lambda: _try_submit(site, request))
    _until(lambda: len(jobs_of(slurm, request.id)) == 1)
    os.kill(site.process.pid, signal.SIGKILL)
    _until(lambda: not ProcessId(*site.process).alive())
    until = tried_until(site, request)
    site.start()
    found = site.wait(request.id, has_job)
    _until(lambda: time.time() > until)
    programs.settled()
    assert [job for job, _ in jobs_of(slurm, request.id)] == [found.job]


def test_a_gate_killed_during_a_submit_that_came_to_nothing_waits_and_submits_once(
    site: GateSite, slurm: SingleSlurm, programs: Programs
) -> None:
    programs.once("hangs-then-gone")
    request = lingering(site)
    in_background(lambda: _try_submit(site, request))
    _until(lambda: programs.calls() != [])
    os.kill(site.process.pid, signal.SIGKILL)
    _until(lambda: not ProcessId(*site.process).alive())
    until = tried_until(site, request)
    site.start()
    found = site.wait(request.id, has_job)
    assert programs.times()[1] > until
    assert [job for job, _ in jobs_of(slurm, request.id)] == [found.job]
    assert programs.calls() == ["hangs-then-gone", "plain"]


def test_a_silent_controller_ends_nothing_and_gets_the_job_once(
    site: GateSite, slurm: SingleSlurm, programs: Programs
) -> None:
    """It received the submit before it fell silent, or not: at most one job either way."""
    other = site.submit(params={"linger_s": 60})
    site.wait(other.id, lambda s: s.state is JobState.RUNNING)
    slurm.signal("slurmctld", signal.SIGSTOP)
    try:
        request = lingering(site)
        reply, _ = site.ask(Verb.SUBMIT, request)
        assert reply.status.job == ""
        with Watching(site) as watching:
            said = next(m for m in watching.messages() if not m.asked_ok)
        assert "does not answer" in said.reason
        assert site.status(other.id).state is JobState.RUNNING
        assert site.status(request.id).state is JobState.QUEUED
    finally:
        slurm.signal("slurmctld", signal.SIGCONT)
    found = site.wait(request.id, has_job)
    assert site.status(other.id).state is JobState.RUNNING
    programs.settled()
    assert [job for job, _ in jobs_of(slurm, request.id)] == [found.job]


def test_a_controller_that_is_down_gets_the_job_when_it_is_back(
    site: GateSite, slurm: SingleSlurm
) -> None:
    slurm.kill("slurmctld")
    request = lingering(site)
    try:
        reply, _ = site.ask(Verb.SUBMIT, request)
        assert reply.status.state is JobState.QUEUED
    finally:
        slurm.start_controller()  # the job may have the node before anybody sees it idle
    found = site.wait(request.id, has_job)
    assert [job for job, _ in jobs_of(slurm, request.id)] == [found.job]


def test_a_second_job_of_one_name_is_ended_at_once(site: GateSite, slurm: SingleSlurm) -> None:
    status = site.submit(params={"linger_s": 60})
    site.wait(status.id, lambda s: s.state is JobState.RUNNING)
    name = next(name for _, _, name in slurm.jobs() if status.id in name)
    late = slurm.run("sbatch", "--parsable", f"--job-name={name}", "--output=/dev/null",
                     "--wrap=sleep 60").strip()  # fmt: skip
    _until(lambda: dict(jobs_of(slurm, status.id)).get(late) == "CANCELLED")
    assert dict(jobs_of(slurm, status.id))[status.job] == "RUNNING"
    assert site.status(status.id).job == status.job
    assert any(line["event"] == "duplicate" for line in site.audit())


def test_a_queue_that_does_not_exist_is_said_in_slurms_words(site: GateSite) -> None:
    status = site.submit(preset="elsewhere")
    assert (status.state, status.end_reason) == (JobState.ENDED, EndReason.REFUSED)
    assert "Invalid partition name specified" in status.reason


def test_more_time_than_the_queue_allows_is_said_while_it_waits(site: GateSite) -> None:
    status = site.submit(preset="short", walltime_s=1800)
    waiting = site.wait(status.id, lambda s: "never start" in s.reason)
    assert waiting.state is JobState.QUEUED
    site.cancel(status.id)
    assert site.ended(status.id).end_reason is EndReason.CANCELLED


def _try_submit(site: GateSite, request: SubmitRequest) -> None:
    try:
        site.ask(Verb.SUBMIT, request)
    except AssertionError:  # the gate was killed before it could answer
        return


def _until(true: Callable[[], bool], timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
