"""Start, run and stop the gate's server; the kill switch while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from lib.errors import Conflict, InvalidInput, SceneBridgeError, Unavailable
from lib.gate import VERSION, kill_switch
from lib.gate.audit import Audit
from lib.gate.job_record import SessionFolders
from lib.gate.policy import Policy
from lib.gate.state_dir import RunningGate, StateDir, public_text, this_node
from lib.jobs.control_files import ROOT
from lib.jobs.processes import ProcessId, this_process

if TYPE_CHECKING:
    from pathlib import Path

    from lib.gate.jobs import Jobs
    from lib.gate.verbs import Verbs
    from lib.loops import Loops

_TIDY_EVERY_S = 3600.0
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0
_KILL_TIMEOUT_S = 10.0
_JOBS_TIMEOUT_S = 60.0
_CANCEL_AGAIN_S = 10.0
_CANCEL_TASKS_AGAIN_S = 0.5
_SWITCHED_OFF = "It was stopped because this cluster's kill switch was thrown."
_REPORT_EVERY_S = 1.0
_LATE_S = 60.0
_MAX_LOG_BYTES = 4 * 2**20

_log = logging.getLogger(__name__)


class JobsRunOn(Unavailable):
    """Jobs that were told to end have not, as far as the scheduler says; the message lists them."""

    code = "jobs-run-on"

    @classmethod
    def of(cls, left: Sequence[str], why: str = "") -> JobsRunOn:
        """
        Args:
            left: a line for each.
            why: why nothing is known of them.
        """
        count = "1 job has" if len(left) == 1 else f"{len(left)} jobs have"
        listed = f" {count} not ended yet: {'; '.join(left)}." if left else ""
        return cls(f"{why}{listed}".strip())


async def serve(state_dir: StateDir) -> None:
    """Listen, announce it in `gate.json`, and go on until SIGTERM or SIGINT.

    The jobs are left alone, but where the kill switch is on: then they end too.

    Raises:
        Conflict: a gate serves this folder already, or the port is taken.
        Refused: the kill switch is on.
    """
    from lib.gate.jobs import Jobs  # with asyncssh 0.3 s to load
    from lib.gate.ssh_server import GateServer
    from lib.gate.verbs import Verbs

    with state_dir.lock():
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        policy, host_key = state_dir.policy(), state_dir.host_key()
        await _refuse_while_switched_off(state_dir, policy)
        audit = Audit(state_dir.audit)
        folders = SessionFolders(state_dir.path)
        jobs = Jobs(folders, policy, policy.scheduler(state_dir.path), audit)
        verbs = Verbs(policy, folders, jobs, audit)
        server = GateServer(state_dir.portal_key(), jobs, verbs, audit)
        try:
            acceptor = await server.listen(policy.port, host_key)
        except OSError as exc:
            raise _no_port(policy.port, exc) from exc
        state_dir.announce(_this_gate(acceptor.get_port(), public_text(host_key), policy.cluster))
        audit.write("started", port=acceptor.get_port())
        tasks = [
            asyncio.ensure_future(part)
            for part in (
                jobs.watch_over(),
                _tidy(jobs.loops, verbs),
                _watch_kill_switch(jobs.loops, state_dir, policy, stop, audit),
                _report(jobs.loops, state_dir),
            )
        ]
        try:
            await stop.wait()
        finally:
            await end_tasks(tasks)
            await jobs.images.close()
            acceptor.close()
            for connection in list(server.connections):
                connection.close()
            if state_dir.active_stop_file(policy.stop_files) is not None:
                await _end_all(jobs, text=_SWITCHED_OFF)
            state_dir.withdraw()
            audit.write("stopped")
            audit.close()


def serve_detached(state_dir: StateDir) -> RunningGate:
    """Start a gate in the background; returns once it listens.

    Raises:
        Conflict: one serves this folder already.
        Unavailable: it did not start; the message holds the end of its log.
    """
    state_dir.check_node()
    state_dir.host_key_data()  # a plain complaint now rather than in a log
    with state_dir.lock():
        asyncio.run(_refuse_while_switched_off(state_dir, state_dir.policy()))
    if state_dir.log.exists() and state_dir.log.stat().st_size > _MAX_LOG_BYTES:
        state_dir.log.replace(state_dir.log.with_suffix(".log.1"))
    log = os.open(state_dir.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "lib.gate", "serve", "--home", str(state_dir.path)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        gate = state_dir.running()
        if gate is not None and gate.pid == process.pid:
            process.returncode = 0  # it is meant to outlive us: no warning about that
            return gate
        time.sleep(0.02)
    process.terminate()
    last = state_dir.log.read_text("utf-8", "replace").strip().splitlines()[-1:]
    raise Unavailable(f"The gate did not start. {' '.join(last)}".strip())


def stop(state_dir: StateDir, *, jobs: bool, text: str = "") -> bool:
    """Stop the gate of this folder, and with `jobs` everything it started; `text` says why.

    Returns whether a gate was running; one that does not stop when it is told is ended, but
    while it ends jobs for the kill switch. Raises `JobsRunOn` when jobs have not ended,
    `Unavailable` when the gate itself does not.
    """
    state_dir.check_node()
    gate = state_dir.running()
    if gate is not None:
        gate.process.signal(signal.SIGTERM)
    process = gate.process if gate is not None else state_dir.ending()
    if process is not None and not _gone(process, _STOP_TIMEOUT_S):
        if gate is not None and _switched_off(state_dir):
            raise Unavailable(f"The gate (process {process.pid}) still ends its jobs.")
        process.signal(signal.SIGKILL)
        if not _gone(process, _KILL_TIMEOUT_S):
            raise Unavailable(f"The gate (process {process.pid}) does not stop.")
    if jobs:
        with state_dir.lock():
            asyncio.run(_end_jobs(state_dir, text=text))
    return gate is not None


async def _end_jobs(state_dir: StateDir, *, text: str = "") -> None:
    """Cancel every live job and see it end, as the gate itself would."""
    from lib.gate.jobs import Jobs

    policy = state_dir.policy()
    audit = Audit(state_dir.audit)
    jobs = Jobs(SessionFolders(state_dir.path), policy, policy.scheduler(state_dir.path), audit)
    try:
        await _end_all(jobs, text=text, timeout_s=_JOBS_TIMEOUT_S)
    finally:
        audit.close()


async def _end_all(jobs: Jobs, *, text: str, timeout_s: float | None = None) -> None:
    """Also jobs that were lost: they are looked for, and ended where they run.

    Raises `JobsRunOn` when something lives after that time; None waits for ever, and the log
    says what for.
    """
    deadline = time.monotonic() + (timeout_s or 0.0)
    again_at = 0.0
    while True:
        looked = False
        with jobs.loops.item("ending the jobs"):
            await jobs.poll(lost_too=not again_at)
            looked = True
        left = jobs.still_running()
        if looked and not left and jobs.asked_ok:
            return
        if timeout_s is not None and time.monotonic() > deadline:
            raise JobsRunOn.of(left, jobs.asked_reason)
        if time.monotonic() >= again_at:  # the scheduler may have been silent the last time
            if again_at:
                _log.warning("%s", JobsRunOn.of(left, jobs.asked_reason).message)
            again_at = time.monotonic() + _CANCEL_AGAIN_S
            for status in jobs.all():
                with jobs.loops.item(status.id), contextlib.suppress(Unavailable):
                    await jobs.cancel(status.id, text=text)
        await asyncio.sleep(0.05)


async def _refuse_while_switched_off(state_dir: StateDir, policy: Policy) -> None:
    """Before a start: where it is on, end what a gate left behind, and refuse."""
    file = state_dir.active_stop_file(policy.stop_files)
    if file is None:
        return
    audit = Audit(state_dir.audit)
    audit.refused("start", file=str(file))
    audit.close()
    await _end_jobs(state_dir, text=_SWITCHED_OFF)
    raise kill_switch.refusal(file)


async def _watch_kill_switch(
    loops: Loops, state_dir: StateDir, policy: Policy, stop: asyncio.Event, audit: Audit
) -> None:
    """Look for it, and stop the gate once it is on; what it started ends then too."""

    async def look() -> None:
        file = await asyncio.to_thread(state_dir.active_stop_file, policy.stop_files)
        if file is not None and not stop.is_set():
            stop.set()
            audit.write("kill-switch", file=str(file))
            _log.warning("the kill switch is on: %s is there", file)

    loop = loops.add("looked for its kill switch", late_after_s=_LATE_S)
    await loop.run(look, kill_switch.LOOK_EVERY_S)


def _no_port(port: int, error: OSError) -> SceneBridgeError:
    if error.errno != errno.EADDRINUSE:
        return Unavailable(f"The gate cannot listen on port {port}: {error.strerror}.")
    return Conflict(
        f"Port {port} of {this_node()} is taken by another program, perhaps of another account "
        f"(ss -ltn shows it). Choose another one in [gate] of the cluster file and in [listen] "
        "of the policy: both must name the same."
    )


def _gone(process: ProcessId, timeout_s: float) -> bool:
    """Whether it ends in time."""
    deadline = time.monotonic() + timeout_s
    while process.alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _switched_off(state_dir: StateDir) -> bool:
    stop_files: tuple[Path, ...] = ()
    with contextlib.suppress(InvalidInput):
        stop_files = state_dir.policy().stop_files
    return state_dir.active_stop_file(stop_files) is not None


async def end_tasks(tasks: Collection[asyncio.Future[None]]) -> None:
    """Cancel these until they have ended.

    Once is not always enough: `asyncio.wait_for` of Python 3.10 and 3.11 loses a
    cancellation that comes together with the result, and then a loop goes on for ever.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_TASKS_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)


def _this_gate(port: int, host_key: str, cluster: str) -> RunningGate:
    me = this_process()
    node = this_node()
    return RunningGate(me.pid, me.start, port, host_key, cluster, VERSION, node, ROOT.name)


async def _tidy(loops: Loops, verbs: Verbs) -> None:
    async def tidy() -> None:
        await asyncio.to_thread(verbs.forget_old)

    loop = loops.add("looked for what was never submitted", late_after_s=2 * _TIDY_EVERY_S)
    await loop.run(tidy, _TIDY_EVERY_S)


async def _report(loops: Loops, state_dir: StateDir) -> None:
    """Leave word of a loop that stands still, for whoever asks `status`."""
    said = ""

    async def report() -> None:
        nonlocal said
        now = loops.trouble
        if now != said:
            await asyncio.to_thread(state_dir.say_trouble, now)
            said = now
            if now:
                _log.error("%s", now)

    loop = loops.add("looked after itself", late_after_s=_LATE_S)
    await loop.run(report, _REPORT_EVERY_S)
