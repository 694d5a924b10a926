"""Who schedules jobs. One module per scheduler; `make_scheduler` knows them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lib.errors import InvalidInput
from lib.jobs.interfaces import Scheduler
from lib.jobs.schedulers.local import LocalScheduler
from lib.jobs.schedulers.slurm import SlurmScheduler

_SCHEDULERS: Mapping[str, Callable[[Mapping[str, object], Path], Scheduler]] = {
    "local": LocalScheduler.from_options,
    "slurm": SlurmScheduler.from_options,
}


def make_scheduler(name: str, options: Mapping[str, object], state_dir: Path) -> Scheduler:
    """The scheduler of that name with the options of the policy's `[scheduler]` table.

    Args:
        state_dir: the gate's folder; a scheduler may keep files below it.
    Raises:
        InvalidInput: unknown name, or options it does not take.
    """
    if name not in _SCHEDULERS:
        raise InvalidInput(
            f"policy [scheduler]: {name!r:.40} is none of: {', '.join(_SCHEDULERS)}."
        )
    return _SCHEDULERS[name](options, state_dir)
