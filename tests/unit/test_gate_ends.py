"""Why a job ended, when the gate, the scheduler and the session script each know something."""

from __future__ import annotations

import pytest

from lib.gate.records import Record
from lib.gate.refresh import _why
from lib.jobs.ports import JobView
from lib.model import EndReason, JobState
from lib.protocol import JobKind

_ON_THE_CLUSTER = "It was cancelled on the cluster."


def record(*, cancelled: bool = False, walltime_s: int = 600) -> Record:
    made = Record(
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
