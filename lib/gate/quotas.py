"""Quotas: who may submit and how much, with the jobs that there are.

Asked under the lock of `Jobs.submit`, so two submits cannot both take the last place.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from lib.errors import Refused
from lib.gate.job_record import JobRecord
from lib.gate.policy import Policy
from lib.gate.validate_submit import ValidatedSubmit
from lib.protocol.messages import SubmitRequest

EVERYBODY = "*"
_HOUR_S = 3600.0
_WINDOW_S = 30 * 86_400.0


def check_quotas(
    request: SubmitRequest, validated: ValidatedSubmit, policy: Policy, records: Iterable[JobRecord]
) -> None:
    """Raise `Refused` when the policy leaves no room for this job.

    Args:
        records: every job that the gate still remembers.
    """
    _check_user(request.owner, policy.users)
    limits, known = policy.limits, list(records)
    live = [record for record in known if record.live]
    own = sum(record.owner == request.owner for record in live)
    if own >= limits.max_live_per_user:
        raise Refused(
            f"{own} of your jobs are live on this cluster, which is all that it allows one "
            "person; stop one or wait until one has ended."
        )
    wanted = validated.preset.preset.gpus
    if not wanted:
        return
    busy = sum(record.gpus for record in live)
    if busy + wanted > limits.max_gpus:
        raise Refused(
            f"{busy} GPUs of this cluster are taken and this job wants {wanted}, but it allows "
            f"{limits.max_gpus} together; take resources without, or wait until a job has ended."
        )
    hours = gpu_hours(known, time.time())
    asked = wanted * request.walltime_s / _HOUR_S
    if hours + asked > limits.max_gpu_hours:
        raise Refused(
            f"This job may take {asked:.1f} GPU hours, and {hours:.1f} of the "
            f"{limits.max_gpu_hours} of 30 days are used or promised on this cluster; "
            "take less time, or ask its administrator."
        )


def gpu_hours(records: Iterable[JobRecord], now: float) -> float:
    """GPU hours of the last 30 days: what ended jobs used, and what live ones may yet use."""
    return sum(r.gpus * _seconds(r, now) for r in records) / _HOUR_S


def _seconds(record: JobRecord, now: float) -> float:
    since = now - _WINDOW_S
    if record.live:
        return record.walltime_s - max(0.0, since - (record.started_at or now))
    if record.started_at is None or record.ended_at is None:
        return 0.0
    return max(0.0, record.ended_at - max(record.started_at, since))


def _check_user(owner: str, users: tuple[str, ...]) -> None:
    if EVERYBODY in users or owner in users:
        return
    raise Refused(
        "This cluster does not take jobs from you; its administrator can add you to users in "
        "the gate's policy."
    )
