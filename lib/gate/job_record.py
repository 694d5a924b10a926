"""The job record, `control/record.json`: what the gate remembers of each job."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from lib.errors import InvalidInput
from lib.files import tree
from lib.files.atomic import read_json, text_of, write_atomic
from lib.jobs import control_files
from lib.jobs.interfaces import JobKey
from lib.model import Endpoint, EndReason, JobState
from lib.model.bounds import (
    Count,
    ExitCode,
    MomentOrNever,
    Name,
    Port,
    Seconds,
    Sentence,
    UpTo,
)
from lib.protocol.codec import encode, from_plain
from lib.protocol.messages import ID_PATTERN, MAX_ITEMS, EventCount, JobKind, JobStatus

RECORD = "record.json"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class JobRecord:
    """One job. Written before the job is submitted, so a crash loses nothing.

    Args:
        name: the job's name at the scheduler, with a nonce; finds it again after a crash.
        job: the scheduler's id; "" until it is known. It counts only together with `name`
            and `job_submitted_at`, the scheduler's own time of its submit: see `key`.
        restarts: how often the scheduler has begun it anew.
        idle_at: when its notebook is ended for want of use, once that is near.
        tries: how often it was submitted.
        tried_until: Unix time until when a submit may have been under way.
        scenes: ids of the submitted scenes.
        preset: name of the resources; `gpus` that it brings.
        code: folder name of the gate's version that submitted it, and that it runs from.
        cancelled: somebody asked for the end; `cancel_text` is why, if it was the gate.
        host, port: the endpoint once it was reported and vouched for; fixed from then on,
            until the job is begun anew.
        files_in, out: when another session continued this one, where its files are now
            (session id) and what its `out` folder is called there.
    """

    id: Name
    kind: JobKind
    owner: Name
    module: Name
    module_version: Name
    title: Sentence
    name: Name
    preset: Name
    walltime_s: Seconds
    scenes: Annotated[list[Name], UpTo(MAX_ITEMS)]
    submitted_at: MomentOrNever
    gpus: Count = 0
    code: Name = ""
    job: Name = ""
    state: JobState = JobState.QUEUED
    reason: Sentence = ""
    end_reason: EndReason | None = None
    exit_code: ExitCode | None = None
    started_at: MomentOrNever | None = None
    endpoint_at: MomentOrNever | None = None
    ends_at: MomentOrNever | None = None
    ended_at: MomentOrNever | None = None
    keep_until: MomentOrNever | None = None
    events: EventCount = 0
    events_note: Sentence = ""
    module_exit_code: ExitCode | None = None
    module_message: Sentence = ""
    cancelled: bool = False
    cancel_text: Sentence = ""
    host: Name = ""
    port: Port = 0
    files_in: Name = ""
    out: Name = "out"
    continued_as: Name = ""
    starts_at: MomentOrNever | None = None
    tries: Count = 0
    tried_until: MomentOrNever = 0.0
    job_submitted_at: MomentOrNever | None = None
    restarts: Count = 0
    idle_at: MomentOrNever | None = None

    @property
    def live(self) -> bool:
        """True until the job has ended."""
        return self.state is not JobState.ENDED

    @property
    def key(self) -> JobKey:
        """Which of the scheduler's jobs this is; records of older gates lack the time."""
        return JobKey(self.job, self.name, self.job_submitted_at)

    def may_turn_up(self, now: float) -> bool:
        """Whether it was lost, and may still run all the same."""
        lost = not self.live and self.end_reason is EndReason.LOST and bool(self.job)
        return lost and now < (self.ended_at or 0.0) + self.walltime_s


@dataclass(frozen=True, slots=True)
class SessionFolders:
    """Where a gate keeps its sessions."""

    state_dir: Path

    @property
    def sessions(self) -> Path:
        """The folder of all sessions."""
        return self.state_dir / "sessions"

    @property
    def images(self) -> Path:
        """The folder of fetched images."""
        return self.state_dir / "images"

    @property
    def removed(self) -> Path:
        """What was thrown away and is not removed yet (`lib.gate.clean_up`)."""
        return self.state_dir / "removed"

    def session(self, job_id: str) -> Path:
        """One session's folder. The id was checked by whoever calls."""
        if ID_PATTERN.fullmatch(job_id) is None:
            raise InvalidInput("That is not the id of a job.")
        return self.sessions / job_id

    def control(self, job_id: str) -> Path:
        """The half that is never shown to a container."""
        return self.session(job_id) / "control"

    def work(self, record: JobRecord) -> Path:
        """The half that the job writes, wherever it has moved."""
        return self.session(record.files_in or record.id) / "work"

    def save(self, record: JobRecord) -> None:
        """Write a record, whole."""
        write_atomic(self.control(record.id) / RECORD, encode(record))

    def load(self) -> Iterator[JobRecord]:
        """All records. One that cannot be read is left out, and its files stay."""
        for folder in sorted(self.sessions.iterdir()):
            try:
                data = read_json(folder / "control" / RECORD)
                record = None if data is None else from_plain(JobRecord, data)
            except (OSError, ValueError, RecursionError, InvalidInput):
                _log.exception("job %s: its record cannot be read; it is left out", folder.name)
                continue
            if record is not None:
                yield record

    def throw_away(self, path: Path, *, folder: int | None = None) -> None:
        """Take something out of sight at once, however large; what is not there is no fault.

        Args:
            folder: the open folder that it is in, where that may be swapped meanwhile.
        Raises:
            OSError: it cannot be moved.
        """
        self.removed.mkdir(mode=0o700, exist_ok=True)
        with contextlib.ExitStack() as stack:
            if folder is None:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                folder = os.open(path.parent, flags)
                stack.callback(os.close, folder)
            with contextlib.suppress(FileNotFoundError):
                tree.move(path.name, self.removed / secrets.token_hex(8), folder=folder)

    def endpoint(self, record: JobRecord) -> Endpoint:
        """The secrets that open this job's notebook."""
        control = self.control(record.id)
        return Endpoint(
            name=f"s-{record.id}",
            token=text_of(control / control_files.TOKEN),
            server_cert=text_of(control / control_files.SERVER_CERT),
            client_cert=text_of(control / control_files.CLIENT_CERT),
            client_key=text_of(control / control_files.CLIENT_KEY),
        )


@dataclass(slots=True)
class TrackedJob:
    """A record with what is only in memory.

    Args:
        endpoint: the secrets of its notebook.
        unsaved: the disk was full when it changed last.
    """

    record: JobRecord
    endpoint: Endpoint | None = field(default=None, repr=False)
    unsaved: bool = False

    def status(self) -> JobStatus:
        """As the portal sees it."""
        r = self.record
        reasons = [r.reason, r.events_note if r.reason != r.events_note else ""]
        return JobStatus(
            id=r.id,
            kind=r.kind,
            job=r.job,
            state=r.state,
            owner=r.owner,
            reason=" ".join(text for text in reasons if text),
            end_reason=r.end_reason,
            exit_code=r.exit_code,
            submitted_at=r.submitted_at,
            started_at=r.started_at,
            endpoint_at=r.endpoint_at,
            ends_at=r.ends_at,
            ended_at=r.ended_at,
            keep_until=r.keep_until,
            events=r.events,
            endpoint=self.endpoint if r.live and r.port else None,
            module_exit_code=r.module_exit_code,
            module_message=r.module_message,
            starts_at=r.starts_at,
            idle_at=r.idle_at if r.live else None,
        )
