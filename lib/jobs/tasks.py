"""Run a task of a session as a subprocess, with a log of bounded size."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.jobs.interfaces import Invocation
from lib.loops import Loops

_EXEC_LIMITS = Path(__file__).with_name("exec_limits.py")
_HALF_LOG_BYTES = 2 * 2**20
_TAIL_BYTES = 8 * 1024
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
#: How Apptainer begins what it says; what is fatal, and what is none of the reader's business.
_WORST, _LEAST = re.compile(r"FATAL *:\s*"), re.compile(r"(?:WARNING|INFO|DEBUG) *:")


def last_words(data: bytes, count: int) -> list[str]:
    """The last lines that are not empty, as text fit to show; why it failed, where a runtime has
    said so, and no warnings of one where anything else was said."""
    text = _COLOURS.sub("", data.decode("utf-8", "replace"))
    lines = ["".join(c for c in line if c.isprintable()).strip() for line in text.split("\n")]
    lines = [line for line in lines if line]
    worst = [_WORST.sub("", line, count=1) for line in lines if _WORST.match(line)]
    said = worst or [line for line in lines if not _LEAST.match(line)] or lines
    return [line[:300] for line in said][-count:]


class BoundedLog:
    """A log file of at most two halves: `NAME` and the older `NAME.1`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self._tail = b""
        self._file = self._open()

    def write(self, data: bytes) -> None:
        """Append; the older half is dropped when the newer is full."""
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        with contextlib.suppress(OSError):  # a full disk must not end the session
            if self._size + len(data) > _HALF_LOG_BYTES:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                newer = self._open()
                os.close(self._file)
                self._file, self._size = newer, 0
            self._size += os.write(self._file, data)

    def last_lines(self, count: int) -> list[str]:
        """The end of it, as `last_words`."""
        return last_words(self._tail, count)

    def close(self) -> None:
        os.close(self._file)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._path, flags, 0o600)


class RunningTask:
    """A started task. `log` holds what it printed."""

    def __init__(
        self, process: asyncio.subprocess.Process, output: int, log: BoundedLog, loops: Loops
    ) -> None:
        self._loops = loops
        self._process = process
        self._output = output
        self.log = log
        self._pump = asyncio.ensure_future(self._copy())

    @classmethod
    async def start(
        cls, what: Invocation, log: Path, *, max_file_bytes: int, loops: Loops
    ) -> RunningTask:
        """Start it in a process group of its own. Raises `OSError`.

        Args:
            loops: are told of what goes wrong with its output.
        """
        argv: Sequence[str] = (
            *(sys.executable, "-I", "-S", str(_EXEC_LIMITS)),
            *(str(os.getpid()), str(max_file_bytes), "watch" if what.watched else "exec"),
            *what.argv,
        )
        # A pipe of our own: asyncio's would make `wait` last until grandchildren close it.
        output, theirs = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                cwd=what.cwd,
                env=dict(what.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(theirs)
        return cls(process, output, BoundedLog(log), loops)

    @property
    def exit_code(self) -> int | None:
        """As a shell would say it (128 + signal), or None while it runs."""
        code = self._process.returncode
        return 128 - code if code is not None and code < 0 else code

    async def wait(self) -> int:
        """Until it is over and its output is written. Returns `exit_code`."""
        await self._process.wait()
        with contextlib.suppress(asyncio.TimeoutError):  # a grandchild may hold the pipe
            await asyncio.wait_for(asyncio.shield(self._pump), 1.0)
        code = self.exit_code
        return 1 if code is None else code

    async def terminate(self, grace_s: float) -> None:
        """TERM, up to `grace_s`, then KILL of the whole group."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def close(self) -> None:
        """Stop reading its output. The process must be over."""
        self._pump.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._pump
        self.log.close()

    async def _copy(self) -> None:
        stream = asyncio.StreamReader()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(self._output, "rb", 0)
        )
        try:
            while data := await stream.read(65536):
                with self._loops.item("the output of a task"):  # or it waits until it is read
                    self.log.write(data)
        finally:
            pipe.close()
