"""Sessions and runs as the cards draw them: the steps, the sentence, the clock."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from lib.model import (
    Cluster,
    EndReason,
    Reachability,
    Run,
    RunState,
    Session,
    SessionState,
)
from ui.text import count, duration, esc, to_minute

Work = Session | Run

#: (state, what the step is called)
SESSION_STEPS = (
    (SessionState.NEW, "New"),
    (SessionState.SUBMITTED, "Submitted"),
    (SessionState.QUEUED, "In the queue"),
    (SessionState.STARTING, "Starting"),
    (SessionState.READY, "Ready"),
)
RUN_STEPS = (
    (RunState.NEW, "New"),
    (RunState.SUBMITTED, "Submitted"),
    (RunState.QUEUED, "In the queue"),
    (RunState.RUNNING, "Running"),
    (RunState.DONE, "Done"),
)
#: What to say where the portal has given no sentence of its own.
#: Two tables, since states of the same name are equal.
_SESSION_SENTENCES = {
    SessionState.NEW: "Handing the notebook over to the cluster.",
    SessionState.SUBMITTED: "The cluster has taken the job.",
    SessionState.QUEUED: "The job waits for a free place.",
    SessionState.STARTING: "JupyterLab is starting on the compute node.",
    SessionState.READY: "The notebook is ready.",
}
_RUN_SENTENCES = {
    RunState.NEW: "Handing the run over to the cluster.",
    RunState.SUBMITTED: "The cluster has taken the job.",
    RunState.QUEUED: "The job waits for a free place.",
    RunState.RUNNING: "The module is working.",
    RunState.DONE: "All scenes are done.",
    RunState.PARTIAL: "Some scenes could not be worked on.",
    RunState.FAILED: "The run failed.",
    RunState.CANCELLED: "The run was cancelled.",
}
_ENDINGS = {
    EndReason.FINISHED: "The notebook was shut down from inside.",
    EndReason.STOPPED: "It was stopped.",
    EndReason.CANCELLED: "It was cancelled while it waited in the queue.",
    EndReason.WALLTIME: "Its time was up.",
    EndReason.IDLE: "It was not used for a long time.",
    EndReason.OUT_OF_MEMORY: "It needed more memory than was asked for.",
    EndReason.NODE_FAILURE: "The compute node failed.",
    EndReason.PREEMPTED: "The cluster gave its place to a more urgent job.",
    EndReason.FAILED_TO_START: "It could not start.",
    EndReason.REFUSED: "The cluster refused it.",
    EndReason.CRASHED: "It crashed.",
    EndReason.LOST: "The cluster no longer knows the job.",
}


class Clock(NamedTuple):
    """A word and the time beside it.

    Args:
        since: it counts up from here.
        until: it counts down to here; with `since` it stands at the time between both.
    """

    label: str
    since: datetime | None
    until: datetime | None

    def text(self, now: datetime) -> str:
        """3 min 05 s so far; 1 h 59 min left."""
        begin, end = self.since or now, self.until or now
        return f"{duration((end - begin).total_seconds())} {self.label}"


def is_over(work: Work) -> bool:
    """Whether nothing more will happen."""
    return work.state.over if isinstance(work, Run) else work.state is SessionState.ENDED


def is_waiting(work: Work) -> bool:
    """Whether it has not begun yet, so that ending it is called Cancel."""
    names = {"NEW", "SUBMITTED", "QUEUED", "STARTING"}
    return str(work.state) in names


def status_sentence(work: Work) -> str:
    """The plain sentence beside the state."""
    if work.stopping and not is_over(work):
        return "Stopping. The cluster has been told to end it."
    if isinstance(work, Session) and work.state is SessionState.ENDED:
        ending = (
            _ENDINGS.get(work.end_reason, "It has ended.") if work.end_reason else "It has ended."
        )
        known = work.reason.strip()
        if known.startswith(ending):
            return known
        return f"{ending} {known}" if known and known not in ending else ending
    if work.reason.strip():
        return work.reason.strip()
    return (
        _SESSION_SENTENCES.get(work.state, "")
        if isinstance(work, Session)
        else _RUN_SENTENCES[work.state]
    )


def clock_of(work: Work) -> Clock:
    """Time left while a notebook is ready; else how long it has waited, run, or lasted."""
    if isinstance(work, Session) and work.state is SessionState.READY and work.ends_at:
        return Clock("left", None, work.ends_at)
    begin = work.started_at if work.started_at and not is_waiting(work) else work.created_at
    return Clock("in all", begin, work.ended_at) if is_over(work) else Clock("so far", begin, None)


def expected_start(work: Work, now: datetime) -> str:
    """When the scheduler expects to start what waits; empty where it does not say."""
    begin = work.starts_at if isinstance(work, Session) and is_waiting(work) else None
    if begin is None or work.stopping:
        return ""
    seconds = (begin - now).total_seconds()
    if seconds <= 0:
        return "It is expected to start at any moment."
    if seconds < 3600:
        left = f"{int(seconds) // 60} min" if seconds >= 60 else "less than a minute"
    else:
        left = duration(seconds)
    return f"It is expected to start about {to_minute(begin)} (in {left})."


def unreachable_text(work: Work, cluster: Cluster | None) -> str:
    """The second axis: the cluster cannot be asked, so what is shown may be old."""
    title = cluster.title if cluster else str(work.cluster)
    if cluster is not None and cluster.reachability is Reachability.REACHABLE:
        return f"{title} can be asked; the connection to this notebook is being made again."
    since = cluster.unreachable_since if cluster else None
    reason = cluster.unreachable_reason if cluster else ""
    when_ = f" since {to_minute(since)}" if since else ""
    why = f" {reason.rstrip('.')}." if reason else ""
    mend = ""
    if cluster and cluster.mend:
        who = " or ".join(dict.fromkeys(who for who, _ in cluster.mend))
        mend = f" {who} can mend it: the Clusters page says how."
    return f"{title} cannot be asked{when_}.{why}{mend} {_goes_on(work)}"


def _goes_on(work: Work) -> str:
    """What becomes of the job meanwhile."""
    known = "What is shown here is the last that is known; nothing is lost."
    if isinstance(work, Session) and work.ends_at and not is_waiting(work):
        return f"The job goes on there until {to_minute(work.ends_at)}. {known}"
    if str(work.state) == "NEW":
        return f"It is handed over when the cluster can be asked again. {known}"
    if is_waiting(work):
        return f"The job keeps its place there. {known}"
    return f"The job goes on there. {known}"


def steps_html(work: Work) -> str:
    """The steps as an HTML list; the current one carries aria-current."""
    steps = SESSION_STEPS if isinstance(work, Session) else RUN_STEPS
    names = [str(state) for state, _ in steps]
    at = names.index(str(work.state)) if str(work.state) in names else len(names)
    last = len(names) - 1
    items = []
    for i, (_, title) in enumerate(steps):
        classes = "done" if i < at else "now" if i == at else ""
        current = ' aria-current="step"' if i == at else ""
        if i == at:
            classes += " ready" if i == last else " waits"
        items.append(f'<li class="{classes}"{current}>{esc(title)}</li>')
    kind = " unknown" if work.reachability is Reachability.UNKNOWN else ""
    return f'<ol class="sb-steps{kind}" aria-label="Progress">{"".join(items)}</ol>'


def scenes_text(run: Run) -> str:
    """2 of 5 scenes done, 1 failed, 37 objects so far."""
    done = sum(s.state == "DONE" for s in run.scenes)
    failed = sum(s.state == "FAILED" for s in run.scenes)
    text = f"{done} of {count(len(run.scenes), 'scene')} done"
    if failed:
        text += f", {failed} failed"
    found = sum(s.objects for s in run.scenes) or run.objects
    return f"{text}, {count(found, 'object')} found" + ("" if run.state.over else " so far")
