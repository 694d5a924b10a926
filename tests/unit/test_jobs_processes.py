"""Processes are known by pid and start time, and a job's are all found."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib.jobs.processes import (
    ProcessId,
    descendants,
    listens,
    start_of,
    terminal_programs,
    this_process,
)
from tests.running import wait_for

ROOT = Path(__file__).resolve().parents[2]


def test_this_process_lives() -> None:
    assert this_process().alive()
    assert this_process().pid == os.getpid()


def test_a_process_that_ended_is_not_alive_even_as_a_zombie() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        identity = ProcessId(process.pid, start_of(process.pid))
        assert identity.alive()
        assert identity.signal(signal.SIGKILL)
        deadline = time.monotonic() + 300
        while identity.alive() and time.monotonic() < deadline:
            time.sleep(0.01)  # not waited for: it stays a zombie
        assert not identity.alive()
        assert not identity.signal(signal.SIGTERM)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_programs_in_a_terminal_are_told_from_its_shell() -> None:
    """What was stopped there does not run, and what has no terminal is none of them."""
    shell = [sys.executable, "-c", "import pty; pty.spawn(['sh', '-i'])"]
    with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        wait_for("the shell", lambda: descendants(process.pid))
        assert terminal_programs(process.pid) == []
        process.stdin.write(b"sleep 4322\n")
        process.stdin.flush()
        wait_for("a program in it", lambda: terminal_programs(process.pid))
        (program,) = terminal_programs(process.pid)
        assert b"sleep" in Path(f"/proc/{program}/cmdline").read_bytes()
        os.kill(program, signal.SIGSTOP)
        wait_for("it to be stopped", lambda: not terminal_programs(process.pid))
        for pid in (*descendants(process.pid), process.pid):
            os.kill(pid, signal.SIGKILL)


def test_a_pid_with_another_start_time_is_somebody_else() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        stranger = ProcessId(process.pid, "another start")
        assert not stranger.alive()
        assert not stranger.signal(signal.SIGKILL)
        assert process.poll() is None
        process.kill()


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 5])
def test_impossible_pids_are_nobody(pid: int) -> None:
    assert start_of(pid) == ""
    assert not ProcessId(pid, "").signal(signal.SIGTERM)


def test_grandchildren_are_descendants() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True) as process:
        deadline = time.monotonic() + 300
        while len(descendants(process.pid)) < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(descendants(process.pid)) == 1
        assert process.pid in descendants(os.getpid())
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a child subreaper")
def test_a_sweep_ends_what_escaped_and_ignores_term(tmp_path: Path) -> None:
    program = """
import subprocess, sys, time
from lib.jobs.processes import become_subreaper, descendants, sweep
import os
become_subreaper()
stubborn = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "open(sys.argv[1], 'w').close(); time.sleep(999)"
)
subprocess.Popen(["setsid", "-f", sys.executable, "-c", stubborn, sys.argv[1]]).wait()
subprocess.Popen(["setsid", "-f", "sleep", "999"]).wait()
while len(descendants(os.getpid())) < 2 or not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
print(len(descendants(os.getpid())), sweep(grace_s=0.3), len(descendants(os.getpid())))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "ready")],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["2", "2", "0"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_listener_is_known_by_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listens(os.getpid(), "127.0.0.1", port)
        assert not listens(1, "127.0.0.1", port)
        assert not listens(os.getpid(), "127.0.0.2", port)
    assert not listens(os.getpid(), "127.0.0.1", port)
