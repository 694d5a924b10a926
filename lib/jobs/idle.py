"""When a notebook that nobody works in will be ended.

Work is what Jupyter counts (requests, the messages of kernels, what terminals print), a kernel
that is busy, the module beside the notebook, and a program in one of its terminals.

Standard library only; runs on any Python >= 3.10 without packages.
"""

from __future__ import annotations

from lib.jobs.jupyter import Activity

#: An end is told so long before, or when half of the idle time is over.
_WARN_S = 600.0


class IdleClock:
    """Times are Unix seconds.

    Args:
        limit_s: it ends after so long without work.
        now: the notebook began.
    """

    def __init__(self, limit_s: float, now: float) -> None:
        self._limit_s = limit_s
        self._worked_at = now

    def look(self, activity: Activity, *, working: bool, now: float) -> None:
        """What was seen just now; `working`: the module or a program in a terminal runs."""
        if working or activity.busy:
            self._worked_at = now
        self._worked_at = max(self._worked_at, min(activity.last, now))

    @property
    def ends_at(self) -> float:
        """When it ends if nobody works in it any more."""
        return self._worked_at + self._limit_s

    def warns(self, now: float) -> bool:
        """Whether that is so near that somebody should know."""
        return self.ends_at - now <= min(_WARN_S, self._limit_s / 2)
