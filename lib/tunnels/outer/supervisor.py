"""The supervisor of one tunnel: starts its ssh, waits for its end, ends it in time.

Run by `opening` as `python -m lib.tunnels.outer.supervisor FD`, with no agent in its
environment. FD is a socket to `opening`; both sides send lines of JSON:

    StartRequest →               what to start
                 ← StartReply    it is open, or why not
    SealReport →                 what the seal test found; without it the tunnel is closed again

ssh is not started with `-f`. It stays a child, and the kernel ends it when the supervisor
dies in whatever way, so no connection is ever left that nobody counts. While it may ask for a
password it is the terminal's foreground process group, as under a shell; afterwards it is
a group in the background that ignores SIGHUP, and logging out does not end it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import psutil

from lib.errors import InvalidInput
from lib.model import ClusterId, Seal
from lib.model.bounds import LATEST, MomentOrNever, Name, Sentence, UpTo, Within
from lib.protocol.codec import decode, encode
from lib.tunnels.outer import record_writer
from lib.tunnels.outer.admin_ssh import SIGN_IN_TIMEOUT_S
from lib.tunnels.outer.records import TunnelFiles, TunnelRecord
from lib.tunnels.outer.ssh_errors import is_noise, lost

#: For the seal test, which `opening` makes meanwhile.
KEEP_TIMEOUT_S = 240
END_TIMEOUT_S = 5
#: A gate says who it is as soon as somebody connects.
BANNER_TIMEOUT_S = 5
MAX_LINE = 64 * 1024
_KEPT_LINES = 60
_STEP_S = 0.05
#: How often the clock is looked at: a computer that slept must not keep a tunnel too long.
_LOOK_S = 30
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class StartRequest:
    """`argv` and `env` are ssh's; `record` lacks the supervisor's own fields.

    `terminal` tells whether ssh may ask for something there.
    """

    argv: Annotated[list[Sentence], UpTo(1000)]
    env: Annotated[dict[str, Annotated[str, UpTo(MAX_LINE)]], UpTo(10_000)]
    folder: Sentence
    record: TunnelRecord
    lifetime_s: Annotated[float, Within(0, LATEST)]
    terminal: bool


@dataclass(frozen=True, slots=True)
class StartReply:
    """`said` is what ssh wrote; `banner` what answers at the gate's port ("" is nothing)."""

    opened: bool
    said: Annotated[str, UpTo(MAX_LINE * _KEPT_LINES)]
    banner: Name = ""
    interrupted: bool = False
    until: MomentOrNever = 0.0


@dataclass(frozen=True, slots=True)
class SealReport:
    """What `opening` found out meanwhile."""

    seal: Seal
    note: Sentence


