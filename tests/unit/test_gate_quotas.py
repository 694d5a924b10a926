"""Caps over all jobs of a gate: each is reached, and one more is refused."""

from __future__ import annotations

import copy
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lib.errors import InvalidInput, Refused
from lib.gate.job_record import JobRecord
from lib.gate.policy import Policy, parse
from lib.gate.quotas import check_quotas, gpu_hours
from lib.gate.validate_submit import ValidatedSubmit
from lib.model import JobState
from lib.protocol.messages import JobKind, SubmitRequest
from tests.unit.test_gate_policy import GOOD

NOW = time.time()
HOUR, DAY = 3600.0, 86_400.0


def policy(home: Path, users: list[str] | None = None, **limits: int) -> Policy:
    data = copy.deepcopy(GOOD)
    data["limits"] = {"max_live": 10, **limits}
    data["users"] = ["*"] if users is None else users
    data["presets"].append({**data["presets"][0], "name": "gpu", "gpus": 2})
    return parse(data, home)


def job(owner: str = "ada", *, gpus: int = 0, **changes: Any) -> JobRecord:
    values: dict[str, Any] = {
        "id": str(uuid.uuid4()), "kind": JobKind.RUN, "owner": owner, "module": "active-fire",
        "module_version": "1.0.0", "title": "", "name": "", "preset": "", "walltime_s": 3600,
        "scenes": [], "submitted_at": NOW, "gpus": gpus, **changes,
    }  # fmt: skip
    return JobRecord(**values)


def ended(start: float, end: float, gpus: int = 2) -> JobRecord:
    return job(gpus=gpus, state=JobState.ENDED, started_at=start, ended_at=end)


def ask(rules: Policy, records: list[JobRecord], preset: str = "small", owner: str = "ada") -> None:
    allowed = rules.preset(preset)
    module = rules.modules[0]
    assert allowed is not None
    item: Mapping[str, Any] = {"id": "S1"}
    request = SubmitRequest(
        str(uuid.uuid4()), JobKind.RUN, owner, module.id, module.version, {}, [dict(item)],
        preset, 3600,
    )  # fmt: skip
    check_quotas(request, ValidatedSubmit(module, allowed, (item,), (), ()), rules, records)


def test_only_named_people_submit(tmp_path: Path) -> None:
    ask(policy(tmp_path, ["ada"]), [])
    ask(policy(tmp_path, ["*"]), [], owner="bob")
    for users in (["ada"], [], ["ADA", "bobby", "b*"]):
        with pytest.raises(Refused, match="does not take jobs from you"):
            ask(policy(tmp_path, users), [], owner="bob")


def test_a_policy_without_users_takes_jobs_from_nobody(tmp_path: Path) -> None:
    data = copy.deepcopy(GOOD)
    del data["users"]
    with pytest.raises(Refused, match="does not take jobs from you"):
        ask(parse(data, tmp_path), [])


def test_one_person_takes_no_more_than_their_share(tmp_path: Path) -> None:
    rules = policy(tmp_path, max_live_per_user=2)
    ask(rules, [job(), job("bob"), job("bob"), ended(NOW, NOW)])
    with pytest.raises(Refused, match="2 of your jobs are live"):
        ask(rules, [job(), job()])
    ask(rules, [job(), job()], owner="bob")
    assert policy(tmp_path).limits.max_live_per_user == 10


def test_gpus_are_counted_together(tmp_path: Path) -> None:
    rules = policy(tmp_path, max_gpus=4)
    ask(rules, [job("bob", gpus=2), ended(NOW, NOW)], "gpu")
    with pytest.raises(Refused, match="3 GPUs of this cluster are taken and this job wants 2"):
        ask(rules, [job("bob", gpus=3)], "gpu")
    ask(rules, [job("bob", gpus=4)], "small")
    with pytest.raises(Refused, match="allows 0 together"):
        ask(policy(tmp_path, max_gpus=0), [], "gpu")


def test_gpu_hours_of_thirty_days_are_counted(tmp_path: Path) -> None:
    rules = policy(tmp_path, max_gpu_hours=10)
    ask(rules, [ended(NOW - 5 * HOUR, NOW - HOUR)], "gpu")  # 8, and 2 more
    with pytest.raises(Refused, match=r"2\.0 GPU hours, and 9\.0 of the 10"):
        ask(rules, [ended(NOW - 5 * HOUR, NOW - 0.5 * HOUR)], "gpu")
    ask(rules, [ended(NOW - 40 * DAY, NOW - 31 * DAY)], "gpu")
    ask(rules, [ended(NOW - 5 * HOUR, NOW)], "small")


def test_what_a_live_job_may_yet_use_counts() -> None:
    waiting = job(gpus=2, walltime_s=7200)
    running = job(gpus=1, walltime_s=7200, started_at=NOW - HOUR, state=JobState.RUNNING)
    never_ran = job(gpus=4, state=JobState.ENDED, ended_at=NOW)
    across = ended(NOW - 31 * DAY, NOW - 30 * DAY + HOUR, gpus=1)
    assert gpu_hours([waiting], NOW) == 4
    assert gpu_hours([running], NOW) == 2
    assert gpu_hours([never_ran], NOW) == 0
    assert gpu_hours([across], NOW) == pytest.approx(1)


def test_of_a_live_job_that_began_before_the_window_only_the_rest_counts() -> None:
    old = job(gpus=2, walltime_s=int(40 * DAY), started_at=NOW - 31 * DAY, state=JobState.RUNNING)
    assert gpu_hours([old], NOW) == 2 * 39 * 24
    at_its_edge = job(
        gpus=2, walltime_s=int(40 * DAY), started_at=NOW - 30 * DAY, state=JobState.RUNNING
    )
    assert gpu_hours([at_its_edge], NOW) == 2 * 40 * 24


@pytest.mark.parametrize(
    "limits", [{"max_gpus": -1}, {"max_gpu_hours": True}, {"max_live_per_user": 1001}]
)
def test_caps_are_read_strictly(tmp_path: Path, limits: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        policy(tmp_path, **limits)


@pytest.mark.parametrize("file", ["STOP", "", "../x"])
def test_stop_files_are_absolute(tmp_path: Path, file: str) -> None:
    with pytest.raises(InvalidInput, match="stop_files"):
        parse({**copy.deepcopy(GOOD), "stop_files": [file]}, tmp_path)
