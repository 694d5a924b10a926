"""JSON lines (JSONL): append one object per line to a log that several processes may write."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

Value: TypeAlias = "str | int | float | bool | None"
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class JsonLines:
    """A log that is kept open. Each line is one write, so lines of two writers do not mix."""

    def __init__(self, path: Path, *, mode: int = 0o600) -> None:
        """Open it, or make it with that mode. Raises `OSError`, also where it is a link."""
        self._fd = os.open(path, _APPEND, mode)

    def append(self, line: Mapping[str, Value]) -> None:
        """Add one line. Raises `OSError`."""
        os.write(self._fd, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def append_json_line(path: Path, line: Mapping[str, Value], *, mode: int = 0o600) -> None:
    """Add one line to a log that is not kept open. Raises `OSError`."""
    lines = JsonLines(path, mode=mode)
    try:
        lines.append(line)
    finally:
        lines.close()
