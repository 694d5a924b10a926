"""The session script: what a job is. Runs on the compute node, outside the container.

`python -m lib.jobs.session CONTROL`. It makes a private node-local folder, binds its
port, starts the notebook server and the module in the runtime, relays the port to the
notebook's socket, and reports the endpoint once the notebook answers. TERM stops it
cleanly: nothing it started is left. See `lib.jobs.control_files` for the files it reads and writes.

Standard library only; runs on any Python >= 3.10 without packages.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib.errors import Refused, SceneBridgeError
from lib.files.atomic import text_of
from lib.jobs import control_files
from lib.jobs.control_files import SessionSpec, restarts, write_report
from lib.jobs.idle import IdleClock
from lib.jobs.interfaces import Runtime, Task
from lib.jobs.jupyter import SOCKET, NotebookClient, notebook_task
from lib.jobs.processes import become_subreaper, sweep, terminal_programs
from lib.jobs.relay import Relay, bind, server_context
from lib.jobs.runtimes import make_runtime
from lib.jobs.scratch import Scratch, located, room
from lib.jobs.tasks import RunningTask
from lib.loops import Loops
from lib.model import EndReason, Isolation

_START_TIMEOUT_S = 180.0
_START_POLL_S = 0.03
_STOP_GRACE_S = 5.0
_IDLE_POLL_S = 30.0
#: Addresses of UNIX sockets end at 107 bytes, and those of kernels lie 52 below.
_LONGEST_PRIVATE = 55
#: A module that ends with one of these did its work (some scenes may have failed).
_MODULE_DONE = (0, 3)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the job ended: for people, and as an exit code."""

    reason: EndReason
    text: str
    exit_code: int


class Job:
    """One job from start to end."""

    def __init__(self, control: Path) -> None:
        self._control = control
        spec = _of_this_run(SessionSpec.read(control))
        self._spec = replace(spec, scratch=str(located(spec.scratch, os.environ)))
        self._work = Path(self._spec.work)
        self._private = Path(self._spec.scratch)
        self._runtime: Runtime = make_runtime(self._spec.runtime, self._spec.runtime_options)
        self._tasks: list[RunningTask] = []
        self._loops = Loops("The session script", logging.getLogger(__name__))
        self._scratch = Scratch(self._private)

    async def run(self) -> Outcome:
        """Until the notebook or (for a run) the module ends, or TERM comes."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
        self._check_sockets()
        self._scratch.make("config", "r", "ipython")
        body = asyncio.ensure_future(self._session() if self._is_session else self._run_only())
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({body, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if body.done():
                return body.result()
            return Outcome(EndReason.STOPPED, "Stopped.", 0)
        finally:
            for task in (body, stopped):
                task.cancel()
            await asyncio.gather(body, stopped, return_exceptions=True)
            await asyncio.gather(*(t.terminate(_STOP_GRACE_S) for t in self._tasks))
            await asyncio.gather(*(t.close() for t in self._tasks))

    def remove_private(self) -> None:
        """Remove the node-local folder if this job made it. All tasks must be over."""
        self._scratch.remove()

    @property
    def _is_session(self) -> bool:
        return self._spec.kind == "session"

    async def _session(self) -> Outcome:
        """The notebook with the module beside it."""
        control = self._control
        context = server_context(
            control / control_files.SERVER_CERT,
            control / control_files.SERVER_KEY,
            control / control_files.CLIENT_CERT,
        )
        relay = Relay(bind(self._spec.host), context, self._private / SOCKET, self._loops)
        try:
            return await self._notebook(relay)
        finally:
            await relay.close()

    async def _notebook(self, relay: Relay) -> Outcome:
        token = text_of(self._control / control_files.TOKEN)
        task = notebook_task(self._runtime, self._spec, token=token)
        server = await self._start(task, control_files.NOTEBOOK_LOG)
        module = asyncio.ensure_future(self._module_beside())
        ended = asyncio.ensure_future(server.wait())
        client = NotebookClient(self._private, token)
        try:
            if not await self._becomes_ready(client, ended):
                return self._said(_not_started(server))
            await relay.start()
            self._report_endpoint(relay)
            idle = asyncio.ensure_future(self._until_idle(client, module))
            await asyncio.wait({ended, idle}, return_when=asyncio.FIRST_COMPLETED)
            if idle.done():
                return Outcome(EndReason.IDLE, "It was not used for a while.", 0)
            idle.cancel()
            return self._said(_notebook_ended(server, ended.result()))
        finally:
            for future in (module, ended):
                future.cancel()
            await asyncio.gather(module, ended, return_exceptions=True)

    async def _module_beside(self) -> None:
        """The module of a session: whatever becomes of it, the notebook goes on."""
        try:
            await self._module()
        except Exception as exc:
            self._loops.note("the module", exc)
            message = f"The module could not be run: {type(exc).__name__}: {exc}"[:500]
            with self._loops.item("the module's report"):
                self._report_module(1, message)

    async def _run_only(self) -> Outcome:
        code, message = await self._module()
        if code in _MODULE_DONE:
            return Outcome(EndReason.FINISHED, "", code)
        return Outcome(EndReason.CRASHED, message, code)

    async def _module(self) -> tuple[int, str]:
        """Run the module; its exit code and, when it broke off, one sentence."""

        def inside(path: Path) -> str:
            return str(self._runtime.inside(path, work=self._work, private=self._private))

        args = (
            *("-m", self._spec.entry, "run"),
            *("--input", inside(self._work / "in")),
            *("--output", inside(self._work / "out")),
            *("--params", inside(self._work / "in" / "params.json")),
        )
        env = {"SCENEBRIDGE_WORK": inside(self._work), "PYTHONUNBUFFERED": "1"}
        running = await self._start(self._spec.task(args, env), control_files.MODULE_LOG)
        code = await running.wait()
        message = "" if code in _MODULE_DONE else self._with_room(_module_broke(running, code))
        self._report_module(code, message)
        return code, message

    def _check_sockets(self) -> None:
        """Raises `Refused` where the addresses of kernels' sockets would be too long."""
        contained = self._runtime.isolation is Isolation.CONTAINER  # with a place of its own
        if self._is_session and not contained and len(str(self._private)) > _LONGEST_PRIVATE:
            raise Refused(
                f"The path {self._private.parent} is too long for notebooks' sockets. The gate's "
                "policy (scratch) has to name a shorter one."
            )

    def _said(self, outcome: Outcome) -> Outcome:
        return replace(outcome, text=self._with_room(outcome.text)) if outcome.text else outcome

    def _with_room(self, text: str) -> str:
        """What broke, with the disk that is full now, which may be why."""
        return f"{room(self._private, self._work)} {text}".strip()

    def _report_module(self, code: int, message: str) -> None:
        report = {"exit_code": code, "message": message, "time": time.time()}
        write_report(self._control, control_files.MODULE, report)

    async def _start(self, task: Task, log: str) -> RunningTask:
        running = await RunningTask.start(
            self._runtime.invocation(task),
            self._control / log,
            max_file_bytes=self._spec.max_file_bytes,
            loops=self._loops,
        )
        self._tasks.append(running)
        return running

    async def _becomes_ready(self, client: NotebookClient, ended: asyncio.Future[int]) -> bool:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and not ended.done():
            with self._loops.item("asking whether the notebook answers"):
                if (self._private / SOCKET).exists() and await client.answers():
                    return True
            await asyncio.sleep(_START_POLL_S)
        return False

    def _report_endpoint(self, relay: Relay) -> None:
        """The last step of starting: whoever reads this file may connect at once."""
        endpoint = {"host": relay.host, "port": relay.port, "time": time.time()}
        write_report(self._control, control_files.ENDPOINT, endpoint)

    async def _until_idle(self, client: NotebookClient, module: asyncio.Future[Any]) -> None:
        """Returns when nobody worked in the notebook for `idle_s`; 0: never."""
        limit = self._spec.idle_s
        if not limit:
            await asyncio.Event().wait()
        clock = IdleClock(limit, time.time())
        told: float | None = None
        while True:
            await asyncio.sleep(min(_IDLE_POLL_S, limit / 4))
            known = False
            with self._loops.item("asking whether the notebook is used"):
                seen = await client.activity()
                if seen is not None:
                    programs = await asyncio.to_thread(terminal_programs, os.getpid())
                    clock.look(seen, working=bool(programs) or not module.done(), now=time.time())
                    known = True
            if not known:
                continue  # whether somebody works there
            if time.time() > clock.ends_at:
                return
            near = clock.ends_at if clock.warns(time.time()) else None
            if near != told:
                with contextlib.suppress(OSError):  # a full disk ends no session
                    write_report(self._control, control_files.IDLE, {"idle_at": near})
                    told = near


