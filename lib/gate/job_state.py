"""Refresh the state of one job: the scheduler's view, the endpoint, the module's events."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import cast

from lib.errors import NotFound, Refused
from lib.gate.audit import Audit
from lib.gate.event_reader import EventReader
from lib.gate.job_record import JobRecord, TrackedJob
from lib.gate.job_table import JobTable
from lib.gate.policy import Policy
from lib.gate.safe_open import open_file
from lib.jobs import control_files
from lib.jobs.interfaces import JobView, Scheduler
from lib.model import EndReason, JobState, JsonObject, JsonValue
from lib.model.bounds import EARLIEST, LATEST
from lib.protocol.messages import JobKind

_MAX_REPORT_BYTES = 64 * 1024
#: Slurm without cgroups kills a job that is too large and says why in the job's own log alone
#: (measured with 22.05 and OverMemoryKill: FAILED, signal 9).
_TOO_LARGE = re.compile(rb"slurmstepd.*exceeded (?:job )?memory limit")
_NOT_LISTED = (
    "The cluster's scheduler does not list the job any more, and does not say what became of "
    "it. It counts as running until that is known."
)
#: A job that the scheduler says for so long that it has not is over: it is asked again meanwhile.
_CERTAIN_S = 10.0
_TOO_LARGE_TEXT = "It used more memory than it was given."
_MAX_LOG_BYTES = 2**30
_STARTS_AT_STEP_S = 30.0
#: A job whose time is over lasts no less than this below what it was given.
_CUT_S = 60.0
#: All that can change in a record, as one tuple: cheap to compare at every poll.
_VARIABLE = attrgetter(*(f.name for f in fields(JobRecord)))
#: End reasons that the scheduler knows better than the session script.
_SCHEDULER_KNOWS = frozenset(
    {
        EndReason.WALLTIME,
        EndReason.CANCELLED,
        EndReason.OUT_OF_MEMORY,
        EndReason.NODE_FAILURE,
        EndReason.PREEMPTED,
        EndReason.FAILED_TO_START,
    }
)


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of live jobs, without the table's lock.

    Args:
        reports: what the session script said of a module that is over, by job.
        whole: the jobs whose events were then read to the end.
    """

    reports: Mapping[str, JsonObject]
    whole: frozenset[str]


