"""A run's summary: figures, scenes, what was searched, as HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from lib.model import Module, Run, RunScene, RunState, SceneState
from ui import run_params, work_status
from ui.text import count, esc, join_names, tag, to_minute

_STATES = {
    SceneState.WAITING: "waiting",
    SceneState.RUNNING: "running",
    SceneState.DONE: "done",
    SceneState.FAILED: "failed",
}
_RUN_STATES = {
    RunState.NEW: "being handed over",
    RunState.SUBMITTED: "submitted",
    RunState.QUEUED: "in the queue",
    RunState.RUNNING: "running",
    RunState.DONE: "done",
    RunState.PARTIAL: "done in part",
    RunState.FAILED: "failed",
    RunState.CANCELLED: "cancelled",
}
#: Told in words of their own.
_KNOWN = ("pixels", "valid_fraction", "algorithm")


def run_title(run: Run, module: Module | None) -> str:
    """How a run is listed: what, with which parameters, when, how far.

    It counts once the run is over: a list whose titles change closes while one picks from it.
    """
    parts = (
        run.title or str(run.module),
        run_params.chosen_text(module, run.params),
        to_minute(run.created_at),
        _RUN_STATES[run.state],
        count(run.objects, "object") if run.state.over else "",
    )
    return ", ".join(part for part in parts if part)


def run_titles(runs: Iterable[Run], modules: Mapping[str, Module]) -> dict[str, str]:
    """The title of each by its id, no two the same: where they would be, the id's end is in it."""
    titles = {str(run.id): run_title(run, modules.get(str(run.module))) for run in runs}
    said = Counter(titles.values())
    return {name: f"{t} ({name[-6:]})" if said[t] > 1 else t for name, t in titles.items()}


def parameters_text(run: Run, module: Module | None) -> str:
    """All of a run's parameters, those that were chosen first; empty where it has none."""
    chosen = run_params.unlike_default(module, run.params)
    others = {name: value for name, value in run.params.items() if name not in chosen}
    said = run_params.params_text(chosen)
    if chosen and others:
        return f"{said}; by default {run_params.params_text(others)}"
    return said or run_params.params_text(others)


def figures(run: Run, module: Module | None, shown: int) -> str:
    """The run's figures in one line."""
    done = sum(s.state is SceneState.DONE for s in run.scenes)
    failed = sum(s.state is SceneState.FAILED for s in run.scenes)
    cells = [
        (f"{run.objects:,}", "objects found" if run.objects != 1 else "object found"),
        (f"{done} / {len(run.scenes)}", "scenes done" + (f", {failed} failed" if failed else "")),
        (
            _RUN_STATES[run.state].capitalize(),
            f"{module.title if module else run.module} {run.module_version}",
        ),
    ]
    if shown != run.objects and run.objects:
        cells.insert(1, (f"{shown:,}", "match the filter"))
    body = "".join(
        f'<div class="sb-figure"><b>{esc(a)}</b><span>{esc(b)}</span></div>' for a, b in cells
    )
    return f'<div class="sb-summary" role="status">{body}</div>'


def scenes_table(run: Run, titles: Mapping[str, str], synthetic: frozenset[str]) -> str:
    """Every scene of the run: state, objects, what was searched or why it failed."""
    rows = "".join(
        _scene_row(s, titles.get(str(s.scene), str(s.scene)), synthetic) for s in run.scenes
    )
    return (
        '<div class="sb-scroll"><table class="sb-scenes"><thead><tr><th scope="col">Scene</th>'
        '<th scope="col">State</th><th scope="col">Objects</th>'
        f'<th scope="col">What was searched</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _scene_row(scene: RunScene, title: str, synthetic: frozenset[str]) -> str:
    mark = " " + tag("synthetic", "synthetic") if str(scene.scene) in synthetic else ""
    kind = {SceneState.DONE: "good", SceneState.FAILED: "bad"}.get(scene.state, "")
    state = tag(_STATES[scene.state], kind)
    if scene.state is SceneState.RUNNING:
        percent = round(100 * min(1.0, max(0.0, scene.fraction)))
        state += (
            f'<div class="sb-bar" role="progressbar" aria-valuenow="{percent}" aria-valuemin="0" '
            f'aria-valuemax="100" aria-label="Progress"><i style="width:{percent}%"></i></div>'
        )
    text = scene.message or searched_text(scene.searched)
    same = "" if title == scene.scene else f'<br><span class="sb-soft">{esc(scene.scene)}</span>'
    return (
        f"<tr><td>{esc(title)}{mark}{same}</td><td>{state}</td>"
        f"<td>{scene.objects:,}</td><td>{esc(text)}</td></tr>"
    )


def searched_text(searched: Mapping[str, object]) -> str:
    """600,967 pixels, 98 % of them valid, with vote; then whatever else the module says."""
    parts: list[str] = []
    pixels, valid = searched.get("pixels"), searched.get("valid_fraction")
    if isinstance(pixels, (int, float)):
        parts.append(f"{pixels:,.0f} pixels")
    if isinstance(valid, (int, float)):
        parts.append(f"{100 * valid:.4g} % of them valid")
    if searched.get("algorithm"):
        parts.append(f"with {searched['algorithm']}")
    for name, value in searched.items():
        if name not in _KNOWN and isinstance(value, (str, int, float)):
            shown = f"{value:,.4g}" if isinstance(value, float) else str(value)
            parts.append(f"{name.replace('_', ' ')} {shown}")
    return ", ".join(parts)


def no_detections_text(run: Run, module: Module | None) -> str:
    """One paragraph that says what a run without objects has searched."""
    done = [s for s in run.scenes if s.state is SceneState.DONE]
    name = f"{module.title if module else run.module} {run.module_version}"
    if not done:
        return f"{name} could not work on any scene; the table of scenes says why."
    pixels = sum(_number(s.searched.get("pixels")) for s in done)
    good = sum(
        _number(s.searched.get("pixels")) * _number(s.searched.get("valid_fraction"), 1.0)
        for s in done
    )
    text = (
        f"{name} searched {count(len(done), 'scene')} ({join_names([str(s.scene) for s in done])})"
    )
    if pixels:
        text += f": {pixels:,.0f} pixels, {100 * good / pixels:.4g} % of them valid"
    algorithms = dict.fromkeys(
        str(s.searched["algorithm"]) for s in done if s.searched.get("algorithm")
    )
    if algorithms:
        text += f", with {join_names(algorithms)}"
    params = run_params.params_text(run.params) or "the module's parameters"
    return f"{text}. No object passed the test with {params}."


def _number(value: object, default: float = 0.0) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return default


def failures(scenes: Sequence[RunScene]) -> list[str]:
    """One sentence per scene that failed."""
    return [
        f"{s.scene}: {s.message or 'The module gave no reason.'}"
        for s in scenes
        if s.state is SceneState.FAILED
    ]


def progress_text(run: Run) -> str:
    """The sentence beside a run that is not over."""
    return f"{work_status.status_sentence(run)} {work_status.scenes_text(run)}."
