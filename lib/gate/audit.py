"""The gate's audit log, `audit.jsonl`: who asked for what, and what was refused.

One JSON object per line with `time`, `event`, and what belongs to it. No secrets, no
parameters, no file contents.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lib.files.json_lines import JsonLines, Value
from lib.files.repeated_lines import LogLine, RepeatedLines

_log = logging.getLogger(__name__)
_MAX_TEXT = 300
_REFUSED = "refused"


class Audit:
    """Appends to one file; a line is written whole or not at all.

    What is repeated, and what comes as a flood, is counted (`lib.files.repeated_lines`): a line
    `repeated` says of what, and how many there were.

    Args:
        clock: by which that is forgotten, seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = JsonLines(path)
        self._repeated = RepeatedLines(self._append, clock)

    def write(self, event: str, **fields: Value) -> None:
        """Add one line. Texts are cut at 300 characters.

        When the disk is full the line goes to the gate's log; what it tells has happened.
        """
        self._repeated.add(_line(event, "", fields))

    def refused(self, what: str, **fields: Value) -> None:
        """Add a line about something that was not allowed."""
        self._repeated.add(_line(what, _REFUSED, fields))

    def close(self) -> None:
        """Close the file, with the counts that were not told yet."""
        self._repeated.tell()
        self._lines.close()

    def _append(self, line: LogLine, more: int) -> None:
        told: dict[str, Value] = {"time": round(time.time(), 3), "event": line.act}
        if line.result:
            told.update(event=_REFUSED, what=line.act)
        if more:
            told.update(event="repeated", of=told["event"], count=more)
            if not line.rest and line.who:
                told["who"] = line.who
        told.update(line.rest)
        try:
            self._lines.append(told)
        except OSError as exc:
            _log.error("the audit cannot be written (%s): %s", exc.strerror, json.dumps(told))


def _line(act: str, result: str, fields: Mapping[str, Value]) -> LogLine:
    rest = tuple((k, v[:_MAX_TEXT] if isinstance(v, str) else v) for k, v in fields.items())
    known = dict(rest)
    who, thing = str(known.get("owner", "")), str(known.get("session", ""))
    return LogLine(who, act, result, thing, rest)