class RecordUpdater:
    """Reads what the script and the module wrote. All methods block on files.

    `refresh` and `take_endpoint` change records: call them with the table's lock held. `look`
    takes as long as reading takes: call it without.

    Args:
        clock: by which the scheduler is given time to list a job again, seconds.
    """

    def __init__(
        self,
        table: JobTable,
        policy: Policy,
        scheduler: Scheduler,
        audit: Audit,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._table = table
        self._folders = table.folders
        self._policy = policy
        self._scheduler = scheduler
        self._audit = audit
        self.events = EventReader(table.folders, table.loops)
        self._missing_since: dict[str, float] = {}
        self._over: dict[str, JobView] = {}
        self._distrusted: set[str] = set()
        self._idle_seen: dict[str, tuple[int, int]] = {}

    def look(self) -> Look:
        """Read the modules' events for a while; what they told before their ends comes first."""
        live = [record for record in self._table.records() if record.live]
        reports = {}
        for record in live:
            with self._table.loops.item(record.id):
                if record.module_exit_code is not None:
                    continue
                report = self._report(record, control_files.MODULE)
                if report is not None:
                    reports[record.id] = report
        return Look(reports, self.events.read(live))

    def refresh(
        self,
        tracked: TrackedJob,
        views: Mapping[str, JobView] | None,
        look: Look,
        recalled: JobView | None = None,
    ) -> bool:
        """Update a live record, save it if it changed. Returns whether it did.

        The end of a job or its module waits until all that it told before was read.

        Args:
            views: what the scheduler said; None when it could not be asked, and then
                nothing ends.
            look: is newer than that.
            recalled: what the scheduler said of this job alone, which it did not list.
        """
        record = tracked.record
        before = _VARIABLE(record)
        view = self._view(record, views, recalled)
        anew = view is not None and view.restarts > record.restarts
        if view is not None and anew:
            self._begin_anew(record, view)
        if record.kind is JobKind.SESSION and not record.port and record.job:
            self._take_endpoint(tracked)
        if record.port:
            self._take_idle(record)
        whole = record.id in look.whole
        self._take_events(record)
        report = None if anew else look.reports.get(record.id)
        if report is not None and whole:
            record.module_exit_code = _whole(report.get("exit_code"))
            message = _text(report.get("message", ""))
            record.module_message = message or self.events.log(record).trouble
        if view is not None and view.state is JobState.ENDED and not whole:
            self._over[record.id] = view
        elif view is not None:
            self._take_view(record, view)
        return self._save_if_changed(tracked, before)

    def take_back(
        self,
        tracked: TrackedJob,
        views: Mapping[str, JobView] | None,
        look: Look,
        recalled: JobView | None = None,
    ) -> bool:
        """A job that was lost, and is there after all, goes on. Returns whether this is one.

        Not where another session has taken its files over: then it is ended.
        """
        record = tracked.record
        view = (views or {}).get(record.job)
        if view is None or not view.is_of(record.key):
            view = recalled
        gone = view is None or view.state in (JobState.ENDED, JobState.UNKNOWN)
        if gone or record.continued_as or not record.may_turn_up(time.time()):
            return False
        record.state, record.reason = JobState.UNKNOWN, ""
        record.end_reason = record.exit_code = record.ended_at = record.keep_until = None
        self._missing_since.pop(record.id, None)
        self._audit.write("taken-back", session=record.id, owner=record.owner, job=record.job)
        return self.refresh(tracked, views, look, recalled)

    def take_endpoint(self, tracked: TrackedJob) -> bool:
        """Look for the endpoint of a live session only. Returns whether it was taken."""
        before = _VARIABLE(tracked.record)
        if tracked.record.live and not tracked.record.port:
            self._take_endpoint(tracked)
        return self._save_if_changed(tracked, before)

    def _save_if_changed(self, tracked: TrackedJob, before: tuple[object, ...]) -> bool:
        if _VARIABLE(tracked.record) == before and not tracked.unsaved:
            return False
        self._table.save_changed(tracked)
        return True

    def _view(
        self, record: JobRecord, views: Mapping[str, JobView] | None, recalled: JobView | None
    ) -> JobView | None:
        """The scheduler's view of this very job.

        One that it does not list is over when it says so of that job alone; one that is not
        there any more, after some patience. Until then nothing is known.
        """
        if views is None or not record.job:
            return None
        view = self._over.get(record.id) or views.get(record.job)
        if view is None or not view.is_of(record.key):
            view = recalled
        lost = view is not None and view.end_reason is EndReason.LOST
        if view is not None and (not lost or view is not recalled):
            self._missing_since.pop(record.id, None)
            return view
        since = self._missing_since.get(record.id)
        if since is None:  # that answer may be older than the job
            self._missing_since[record.id] = self._clock()
            return None
        patience_s = self._scheduler.gone_after_s
        if view is not None:  # it is certain
            patience_s = min(patience_s, _CERTAIN_S)
        if self._clock() - since < patience_s:
            return None
        return view or JobView(record.job, record.name, JobState.UNKNOWN, reason=_NOT_LISTED)

    def _begin_anew(self, record: JobRecord, view: JobView) -> None:
        """Its scheduler has begun it anew (requeued): what the run before said counts no more."""
        record.restarts = view.restarts
        record.host, record.port = "", 0
        record.started_at = record.ends_at = record.endpoint_at = None
        record.module_exit_code, record.module_message = None, ""
        record.idle_at = None
        self._over.pop(record.id, None)
        self._distrusted.discard(record.id)
        self._audit.write(
            "begun-anew", session=record.id, owner=record.owner, restarts=view.restarts
        )

    def _take_view(self, record: JobRecord, view: JobView) -> None:
        record.job_submitted_at = view.submitted_at or record.job_submitted_at
        record.started_at = view.started_at or record.started_at
        record.ends_at = view.ends_at or record.ends_at
        if not _close(record.starts_at, view.starts_at):
            record.starts_at = view.starts_at
        if view.state is JobState.ENDED:
            self._end(record, view)
            return
        record.state, record.reason = view.state, view.reason
        if view.state is JobState.RUNNING and record.cancelled:
            record.reason = record.cancel_text or "Stopping."

    def _end(self, record: JobRecord, view: JobView) -> None:
        report = self._report(record, control_files.EXIT) or {}
        record.state = JobState.ENDED
        record.exit_code = view.exit_code
        record.end_reason, record.reason = _why(record, view, report)
        failed = view.end_reason in (EndReason.CRASHED, EndReason.FAILED_TO_START)
        if failed and not record.cancelled and self._was_too_large(record):
            record.end_reason, record.reason = EndReason.OUT_OF_MEMORY, _TOO_LARGE_TEXT
        record.ended_at = view.ended_at or time.time()
        record.keep_until = record.ended_at + self._policy.limits.keep_s
        record.host, record.port = "", 0
        self._over.pop(record.id, None)
        self._audit.write(
            "ended", session=record.id, owner=record.owner, reason=record.end_reason.value
        )

    def _was_too_large(self, record: JobRecord) -> bool:
        """By the end of the job's log, which the scheduler and the session script write."""
        log = (control_files.JOB_LOG,)
        try:
            file = open_file(self._folders.control(record.id), log, max_bytes=_MAX_LOG_BYTES)
        except (NotFound, Refused):
            return False
        try:
            begin = max(0, file.size - _MAX_REPORT_BYTES)
            return _TOO_LARGE.search(os.pread(file.fd, _MAX_REPORT_BYTES, begin)) is not None
        finally:
            os.close(file.fd)

    def _take_endpoint(self, tracked: TrackedJob) -> None:
        """Once in each run of the job; whatever is written there later counts for nothing."""
        record = tracked.record
        report = self._report(record, control_files.ENDPOINT)
        if report is None:
            return
        host, port = report.get("host"), _whole(report.get("port"))
        if not isinstance(host, str) or port is None or not 0 < port < 65536:
            return
        vouched = self._scheduler.vouches(record.key, host, port)
        if vouched is None:
            return
        if not vouched:
            if record.id not in self._distrusted:
                self._distrusted.add(record.id)
                self._audit.refused("endpoint", session=record.id, host=host, port=port)
            return
        record.host, record.port = host, port
        said = report.get("time")
        now = time.time()
        if not isinstance(said, float) or not record.submitted_at <= said <= now:
            said = now  # not plausible
        record.endpoint_at = said
        tracked.endpoint = tracked.endpoint or self._folders.endpoint(record)

    def _take_idle(self, record: JobRecord) -> None:
        """When the session script says that nobody works in its notebook; read where it is new."""
        try:
            info = os.lstat(self._folders.control(record.id) / control_files.IDLE)
        except OSError:
            return
        mark = (info.st_ino, info.st_mtime_ns)
        if self._idle_seen.get(record.id) == mark:
            return
        self._idle_seen[record.id] = mark
        said = (self._report(record, control_files.IDLE) or {}).get("idle_at")
        plausible = isinstance(said, (int, float)) and EARLIEST <= said <= LATEST
        record.idle_at = float(cast(float, said)) if plausible else None

    def _take_events(self, record: JobRecord) -> None:
        log = self.events.log(record)
        record.events, record.events_note = len(log), log.note()

    def _report(self, record: JobRecord, name: str) -> JsonObject | None:
        """A small JSON object of the session script, of the run that runs."""
        control: Path = self._folders.control(record.id)
        if not (control / name).exists():  # quick; nearly always so
            return None
        try:
            file = open_file(control, (name,), max_bytes=_MAX_REPORT_BYTES)
        except (NotFound, Refused):
            return None
        try:
            found: JsonValue = json.loads(os.pread(file.fd, _MAX_REPORT_BYTES, 0))
            written = os.fstat(file.fd).st_mtime
        except (ValueError, RecursionError):
            return None
        finally:
            os.close(file.fd)
        if not isinstance(found, dict):
            return None
        said = found.get("restarts")
        if said is None and record.restarts:
            # A script that an older gate started does not say it: by when it was written.
            begun = record.started_at
            return found if begun is not None and written >= begun else None
        return found if (said or 0) == record.restarts else None


def _why(record: JobRecord, view: JobView, report: Mapping[str, object]) -> tuple[EndReason, str]:
    """The end reason and its sentence, from whoever knows best."""
    said = _text(report.get("reason", ""))
    if view.end_reason in _SCHEDULER_KNOWS and view.end_reason is not None:
        text = view.reason
        if view.end_reason is EndReason.WALLTIME:
            text = _time_over(record, view)
        elif view.end_reason is EndReason.CANCELLED and record.cancelled:
            text = record.cancel_text
        return view.end_reason, text
    if record.cancelled:
        return EndReason.STOPPED, record.cancel_text
    if view.end_reason is EndReason.STOPPED and view.reason:
        return EndReason.STOPPED, view.reason  # the script knows only that it was told to end
    try:
        return EndReason(report.get("end_reason")), said
    except ValueError:
        return view.end_reason or EndReason.LOST, view.reason


def _time_over(record: JobRecord, view: JobView) -> str:
    given = _minutes(record.walltime_s)
    if view.started_at is None or view.ended_at is None:
        return f"Its time of {given} was over."
    lasted = view.ended_at - view.started_at
    if lasted > record.walltime_s - _CUT_S:
        return f"Its time of {given} was over."
    return (
        f"Its time was cut on the cluster, by its operators or with its account: it was over "
        f"after {_minutes(lasted)} of {given}."
    )


def _minutes(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{minutes} minute{'s' * (minutes != 1)}"


def _close(one: float | None, other: float | None) -> bool:
    """Estimates that slide by seconds are not worth a message each."""
    if one is None or other is None:
        return one is other
    return abs(one - other) < _STARTS_AT_STEP_S


def _whole(value: object) -> int | None:
    """None also for what no process ends with: the portal would take none of the status."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if -(2**31) <= value < 2**32 else None


def _text(value: object) -> str:
    """A text of a report, which UTF-8 can write."""
    return str(value)[:1000].encode("utf-8", "replace").decode()
