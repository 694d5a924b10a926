"""What a job's status means for a Session and a Run: values in, changes out."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from lib.model import (
    SESSION_RETURNS,
    EndReason,
    JobState,
    RunState,
    SceneState,
    SessionState,
)
from lib.store.changes import UNSET, RunChange, SessionChange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lib.model import RunScene
    from lib.protocol.messages import JobStatus
    from lib.store.changes import Unset

HANDING_OVER = "The job is being handed to the cluster."
ACCEPTED = "The cluster has accepted the job."
STARTING = "The notebook server is starting."
CONNECTING = "The notebook runs; the connection to it is being made."
READY = "The notebook is ready."
STOPPING = "Stopping."


def sending(n: int, of: int) -> str:
    """While `n` of so many files are on the cluster."""
    return f"Sending the scenes' files to the cluster: {n} of {of} sent."


_ENDINGS = {
    EndReason.FINISHED: "It has finished.",
    EndReason.STOPPED: "It was stopped.",
    EndReason.CANCELLED: "It was cancelled before it started.",
    EndReason.WALLTIME: "Its time was up.",
    EndReason.IDLE: "It was idle for too long and was stopped.",
    EndReason.OUT_OF_MEMORY: "It ran out of memory. Choose larger resources and start again.",
    EndReason.NODE_FAILURE: "The computer that it ran on failed. Start it again.",
    EndReason.PREEMPTED: "The cluster took its place away for a more urgent job. Start it again.",
    EndReason.FAILED_TO_START: "It could not be started.",
    EndReason.REFUSED: "The cluster refused it.",
    EndReason.CRASHED: "It ended with an error.",
    EndReason.LOST: "The cluster does not know it any more.",
}

#: The ends that somebody asked for.
STOPS = (EndReason.STOPPED, EndReason.CANCELLED)


BEGUN_ANEW = "The cluster has begun its job anew."
#: What a scene says that was not finished when its run ended.
UNFINISHED = "This scene was not searched to its end."


def ending(reason: EndReason | None, detail: str = "") -> str:
    """The sentence for a card, with the gate's own words behind it where it has some."""
    sentence = _ENDINGS[reason or EndReason.FINISHED]
    return f"{sentence} {detail}" if detail and detail != sentence else sentence


def session_change(status: JobStatus, *, connected: bool) -> SessionChange:
    """What changes of a Session after the gate said `status`.

    It never becomes READY by this: `lib.reconciler.connections` proves that and says it.

    Args:
        connected: its forward is proved in this process.
    """
    change = SessionChange(
        job=status.job,
        starts_at=None,
        started_at=_known(status.started_at),
        endpoint_at=_known(status.endpoint_at),
        ends_at=status.ends_at,
    )
    if status.state is JobState.ENDED:
        return replace(
            change,
            state=SessionState.ENDED,
            end_reason=status.end_reason or EndReason.FINISHED,
            reason=ending(status.end_reason, status.reason),
            ended_at=status.ended_at or time.time(),
            files_until=status.keep_until,
        )
    if status.state in (JobState.QUEUED, JobState.HELD):
        return replace(
            change,
            state=SessionState.QUEUED,
            reason=status.reason or ACCEPTED,
            starts_at=status.starts_at,
        )
    if status.state in (JobState.RUNNING, JobState.SUSPENDED):
        return replace(
            change,
            state=UNSET if connected else SessionState.STARTING,
            reason=status.reason or _running_reason(status, connected),
        )
    if status.state is JobState.UNKNOWN and status.reason:
        change = replace(change, reason=status.reason)
    return change


def _known(time_s: float | None) -> float | Unset:
    """What the gate does not know (yet) is left as it is."""
    return UNSET if time_s is None else time_s


def _running_reason(status: JobStatus, connected: bool) -> str:
    if connected:
        return READY
    return CONNECTING if status.endpoint is not None else STARTING


def run_change(status: JobStatus) -> RunChange:
    """What changes of a Run that has a job of its own, while the job lives."""
    change = RunChange(job=status.job, started_at=_known(status.started_at))
    if status.state in (JobState.QUEUED, JobState.HELD):
        return replace(change, state=RunState.QUEUED, reason=status.reason or ACCEPTED)
    if status.state in (JobState.RUNNING, JobState.SUSPENDED):
        return replace(change, state=RunState.RUNNING, reason=status.reason)
    if status.state is JobState.UNKNOWN and status.reason:
        return replace(change, reason=status.reason)
    return change


def went_back(state: SessionState, status: JobStatus) -> SessionState | None:
    """Where a session is now that was further, or that was lost; None where it stays.

    Its job was begun anew, on another node or later, or it has turned up. What a gate says comes
    in order, so that this is no late news.
    """
    if status.state in (JobState.QUEUED, JobState.HELD):
        now = SessionState.QUEUED
    elif status.state not in (JobState.RUNNING, JobState.SUSPENDED):
        return None
    elif state is SessionState.ENDED or status.endpoint is None:
        now = SessionState.STARTING
    else:
        return None
    return now if now in SESSION_RETURNS.get(state, frozenset()) else None


def has_ended(status: JobStatus | None) -> bool:
    """Whether the module that this job carries is over (its notebook may go on)."""
    if status is None:
        return False
    return status.state is JobState.ENDED or status.module_exit_code is not None


def run_ending(
    scenes: Sequence[RunScene], status: JobStatus | None, *, stopped: bool = False
) -> str:
    """Why not every scene of a Run was searched: the best of what is known.

    Args:
        stopped: somebody stopped it: what the module said while it was ended is not why.
    """
    messages = {s.message for s in scenes if s.state is SceneState.FAILED and s.message}
    if all(s.state in (SceneState.DONE, SceneState.FAILED) for s in scenes):
        return messages.pop() if len(messages) == 1 else ""
    if stopped:
        by_gate = status is not None and status.end_reason in STOPS
        return ending(EndReason.STOPPED, status.reason if status and by_gate else "")
    if status is None:
        return ""
    if status.module_message:
        return status.module_message
    if status.state is JobState.ENDED and status.end_reason is not EndReason.FINISHED:
        return ending(status.end_reason, status.reason)
    return "The module ended before it was through."


def unfinished(scene: RunScene, *, stopped: bool) -> tuple[SceneState, str]:
    """(state, message) of a scene that was not finished when its Run ended."""
    if stopped and scene.state is SceneState.WAITING:
        return SceneState.WAITING, "This scene was not searched."
    return SceneState.FAILED, UNFINISHED


def conclusion(
    scenes: Sequence[RunScene], *, stopped: bool, detail: str = ""
) -> tuple[RunState, str]:
    """How a Run ended, once nothing more will come.

    Args:
        scenes: as they were found, those that were not finished too.
        stopped: somebody stopped it; that counts where scenes were not finished.
        detail: what `run_ending` says, for the reason.
    """
    done = sum(s.state is SceneState.DONE for s in scenes)
    failed = sum(s.state is SceneState.FAILED for s in scenes)
    if done == len(scenes):
        return RunState.DONE, ""
    if stopped and done + failed < len(scenes):
        kept = f" The results of {_scenes(done)} are kept." if done else ""
        return RunState.CANCELLED, f"{detail or ending(EndReason.STOPPED)}{kept}"
    if done:
        lost = f"{_scenes(len(scenes) - done)} could not be searched. {detail}"
        return RunState.PARTIAL, lost.rstrip()
    return RunState.FAILED, detail or "No scene could be searched."


def _scenes(count: int) -> str:
    return "1 scene" if count == 1 else f"{count} scenes"
