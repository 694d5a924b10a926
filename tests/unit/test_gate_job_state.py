"""Why a job ended, when the gate, the scheduler and the session script each know something."""

from __future__ import annotations

import pytest

from lib.gate.job_record import JobRecord
from lib.gate.job_state import _TOO_LARGE, _whole, _why
from lib.jobs.interfaces import JobView
from lib.model import EndReason, JobState
from lib.protocol.messages import JobKind

_ON_THE_CLUSTER = "It was cancelled on the cluster."


def record(*, cancelled: bool = False, walltime_s: int = 600) -> JobRecord:
    made = JobRecord(
        "0f0e0d0c-0b0a-0908-0706-050403020100", JobKind.SESSION, "owner", "m", "1", "t", "sb-x",
        "small", walltime_s, [], 0.0,
    )  # fmt: skip
    made.cancelled, made.cancel_text = cancelled, "It was too large." if cancelled else ""
    return made


@pytest.mark.parametrize(
    ("cancelled", "end", "text"),
    [
        (False, EndReason.STOPPED, _ON_THE_CLUSTER),
        (True, EndReason.STOPPED, "It was too large."),
        (False, EndReason.CANCELLED, _ON_THE_CLUSTER),
        (True, EndReason.CANCELLED, "It was too large."),
    ],
)
def test_who_ended_it(*, cancelled: bool, end: EndReason, text: str) -> None:
    """The script always says that it was told to stop, whoever told it."""
    view = JobView("1", "sb-x", JobState.ENDED, reason=_ON_THE_CLUSTER, end_reason=end)
    report = {"end_reason": "stopped", "reason": "Stopped."}
    assert _why(record(cancelled=cancelled), view, report) == (end, text)


@pytest.mark.parametrize(("walltime_s", "said"), [(60, "1 minute was"), (120, "2 minutes was")])
def test_its_time(walltime_s: int, said: str) -> None:
    view = JobView("1", "sb-x", JobState.ENDED, end_reason=EndReason.WALLTIME)
    assert said in _why(record(walltime_s=walltime_s), view, {})[1]


def test_what_a_script_reports_is_what_the_portal_takes() -> None:
    """In the runtime `process` a job can write its own report."""
    view = JobView("1", "sb-x", JobState.ENDED)
    report = {"end_reason": "crashed", "reason": "\ud800" + "x" * 5000}
    end, text = _why(record(), view, report)
    assert (end, len(text), text[:2]) == (EndReason.CRASHED, 1000, "?x")
    codes = (0, 137, -9, 10**400, -(10**400), 2**40, 1.5, "1", True, None)
    assert [_whole(code) for code in codes] == [0, 137, -9, *[None] * 7]


@pytest.mark.parametrize(
    ("lasted_s", "said"),
    [
        (125.0, "Its time was cut on the cluster, by its operators or with its account: it was "
         "over after 2 minutes of 10 minutes."),
        (600.0, "Its time of 10 minutes was over."),
        (629.0, "Its time of 10 minutes was over."),
    ],
)  # fmt: skip
def test_its_time_was_cut(lasted_s: float, said: str) -> None:
    """With `scontrol update TimeLimit`."""
    end = {"end_reason": EndReason.WALLTIME, "started_at": 50.0, "ended_at": 50.0 + lasted_s}
    view = JobView("1", "sb-x", JobState.ENDED, **end)  # type: ignore[arg-type]
    assert _why(record(), view, {}) == (EndReason.WALLTIME, said)


@pytest.mark.parametrize(
    ("log", "over_disk_quota"),
    [
        (
            b"slurmstepd-n1: error: StepId=12.batch exceeded memory limit (322883584 > 104857600), "
            b"being killed\nslurmstepd-n1: error: *** JOB 12 ON n1 CANCELLED AT ... ***\n",
            True,
        ),
        (b"slurmstepd: error: Exceeded job memory limit\n"
         b"slurmstepd: error: Job 1 exceeded memory limit (2 > 1), being killed\n", True),
        (b"slurmstepd-n1: error: *** JOB 9 ON n1 CANCELLED AT 2026-11-26T02:41:58 ***\n", False),
        (b"MyError: exceeded memory limit\n", False),
    ],
)  # fmt: skip
def test_what_slurm_writes_of_a_job_that_grew_too_large(
    log: bytes, *, over_disk_quota: bool
) -> None:
    assert bool(_TOO_LARGE.search(log)) is over_disk_quota
