"""Slurm's command lines and the batch script. Pure; tried with Slurm 22.05.

Machine-readable text instead of `--json`: in 22.05 that ignores filters and prints
everyone's jobs, and its types differ between versions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.jobs.interfaces import RESTARTS, JobSpec

_ENV = "/usr/bin/env"
_TIMEOUT = "/usr/bin/timeout"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAMED = re.compile(r"\$([A-Z_][A-Z0-9_]*)")
#: What Slurm tells a job about itself; never taken from the gate's own environment.
_FROM_SLURM = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "SLURM_JOB_ID")

#: Fields of `squeue -O` and `sinfo -O` with widths that cut nothing; a job's name stands
#: last, because it may hold the separator.
JOB_FIELDS = (
    ("JobID", 20),
    ("State", 24),
    ("BatchHost", 256),
    ("StartTime", 32),
    ("EndTime", 32),
    ("Reason", 256),
    ("exit_code", 16),
    ("SubmitTime", 32),
    ("RestartCnt", 12),
    ("PreemptTime", 32),
    ("Name", 512),
)
NODE_FIELDS = (
    ("NodeHost", 256),
    ("PartitionName", 128),
    ("StateLong", 32),
    ("CPUsState", 40),
    ("Gres", 1024),
    ("GresUsed", 1024),
    ("Time", 24),
)
SEPARATOR = "|"
_SACCT_FIELDS = "JobIDRaw,State,ExitCode,Start,End,NodeList,Submit,JobName"


def environment(conf: str) -> dict[str, str]:
    """The whole environment of Slurm's programs.

    Nothing of the gate's own, where SLURM_* and SBATCH_* would change what they do.
    Times are printed in UTC; a name of a time zone would need its database.
    """
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC0", "SLURM_TIME_FORMAT": "standard"}
    return {**env, "SLURM_CONF": conf} if conf else env


def sbatch(bin_folder: Path, job: JobSpec, *, timeout_s: int) -> tuple[str, ...]:
    """Submit the script on stdin.

    `--export=ALL` exports the clean `environment` and nothing else. `NONE`, and `NIL`
    before 23.02, make slurmd run the user's login shell to find variables (measured with
    22.05.8: SLURM_GET_USER_ENV=1 and ~/.profile was read).

    `timeout` ends sbatch even when the gate is gone, so that it is known until when an
    unanswered submit may have been under way.
    """
    return (
        *(_TIMEOUT, "--kill-after=1", str(timeout_s)),
        str(bin_folder / "sbatch"),
        *("--parsable", "--no-requeue", "--export=ALL"),
        f"--job-name={job.name}",
        f"--comment={job.comment}",
        f"--chdir={job.folder}",
        f"--output={_pattern(job.output)}",
        *("--open-mode=append", "--nodes=1", "--ntasks=1"),
        f"--time={max(1, math.ceil(job.walltime_s / 60))}",
        f"--cpus-per-task={job.cores}",
        f"--mem={job.memory_mb}M",
        *([f"--gres=gpu:{job.gpus}"] if job.gpus else []),
        *job.flags,
    )


def script(job: JobSpec) -> bytes:
    """The batch script: the job's environment, and `exec` of its command.

    `exec` makes the command the batch step itself, so that the TERM of scancel and of the
    time limit reaches it. `env -i` drops whatever a site's prolog or a user's profile set, but
    for what the policy's `scratch` names.
    """
    names = (*_FROM_SLURM, *_NAMED.findall(str(job.scratch)))
    told = {**{name: name for name in names}, RESTARTS: "SLURM_RESTART_COUNT"}
    kept = [f'${{{theirs}+"{ours}=${theirs}"}}' for ours, theirs in told.items()]
    given = [quoted(f"{name}={value}") for name, value in _passed_on(job.env).items()]
    command = [quoted(word) for word in job.argv]
    if "=" in job.argv[0]:  # env would take it for one more variable
        command = ["/bin/sh", "-c", quoted('exec "$@"'), "sh", *command]
    words = " ".join([_ENV, "-i", *kept, *given, *command])
    return f"#!/bin/sh\nexec {words}\n".encode()


def quoted(word: str) -> str:
    """One word of a POSIX shell script, whatever it holds (a NUL cannot be passed on)."""
    return "'" + word.replace("\0", "").replace("'", "'\\''") + "'"


def squeue(bin_folder: Path, uid: int) -> tuple[str, ...]:
    """All jobs of an account that the controller remembers, ended ones too."""
    fields = _fields(JOB_FIELDS)
    return (str(bin_folder / "squeue"), "-h", f"--user={uid}", "-t", "all", "-O", fields)


def scancel(bin_folder: Path, job_id: str) -> tuple[str, ...]:
    """End a job: TERM to all of it, the batch step too, and KILL after KillWait."""
    return (str(bin_folder / "scancel"), job_id)


def sacct(bin_folder: Path, uid: int, job_ids: Sequence[str]) -> tuple[str, ...]:
    """What accounting knows of an account's jobs; needs no time range: the ids are given."""
    flags = ("-n", "-P", "-X", "-o", _SACCT_FIELDS)
    return (str(bin_folder / "sacct"), *flags, f"--uid={uid}", "-j", ",".join(job_ids))


def show_job(bin_folder: Path, job_id: str) -> tuple[str, ...]:
    """One job in the controller's memory."""
    return (str(bin_folder / "scontrol"), "-o", "show", "job", job_id)


def show_node(bin_folder: Path, node: str) -> tuple[str, ...]:
    """One node; its NodeAddr is where Slurm itself reaches it."""
    return (str(bin_folder / "scontrol"), "-o", "show", "node", node)


def sinfo(bin_folder: Path) -> tuple[str, ...]:
    """One line per node and partition."""
    return (str(bin_folder / "sinfo"), "-h", "-N", "-O", _fields(NODE_FIELDS))


def waiting(bin_folder: Path) -> tuple[str, ...]:
    """The partitions of all waiting jobs, one line per job."""
    return (str(bin_folder / "squeue"), "-h", "-t", "PENDING", "-o", "%P")


def _fields(fields: Sequence[tuple[str, int]]) -> str:
    return ",".join(f"{name}:{width}{SEPARATOR}" for name, width in fields)


def _passed_on(env: Mapping[str, str]) -> dict[str, str]:
    """Without what Slurm decides, and without names that no shell could hold either."""
    return {
        name: value
        for name, value in env.items()
        if name not in _FROM_SLURM and _VARIABLE.fullmatch(name)
    }


def _pattern(path: Path) -> str:
    """Slurm replaces %j and the like in the name of an output file."""
    return str(path).replace("%", "%%")
