"""The two interfaces of a cluster: who schedules jobs, and what they run in.

`tests/contract/` holds one suite per interface; every implementation passes all of it.
A scheduler of a site (Slurm, Grid Engine, PBS) is a command line to run, a parser of
its output and a table of its states; what a parser does not know is `UNKNOWN`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lib.model import EndReason, Isolation, JobState, QueueLoad

#: In a job's environment, where its scheduler has begun it anew: `JobView.restarts`.
RESTARTS = "SCENEBRIDGE_RESTARTS"


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job to schedule.

    Args:
        name: unique over all jobs, holds the session's id and a nonce.
        argv: the command, trusted; nothing in it comes from a user.
        env: the job's whole environment.
        folder: working directory of the command, on every node.
        output: file for stdout and stderr of the command.
        scratch: node-local folder that the command makes for itself; a scheduler
            removes it after the job where it can.
        flags: the site's own options for the preset.
        comment: whom the job is for and of which session, for the site's own books;
            printable ASCII.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    folder: Path
    output: Path
    scratch: Path
    walltime_s: int
    cores: int
    memory_mb: int
    gpus: int = 0
    flags: tuple[str, ...] = ()
    comment: str = ""


@dataclass(frozen=True, slots=True)
class JobKey:
    """Which job is meant: a number alone is given anew by a controller that lost its state.

    Args:
        id: the scheduler's.
        name: `JobSpec.name`, with its nonce.
        submitted_at: when the scheduler took it (Unix seconds), as it says itself; None while
            it has not said so.
    """

    id: str
    name: str
    submitted_at: float | None = None


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as the scheduler sees it. Times are Unix seconds.

    `reason` is a plain sentence; `end_reason` and `exit_code` may be None for an
    ended job where the scheduler does not know. `starts_at` is the scheduler's own
    estimate for a waiting job. `node` is the name of the node that the job was given,
    "" while it has none. `submitted_at` is None where the scheduler does not say it.
    `restarts` is how often it was begun anew, with the same id and name; the job finds it in
    its environment (`RESTARTS`).
    """

    id: str
    name: str
    state: JobState
    reason: str = ""
    end_reason: EndReason | None = None
    exit_code: int | None = None
    started_at: float | None = None
    ends_at: float | None = None
    ended_at: float | None = None
    starts_at: float | None = None
    node: str = ""
    submitted_at: float | None = None
    restarts: int = 0

    @property
    def key(self) -> JobKey:
        """Which job this is."""
        return JobKey(self.id, self.name, self.submitted_at)

    def is_of(self, job: JobKey) -> bool:
        """Whether this is that job, and not another one under its number.

        A job that is begun anew counts as submitted later (Slurm's requeue), never earlier.
        """
        if (self.id, self.name) != (job.id, job.name):
            return False
        if self.submitted_at is None or job.submitted_at is None:
            return True
        return self.submitted_at >= job.submitted_at


