"""Lines of a log that stays: equal ones, and those of somebody who floods it, are counted.

Within ten minutes, a line that says the same as the last one about its thing is not repeated, and
of one kind nobody adds more than some; a line at the end of that time says how many there were.
The first of each kind is always written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from lib.files.json_lines import Value

WINDOW_S = 600.0
#: Of one kind in that time: what was refused to one person, what one person did, and how many
#: times as much all people together.
MOST_REFUSED, MOST_DONE, ALL_TOGETHER = 100, 500, 10
#: Kinds that are told apart, and things whose last line is known. Beyond, people are not.
_MOST_KINDS, _MOST_THINGS = 2_000, 10_000
_ALL = "*"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LogLine:
    """Who did what to what.

    Args:
        who, act, result: its kind. `who` is "" where nobody is known, `result` where it was done.
        about: the thing; "" where the act says it all.
        rest: what else it tells.
    """

    who: str
    act: str
    result: str
    about: str = ""
    rest: tuple[tuple[str, Value], ...] = ()


class RepeatedLines:
    """Decides what is written. Safe to use from any thread.

    Args:
        write: adds a line; with a number, one that says that there were so many more like it,
            all alike where it names a thing or tells the rest, else of its kind.
    """

    def __init__(
        self,
        write: Callable[[LogLine, int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._until = 0.0
        self._last: dict[str, LogLine] = {}
        self._written: Counter[LogLine] = Counter()
        self._left_out: Counter[LogLine] = Counter()

    def add(self, line: LogLine) -> None:
        """Write it, or count it. Raises what `write` raises; then it was neither."""
        if self._clock() >= self._until:
            self.tell()
        with self._lock:
            thing = line.about or line.act
            if self._last.get(thing) == line:
                self._leave_out(line)
                return
            if not self._has_room(line):
                return
            self._last.pop(thing, None)
            if len(self._last) < _MOST_THINGS:
                self._last[thing] = line
        try:
            self._write(line, 0)
        except BaseException:
            with self._lock:
                self._last.pop(thing, None)
            raise

    def tell(self) -> None:
        """Write how many were left out, and begin anew."""
        with self._lock:
            left_out, self._left_out = self._left_out, Counter()
            self._last, self._written = {}, Counter()
            self._until = self._clock() + WINDOW_S
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        for line, count in left_out.items():
            try:
                self._write(line, count)
            except Exception:
                _log.exception("the log cannot be written: %s more like %s", count, line)

    def _has_room(self, line: LogLine) -> bool:
        kind = LogLine(line.who, line.act, line.result)
        all_of_it = LogLine(_ALL, line.act, line.result)
        if kind not in self._written and len(self._written) >= _MOST_KINDS:
            kind = all_of_it
        most = MOST_REFUSED if line.result else MOST_DONE
        first = kind not in self._written
        full = self._written[kind] >= most or self._written[all_of_it] >= most * ALL_TOGETHER
        if full and not first:
            self._leave_out(kind)
            return False
        self._written[kind] += 1
        if kind != all_of_it:
            self._written[all_of_it] += 1
        return True

    def _leave_out(self, line: LogLine) -> None:
        self._left_out[line] += 1
        if self._timer is None:
            self._timer = threading.Timer(WINDOW_S, self.tell)
            self._timer.daemon = True
            self._timer.start()
