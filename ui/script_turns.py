"""Page scripts one after the other.

They share one interpreter: five that run at the same time are all five times as slow, while in
turn the first is done as if it were alone and the last no later.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Nobody waits longer: a script that itself waits, for a disk or a cluster, holds no one up.
LONGEST_WAIT_S = 0.3
_moved = threading.Condition()
#: Who has begun or waits, in the order in which they came.
_line: list[object] = []


@contextmanager
def turn() -> Iterator[None]:
    """Wait until all who came before are done, or long enough."""
    me = object()
    with _moved:
        _line.append(me)
    try:
        with _moved:
            _moved.wait_for(lambda: _line[0] is me, LONGEST_WAIT_S)
        yield
    finally:
        with _moved:
            _line.remove(me)
            _moved.notify_all()
