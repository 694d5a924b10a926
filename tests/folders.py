"""Folders whose path is short enough for the sockets in them, and who still uses one."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE_S = 300.0


def processes(text: str) -> dict[int, str]:
    """Those that have `text` in their arguments or in the path of a file that they hold open, but
    this one: their arguments by pid."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in words or any(text in path for path in _held(entry)):
            found[int(entry.name)] = words
    return found


def _held(process: Path) -> list[str]:
    """The paths of its open files, where it may be asked."""
    paths = []
    with suppress(OSError):
        for descriptor in os.scandir(process / "fd"):
            with suppress(OSError):
                paths.append(str(Path(descriptor.path).readlink()))
    return paths


@contextmanager
def short_folder() -> Iterator[Path]:
    """A new folder. It is removed when whoever was told of it has gone: a process that was only
    told to end may still write into it."""
    with tempfile.TemporaryDirectory(prefix="sb-", dir="/tmp") as name:
        yield Path(name)
        wait_until_unused(name)


def wait_until_unused(name: str | Path) -> None:
    """Until no process has the folder in its arguments or a file in it open."""
    deadline = time.monotonic() + PATIENCE_S
    while left := processes(str(name)):
        assert time.monotonic() < deadline, f"these still use {name}: {left}"
        time.sleep(0.02)
