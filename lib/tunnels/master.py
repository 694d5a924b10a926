"""One OpenSSH ControlMaster in a process of its own.

It is started in its own session with nothing of the portal's attached, so it outlives
the portal; a portal that starts again finds it by its control socket and adopts it.
What is known about it lies in one small record file: its process id and its forwards.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from lib.errors import ClusterUnreachable
from lib.files.atomic import write_atomic
from lib.model import SessionId
from lib.protocol.messages import ID_PATTERN
from lib.tunnels import ssh_errors, ssh_options, ssh_process
from lib.tunnels.gate_address import GateAddress, SocketAddress
from lib.tunnels.ssh_options import ConnectionFiles

#: Longest wait for an answer on the control socket; a healthy master needs milliseconds.
CONTROL_TIMEOUT_S = 8.0
_POLL_S = 0.01
_END_TIMEOUT_S = 3.0
_PID = re.compile(r"pid=(\d+)")


class Master:
    """Starts, finds, asks and ends the master of one cluster. One user at a time."""

    def __init__(self, files: ConnectionFiles, key: Path) -> None:
        self._files = files
        self._key = key
        self._recorded, self._opening = _read_record(files.record)

    @property
    def recorded(self) -> frozenset[SessionId]:
        """The sessions whose forwards were asked of this master or its predecessor."""
        return frozenset(self._recorded[1])

    @property
    def opening(self) -> str:
        """Which opening of a tunnel it goes through; "" where it goes through none."""
        return self._opening

    async def check(self) -> bool:
        """Whether a master answers on the control socket. Raises TimeoutError when it hangs."""
        if not self._files.control.exists():
            return False
        asked = ssh_options.control(self._files, "check")
        done = await ssh_process.run(asked, timeout_s=CONTROL_TIMEOUT_S)
        found = _PID.search(done.err) if done.code == 0 else None
        if found is None:
            return False
        if int(found[1]) != self._recorded[0]:
            self._record(int(found[1]), self.recorded)
        return True

    async def start(self, address: GateAddress) -> None:
        """Start a master and wait until it has signed in.

        Raises:
            ClusterUnreachable: with the reason; no process is left.
        """
        await self.end()
        known = await _known_key_exchanges()
        argv = ssh_options.master(self._files, address, self._key, known)
        with _private(self._files.log) as log:
            pid = _spawn_detached(argv, log)
        self._opening = address.opening if isinstance(address, SocketAddress) else ""
        self._record(pid, self.recorded)
        try:
            await self._signed_in(pid)
        except BaseException:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            await _gone(self._files, pid)
            self._files.control.unlink(missing_ok=True)
            raise

    async def end(self) -> None:
        """End whatever master there is, politely if it still listens; no error if none."""
        pid = self._recorded[0]
        if self._files.control.exists():
            with suppress(TimeoutError):
                await ssh_process.run(
                    ssh_options.control(self._files, "exit"), timeout_s=min(CONTROL_TIMEOUT_S, 2.0)
                )
        if pid and not await _gone(self._files, pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            await _gone(self._files, pid)
        self._files.control.unlink(missing_ok=True)
        self._record(0, self.recorded)

    async def forward(self, session: SessionId) -> None:
        """Add the forward of a session, afresh.

        Success says only that the socket is there: whether the gate lets a connection
        through shows when one is made (measured: rc 0 although the gate will refuse).
        """
        self._files.forwards.mkdir(mode=0o700, exist_ok=True)
        await self._cancel(session)
        self._record(self._recorded[0], self.recorded | {session})
        done = await self._control("forward", session)
        if done.code != 0 or not self._files.forward(session).is_socket():
            raise ssh_errors.unreachable(self._files.cluster, done.err)

    def listens(self, session: SessionId) -> bool:
        """Whether a process holds the session's socket: a dead master leaves the file."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            return probe.connect_ex(str(self._files.forward(session))) == 0

    async def cancel(self, session: SessionId) -> None:
        """Take the forward away; no error if there is none."""
        await self._cancel(session)
        self._record(self._recorded[0], self.recorded - {session})

    def forget(self, session: SessionId) -> None:
        """As `cancel`, where no master lives that could be asked."""
        self._files.forward(session).unlink(missing_ok=True)
        self._record(self._recorded[0], self.recorded - {session})

    async def _cancel(self, session: SessionId) -> None:
        await self._control("cancel", session)
        # Measured: `-O cancel` leaves the socket file behind.
        self._files.forward(session).unlink(missing_ok=True)

    async def _control(self, operation: str, session: SessionId) -> ssh_process.Completed:
        argv = ssh_options.forward(self._files, operation, session)
        try:
            return await ssh_process.run(argv, timeout_s=CONTROL_TIMEOUT_S)
        except TimeoutError as exc:
            raise ssh_errors.silent(self._files.cluster) from exc

    async def _signed_in(self, pid: int) -> None:
        """Wait for the control socket, which ssh makes once it has signed in."""
        until = time.monotonic() + ssh_options.CONNECT_TIMEOUT_S + 5
        while not self._files.control.exists():
            if _ended(self._files, pid):
                said = self._files.log.read_text(encoding="utf-8", errors="replace")
                raise ssh_errors.not_signed_in(self._files.cluster, said)
            if time.monotonic() > until:
                raise ClusterUnreachable(
                    f"The gate of cluster {self._files.cluster} took too long to answer. "
                    "It is asked again by itself."
                )
            await asyncio.sleep(_POLL_S)

    def _record(self, pid: int, forwards: Iterable[SessionId]) -> None:
        self._recorded = (pid, frozenset(forwards))
        record = {"pid": pid, "forwards": sorted(self._recorded[1]), "opening": self._opening}
        write_atomic(self._files.record, json.dumps(record).encode())


