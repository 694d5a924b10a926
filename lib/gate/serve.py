"""Run a gate until it is told to stop, and stop one that runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lib.errors import Conflict, SceneBridgeError, Unavailable
from lib.gate import VERSION
from lib.gate.audit import Audit
from lib.gate.home import Home, RunningGate, public_text
from lib.gate.jobs import Jobs
from lib.gate.records import Folders
from lib.gate.ssh import Door
from lib.gate.verbs import Verbs
from lib.jobs.processes import this_process

_ROOT = Path(__file__).resolve().parents[2]
_TIDY_EVERY_S = 3600.0
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0
_JOBS_TIMEOUT_S = 60.0
_FAULT_PAUSE_S = 1.0
_MAX_LOG_BYTES = 4 * 2**20

_log = logging.getLogger(__name__)


async def serve(home: Home) -> None:
    """Listen, announce it in `gate.json`, and go on until SIGTERM or SIGINT.

    The jobs are left alone. Raises `Conflict` when a gate serves this folder already.
    """
    with home.lock():
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        policy, host_key = home.policy(), home.host_key()
        audit = Audit(home.audit)
        folders = Folders(home.path)
        jobs = Jobs(folders, policy, policy.scheduler(home.path), audit)
        verbs = Verbs(policy, folders, jobs, audit)
        door = Door(home.portal_key(), jobs, verbs, audit)
        acceptor = await door.listen(policy.port, host_key)
        home.announce(_this_gate(acceptor.get_port(), public_text(host_key), policy.cluster))
        audit.write("started", port=acceptor.get_port())
        tasks = [asyncio.ensure_future(_watch_over(jobs)), asyncio.ensure_future(_tidy(verbs))]
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await jobs.images.close()
            home.withdraw()
            acceptor.close()
            for connection in list(door.connections):
                connection.drop()
            audit.write("stopped")
            audit.close()


def serve_detached(home: Home) -> RunningGate:
    """Start a gate in the background; returns once it listens.

    Raises:
        Conflict: one serves this folder already.
        Unavailable: it did not start; the message holds the end of its log.
    """
    if home.running() is not None:
        raise Conflict(f"A gate serves {home.path} already.")
    home.host_key()  # a plain complaint now rather than in a log
    home.policy()
    if home.log.exists() and home.log.stat().st_size > _MAX_LOG_BYTES:
        home.log.replace(home.log.with_suffix(".log.1"))
    log = os.open(home.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "lib.gate", "serve", "--home", str(home.path)],
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        gate = home.running()
        if gate is not None and gate.pid == process.pid:
            process.returncode = 0  # it is meant to outlive us: no warning about that
            return gate
        time.sleep(0.02)
    process.terminate()
    last = home.log.read_text("utf-8", "replace").strip().splitlines()[-1:]
    raise Unavailable(f"The gate did not start. {' '.join(last)}".strip())


def stop(home: Home, *, jobs: bool) -> bool:
    """Stop the gate of this folder, and with `jobs` everything it started.

    Returns whether a gate was running. Raises `Unavailable` when something stays.
    """
    gate = home.running()
    if gate is not None:
        gate.process.signal(signal.SIGTERM)
        _wait_gone(gate)
    if jobs:
        with home.lock():
            asyncio.run(_end_jobs(home))
    return gate is not None


async def _end_jobs(home: Home) -> None:
    """Cancel every live job and see it end, as the gate itself would."""
    policy = home.policy()
    audit = Audit(home.audit)
    jobs = Jobs(Folders(home.path), policy, policy.scheduler(home.path), audit)
    try:
        for status in jobs.all():
            with contextlib.suppress(Unavailable):
                await jobs.cancel(status.id)
        deadline = time.monotonic() + _JOBS_TIMEOUT_S
        while jobs.live and time.monotonic() < deadline:
            await jobs.poll()
            await asyncio.sleep(0.05)
        if jobs.live:
            raise Unavailable(f"{jobs.live} jobs have not ended yet.")
    finally:
        audit.close()


def _wait_gone(gate: RunningGate) -> None:
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while gate.process.alive():
        if time.monotonic() > deadline:
            raise Unavailable(f"The gate (process {gate.pid}) does not stop.")
        time.sleep(0.02)


def _this_gate(port: int, host_key: str, cluster: str) -> RunningGate:
    me = this_process()
    return RunningGate(me.pid, me.start, port, host_key, cluster, VERSION)


async def _watch_over(jobs: Jobs) -> None:
    """Poll for ever; a fault (a full disk, say) is logged and tried again."""
    while True:
        try:
            await jobs.watch_over()
        except (OSError, SceneBridgeError, ValueError):
            _log.exception("looking after the jobs failed; trying again")
            await asyncio.sleep(_FAULT_PAUSE_S)


async def _tidy(verbs: Verbs) -> None:
    while True:
        with contextlib.suppress(OSError):
            await asyncio.to_thread(verbs.forget_old)
        await asyncio.sleep(_TIDY_EVERY_S)
