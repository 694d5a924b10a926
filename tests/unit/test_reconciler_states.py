"""What a job's status means for a session and a run, value by value."""

from __future__ import annotations

import time

import pytest

from lib.model import EndReason, JobState, RunScene, RunState, SceneId, SceneState, SessionState
from lib.protocol.messages import JobKind, JobStatus
from lib.reconciler.states import (
    READY,
    conclusion,
    run_change,
    run_ending,
    session_change,
    unfinished,
)
from lib.store.changes import UNSET

DONE, FAILED, WAITING, RUNNING = (
    SceneState.DONE,
    SceneState.FAILED,
    SceneState.WAITING,
    SceneState.RUNNING,
)


def scenes(*states: SceneState) -> list[RunScene]:
    return [RunScene(SceneId(f"S{n}"), state) for n, state in enumerate(states)]


def a_status(state: JobState, **fields: object) -> JobStatus:
    return JobStatus("id", JobKind.SESSION, "17", state, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize(
    ("found", "state", "words"),
    [
        ([DONE, DONE], RunState.DONE, ""),
        ([DONE, FAILED], RunState.PARTIAL, "1 scene could not be searched. why"),
        ([FAILED, FAILED], RunState.FAILED, "why"),
    ],
)
def test_a_run_whose_scenes_are_all_over_was_not_cut_short(
    found: list[SceneState], state: RunState, words: str, stopped: bool
) -> None:
    """Stopping came too late to matter: it ends as it would have ended."""
    assert conclusion(scenes(*found), stopped=stopped, detail="why") == (state, words)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([DONE, WAITING], "It was stopped. The results of 1 scene are kept."),
        ([DONE, DONE, RUNNING], "It was stopped. The results of 2 scenes are kept."),
        ([FAILED, WAITING], "It was stopped."),
        ([WAITING], "It was stopped."),
    ],
)
def test_a_stopped_run_with_unfinished_scenes_was_cut_short(
    found: list[SceneState], words: str
) -> None:
    assert conclusion(scenes(*found), stopped=True) == (RunState.CANCELLED, words)


def test_who_stopped_a_run_is_said_and_not_what_its_module_said_meanwhile() -> None:
    found = scenes(DONE, WAITING)
    told = {"module_message": "Killed by signal 15.", "reason": "The portal was stopped."}
    status = a_status(JobState.ENDED, end_reason=EndReason.STOPPED, **told)
    detail = run_ending(found, status, stopped=True)
    assert conclusion(found, stopped=True, detail=detail)[1] == (
        "It was stopped. The portal was stopped. The results of 1 scene are kept."
    )
    ended = a_status(JobState.ENDED, end_reason=EndReason.FINISHED, **told)
    for other in (ended, None):
        assert run_ending(found, other, stopped=True) == "It was stopped."


def test_an_unfinished_run_that_nobody_stopped() -> None:
    told = conclusion(scenes(DONE, RUNNING, WAITING), stopped=False)
    assert told == (RunState.PARTIAL, "2 scenes could not be searched.")
    assert conclusion(scenes(WAITING), stopped=False)[0] is RunState.FAILED


def test_only_a_scene_that_waited_in_a_stopped_run_still_waits() -> None:
    waiting, running = scenes(WAITING, RUNNING)
    assert unfinished(waiting, stopped=True)[0] is WAITING
    assert unfinished(waiting, stopped=False)[0] is FAILED
    assert unfinished(running, stopped=True)[0] is FAILED


def test_a_session_ended_when_the_scheduler_says() -> None:
    change = session_change(
        a_status(JobState.ENDED, ended_at=1234.5, keep_until=9e9, end_reason=EndReason.IDLE),
        connected=True,
    )
    assert (change.state, change.end_reason) == (SessionState.ENDED, EndReason.IDLE)
    assert (change.ended_at, change.files_until) == (1234.5, 9e9)


def test_without_the_scheduler_s_word_it_ended_now() -> None:
    before = time.time()
    change = session_change(a_status(JobState.ENDED), connected=False)
    assert change.ended_at is not UNSET
    assert before <= change.ended_at <= time.time()
    assert change.end_reason is EndReason.FINISHED


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("connected", [False, True])
def test_no_status_makes_a_session_ready(state: JobState, connected: bool) -> None:
    change = session_change(a_status(state), connected=connected)
    assert change.state is not SessionState.READY


def test_a_notebook_that_is_connected_keeps_its_state() -> None:
    change = session_change(a_status(JobState.RUNNING), connected=True)
    assert (change.state, change.reason) == (UNSET, READY)
    change = session_change(a_status(JobState.RUNNING), connected=False)
    assert change.state is SessionState.STARTING


def test_a_scheduler_that_does_not_answer_changes_no_state() -> None:
    status = a_status(JobState.UNKNOWN)
    assert session_change(status, connected=False).state is UNSET
    assert run_change(status).state is UNSET


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.ENDED])
def test_times_that_the_gate_does_not_know_are_left_alone(state: JobState) -> None:
    change = session_change(a_status(state), connected=False)
    assert (change.started_at, change.endpoint_at) == (UNSET, UNSET)
    known = session_change(a_status(state, started_at=3.0, endpoint_at=4.0), connected=False)
    assert (known.started_at, known.endpoint_at) == (3.0, 4.0)


def test_only_a_job_that_waits_has_an_expected_start() -> None:
    queued = session_change(a_status(JobState.QUEUED, starts_at=7.0), connected=False)
    running = session_change(a_status(JobState.RUNNING, starts_at=7.0), connected=False)
    assert (queued.starts_at, running.starts_at) == (7.0, None)
