"""One card per session and run: where it is, why it waits, and what can be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import streamlit as st

from lib.errors import SceneBridgeError
from lib.model import (
    Cluster,
    Isolation,
    Module,
    Reachability,
    Run,
    SceneId,
    Session,
    SessionState,
    User,
)
from lib.portal import Portal
from ui import frame, logs, steps
from ui.launch import NO_ISOLATION
from ui.steps import Work
from ui.text import count, esc, listing, md, now, tag, walltime, when

LOG_KINDS = {"job": "Job", "module": "Module", "notebook": "Notebook"}


@dataclass(frozen=True, slots=True)
class Desk:
    """What the cards of one rerun have in common."""

    here: Portal
    user: User
    clusters: Mapping[str, Cluster]
    modules: Mapping[str, Module]
    runs: Mapping[str, Run]

    @classmethod
    def of(cls, here: Portal, user: User, runs: Sequence[Run]) -> Desk:
        """Ask once for everything."""
        return cls(
            here,
            user,
            {str(c.id): c for c in here.all_clusters(user)},
            {str(m.id): m for m in here.modules(user)},
            {str(r.id): r for r in runs},
        )

    def synthetic(self, scene_ids: Sequence[str]) -> int:
        """How many of the scenes are synthetic; what is known of a scene stays true."""
        known: dict[str, bool] = st.session_state.setdefault("synthetic-scenes", {})
        for scene_id in scene_ids:
            if scene_id not in known:
                try:
                    known[scene_id] = self.here.scene(self.user, SceneId(scene_id)).synthetic
                except SceneBridgeError:
                    known[scene_id] = False  # it was removed: nothing is known of it
        return sum(known[s] for s in scene_ids)


def show(desk: Desk, work: Work) -> None:
    """Draw one card."""
    time = now()
    with st.container(border=True, key=f"card-{work.id}"):
        st.html(_head(desk, work, time))
        if not steps.over(work):
            st.html(steps.stepper(work))
        st.html(_body(desk, work))
        with st.container(horizontal=True, vertical_alignment="center", key=f"acts-{work.id}"):
            _actions(desk, work)
        if st.session_state.get("log-open") == work.id:
            _log(desk, work)


# --- what it says ---------------------------------------------------------------------


def _head(desk: Desk, work: Work, time: datetime) -> str:
    kind = "Notebook" if isinstance(work, Session) else "Run"
    module = desk.modules.get(str(work.module))
    cluster = desk.clusters.get(str(work.cluster))
    title = work.title or f"{module.title if module else work.module} on {_scenes(work)}"
    marks = [tag(kind)]
    if steps.over(work):
        marks.append(tag(*_ending(work)))
    marks.append(tag(cluster.title if cluster else str(work.cluster)))
    if cluster and cluster.isolation is Isolation.NONE and cluster.runtime:
        marks.append(tag(NO_ISOLATION, "warn"))
    made = desk.synthetic(_scene_ids(work))
    if made:
        whole = made == len(work.scenes)
        marks.append(tag("synthetic" if whole else f"{made} synthetic", "synthetic"))
    return (
        f'<div class="sb-card-head"><h2>{esc(title)}</h2>'
        f'<span class="clock">{esc(steps.clock_text(work, time))}</span></div>'
        f"<div>{''.join(marks)}</div>"
    )


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
    return listing(_scene_ids(work), most=2)


def _body(desk: Desk, work: Work) -> str:
    said = f"{steps.sentence(work)} {steps.expected(work, now())}".strip()
    parts = [f'<p class="sb-reason" role="status">{esc(said)}</p>']
    if work.reachability is Reachability.UNKNOWN and not steps.over(work):
        text = steps.unknown_text(work, desk.clusters.get(str(work.cluster)))
        parts.append(f'<div class="sb-problem" role="status">{esc(text)}</div>')
    run = work if isinstance(work, Run) else desk.runs.get(str(work.run))
    facts = [f"{count(len(work.scenes), 'scene')}: {_scenes(work)}"]
    if run is not None and str(run.state) not in ("NEW", "SUBMITTED", "QUEUED"):
        facts.append(steps.scenes_text(run))
    facts.append(f"{work.resources.preset}, at most {walltime(work.resources.walltime_s)}")
    if work.job:
        facts.append(f"job {work.job}")
    facts.append(f"begun {when(work.created_at)}")
    if isinstance(work, Session) and work.files_until and work.continued_as is None:
        facts.append(f"files are kept until {when(work.files_until)}")
    if isinstance(work, Session) and work.continued_as is not None:
        facts.append("its files went on into a newer notebook")
    parts.append(f'<p class="sb-facts">{esc(" · ".join(facts))}</p>')
    return "".join(parts)


# --- what can be done -------------------------------------------------------------------


def _actions(desk: Desk, work: Work) -> None:
    if isinstance(work, Session):
        _session_actions(desk, work)
        run = desk.runs.get(str(work.run))
    else:
        run = work
    if run is not None and str(run.state) not in ("NEW", "SUBMITTED", "QUEUED"):
        st.page_link(
            frame.link(frame.RESULTS),
            label=f"Results ({run.objects:,})",
            icon=":material/grid_view:",
            query_params={"run": str(run.id)},
        )
    open_ = st.session_state.get("log-open") == work.id
    st.button(
        "Hide log" if open_ else "Log",
        key=f"log-{work.id}",
        icon=":material/notes:",
        on_click=_toggle_log,
        args=(str(work.id),),
    )
    if not steps.over(work) and not work.stopping:
        _stop(desk, work)


def _session_actions(desk: Desk, session: Session) -> None:
    if session.state is SessionState.READY:
        path = desk.here.notebook_path(session)
        st.link_button(
            "Open in a new tab",
            path,
            type="primary",
            icon=":material/open_in_new:",
            key=f"open-{session.id}",
        )
        if st.button("Open here", key=f"here-{session.id}", icon=":material/web_asset:"):
            st.session_state["notebook-here"] = str(session.id)
            st.rerun()
    elif session.state is SessionState.ENDED and session.continued_as is None:
        kept = session.files_until is not None and session.files_until > now()
        if kept and st.button(
            "Start again here",
            key=f"again-{session.id}",
            icon=":material/restart_alt:",
            type="primary",
        ):
            _start_again(desk, session)


def _start_again(desk: Desk, session: Session) -> None:
    try:
        fresh = desk.here.start_again(desk.user, session.id)
    except SceneBridgeError as exc:
        st.session_state["work-problem"] = exc  # shown at the next tick
        return
    st.session_state["work-new"] = str(fresh.id)
    st.rerun()


def _stop(desk: Desk, work: Work) -> None:
    if steps.waits(work):
        st.button(
            "Cancel",
            key=f"stop-{work.id}",
            icon=":material/close:",
            on_click=_do_stop,
            args=(desk, work),
        )
        return
    with st.popover("Stop", icon=":material/stop_circle:", key=f"ask-{work.id}"):
        if isinstance(work, Session):
            st.write(
                "Running kernels end and what they hold in memory is lost. "
                "Files are kept, and the notebook can be started again."
            )
        else:
            st.write("Scenes that are not done yet are left out. What was found is kept.")
        st.button(
            "Stop now", key=f"stop-{work.id}", type="primary", on_click=_do_stop, args=(desk, work)
        )


def _do_stop(desk: Desk, work: Work) -> None:
    try:
        desk.here.stop(desk.user, work.id)
    except SceneBridgeError as exc:
        st.session_state["work-problem"] = exc


def _toggle_log(work_id: str) -> None:
    was = st.session_state.get("log-open")
    st.session_state["log-open"] = None if was == work_id else work_id
    for kind in LOG_KINDS:
        logs.forget(f"{work_id}-{kind}")


def _log(desk: Desk, work: Work) -> None:
    kinds = list(LOG_KINDS) if isinstance(work, Session) else ["job", "module"]
    kind = st.segmented_control(
        "Which log",
        kinds,
        default="module" if isinstance(work, Run) else "job",
        format_func=LOG_KINDS.__getitem__,
        key=f"logkind-{work.id}",
        required=True,
    )
    here, user, work_id, name = desk.here, desk.user, work.id, str(kind or "job")
    shown = logs.read(
        f"{work_id}-{name}", lambda: here.log(user, work_id, name), live=not steps.over(work)
    )
    if shown.error is not None:
        frame.problem(shown.error)
    if shown.log is None:
        if shown.error is None:
            st.caption("Asking the cluster for the log …")
        return
    if shown.log.truncated:
        st.caption("Only the end of the log is shown.")
    st.html(_log_html(shown.log.text, md(LOG_KINDS[name])))


def _log_html(text: str, name: str) -> str:
    body = esc(text) if text.strip() else "The log is empty so far."
    return f'<pre class="sb-log" tabindex="0" aria-label="{esc(name)} log">{body}</pre>'
