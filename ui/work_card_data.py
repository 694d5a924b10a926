"""What a card of the Work page says, as plain values: equal cards look the same.

Only the clock is not part of it; that the browser moves by itself (`ui.clocks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import streamlit as st

from lib.errors import SceneBridgeError
from lib.model import (
    Cluster,
    Isolation,
    LaunchRequest,
    Module,
    Reachability,
    Run,
    RunId,
    SceneId,
    Session,
    SessionId,
    SessionState,
    User,
)
from lib.portal.facade import Portal
from ui import run_params, work_status
from ui.launch_form import ENDS_WITH_PORTAL, NO_ISOLATION
from ui.text import count, esc, join_names, tag, to_minute, walltime
from ui.work_status import Clock, Work

IDLE_SOON = (
    "Nobody has worked in it for a while. It is ended at {}, and what it holds in memory is lost "
    "then; its files are kept."
)


@dataclass(frozen=True, slots=True)
class CardContext:
    """What the cards of one rerun have in common."""

    portal: Portal
    user: User
    clusters: Mapping[str, Cluster]
    modules: Mapping[str, Module]
    runs: Mapping[str, Run]
    known_synthetic: dict[str, bool]

    @classmethod
    def load(cls, portal: Portal, user: User, runs: Sequence[Run]) -> CardContext:
        """Ask once for everything."""
        return cls(
            portal,
            user,
            {str(c.id): c for c in portal.all_clusters(user)},
            {str(m.id): m for m in portal.modules(user)},
            {str(r.id): r for r in runs},
            st.session_state.setdefault("synthetic-scenes", {}),
        )

    def run_of(self, work: Work) -> Run | None:
        """The run itself, or the one inside a session."""
        return work if isinstance(work, Run) else self.runs.get(str(work.run))

    def synthetic(self, scene_ids: Sequence[str]) -> int:
        """How many of the scenes are synthetic; what is known of a scene stays true."""
        known = self.known_synthetic
        for scene_id in scene_ids:
            if scene_id not in known:
                try:
                    known[scene_id] = self.portal.scene(self.user, SceneId(scene_id)).synthetic
                except SceneBridgeError:
                    known[scene_id] = False  # it was removed: nothing is known of it
        return sum(known[s] for s in scene_ids)


@dataclass(frozen=True, slots=True)
class CardData:
    """What one card says and offers.

    Args:
        name, note: as they were written.
        title, marks, steps, body: HTML; `steps` is empty when the work is over.
        notebook: address of the notebook that can be opened, or empty.
        restartable: the ended notebook that can be started again in its folder.
        results: (run, objects) that can be looked at.
        keep: the notebook that is ended soon, unless somebody says that they work in it.
        again: what starts the same run once more.
        explore: the query of Explore with all that it was started with; once it is over.
        stop: what ending it is called; empty when it cannot be ended any more.
        logs: which logs there are.
        logs_first: the same, in the order in which one looks for something that was said.
    """

    work: SessionId | RunId
    over: bool
    name: str
    note: str
    clock: Clock
    title: str
    marks: str
    steps: str
    body: str
    notebook: str
    restartable: SessionId | None
    results: tuple[str, int] | None
    keep: SessionId | None
    again: LaunchRequest | None
    explore: Mapping[str, Sequence[str]] | None
    stop: Literal["", "cancel", "notebook", "run"]
    logs: tuple[str, ...]
    logs_first: tuple[str, ...]


def matches(context: CardContext, work: Work, text: str) -> bool:
    """Whether every word of `text` stands in what the card says."""
    run, cluster = context.run_of(work), context.clusters.get(str(work.cluster))
    module = context.modules.get(str(work.module))
    said = [
        _title(context, work),
        work.note,
        module.title if module else "",
        str(work.module),
        cluster.title if cluster else str(work.cluster),
        work.job,
        str(work.id),
        *_scene_ids(work),
        run_params.params_text(run.params) if run is not None else "",
    ]
    whole = "\n".join(said).casefold()
    return all(word in whole for word in text.casefold().split())


def card_data(context: CardContext, work: Work, time: datetime) -> CardData:
    """What the card of that work says at that time."""
    over, run = work_status.is_over(work), context.run_of(work)
    module = context.modules.get(str(work.module))
    begun = run is not None and str(run.state) not in ("NEW", "SUBMITTED", "QUEUED")
    return CardData(
        work=work.id,
        over=over,
        name=_title(context, work),
        note=work.note,
        clock=work_status.clock_of(work),
        title=esc(_title(context, work)),
        marks=_marks(context, work),
        steps="" if over else work_status.steps_html(work),
        body=_body(context, work, time),
        notebook=_notebook(context, work),
        restartable=_restartable(work, time),
        results=(str(run.id), run.objects) if run is not None and begun else None,
        keep=work.id if isinstance(work, Session) and _ends_idle(work) else None,
        again=run_params.again(work) if over and isinstance(work, Run) else None,
        explore=run_params.explore_query(work, run, module) if over else None,
        stop=_stop(work),
        logs=("job", "module") if isinstance(work, Run) else ("job", "module", "notebook"),
        logs_first=("module", "job") if isinstance(work, Run) else ("notebook", "module", "job"),
    )


# --- what it says ---------------------------------------------------------------------


def _title(context: CardContext, work: Work) -> str:
    module = context.modules.get(str(work.module))
    return work.title or f"{module.title if module else work.module} on {_scenes(work)}"


def _marks(context: CardContext, work: Work) -> str:
    cluster = context.clusters.get(str(work.cluster))
    marks = [tag("Notebook" if isinstance(work, Session) else "Run")]
    if work_status.is_over(work):
        marks.append(tag(*_ending(work)))
    marks.append(tag(cluster.title if cluster else str(work.cluster)))
    if cluster and cluster.isolation is Isolation.NONE and cluster.runtime:
        marks.append(tag(NO_ISOLATION, "warn"))
    made = context.synthetic(_scene_ids(work))
    if made:
        whole = made == len(work.scenes)
        marks.append(tag("synthetic" if whole else f"{made} synthetic", "synthetic"))
    return "".join(marks)


def _ending(work: Work) -> tuple[str, str]:
    if isinstance(work, Session):
        bad = work.end_reason in (
            "out of memory",
            "node failure",
            "failed to start",
            "crashed",
            "lost",
        )
        return (f"Ended: {work.end_reason}" if work.end_reason else "Ended"), "bad" if bad else ""
    kinds = {"DONE": ("Done", "good"), "PARTIAL": ("Done in part", "warn")}
    return kinds.get(str(work.state), (str(work.state).capitalize(), "bad"))


def _scene_ids(work: Work) -> list[str]:
    if isinstance(work, Run):
        return [str(s.scene) for s in work.scenes]
    return [str(s) for s in work.scenes]


def _scenes(work: Work) -> str:
    return join_names(_scene_ids(work), most=2)


def _body(context: CardContext, work: Work, time: datetime) -> str:
    said = f"{work_status.status_sentence(work)} {work_status.expected_start(work, time)}".strip()
    parts = [f'<p class="sb-reason" role="status">{esc(said)}</p>']
    if work.note:
        parts.append(f'<p class="sb-note">{esc(work.note)}</p>')
    if work.reachability is Reachability.UNKNOWN and not work_status.is_over(work):
        text = work_status.unreachable_text(work, context.clusters.get(str(work.cluster)))
        parts.append(f'<div class="sb-problem" role="status">{esc(text)}</div>')
    if isinstance(work, Session) and _ends_idle(work) and work.idle_at is not None:
        text = IDLE_SOON.format(to_minute(work.idle_at))
        parts.append(f'<div class="sb-problem" role="status">{esc(text)}</div>')
    run = context.run_of(work)
    facts = [f"{count(len(work.scenes), 'scene')}: {_scenes(work)}"]
    if run is not None and str(run.state) not in ("NEW", "SUBMITTED", "QUEUED"):
        facts.append(work_status.scenes_text(run))
    if run is not None and run.params:
        module = context.modules.get(str(work.module))
        chosen = run_params.chosen_text(module, run.params)
        facts.append(f"parameters: {chosen}" if chosen else "default parameters")
    facts.append(f"{work.resources.preset}, at most {walltime(work.resources.walltime_s)}")
    if work.job:
        facts.append(f"job {work.job}")
    facts.append(f"begun {to_minute(work.created_at)}")
    cluster = context.clusters.get(str(work.cluster))
    if cluster is not None and cluster.own_computer and not work_status.is_over(work):
        facts.append(ENDS_WITH_PORTAL)
    if isinstance(work, Session) and work.files_until and work.continued_as is None:
        facts.append(f"files are kept until {to_minute(work.files_until)}")
    if isinstance(work, Session) and work.continued_as is not None:
        facts.append("its files went on into a newer notebook")
    parts.append(f'<p class="sb-facts">{esc(" · ".join(facts))}</p>')
    return "".join(parts)


# --- what can be done -------------------------------------------------------------------


def _notebook(context: CardContext, work: Work) -> str:
    if isinstance(work, Session) and work.state is SessionState.READY:
        return context.portal.notebook_path(work)
    return ""


def _restartable(work: Work, time: datetime) -> SessionId | None:
    if not isinstance(work, Session) or work.state is not SessionState.ENDED:
        return None
    kept = work.files_until is not None and work.files_until > time
    return work.id if kept and work.continued_as is None else None


def _ends_idle(work: Session) -> bool:
    ready = work.state is SessionState.READY and not work.stopping
    return ready and work.idle_at is not None


def _stop(work: Work) -> Literal["", "cancel", "notebook", "run"]:
    if work_status.is_over(work) or work.stopping:
        return ""
    if work_status.is_waiting(work):
        return "cancel"
    return "notebook" if isinstance(work, Session) else "run"
