"""What the audit log says of a piece of work, beside its id."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lib.model import Session

if TYPE_CHECKING:
    from lib.model import JsonObject, Run

_SCENES_NAMED = 3
#: The line as a whole holds 1,000 characters.
_LONGEST_TITLE, _LONGEST_PARAMS = 120, 500


def told(work: Session | Run, run: Run) -> str:
    """What it is: title, cluster, module, scenes and parameters, on one line.

    Args:
        run: of a session, the one that it began with; else the work itself.
    """
    kind = "notebook" if isinstance(work, Session) else "run"
    named = " ".join(work.title.split())
    scenes = [scene.scene for scene in run.scenes]
    more = ", …" if len(scenes) > _SCENES_NAMED else ""
    which = ", ".join(scenes[:_SCENES_NAMED]) + more
    noun = "scene" if len(scenes) == 1 else "scenes"
    return (
        f"{kind} “{_cut(named, _LONGEST_TITLE)}” on {work.cluster}, {run.module} "
        f"{run.module_version}, {len(scenes)} {noun} ({which}), {_params(run.params)}"
    )


def _params(params: JsonObject) -> str:
    if not params:
        return "no parameters"
    said = ", ".join(f"{n}={json.dumps(params[n], ensure_ascii=False)}" for n in sorted(params))
    return _cut(said, _LONGEST_PARAMS)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
