"""Page scripts one after the other.

They share one interpreter: five that run at the same time are all five times as slow, while in
turn the first is done as if it were alone and the last no later.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Nobody waits longer: a script that itself waits, for a disk or a cluster, holds no one up.
LONGEST_WAIT_S = 0.5
_TURN = threading.Lock()


@contextmanager
def turn() -> Iterator[None]:
    """Wait until nobody else draws a page, or long enough."""
    mine = _TURN.acquire(timeout=LONGEST_WAIT_S)
    try:
        yield
    finally:
        if mine:
            _TURN.release()
