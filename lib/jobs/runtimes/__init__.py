"""What jobs run in. One module per runtime; `make_runtime` knows them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lib.errors import InvalidInput
from lib.jobs.interfaces import Runtime
from lib.jobs.runtimes.apptainer import ApptainerRuntime
from lib.jobs.runtimes.process import ProcessRuntime

_RUNTIMES: Mapping[str, Callable[[Mapping[str, object]], Runtime]] = {
    "apptainer": ApptainerRuntime.from_options,
    "process": ProcessRuntime.from_options,
}


def make_runtime(name: str, options: Mapping[str, object]) -> Runtime:
    """The runtime of that name with the options of the policy's `[runtime]` table.

    Raises:
        InvalidInput: unknown name, or options it does not take.
    """
    if name not in _RUNTIMES:
        raise InvalidInput(f"policy [runtime]: {name!r:.40} is none of: {', '.join(_RUNTIMES)}.")
    return _RUNTIMES[name](options)
