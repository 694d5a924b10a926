"""Rate limits on what is written down, so that asking often costs and fills nothing."""

from __future__ import annotations

import threading
from collections import deque
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


class AtMost:
    """Lets `number` through in any period of seconds. Safe to call from any thread."""

    def __init__(self, number: int, period_s: float, clock: Callable[[], float]) -> None:
        self._period_s = period_s
        self._clock = clock
        self._passed: deque[float] = deque(maxlen=number)
        self._lock = threading.Lock()

    def due(self) -> bool:
        with self._lock:
            now = self._clock()
            full = len(self._passed) == self._passed.maxlen
            if full and self._passed[0] > now - self._period_s:
                return False
            self._passed.append(now)
            return True