def _of_this_run(spec: SessionSpec) -> SessionSpec:
    """With a node-local folder of its own: an earlier run may have left one on this very node."""
    if not restarts():
        return spec
    made = hashlib.sha256(f"{spec.scratch} {restarts()}".encode()).hexdigest()[:12]
    return replace(spec, scratch=f"{spec.scratch[:-12]}{made}")


def _not_started(server: RunningTask) -> Outcome:
    code = server.exit_code
    what = "did not answer in time" if code is None else f"ended with code {code}"
    text = _with_log(f"The notebook server {what} while it was starting.", server)
    return Outcome(EndReason.FAILED_TO_START, text, 1)


def _notebook_ended(server: RunningTask, code: int) -> Outcome:
    if code == 0:
        return Outcome(EndReason.FINISHED, "The notebook server was shut down.", 0)
    text = _with_log(f"The notebook server ended with code {code}.", server)
    return Outcome(EndReason.CRASHED, text, 1)


def _module_broke(task: RunningTask, code: int) -> str:
    return _with_log(f"The module broke off with exit code {code}.", task)


def _with_log(text: str, task: RunningTask) -> str:
    lines = task.log.last_lines(3)
    return f"{text} Last words: {' / '.join(lines)}" if lines else text


def main() -> int:
    """Run the job of the control folder on the command line."""
    control = Path(sys.argv[1])
    become_subreaper()
    job: Job | None = None
    try:
        job = Job(control)
        outcome = asyncio.run(job.run())
    except SceneBridgeError as exc:
        outcome = Outcome(EndReason.FAILED_TO_START, exc.message, 1)
    except Exception as exc:
        traceback.print_exc()  # the job's log is ours and stays in `control`
        text = f"The session script failed: {type(exc).__name__}: {exc}"[:500]
        outcome = Outcome(EndReason.FAILED_TO_START, text, 1)
    sweep(grace_s=1.0)
    if job is not None:
        job.remove_private()
    with contextlib.suppress(OSError):
        write_report(
            control,
            control_files.EXIT,
            {
                "end_reason": outcome.reason.value,
                "reason": outcome.text,
                "exit_code": outcome.exit_code,
            },
        )
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
