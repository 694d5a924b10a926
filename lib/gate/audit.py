"""The gate's audit log, `audit.jsonl`: who asked for what, and what was refused.

One JSON object per line with `time`, `event`, and what belongs to it. No secrets, no
parameters, no file contents.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from pathlib import Path

from lib.files.json_lines import JsonLines

_log = logging.getLogger(__name__)
_MAX_TEXT = 300
#: Of each kind.
_REFUSALS_PER_MINUTE = 300


class Audit:
    """Appends to one file; a line is written whole or not at all.

    A flood of refusals (a browser that keeps asking for an ended notebook, or an attack)
    is cut off per minute and kind, so that one kind cannot hide another; how many lines
    were left out is written instead.
    """

    def __init__(self, path: Path) -> None:
        self._lines = JsonLines(path)
        self._minute = 0
        self._refusals: Counter[str] = Counter()

    def write(self, event: str, **fields: str | int | float | bool | None) -> None:
        """Add one line. Texts are cut at 300 characters.

        When the disk is full the line goes to the gate's log; what it tells has happened.
        """
        short = {k: v[:_MAX_TEXT] if isinstance(v, str) else v for k, v in fields.items()}
        line = {"time": round(time.time(), 3), "event": event, **short}
        try:
            self._lines.append(line)
        except OSError as exc:
            _log.error("the audit cannot be written (%s): %s", exc.strerror, json.dumps(line))

    def refused(self, what: str, **fields: str | int) -> None:
        """Add a line about something that was not allowed."""
        minute = int(time.time() // 60)
        if minute != self._minute:
            for kind, count in self._refusals.items():
                if count > _REFUSALS_PER_MINUTE:
                    left_out = count - _REFUSALS_PER_MINUTE
                    self.write("refusals-left-out", what=kind, count=left_out)
            self._minute, self._refusals = minute, Counter()
        self._refusals[what] += 1
        if self._refusals[what] <= _REFUSALS_PER_MINUTE:
            self.write("refused", what=what, **fields)

    def close(self) -> None:
        """Close the file."""
        self._lines.close()
