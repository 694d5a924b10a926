"""Exponential backoff with jitter: how long to wait before something is tried again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Backoff:
    """The waits of one loop that tries again.

    Each wait is twice the one before, up to a bound; of it at least half is waited, and a
    random part of the rest ("equal jitter"), so that many that failed together do not all
    come back together.
    """

    def __init__(
        self,
        first_s: float,
        longest_s: float,
        *,
        steady_s: float = 30.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """
        Args:
            steady_s: what held for longer than this had worked: the waits begin anew.
            jitter: a random number, 0 <= number < 1.
        """
        self._first_s = min(first_s, longest_s)
        self._longest_s = longest_s
        self._steady_s = steady_s
        self._jitter = jitter
        self._full_s = self._first_s

    def next_s(self, *, held_s: float = 0.0) -> float:
        """Seconds to wait now.

        Args:
            held_s: for how long it had worked before it failed.
        """
        if held_s > self._steady_s:
            self.reset()
        full = self._full_s
        self._full_s = min(2 * full, self._longest_s)
        return full * (1 + self._jitter()) / 2

    def reset(self) -> None:
        """It has worked: the next wait is the first one again."""
        self._full_s = self._first_s