async def _known_key_exchanges() -> frozenset[str]:
    """Empty where ssh does not say: then those are asked for that every one knows."""
    try:
        done = await ssh_process.run(ssh_options.KNOWN_KEY_EXCHANGES, timeout_s=CONTROL_TIMEOUT_S)
    except TimeoutError:
        return frozenset()
    return frozenset(done.out.decode("ascii", "replace").split())


def _spawn_detached(argv: list[str], log: IO[bytes]) -> int:
    """Start `argv` in a session of its own, which no object of ours will ever end.

    Neither asyncio's nor `subprocess`' processes fit: both consider a child that is
    still running when they are collected an error, and asyncio kills it.
    """
    program = shutil.which(argv[0])
    if program is None:
        raise ssh_process.program_missing(argv[0])
    return os.posix_spawn(
        program,
        argv,
        ssh_process.environment(),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, log.fileno(), 2),
        ],
        setsid=True,
        setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM),
    )


async def _gone(files: ConnectionFiles, pid: int) -> bool:
    """Wait a little for a master to end; whether it has."""
    until = time.monotonic() + _END_TIMEOUT_S
    while not _ended(files, pid):
        if time.monotonic() > until:
            return False
        await asyncio.sleep(_POLL_S)
    return True


def _ended(files: ConnectionFiles, pid: int) -> bool:
    """Whether the master has ended. A child of ours is collected then."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return not _is_master(files, pid)


def _is_master(files: ConnectionFiles, pid: int) -> bool:
    """Whether `pid` is a process with our control path in its arguments.

    The path lies in a private folder, so nothing else has it: a process id that was
    given to another program since is never taken for the master's. Not for a child just
    started: its arguments show a moment after `posix_spawn` returned.
    """
    if Path("/proc/self/cmdline").exists():
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return os.fsencode(files.control) in arguments
    listed = subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, timeout=5, check=False
    )
    return os.fsencode(files.control) in listed.stdout


def _private(path: Path) -> IO[bytes]:
    """A new file that only we may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _read_record(path: Path) -> tuple[tuple[int, frozenset[SessionId]], str]:
    """The record of a portal that ran before, or an empty one."""
    try:
        data = json.loads(path.read_bytes())
        pid, listed = int(data["pid"]), [str(item) for item in data["forwards"]]
    except (OSError, ValueError, KeyError, TypeError):
        return (0, frozenset()), ""
    forwards = frozenset(SessionId(item) for item in listed if ID_PATTERN.fullmatch(item))
    return (pid, forwards), str(data.get("opening", ""))
