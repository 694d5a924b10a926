"""A test that measures a person's waiting has the computer for itself meanwhile.

The workers of pytest-xdist share its cores: what takes half a second takes two beside another
browser. Each test holds one lock together with the others; `alone` waits for theirs to end.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_held: list[tuple[IO[str], IO[str]]] = []


@contextlib.contextmanager
def beside_others(folder: Path) -> Iterator[None]:
    """While a test runs. The locks lie in a folder that all workers share."""
    with (
        (folder / "turn.lock").open("w") as turn,
        (folder / "running.lock").open("w") as running,
    ):
        with _locked(turn):  # who waits to be alone is let in before the next test begins
            fcntl.flock(running, fcntl.LOCK_SH)
        _held.append((turn, running))
        try:
            yield
        finally:
            _held.pop()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within a test: no other test runs. It may have to wait for as long as another takes."""
    if not _held:
        yield
        return
    turn, running = _held[-1]
    fcntl.flock(running, fcntl.LOCK_UN)  # or two that wait would wait for each other
    with _locked(turn):
        fcntl.flock(running, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(running, fcntl.LOCK_SH)


@contextlib.contextmanager
def _locked(file: IO[str]) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