class Scheduler(Protocol):
    """Obligations of every scheduler.

    Whatever is asked of one job is asked with its `JobKey`, and is neither done to nor told of
    another job that has its number.

    Jobs outlive the process that submitted them, and any later process with the same
    gate folder sees and controls them. No method keeps the event loop busy. Every
    wait has a timeout. `Unavailable` means "could not ask", and never that a job is over.
    """

    @property
    def poll_s(self) -> float:
        """How often `query` may be asked while jobs live, seconds."""
        ...

    @property
    def gone_after_s(self) -> float:
        """How long a job may be missing from `query` before it is doubted, seconds."""
        ...

    @property
    def submit_timeout_s(self) -> float:
        """The longest that one `submit` may be under way, even when its caller dies."""
        ...

    async def submit(self, job: JobSpec) -> str:
        """Hand the job over; answers with the scheduler's id for it.

        Not idempotent: after `Unavailable` the job may exist; look with `find`.

        Raises:
            Refused: the scheduler does not take such a job; it does not exist.
            Unavailable: no clear answer.
        """
        ...

    async def query(self) -> Mapping[str, JobView]:
        """All jobs of this gate that the scheduler knows, by id; one question for all.

        Read-only, may be repeated. Ended jobs stay until `forget`, or as long as the
        scheduler remembers them.

        Raises:
            Unavailable: could not ask.
        """
        ...

    async def recall(self, jobs: Sequence[JobKey]) -> Mapping[JobKey, JobView]:
        """What became of jobs that `query` does not list; each is asked for by itself.

        A job that certainly is not there any more, and nothing is known of its end, is ENDED
        and LOST. One of which nothing is certain is not in the answer.

        Raises:
            Unavailable: could not ask.
        """
        ...

    async def find(self, name: str, tried_until: float | None = None) -> str | None:
        """The id of the job of that name, or None when it certainly does not exist.

        Args:
            tried_until: Unix time until when a `submit` of that name that gave no answer
                may have been under way; None if there was none.
        Raises:
            Unavailable: could not ask, or the scheduler may still take the job from that
                submit: ask again.
        """
        ...

    async def cancel(self, job: JobKey) -> None:
        """Ask the job to end: TERM, some grace, then KILL of everything it started.

        Idempotent; returns before the job has ended; an unknown or ended job is no error.

        Raises:
            Unavailable: could not ask.
        """
        ...

    async def forget(self, job: JobKey) -> None:
        """The gate holds what it needs of an ended job. Idempotent; never ends a job."""
        ...

    async def load(self) -> Sequence[QueueLoad]:
        """How busy its queues are; empty where it does not tell.

        Raises:
            Unavailable: could not ask.
        """
        ...

    def endpoint_host(self) -> str:
        """What a job binds its endpoint to: an address, or "" for its node's own name."""
        ...

    def vouches(self, job: JobKey, host: str, port: int) -> bool | None:
        """Whether this endpoint lies on the node that the scheduler gave this job.

        Where it can be known, also whether the job itself listens there. None while the
        scheduler has not said yet which node that is: ask again after the next `query`.
        Quick.
        """
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """Something to run inside the runtime with that runtime's Python.

    Args:
        args: what follows `python` on the command line; names paths as `Runtime.inside`
            gives them. No secrets: command lines are public on a node.
        env: what the task needs beside the runtime's own environment; may hold secrets.
        work: the session's work folder, writable.
        private: the node-local folder, writable.
        readable: folders and files that the task may read.
        gpus: how many the job was given; 0 keeps them out of the container.
        image: the module's container image on this cluster; None for a runtime without.
    """

    args: tuple[str, ...]
    env: Mapping[str, str]
    work: Path
    private: Path
    readable: tuple[Path, ...] = ()
    gpus: int = 0
    image: Path | None = None


@dataclass(frozen=True, slots=True)
class Invocation:
    """What to execute outside the container, exactly.

    Args:
        watched: the program does not notice by itself that its parent died.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    watched: bool = False


class Runtime(Protocol):
    """Obligations of every runtime.

    Pure: turns a task into a command line and starts nothing. `Invocation.env` is
    complete (nothing is inherited); `Invocation.cwd` never lies below `work`. When the
    process of `Invocation.argv` gets TERM, the task gets it; when that process is gone
    and its process group was killed, nothing of the task is left.
    """

    @property
    def isolation(self) -> Isolation:
        """How far a task is kept from the account."""
        ...

    @property
    def needs_image(self) -> bool:
        """Whether `Task.image` must be there."""
        ...

    @property
    def opened(self) -> tuple[Path, ...]:
        """Folders and files of the site that every task sees, beside its own."""
        ...

    def data_problem(self, path: Path) -> str:
        """Why tasks could not see data at this path; "" when they can."""
        ...

    def inside(self, task_path: Path, *, work: Path, private: Path) -> Path:
        """Where the task sees a path that lies in `work` or `private`."""
        ...

    def invocation(self, task: Task) -> Invocation:
        """The command line for a task."""
        ...

    def fetch(self, reference: str, target: Path, scratch: Path) -> Invocation:
        """The command that fetches an image from a registry into a file, on the login node.

        Raises:
            InvalidInput: this runtime takes no images.
        """
        ...

    def problem(self) -> str:
        """Why this runtime cannot work on this computer, one sentence; "" when it can."""
        ...
