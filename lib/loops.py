"""The loops of a process: each outlives whatever goes wrong in it, and shows when it stands still.

A loop looks at many things in turn, and what it looks at was made by others. So each thing is
looked at within `Loops.item`: what is raised there is logged, once and with the thing's id, and
the others go on. Whatever else a turn raises costs that turn and not the loop. A loop that
fails at every turn, takes too long for one, or has ended is said in `Loops.trouble`, for whoever
asks from outside.

Standard library only, Python 3.10 or newer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator

#: Of a turn that failed, until the next.
FAULT_PAUSE_S = 1.0
#: A loop that fails for so long at every turn does nothing any more.
_FAILING_S = 30.0
#: The same fault of the same thing is logged again after this time.
_AGAIN_S = 3600.0
_REMEMBERED = 1000


class Loops:
    """All loops of one process or part.

    Args:
        whose: begins the sentence of `trouble`: "The gate".
        log: what goes wrong is written there.
        clock: as `time.monotonic`.
    """

    def __init__(
        self, whose: str, log: logging.Logger, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.whose = whose
        self.clock = clock
        self._log = log
        self._loops: list[Loop] = []
        self._noted: OrderedDict[str, tuple[object, float]] = OrderedDict()

    def add(self, did: str, *, late_after_s: float) -> Loop:
        """A new loop. `did` says what one turn does: "looked after its jobs".

        Args:
            late_after_s: a turn that takes longer will not come to an end.
        """
        loop = Loop(self, did, late_after_s)
        self._loops.append(loop)
        return loop

    @property
    def trouble(self) -> str:
        """One sentence that stays the same while the trouble does; "" while all turn."""
        return next((loop.trouble for loop in self._loops if loop.trouble), "")

    @contextlib.contextmanager
    def item(self, ident: str, *passing: type[Exception]) -> Iterator[None]:
        """Do something with one thing: an exception ends this block and nothing else.

        In any thread. What is of the kinds in `passing` is raised on, and not logged.
        """
        try:
            yield
        except passing:
            raise
        except Exception as exc:  # whatever it is, it is this one thing's
            self.note(ident, exc)

    def note(self, ident: str, error: Exception) -> None:
        """Log what went wrong with that thing, unless it is known already."""
        now = self.clock()
        kind = (type(error), _place(error))
        known = self._noted.get(ident)
        if known is not None and known[0] == kind and now - known[1] < _AGAIN_S:
            return
        self._noted[ident] = kind, now
        self._noted.move_to_end(ident)
        while len(self._noted) > _REMEMBERED:
            self._noted.popitem(last=False)
        self._log.error("%s: it failed, the others go on", ident, exc_info=error)


class Loop:
    """One loop. `run` it in a task of its own."""

    def __init__(self, loops: Loops, did: str, late_after_s: float) -> None:
        self._loops = loops
        self._did = did
        self._late_after_s = late_after_s
        self._turned_at: float | None = None
        self._failing_since: float | None = None
        self._last = ""
        self._over = False

    @property
    def trouble(self) -> str:
        """Why nothing is to be expected of it, or ""."""
        now = self._loops.clock()
        if self._turned_at is None:
            return ""
        failing = self._failing_since is not None and now - self._failing_since > _FAILING_S
        if failing or self._over or now - self._turned_at > self._late_after_s:
            return f"{self._loops.whose} has not {self._did} since {self._last}; its log says more."
        return ""

    def turned(self) -> None:
        """It is well. `run` says so after each turn; a turn that is long by nature does, too."""
        self._turned_at = self._loops.clock()
        self._failing_since = None
        self._last = time.strftime("%H:%M:%S UTC", time.gmtime())

    def rest(self) -> None:
        """It has nothing to do, and is not expected to turn."""
        self._turned_at = None

    async def run(self, turn: Callable[[], Awaitable[None]], pause_s: float = 0.0) -> None:
        """Turn until it is cancelled."""
        self._over = False
        self.turned()
        try:
            while True:
                try:
                    await turn()
                except Exception as exc:
                    self._loops.note(f"a turn of what has {self._did}", exc)
                    if self._failing_since is None:
                        self._failing_since = self._loops.clock()
                    await asyncio.sleep(FAULT_PAUSE_S)
                else:
                    self.turned()
                    await asyncio.sleep(pause_s)
        finally:
            self._over = True


def _place(error: Exception) -> object:
    """Where it was raised: the same place is the same fault, whatever its message counts."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return None if at is None else (at.tb_frame.f_code.co_filename, at.tb_lineno)
