"""Short-lived ssh processes: started with an argv list, bounded in time, always reaped."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from lib.errors import Unavailable

#: The end of stderr that is kept to explain a failure, bytes.
_KEPT_STDERR = 16 * 1024


@dataclass(frozen=True, slots=True)
class Completed:
    """How a child ended. `code` is negative when a signal ended it."""

    code: int
    out: bytes
    err: str


class SshProcess:
    """A running child with its three pipes; use `running` to make one."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise RuntimeError("a child is always started with three pipes")
        self.stdin = process.stdin
        self.stdout = process.stdout
        self._process = process
        self._stderr = asyncio.create_task(_last_of(process.stderr))

    async def finish(self, timeout_s: float) -> tuple[int, str]:
        """Wait for its end: exit code and stderr. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            code = await self._process.wait()
            return code, await asyncio.shield(self._stderr)

    async def close_input(self) -> None:
        """End of file for the child; it may be gone already."""
        with suppress(OSError):
            self.stdin.close()
            await self.stdin.wait_closed()

    async def end(self) -> None:
        """Kill what still runs, reap it, and let go of the pipes."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
        self._stderr.cancel()
        # A master was handed the pipes and keeps their other ends while the gate is silent,
        # and asyncio's wait() would wait for those too (3.11): close ours first.
        self._process._transport.close()  # type: ignore[attr-defined]
        await self._process.wait()
        await asyncio.gather(self._stderr, return_exceptions=True)


def environment() -> dict[str, str]:
    """All that ssh needs of ours: no agent, no askpass, messages in English."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "SHELL": "/bin/sh"}


@asynccontextmanager
async def running(argv: Sequence[str], *, line_limit: int = 2**16) -> AsyncIterator[SshProcess]:
    """Run `argv` in a session of its own; whatever happens, it is gone on leaving.

    Args:
        line_limit: longest line that `stdout.readline` accepts, bytes; about twice
            as much is buffered before the child has to wait.
    Raises:
        Unavailable: there is no such program on this computer.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
            limit=line_limit,
            start_new_session=True,
        )
    except FileNotFoundError as exc:
        raise program_missing(argv[0]) from exc
    child = SshProcess(process)
    try:
        yield child
    finally:
        await child.end()


async def run(argv: Sequence[str], *, timeout_s: float) -> Completed:
    """Run `argv` to its end with an empty stdin.

    Raises:
        TimeoutError: it took longer than `timeout_s`; it was killed.
        Unavailable: as in `running`.
    """
    async with asyncio.timeout(timeout_s), running(argv) as child:
        await child.close_input()
        out = await child.stdout.read(2**16)
        code, err = await child.finish(timeout_s)
        return Completed(code, out, err)


def program_missing(program: str) -> Unavailable:
    return Unavailable(
        f"The program “{program}” was not found on this computer; install the OpenSSH client."
    )


async def _last_of(stream: asyncio.StreamReader) -> str:
    kept = b""
    while chunk := await stream.read(4096):
        kept = (kept + chunk)[-_KEPT_STDERR:]
    return kept.decode("utf-8", "replace")