def main(link: socket.socket) -> int:
    """Look after one tunnel to its end; the exit code."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    plan = decode(StartRequest, receive(link, SIGN_IN_TIMEOUT_S))
    supervisor = Supervisor(plan)
    try:
        started = supervisor.open(link)
        with contextlib.suppress(OSError):
            link.sendall(encode(started))
        if started.opened:
            supervisor.keep(link)
    finally:
        supervisor.clear()
    return 0


class Supervisor:
    """One tunnel from its first connection to its record's last word."""

    def __init__(self, plan: StartRequest) -> None:
        self._plan = plan
        self._files = TunnelFiles(Path(plan.folder), ClusterId(plan.record.cluster))
        self._record = plan.record
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._rest = b""
        self._echo = True
        self._asked: int | None = None
        self._ssh: subprocess.Popen[bytes] | None = None
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: object) -> None:
        if number != signal.SIGCHLD:
            self._asked = number

    # --- opening -----------------------------------------------------------------------

    def open(self, link: socket.socket) -> StartReply:
        """Start ssh and wait until it has signed in and listens; then leave the terminal."""
        self._files.socket.unlink(missing_ok=True)
        terminal = foreground_terminal() if self._plan.terminal else None
        self._ssh = subprocess.Popen(
            self._plan.argv,
            env=self._plan.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=_as_child(terminal),
        )
        try:
            fault = self._until_it_listens(link)
        finally:
            if terminal is not None:
                with contextlib.suppress(OSError):
                    os.tcsetpgrp(terminal, os.getpgrp())
                os.close(terminal)
        if fault is not None:
            return fault
        banner = self._banner()
        if not banner and "administratively prohibited" in self._text():
            return StartReply(False, self._text())
        self._leave_terminal()
        self._write_opened()
        return StartReply(True, self._text(), banner, until=self._record.until)

    def _until_it_listens(self, link: socket.socket) -> StartReply | None:
        """None once the socket is there; its being there means that ssh has signed in."""
        deadline = time.monotonic() + SIGN_IN_TIMEOUT_S
        while not _is_socket(self._files.socket):
            self._read_stderr(_STEP_S)
            if self._ssh is None or self._ssh.poll() is not None:
                code = self._ssh.returncode if self._ssh else 0
                self._drain()
                return StartReply(False, self._text(), interrupted=code == -signal.SIGINT)
            if self._asked is not None or _is_closed(link):
                return StartReply(False, self._text(), interrupted=True)
            if time.monotonic() > deadline:
                return StartReply(False, f"{self._text()}\nsigning in timed out")
        return None

    def _banner(self) -> str:
        """The first line of what answers at the gate's port; "" where nothing does."""
        with socket.socket(socket.AF_UNIX) as conn:
            conn.settimeout(BANNER_TIMEOUT_S)
            got = b""
            try:
                _connect(conn, self._files.socket)
                while b"\n" not in got and len(got) < 255 and (more := conn.recv(255)):
                    got += more
            except TimeoutError:
                got = got or b"silence"
            except OSError:
                pass
        self._drain()
        line = got.split(b"\n")[0].decode("ascii", "replace").strip()
        return "".join(c if c.isprintable() else "?" for c in line)

    def _write_opened(self) -> None:
        now = time.time()
        start = 0.0
        with contextlib.suppress(psutil.Error, OSError):  # where /proc is closed; see `records`
            start = psutil.Process().create_time()
        self._record = replace(
            self._record,
            opened_at=now,
            until=now + self._plan.lifetime_s,
            pid=os.getpid(),
            start=start,
        )
        record_writer.write(self._files, self._record)

    def _leave_terminal(self) -> None:
        self._echo = False
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)

    # --- keeping -----------------------------------------------------------------------

    def keep(self, link: socket.socket) -> None:
        """Wait for the end of the tunnel, whatever it is, and write it down."""
        try:
            found = decode(SealReport, receive(link, KEEP_TIMEOUT_S))
        except (OSError, InvalidInput):
            self._close("Opening it was interrupted.")
            return
        self._record = replace(self._record, seal=found.seal, seal_note=found.note)
        with contextlib.suppress(OSError):
            record_writer.write(self._files, self._record)
            record_writer.note(self._files, "up", self._record)
        with contextlib.suppress(OSError):
            link.sendall(b"{}\n")
        link.close()
        self._close(self._until_its_end())

    def _until_its_end(self) -> str:
        """Why it ended."""
        while True:
            left = self._record.until - time.time()
            if self._ssh is None or self._ssh.poll() is not None:
                self._drain()
                return lost(self._text())
            if self._asked == signal.SIGINT:
                return f"{self._record.account} closed it."
            if self._asked is not None:
                return "The portal host ended it, as it does when it shuts down."
            if left <= 0:
                return "Its time is over."
            self._read_stderr(min(left, _LOOK_S))

    def _close(self, why: str) -> None:
        self.end_ssh()
        with contextlib.suppress(OSError):
            record_writer.close(self._files, self._record, why)

    def clear(self) -> None:
        """Whatever has happened: neither connection nor socket stays."""
        self.end_ssh()
        self._files.socket.unlink(missing_ok=True)

    def end_ssh(self) -> None:
        """End it and the ssh of its jump host, and wait for it."""
        if self._ssh is None or self._ssh.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._ssh.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._ssh.wait(END_TIMEOUT_S)
                return

    # --- what ssh says -----------------------------------------------------------------

    def _read_stderr(self, timeout_s: float) -> bool:
        """Wait for words of ssh or a signal; whether there were words."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        pipe = self._ssh.stderr if self._ssh else None
        if pipe is not None and not pipe.closed:
            poll.register(pipe, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(timeout_s * 1000)}
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 512)
        if pipe is None or pipe.closed or pipe.fileno() not in ready:
            return False
        data = os.read(pipe.fileno(), 8192)
        if not data:
            pipe.close()
            return False
        *lines, self._rest = (self._rest + data)[-MAX_LINE:].split(b"\n")
        for raw in lines:
            line = raw.decode("utf-8", "replace").rstrip("\r")
            self._said.append(line)
            if self._echo and not is_noise(line):
                shown = "".join(c if c.isprintable() else "?" for c in line)
                print(shown, file=sys.stderr, flush=True)
        return True

    def _drain(self) -> None:
        """Read what was written already: it may come a little after its consequence."""
        deadline = time.monotonic() + 1
        while self._read_stderr(0.2) and time.monotonic() < deadline:
            pass

    def _text(self) -> str:
        return "\n".join(self._said)


def receive(link: socket.socket, timeout_s: float) -> bytes:
    """One line from the other side. Raises OSError where none comes."""
    link.settimeout(timeout_s)
    got = b""
    while not got.endswith(b"\n"):
        more = link.recv(MAX_LINE)
        if not more:
            raise ConnectionError("the other side has ended")
        got += more
    return got


def foreground_terminal() -> int | None:
    """The controlling terminal, where this process group has it in the foreground."""
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    if os.tcgetpgrp(fd) == os.getpgrp():
        return fd
    os.close(fd)
    return None


def _as_child(terminal: int | None) -> Callable[[], None]:
    """A `preexec_fn`: a process group of its own, in front of the terminal, ended with us."""
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def prepare() -> None:
        os.setpgid(0, 0)
        if terminal is not None:
            os.tcsetpgrp(terminal, os.getpgrp())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # there is no shell to go on from
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGKILL)

    return prepare


def _connect(conn: socket.socket, path: Path) -> None:
    """A socket can be seen a moment before it listens."""
    for _ in range(20):
        try:
            return conn.connect(str(path))
        except ConnectionRefusedError:
            time.sleep(_STEP_S)
    return conn.connect(str(path))


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False


def _is_closed(link: socket.socket) -> bool:
    """Whether `opening` is gone; it sends nothing before it hears from us."""
    ready, _, _ = select.select([link], [], [], 0)
    return bool(ready)


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1]))))
