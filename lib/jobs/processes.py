"""Process identity (pid and start time), subreaper, and ending all processes of a job.

A pid alone names nobody: the kernel gives it out again. A process is identified by pid
and start time, both of which must still match before it is signalled. Linux reads
/proc; elsewhere `ps` is asked, and grandchildren that made sessions of their own can
only be found while their parents live.

`ctypes` and `subprocess` are imported where they are used: this module is loaded before
every submit is answered, and they would double that time.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class ProcessId(NamedTuple):
    """One certain process. `start` is opaque and unique together with `pid`."""

    pid: int
    start: str

    def alive(self) -> bool:
        """True while exactly this process runs; a zombie does not."""
        return self.start != "" and start_of(self.pid) == self.start

    def signal(self, number: int) -> bool:
        """Signal it if it still lives. Returns whether it was there."""
        if not self.alive():
            return False
        try:
            os.kill(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def this_process() -> ProcessId:
    """The identity of the calling process."""
    return ProcessId(os.getpid(), start_of(os.getpid()))


def start_of(pid: int) -> str:
    """Start time of a living process, or "" where there is none."""
    if pid <= 0:
        return ""
    if LINUX:
        stat = _stat(pid)
        return f"{_boot_id()}:{stat[2]}" if stat and stat[0] not in "ZX" else ""
    out = _ps("-o", "state=,lstart=", "-p", str(pid)).strip()
    return "" if not out or out.startswith("Z") else out.split(None, 1)[1]


def become_subreaper() -> None:
    """Let orphaned descendants become children of this process (Linux only)."""
    if LINUX:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(number: int = signal.SIGTERM) -> Callable[[], None]:
    """A `preexec_fn`: the child gets this signal when its parent dies (Linux only)."""
    import ctypes

    prctl = ctypes.CDLL(None).prctl if LINUX else None
    parent = os.getpid()

    def prepare() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
            if os.getppid() != parent:  # it died before we asked
                os.kill(os.getpid(), number)

    return prepare


def descendants(pid: int) -> list[int]:
    """All living processes below `pid`, nearest first."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(0), [])
        found += below
        todo += below
    return found


def terminal_programs(pid: int) -> list[int]:
    """Living processes below `pid` that run in a terminal: those that its shell has started.

    One that was stopped there (Ctrl-Z) does not run. Where the system does not tell (no
    /proc), none.
    """
    if not LINUX:
        return []
    return [found for found in descendants(pid) if _runs_in_terminal(found)]


def _runs_in_terminal(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    state, _parent, _group, session, terminal = text[text.rindex(b")") + 2 :].split()[:5]
    return int(terminal) != 0 and int(session) != pid and state not in (b"T", b"Z", b"X")


def sweep(*, grace_s: float, reap: bool = True) -> int:
    """End every process below this one: TERM, up to `grace_s`, then KILL.

    With `become_subreaper` called before the first child, nothing escapes by making a
    session of its own. Returns how many were found at first.
    """
    me = os.getpid()
    first = descendants(me)
    _signal_all(first, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    hard_stop = deadline + 10.0
    while True:
        if reap:
            reap_children()
        left = descendants(me)
        now = time.monotonic()
        if not left or now > hard_stop:
            return len(first)
        if now >= deadline:
            _signal_all(left, signal.SIGKILL)
        time.sleep(0.02)


def reap_children() -> None:
    """Collect the exit codes of all children that are over."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def listens(pid: int, host: str, port: int) -> bool:
    """Whether this very process listens on an IPv4 TCP address.

    Where the system does not tell (no /proc), True.
    """
    if not LINUX:
        return True
    inode = _listener_inode(host, port)
    if not inode:
        return False
    try:
        opened = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    for fd in opened:
        with contextlib.suppress(OSError):
            if str(fd.readlink()) == f"socket:[{inode}]":
                return True
    return False


def tcp_address(host: str, port: int) -> str:
    """An IPv4 address as /proc/net/tcp writes it."""
    packed = bytes(int(part) for part in host.split("."))
    return f"{int.from_bytes(packed, sys.byteorder):08X}:{port:04X}"


def _listener_inode(host: str, port: int) -> str:
    wanted = tcp_address(host, port)
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines():
        fields = line.split()
        if fields[1] == wanted and fields[3] == "0A":
            return fields[9]
    return ""


def _signal_all(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _parents() -> list[tuple[int, int]]:
    if LINUX:
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        stats = [(pid, _stat(pid)) for pid in pids]
        return [(pid, int(s[1])) for pid, s in stats if s and s[0] not in "ZX"]
    lines = _ps("-axwwo", "pid=,ppid=,state=").splitlines()
    rows = [line.split() for line in lines]
    return [(int(r[0]), int(r[1])) for r in rows if len(r) == 3 and not r[2].startswith("Z")]


def _stat(pid: int) -> tuple[str, str, str] | None:
    """State, parent and start time of /proc/PID/stat (fields 3, 4, 22)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return fields[0].decode(), fields[1].decode(), fields[19].decode()


@functools.cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii")[:8]
    except OSError:
        return ""


def _ps(*args: str) -> str:
    import subprocess

    done = subprocess.run(["ps", *args], capture_output=True, text=True, timeout=10, check=False)
    return done.stdout
