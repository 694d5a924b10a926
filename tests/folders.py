"""Folders whose path is short enough for the sockets in them, and who still uses one."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 300.0


def processes(text: str) -> dict[int, str]:
    """Those that have `text` in their arguments, but this one: their arguments by pid."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        if text.encode() in words and int(entry.name) != os.getpid():
            found[int(entry.name)] = words.decode(errors="replace")
    return found


@contextmanager
def short_folder() -> Iterator[Path]:
    """A new folder. It is removed when whoever was told of it has gone: a process that was only
    told to end may still write into it."""
    with tempfile.TemporaryDirectory(prefix="sb-", dir="/tmp") as name:
        yield Path(name)
        wait_until_unused(name)


def wait_until_unused(name: str | Path) -> None:
    """Until no process has the folder in its arguments."""
    deadline = time.monotonic() + PATIENCE_S
    while left := processes(str(name)):
        assert time.monotonic() < deadline, f"these still use {name}: {left}"
        time.sleep(0.02)
