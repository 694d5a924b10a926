"""A run's parameters in words, and the way back to Explore with all that it was started with."""

from __future__ import annotations

from collections.abc import Mapping

from lib.model import JsonObject, JsonValue, LaunchRequest, Module, Run, Session
from ui.explore_url import ExploreState, format_query
from ui.schema_form import properties

#: Of a title; the page of the results has all of it.
_LONGEST = 160


def unlike_default(module: Module | None, params: JsonObject) -> dict[str, JsonValue]:
    """Those that somebody chose; all of them where the module is not offered any more."""
    known = properties(module.params_schema) if module else {}
    return {
        name: value
        for name, value in params.items()
        if name not in known or known[name].get("default") != value
    }


def params_text(params: Mapping[str, object]) -> str:
    """min pixels 12, decide goli"""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in params.items())


def chosen_text(module: Module | None, params: JsonObject) -> str:
    """What tells this run from another of the same module; empty where nothing was changed."""
    text = params_text(unlike_default(module, params))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def explore_query(
    work: Run | Session, run: Run | None, module: Module | None
) -> dict[str, list[str]]:
    """The address of Explore with the scenes, module, parameters, cluster and resources."""
    scenes = [s.scene for s in work.scenes] if isinstance(work, Run) else list(work.scenes)
    return format_query(
        ExploreState(
            scenes=tuple(str(s) for s in scenes),
            module=str(work.module),
            cluster=str(work.cluster),
            preset=work.resources.preset,
            walltime_s=work.resources.walltime_s,
            params=unlike_default(module, run.params) if run else {},
        )
    )


def again(run: Run) -> LaunchRequest:
    """The same once more."""
    return LaunchRequest(
        scenes=tuple(s.scene for s in run.scenes),
        module=run.module,
        params=run.params,
        cluster=run.cluster,
        resources=run.resources,
    )
