"""A fair queue for page scripts: a first-come first-served lock with a bounded wait.

They share one interpreter: five that run at the same time are all five times as slow, while in
turn the first is done as if it were alone and the last no later.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Nobody waits longer: a script that itself waits, for a disk or a cluster, holds no one up.
LONGEST_WAIT_S = 0.3
_changed = threading.Condition()
#: The scripts that run or wait, in the order in which they came.
_queue: list[object] = []


@contextmanager
def in_turn() -> Iterator[None]:
    """Wait until all who came before are done, or long enough."""
    me = object()
    with _changed:
        _queue.append(me)
    try:
        with _changed:
            _changed.wait_for(lambda: _queue[0] is me, LONGEST_WAIT_S)
        yield
    finally:
        with _changed:
            _queue.remove(me)
            _changed.notify_all()
