"""Why a job waits, in plain words. From `man squeue` of 22.05, 23.11 and 24.11."""

from __future__ import annotations

import re

#: Reasons that only a person can lift.
HELD = {
    "JobHeldUser": "The job is held; whoever holds it can release it with scontrol.",
    "JobHeldAdmin": "The job is held by the cluster's administrators.",
    "JobHoldMaxRequeue": "The job is held because it failed to start too often.",
    "launch_failed_requeued_held": "The job is held because it failed to start.",
    "job_requeued_in_held_state": "The job is held.",
    "ReservationDeleted": "The job is held because its reservation was deleted.",
    "user_env_retrieval_failed_requeued_held": (
        "The job is held because its account's environment could not be had."
    ),
}
_HELD = {name.replace("_", " "): text for name, text in HELD.items()}

_NEVER = "asks for more {} than the queue allows and will never start; stop it and ask for less."
_REASONS = {
    "": "Waiting to be scheduled.",
    "None": "Waiting to be scheduled.",
    "Priority": "Waiting for free nodes; other jobs come first (priority).",
    "Resources": "Waiting for free nodes.",
    "Cleaning": "Waiting until an earlier run of the job is cleaned up.",
    "BeginTime": "Waiting until its earliest start time.",
    "Dependency": "Waiting for another job that it depends on.",
    "DependencyNeverSatisfied": "It depends on a job that failed, and will never start; stop it.",
    "Licenses": "Waiting for a free licence.",
    "NodeDown": "A node that it needs is down.",
    "Prolog": "The node is being prepared.",
    "Reservation": "Waiting for its reservation to begin.",
    "FrontEndDown": "The cluster's front end is down.",
    "SchedDefer": "Waiting until the scheduler has time for it.",
    "PartitionDown": "The queue is down; the cluster's administrators can mend that.",
    "PartitionInactive": "The queue takes no jobs now.",
    "PartitionTimeLimit": f"It {_NEVER.format('time')}",
    "PartitionNodeLimit": f"It {_NEVER.format('nodes')}",
    "PartitionConfig": "The queue does not offer what the job asks for; it will never start.",
    "AccountNotAllowed": "The queue does not allow this account; the job will never start.",
    "BadConstraints": "No node of the cluster has what the job asks for; it will never start.",
    "InvalidAccount": "The account is not valid (any more).",
    "InvalidQOS": "The quality of service is not valid (any more).",
    "MaxMemPerLimit": f"It {_NEVER.format('memory')}",
    "JobArrayTaskLimit": "Waiting until other jobs of its array end.",
    "BurstBufferResources": "Waiting for space in the burst buffer.",
    "BurstBufferStageIn": "Its data is being copied to the burst buffer.",
    "ReqNodeNotAvail": "A node that it needs is not available now (down, drained or reserved).",
    "Reserved for maintenance": "Waiting: the nodes are reserved for maintenance.",
    "Maintenance": "Waiting: the nodes are reserved for maintenance.",
    "QOSNotAllowed": "The queue does not allow this quality of service; it will never start.",
    "QOSUsageThreshold": "The quality of service asks for more remaining quota than there is.",
    "QOSTimeLimit": "The quality of service has used up its time.",
}
#: How sentences of Slurm's own begin (captured from 22.05.8), which squeue prints with blanks and
#: scontrol with underscores; what follows names queues, accounts or nodes.
_SENTENCES = {
    "Nodes required for job are DOWN, DRAINED or reserved": (
        "The nodes that it needs are down, drained, or reserved for more urgent jobs."
    ),
    "Job's account not": "The queue does not take jobs of this account; it will never start{}.",
    "Job's QOS not": "The queue does not allow this quality of service; it will never start{}.",
    "User's group not": "The queue is for other groups of users; it will never start{}.",
}
#: Limits of an association or quality of service: their names are made of parts, whose
#: spelling differs (QOSMaxCpuPerUserLimit, AssocGrpCPUMinutesLimit, QOSGrpGRES).
_LIMIT = re.compile(
    r"(?P<whose>QOS|Assoc)(?P<scope>Grp|Max|Min)"
    r"(?P<what>CPURunMin|CPUMin|CPU|GRESRunMin|GRESMin|GRES|MemRunMin|MemMin|Mem|Job|Submit|"
    r"Node|Wall|Billing|BB|Energy|License)"
    r"(?P<per>.*PerJob)?",
    re.IGNORECASE,
)
_WHAT = {
    "job": "jobs at once",
    "submit": "jobs waiting and running",
    "cpu": "cores",
    "gres": "GPUs or other devices",
    "mem": "memory",
    "node": "nodes",
    "wall": "time",
    "cpumin": "core time",
    "gresmin": "GPU time",
    "cpurunmin": "core time of running jobs",
    "gresrunmin": "GPU time of running jobs",
    "billing": "compute budget",
    "license": "licences",
}


def is_held(reason: str) -> bool:
    """Whether only a person can lift it."""
    return _plain(reason) in _HELD


def sentence(reason: str) -> str:
    """A sentence about why a job is not running; unknown reasons are shown as they are."""
    word = reason.strip()
    word = word[1:-1].strip() if word.startswith("(") and word.endswith(")") else word
    known = _HELD.get(_plain(word)) or _REASONS.get(word)
    if known is not None:
        return known
    for begin, told in _SENTENCES.items():
        if _plain(word).startswith(begin):
            names = re.search(r"\([^()]*\)\Z", _plain(word))
            return told.format(f" {names[0]}" if names else "")
    head = re.split(r"[,(:]", word, maxsplit=1)[0].strip()
    if "maintenance" in word.lower():
        return f"{_REASONS['Maintenance'][:-1]} ({word})."
    if head == "ReqNodeNotAvail":
        return f"{_REASONS[head][:-1]}: {word[len(head) :].strip(' ,')}."
    limit = _LIMIT.match(word)
    return _limit(limit, word) if limit else f"Waiting; Slurm says: {word}."


def _plain(reason: str) -> str:
    return reason.strip().replace("_", " ")


def _limit(found: re.Match[str], word: str) -> str:
    whose = "quality of service" if found["whose"].upper() == "QOS" else "account"
    kind = found["what"].lower()
    what = _WHAT.get(kind, kind)
    if found["scope"].lower() == "min":
        return f"It asks for less {what} than this {whose} demands and will never start ({word})."
    if found["per"] or (kind == "wall" and found["scope"].lower() == "max"):
        return f"It asks for more {what} than this {whose} allows and will never start ({word})."
    everyone = " and everybody who shares it" if found["scope"].lower() == "grp" else ""
    return f"Waiting: this {whose}{everyone} has reached its limit of {what} ({word})."
