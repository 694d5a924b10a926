"""The detached process that keeps one job of the scheduler `local`.

Started as `python -m lib.jobs.local_runner FOLDER`; FOLDER holds `job.json`. It leaves
its starter's session, waits for a free slot, starts the command in a process group of
its own, enforces the walltime, and ends everything the command left behind. It writes
`runner.json` (who it is), `state.json` (once the command runs) and `end.json`.

Standard library only, and few imports before it has detached: a submit waits for that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from lib.files.atomic import read_json, write_json
from lib.jobs.processes import (
    ProcessId,
    become_subreaper,
    die_with_parent,
    start_of,
    sweep,
    this_process,
)

if TYPE_CHECKING:
    import subprocess

    from lib.loops import Loops

GRACE_S = 10.0
_SWEEP_GRACE_S = 1.0
_REMOVE_S = 20.0
_QUEUE_POLL_S = 0.1
_SAY_END_S = 600.0
_SAY_AGAIN_S = 1.0


class QueuedJob(TypedDict):
    """What `job.json` says: `lib.jobs.interfaces.JobSpec`, paths as text, and the queue's slots."""

    name: str
    argv: list[str]
    env: dict[str, str]
    folder: str
    output: str
    scratch: str
    walltime_s: int
    slots: int


class JobEnd(TypedDict):
    """What `end.json` says; `exit_code` is None where no command ran."""

    why: str
    exit_code: int | None
    message: str
    ended_at: float


class Runner:
    """One job from queue to end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._job: QueuedJob = read_json(folder / "job.json")
        self._started_at: float | None = None
        self._wake, self._waker = os.pipe()
        self._cancelled = False
        self._loops: Loops | None = None

    def run(self) -> None:
        """Do all of it; returns when the job is over and written down."""
        become_subreaper()
        slot = self._wait_for_slot()
        if slot is None:
            self._end("cancelled-queued", None)
            return
        try:
            process = self._start()
        except OSError as exc:
            self._end("not-started", None, f"The job could not be started: {exc.strerror}.")
            return
        why = self._watch(process)
        sweep(grace_s=_SWEEP_GRACE_S)
        _remove(self._job["scratch"])
        code = process.returncode
        self._end(why, 128 - code if code is not None and code < 0 else code)

    def listen_for_signals(self) -> None:
        """Before anybody knows our pid: a cancel may follow at once."""
        os.set_blocking(self._waker, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._cancel)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def _cancel(self, *_: object) -> None:
        self._cancelled = True

    def _sleep(self, seconds: float) -> None:
        """Until a signal comes, at most `seconds`."""
        if select.select([self._wake], [], [], max(seconds, 0.0))[0]:
            os.read(self._wake, 4096)

    def _wait_for_slot(self) -> int | None:
        """The locked slot's descriptor, in order of submission; None when cancelled."""
        while not (self._cancelled or (self._folder / "cancel").exists()):
            if not self._somebody_is_ahead():
                for number in range(self._job["slots"]):
                    slot = self._try_slot(number)
                    if slot is not None:
                        return slot
            self._sleep(_QUEUE_POLL_S)
        return None

    def _try_slot(self, number: int) -> int | None:
        path = self._folder.parent.parent / f"slot-{number}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def _somebody_is_ahead(self) -> bool:
        earlier = [f for f in self._folder.parent.iterdir() if f.name < self._folder.name]
        return any(self._waits(folder) for folder in earlier)

    def _waits(self, folder: Path) -> bool:
        """A job whose files cannot be read holds up no other."""
        try:
            return waits(folder)
        except Exception as exc:
            self._note(f"job {folder.name}", exc)
            return False

    def _note(self, ident: str, error: Exception) -> None:
        """As `Loops.note`, in `runner.log`."""
        if self._loops is None:  # loaded only where it is needed: a submit waits for this program
            import logging

            from lib.loops import Loops

            self._loops = Loops("The runner", logging.getLogger(__name__))
        self._loops.note(ident, error)

    def _start(self) -> subprocess.Popen[bytes]:
        import subprocess

        output = os.open(self._job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # die_with_parent makes one system call: safe in this single-threaded process.
            process = subprocess.Popen(
                self._job["argv"],
                env=self._job["env"],
                cwd=self._job["folder"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        finally:
            os.close(output)
        self._started_at = time.time()
        state = {"started_at": self._started_at, "pid": process.pid, "start": start_of(process.pid)}
        try:
            write_json(self._folder / "state.json", state)
        except OSError:  # nobody would know that it runs
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        return process

    def _watch(self, process: subprocess.Popen[bytes]) -> str:
        """Until the command is over. Returns why."""
        deadline = time.monotonic() + self._job["walltime_s"]
        while process.poll() is None:
            if self._cancelled:
                return self._terminate(process, "cancelled")
            left = deadline - time.monotonic()
            if left <= 0:
                return self._terminate(process, "walltime")
            self._sleep(left)
        return "cancelled" if self._cancelled else "exited"

    def _terminate(self, process: subprocess.Popen[bytes], why: str) -> str:
        """TERM to the command, which tidies up its own; KILL to all after the grace."""
        try:
            write_json(self._folder / "ending.json", {"why": why})
        except OSError as exc:  # a full disk; it ends all the same
            self._note("noting why it ends", exc)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while process.poll() is None and time.monotonic() < deadline:
            self._sleep(min(0.2, deadline - time.monotonic()))
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return why

    def _end(self, why: str, exit_code: int | None, message: str = "") -> None:
        """On a full disk it is tried again, for a while: without this the job counts as lost."""
        end = JobEnd(why=why, exit_code=exit_code, message=message, ended_at=time.time())
        until = time.monotonic() + _SAY_END_S
        while True:
            try:
                write_json(self._folder / "end.json", end)
                return
            except OSError as exc:
                self._note("noting its end", exc)
                if time.monotonic() > until:
                    raise
            time.sleep(_SAY_AGAIN_S)


def _remove(folder: str) -> None:
    from lib.files.tree import remove

    remove(Path(folder), timeout_s=_REMOVE_S)  # what is left goes with the next job's start


def waits(folder: Path) -> bool:
    """Whether the job in this folder still waits for a slot, its runner being alive."""
    if (folder / "state.json").exists() or (folder / "end.json").exists():
        return False
    runner = identity(folder / "runner.json")
    return runner is not None and runner.alive()


def identity(path: Path) -> ProcessId | None:
    """The process that a file with `pid` and `start` names."""
    data = read_json(path)
    return None if data is None else ProcessId(data["pid"], data["start"])


def main() -> None:
    """Detach, say so by exiting, and run the job."""
    folder = Path(sys.argv[1])
    ready, tell = os.pipe()
    if os.fork():
        os.close(tell)
        os._exit(0 if os.read(ready, 1) == b"1" else 1)
    os.close(ready)
    os.setsid()
    runner = Runner(folder)
    runner.listen_for_signals()
    me = this_process()
    write_json(folder / "runner.json", {"pid": me.pid, "start": me.start})
    os.write(tell, b"1")
    os.close(tell)
    runner.run()


if __name__ == "__main__":
    main()
