"""A rate limit on what is written down, so that asking often costs nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cachetools import TTLCache

_MOST_KNOWN = 10_000


class OncePer:
    """Lets each id through once in a period of seconds. Safe to call from any thread."""

    def __init__(self, period_s: float, clock: Callable[[], float]) -> None:
        self._passed: TTLCache[str, None] = TTLCache(_MOST_KNOWN, period_s, clock)
        self._lock = threading.Lock()

    def due(self, ident: str) -> bool:
        with self._lock:
            if ident in self._passed:
                return False
            self._passed[ident] = None
            return True
