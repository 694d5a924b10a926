"""Run Slurm's programs: absolute paths, a clean environment, and always a timeout."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib.errors import Unavailable

#: What the programs print when the controller (or munge) could not be asked, in any
#: version; nothing is known then about what was asked.
_NO_ANSWER = (
    "Unable to contact slurm controller",
    "Unable to contact slurm",
    "Socket timed out",
    "Zero Bytes were transmitted",
    "Connection refused",
    "Connection timed out",
    "Connection reset",
    "Communication connection failure",
    "Unexpected message",
    "Incomplete message",
    "Insane message length",
    "Header lengths are longer",
    "Transport endpoint is not connected",
    "Resource temporarily unavailable",
    "temporarily unable to accept job",
    "backup controller in standby mode",
    "authentication error",
    "Invalid authentication credential",
    "Munge encode failed",
    "Failed to access",
    "If munged is up",
)

_KILLED_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program left: exit status and both outputs."""

    status: int
    out: str
    err: str

    @property
    def silent(self) -> bool:
        """Whether the controller was not reached, as far as the program knows."""
        return self.status != 0 and any(word in self.err for word in _NO_ANSWER)

    @property
    def words(self) -> str:
        """Slurm's own words about what went wrong, on one line."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        said = [line.partition(": error: ")[2] or line for line in lines]
        text = "; ".join(dict.fromkeys(said))[-400:]
        return text or f"exit status {self.status}"


async def run(
    argv: Sequence[str], env: Mapping[str, str], *, timeout_s: float, data: bytes = b""
) -> Answer:
    """Run one program to its end.

    Raises:
        Unavailable: it cannot be started, or took longer than `timeout_s`; it is gone then.
    """
    name = _name(argv)
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd="/",
            env=dict(env),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as exc:
        raise Unavailable(
            f"Slurm's program {argv[0]} cannot be started ({exc.strerror}); the gate's "
            "administrator sets its folder with `bin` in the policy."
        ) from exc
    try:
        out, err = await asyncio.wait_for(process.communicate(data), timeout_s)
    except asyncio.TimeoutError as exc:
        raise Unavailable(f"Slurm's {name} gave no answer within {timeout_s:.0f} s.") from exc
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(asyncio.TimeoutError):  # one that hangs in a file system
                await asyncio.wait_for(process.wait(), _KILLED_WITHIN_S)
    texts = [data.decode("utf-8", "replace") for data in (out, err)]
    return Answer(process.returncode or 0, *texts)


def _name(argv: Sequence[str]) -> str:
    """The program that is meant, also behind `timeout`."""
    names = [Path(word).name for word in argv if word.startswith("/")]
    return names[1] if names[:1] == ["timeout"] and len(names) > 1 else names[0]
