"""What Slurm's programs print, as our words. Pure.

Tested on output captured from 22.05.8 and on the forms that 23.11 and 24.11 document.
What is not known is `UNKNOWN`, never an end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from lib.jobs.interfaces import JobView
from lib.jobs.schedulers.slurm.commands import JOB_FIELDS, NODE_FIELDS, SEPARATOR
from lib.jobs.schedulers.slurm.reasons import is_held, sentence
from lib.model import EndReason, JobState, QueueLoad
from lib.model.bounds import EARLIEST, LATEST

_ID = re.compile(r"[0-9]+")
_SHOWN_HEAD = re.compile(r"\s*JobId=[0-9]+ JobName=(\S+) UserId=[^\s(]*\(([0-9]+)\) ")
_SUBMITTED = re.compile(r"([0-9]+)(;[^\s;]+)?")
_DURATION = re.compile(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)")
_NOTHING = frozenset({"", "n/a", "none", "unknown", "(null)", "none assigned", "invalid"})

STATES = {
    "PENDING": JobState.QUEUED,
    "CONFIGURING": JobState.QUEUED,
    "REQUEUED": JobState.QUEUED,
    "REQUEUE_FED": JobState.QUEUED,
    "POWER_UP_NODE": JobState.QUEUED,
    "REQUEUE_HOLD": JobState.HELD,
    "RESV_DEL_HOLD": JobState.HELD,
    "SPECIAL_EXIT": JobState.HELD,
    "RUNNING": JobState.RUNNING,
    "COMPLETING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SUSPENDED": JobState.SUSPENDED,
    "STOPPED": JobState.SUSPENDED,
}
#: How a job ended, where the state alone says it.
ENDS = {
    "COMPLETED": EndReason.FINISHED,
    "FAILED": EndReason.CRASHED,
    "CANCELLED": EndReason.STOPPED,
    "TIMEOUT": EndReason.WALLTIME,
    "DEADLINE": EndReason.WALLTIME,
    "OUT_OF_MEMORY": EndReason.OUT_OF_MEMORY,
    "NODE_FAIL": EndReason.NODE_FAILURE,
    "PREEMPTED": EndReason.PREEMPTED,
    "BOOT_FAIL": EndReason.FAILED_TO_START,
    "LAUNCH_FAILED": EndReason.FAILED_TO_START,
    "RECONFIG_FAIL": EndReason.FAILED_TO_START,
    "REVOKED": EndReason.CANCELLED,
}
_END_TEXTS = {
    EndReason.STOPPED: "It was cancelled on the cluster, by its operators or with its account.",
    EndReason.OUT_OF_MEMORY: "It used more memory than it was given.",
    EndReason.NODE_FAILURE: "The node that it ran on failed.",
    EndReason.PREEMPTED: "The cluster gave its place to another job.",
}
_PREEMPTED = (
    "The cluster gives its place to a more urgent job, and ends it soon: save what you need now."
)
#: Node states in which idle cores can be had; not so in `maint`, `reserved` or `drained`.
_TAKES_JOBS = frozenset({"idle", "mixed", "allocated", "completing", "planned"})
#: slurmstepd ends a step with this "signal" when it cannot open the output or the folder.
_NO_OUTPUT_SIGNAL = 53


class NotUnderstood(ValueError):
    """The output is not what any known version prints."""


@dataclass(frozen=True, slots=True)
class Raw:
    """One job as Slurm words it. Times are Unix seconds; `node` "" where it has none.

    `preempted`: since when another job is to have its place; it has a time of grace.
    """

    id: str
    name: str
    state: str
    reason: str
    node: str
    start: float | None
    end: float | None
    exit_code: int | None
    submitted: float | None = None
    restarts: int = 0
    preempted: float | None = None


def submitted(output: str) -> str | None:
    """The id in the answer of `sbatch --parsable`; None where there is none."""
    lines = output.split()
    found = _SUBMITTED.fullmatch(lines[-1]) if lines else None
    return found[1] if found else None


def jobs(output: str) -> list[JobView]:
    """The answer of `commands.squeue`.

    A line that is none of ours may be anything (names of jobs may hold line breaks); it is
    left out. Raises `NotUnderstood` when nothing at all can be read.
    """
    lines = [line for line in output.splitlines() if line.strip()]
    found = [raw for raw in map(_job, lines) if raw is not None]
    if lines and not found:
        raise NotUnderstood(lines[0].strip()[:100])
    return [view(raw) for raw in found]


def accounted(output: str) -> list[JobView]:
    """The ended jobs in the answer of `commands.sacct`."""
    views = []
    for line in output.splitlines():
        parts = line.split(SEPARATOR, 7)
        if len(parts) == 8 and _ID.fullmatch(parts[0]):
            job_id, state, code, start, end, node, taken, name = parts
            times = when(start), when(end)
            raw = Raw(job_id, name, _state(state), "", _node(node), *times, exit_code(code))
            views.append(view(replace(raw, submitted=when(taken))))
    return [v for v in views if v.state is JobState.ENDED]


def shown(output: str, uid: int) -> JobView | None:
    """The job in the answer of `commands.show_job`, where it is one of this account.

    `JobView.name` is "" for a job of anybody else, and for one whose name holds blanks: it
    could be made to look like the fields that follow.
    """
    found = fields(output)
    if _ID.fullmatch(found.get("JobId", "")) is None:
        return None
    head = _SHOWN_HEAD.match(output)
    ours = head is not None and int(head[2]) == uid and output.count(" UserId=") == 1
    return view(
        Raw(
            found["JobId"],
            head[1] if head is not None and ours else "",
            _state(found.get("JobState", "")),
            found.get("Reason", ""),
            _node(found.get("BatchHost", "")),
            when(found.get("StartTime", "")),
            when(found.get("EndTime", "")),
            exit_code(found.get("ExitCode", "")),
            when(found.get("SubmitTime", "")),
            _count(found.get("Restarts", "")),
            when(found.get("PreemptTime", "")),
        )
    )


def fields(output: str) -> dict[str, str]:
    """`Key=value` pairs of `scontrol -o`; the first of each key counts."""
    found: dict[str, str] = {}
    for word in output.split():
        key, equals, value = word.partition("=")
        if equals:
            found.setdefault(key, value)
    return found


def view(raw: Raw) -> JobView:
    """A job in our words."""
    end = ENDS.get(raw.state)
    if end is not None:
        return _ended(raw, end)
    state = STATES.get(raw.state, JobState.UNKNOWN)
    if state is JobState.QUEUED and is_held(raw.reason):
        state = JobState.HELD
    waits = state in (JobState.QUEUED, JobState.HELD)
    begun = bool(raw.node) and not waits
    return JobView(
        raw.id,
        raw.name,
        state,
        reason=_reason(raw, state),
        started_at=raw.start if begun else None,
        ends_at=raw.end if begun and raw.state != "COMPLETING" else None,
        starts_at=raw.start if waits else None,
        node=raw.node,
        submitted_at=raw.submitted,
        restarts=raw.restarts,
    )


def load(nodes: str, waiting: str) -> list[QueueLoad]:
    """The answers of `commands.sinfo` and `commands.waiting`, one entry per partition."""
    queues: dict[str, QueueLoad] = {}
    waits: dict[str, int] = {}
    for line in waiting.split():
        for name in line.split(","):
            waits[name] = waits.get(name, 0) + 1
    for line in nodes.splitlines():
        parts = [part.strip() for part in line.split(SEPARATOR)]
        if len(parts) < len(NODE_FIELDS):
            continue
        _, name, state, cores, gres, used, longest = parts[: len(NODE_FIELDS)]
        node = _node_load(name.rstrip("*"), state, cores, gpus(gres), gpus(used))
        so_far = queues.get(node.name)
        node = node if so_far is None else _sum(so_far, node)
        queues[node.name] = replace(
            node, waiting=waits.get(node.name, 0), longest_s=duration_s(longest)
        )
    return list(queues.values())


def gpus(gres: str) -> int:
    """How many GPUs `gpu:2`, `gpu:a100:4(S:0-1),nvme:1` or `gpu:(null):1(IDX:0)` are."""
    total = 0
    plain = re.sub(r"\([^()]*\)", "", gres)
    for item in plain.split(","):
        name, *rest = item.strip().split(":")
        if name == "gpu":
            total += int(rest[-1]) if rest and rest[-1].isdigit() else int(not rest)
    return total


def when(text: str) -> float | None:
    """A time as Slurm prints it under `TZ=UTC0`; None where it gives none that can be."""
    try:
        time = datetime.fromisoformat(text.strip()).replace(tzinfo=timezone.utc).timestamp()
    except (ValueError, OverflowError):
        return None
    return time if EARLIEST <= time <= LATEST else None


def duration_s(text: str) -> int:
    """`1-02:03:04`, `02:03:04`, `10:00` or `30` (minutes), in seconds; 0 for no limit."""
    text = text.strip()
    found = _DURATION.fullmatch(text)
    if found is None:
        return 0
    if ":" not in text:
        return int(found[4]) * 60
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def exit_code(text: str) -> int | None:
    """As a shell would say it, from `7:0`, `0:9`, or the raw status `1792` of squeue."""
    text = text.strip()
    code, colon, number = text.partition(":")
    if not code.isdigit() or (colon and not number.isdigit()):
        return None
    if not colon:
        status = int(code)
        code, number = str(status >> 8), str(status & 0x7F)
    return 128 + int(number) if int(number) else int(code)


def _job(line: str) -> Raw | None:
    parts = [part.strip() for part in line.split(SEPARATOR, len(JOB_FIELDS) - 1)]
    if len(parts) != len(JOB_FIELDS) or _ID.fullmatch(parts[0]) is None:
        return None
    job_id, state, node, start, end, reason, code, taken, restarts, preempted, name = parts
    name = name.removesuffix(SEPARATOR).strip()
    return Raw(
        job_id,
        name,
        _state(state),
        reason,
        _node(node),
        when(start),
        when(end),
        exit_code(code),
        when(taken),
        _count(restarts),
        when(preempted),
    )


def _count(text: str) -> int:
    return int(text) if _ID.fullmatch(text) else 0


def _state(text: str) -> str:
    """Without what may follow: `CANCELLED by 1000`, `CANCELLED+`, `FAILED,REQUEUED`."""
    words = re.split(r"[\s,+]", text.strip(), maxsplit=1)
    return words[0].upper()


def _node(text: str) -> str:
    return "" if text.strip().lower() in _NOTHING else text.strip()


def _reason(raw: Raw, state: JobState) -> str:
    if state is JobState.UNKNOWN:
        return f"Slurm says that the job is {raw.state or 'in no state'}."
    if raw.state == "CONFIGURING":
        return "Its node is being started."
    if raw.state == "COMPLETING":
        return "It is ending."
    if state is JobState.SUSPENDED:
        return "The cluster has suspended it for now."
    if state is JobState.RUNNING:
        # A run before this one may have been preempted.
        now = raw.preempted is not None and raw.preempted >= (raw.start or 0.0)
        return _PREEMPTED if now else ""
    return sentence(raw.reason)


def _ended(raw: Raw, end: EndReason) -> JobView:
    code = raw.exit_code
    text = _END_TEXTS.get(end, "")
    if end is EndReason.STOPPED and not raw.node:
        end = EndReason.CANCELLED
    elif end is EndReason.CRASHED and not raw.node:  # it was refused after it was taken
        end = EndReason.FAILED_TO_START
        text = f"The cluster cannot run it: {sentence(raw.reason)}"
    elif end is EndReason.CRASHED and code in (126, 127):
        end = EndReason.FAILED_TO_START
        text = "The job could not be started: its program is not there, or not for this node."
    elif end is EndReason.CRASHED and code == 128 + _NO_OUTPUT_SIGNAL:
        end = EndReason.FAILED_TO_START
        text = (
            "The job could not be started: its folder cannot be written on the compute node. "
            "It must be on a file system that login and compute nodes share."
        )
    elif end is EndReason.FAILED_TO_START:
        text = f"The job could not be started; Slurm says: {raw.state}."
    return JobView(
        raw.id,
        raw.name,
        JobState.ENDED,
        reason=text,
        end_reason=end,
        exit_code=code if raw.node else None,
        started_at=raw.start if raw.node else None,
        ended_at=raw.end,
        node=raw.node,
        submitted_at=raw.submitted,
        restarts=raw.restarts,
    )


def _node_load(name: str, state: str, cores: str, total: int, used: int) -> QueueLoad:
    """One node's share. `cores` is allocated/idle/other/total, and other cannot be had."""
    parts = [int(part) if part.isdigit() else 0 for part in cores.split("/")]
    allocated, idle = (*parts, 0, 0)[:2]
    word = re.sub(r"[^a-z_].*", "", state.lower())
    there = allocated + idle > 0 and not state.endswith("*")
    free = there and word in _TAKES_JOBS
    return QueueLoad(
        name=name,
        nodes=1,
        nodes_free=int(free and word == "idle"),
        cores=allocated + idle if there else 0,
        cores_free=idle if free else 0,
        gpus=total if there else 0,
        gpus_free=max(0, total - used) if free and idle else 0,
        waiting=0,
    )


def _sum(one: QueueLoad, other: QueueLoad) -> QueueLoad:
    return QueueLoad(
        name=one.name,
        nodes=one.nodes + other.nodes,
        nodes_free=one.nodes_free + other.nodes_free,
        cores=one.cores + other.cores,
        cores_free=one.cores_free + other.cores_free,
        gpus=one.gpus + other.gpus,
        gpus_free=one.gpus_free + other.gpus_free,
        waiting=0,
    )
