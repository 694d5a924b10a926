"""The sample scenes of a first start, made in a child process while the portal answers.

The portal runs `python -m lib.server.sample_scenes DATA` with a low priority. The child tells
each step and each problem as a JSON line, `["step" | "problem", TEXT]`; it ends when its
standard input does, so none outlives a portal that is killed. A scene appears in the catalog
at once or not at all: the next start goes on behind the last one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lib.config.settings import PROJECT
from lib.errors import SceneBridgeError

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)
_NICE = 10
_GRACE_S = 10.0
_INCOMPLETE = "The sample scenes are not complete; the next start goes on with them."


def mark_of(data: Path) -> Path:
    """There when they were taken in once: what a user has removed since does not come back."""
    return data / "cache" / "samples" / "taken-in"


async def ingest_once(data: Path, report: Callable[[str, str], None]) -> None:
    """Take in the sample scenes where that was never done. Cancelling ends the child.

    Args:
        report: gets what is done now ("" at the end) and what went wrong ("" for nothing).
    """
    if mark_of(data).exists():
        return
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "lib.server.sample_scenes", str(data)),
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    problem = ""
    try:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, child.pid, _NICE)
        assert child.stdout is not None  # noqa: S101 - asked for above
        async for line in child.stdout:
            kind, text = json.loads(line)
            problem = text if kind == "problem" else problem
            report(text if kind == "step" else "", problem)
        if await child.wait():
            problem = problem or _INCOMPLETE
        else:
            mark_of(data).parent.mkdir(parents=True, exist_ok=True)
            mark_of(data).touch()
    finally:
        await _end(child)
    if problem:
        _log.warning("%s", problem)
        print(problem, file=sys.stderr)
    report("", problem)


async def _end(child: asyncio.subprocess.Process) -> None:
    """Let the child remove what it has begun; it gets a few seconds for that."""
    assert child.stdin is not None  # noqa: S101 - asked for above
    child.stdin.close()
    with suppress(ProcessLookupError):
        child.terminate()
    try:
        async with asyncio.timeout(_GRACE_S):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


def main(arguments: list[str]) -> int:
    """What the child does; the exit code."""
    ended = threading.Event()

    def end(*_: object) -> None:
        """Once: the portal's signal and the end of the input come together, and the second would
        break into the removal of what the first has left half done."""
        if not ended.is_set():
            ended.set()
            sys.exit(1)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the portal's to answer
    threading.Thread(target=_end_with_input, daemon=True).start()

    from lib.scenes.samples import ingest_samples_into  # takes a second to load

    def tell(kind: str, text: str) -> None:
        if ended.is_set():
            sys.exit(1)  # the first was lost, in a callback that takes no exception
        print(json.dumps([kind, text]), flush=True)

    try:
        ingest_samples_into(
            Path(arguments[0]),
            lambda line: tell("step", line),
            lambda line: tell("problem", line),
        )
    except SceneBridgeError as exc:
        tell("problem", f"The sample scenes are not complete: {exc.message}")
        return 1
    return 0


def _end_with_input() -> None:
    while os.read(0, 4096):  # not by `sys.stdin`: its lock would be held as the interpreter ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
