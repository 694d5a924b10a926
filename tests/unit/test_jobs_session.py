"""The session script with a real Jupyter server: secrets, ends, and what is left.

What the runtime has a part in is tried in each that works here.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import unix_connect

from lib.files.atomic import read_json, write_json
from lib.http.server_settings import LARGEST_MESSAGE
from lib.jobs import control_files, local_runner
from lib.jobs.idle import IdleClock
from lib.jobs.interfaces import Invocation
from lib.jobs.jupyter import START, Activity, NotebookClient
from lib.jobs.local_runner import Runner
from lib.jobs.session import Job
from lib.jobs.tasks import BoundedLog, RunningTask, last_words
from lib.loops import Loops
from tests.fixtures.session_script import RUNTIMES, TOKEN, New, Script, new_scripts
from tests.running import wait_for


@pytest.fixture(params=RUNTIMES)
def new(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[New]:
    yield from new_scripts(request.param, tmp_path)


in_a_process = pytest.mark.parametrize("new", ["process"], indirect=True)


@pytest.fixture
def started(new: New) -> New:
    return lambda **changes: new(**changes).start()


def notebooks(script: Script) -> list[int]:
    """The processes of the job that run its notebook server."""
    out = subprocess.run(["ps", "-axwwo", "pid=,args="], capture_output=True, text=True, check=True)
    rows = [x.split(None, 1) for x in out.stdout.splitlines() if "jupyterlab" in x]
    pids = script.tree()
    return [int(pid) for pid, _ in rows if int(pid) in pids]


def test_jupyter_is_started_as_a_module_without_a_grammar_that_it_does_not_need(
    tmp_path: Path,
) -> None:
    told = "import sys; print(__name__, sys.argv[1:], sys.modules.get('rfc3987_syntax', 'free'))"
    (tmp_path / "jupyterlab.py").write_text(told)
    started = subprocess.run(
        [sys.executable, "-c", START, "--config=some"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert started.stdout == "__main__ ['--config=some'] None\n", started.stderr


@in_a_process
def test_a_notebook_shut_down_from_inside_ends_the_job(started: New) -> None:
    script = started().ready()
    assert script.ask("POST", "/api/shutdown")[0] == 200
    end = script.end()
    assert (end["end_reason"], end["exit_code"]) == ("finished", 0)
    assert "shut down" in end["reason"]
    assert script.left() == []


@in_a_process
def test_a_notebook_takes_messages_as_long_as_the_proxy_does(started: New) -> None:
    script = started().ready()
    name = script.ask("POST", "/api/terminals")[1]["name"]
    with unix_connect(
        str(script.scratch / "jupyter.sock"),
        uri=f"ws://localhost/terminals/websocket/{name}",
        additional_headers={"Authorization": f"token {TOKEN}"},
        max_size=None,
    ) as ws:
        ws.send(json.dumps(["set_size", 24, 80, "x" * 11 * 2**20]))
        assert ws.ping().wait(300)
        masked = b"\x82\xff" + (LARGEST_MESSAGE + 1).to_bytes(8, "big") + bytes(4)
        ws.socket.sendall(masked)
        with pytest.raises(ConnectionClosed) as closed:
            list(ws)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


@in_a_process
def test_an_unused_notebook_ends_after_the_idle_time(started: New) -> None:
    script = started(idle_s=2).ready()
    assert script.end()["end_reason"] == "idle"
    assert script.left() == []


@in_a_process
def test_what_the_portal_asks_to_keep_a_notebook_counts_as_use(started: New) -> None:
    """`Upstream.keep`; what it asks to prove a connection (`Upstream.probe`) does not."""
    script = started().ready()

    def last() -> str:
        return str(script.ask("GET", "/api/status")[1]["last_activity"])

    before = last()
    assert last() == before
    assert script.ask("GET", "/api/kernels")[0] == 200
    assert last() > before


@in_a_process
def test_a_notebook_is_not_idle_while_its_module_runs(new: New) -> None:
    script = new(light=True, idle_s=1, params={"linger_s": 4})
    assert script.start().end()["end_reason"] == "idle"
    module = read_json(script.control / control_files.MODULE)
    assert module is not None, "it was ended in the middle of its module"
    assert module["exit_code"] == 0


@pytest.mark.parametrize(
    ("seen", "working", "ends_at"),
    [
        (Activity(1000.0, busy=False), False, 1100.0),
        (Activity(1030.0, busy=False), False, 1130.0),
        (Activity(1000.0, busy=True), False, 1150.0),
        (Activity(1000.0, busy=False), True, 1150.0),
        (Activity(9999.0, busy=False), False, 1150.0),  # the clock of Jupyter is ahead
    ],
)
def test_what_counts_as_work(seen: Activity, *, working: bool, ends_at: float) -> None:
    clock = IdleClock(100, 1000.0)
    clock.look(seen, working=working, now=1050.0)
    assert clock.ends_at == ends_at
    assert (clock.warns(ends_at - 51), clock.warns(ends_at - 50)) == (False, True)
    clock.look(Activity(0.0, busy=False), working=False, now=1060.0)
    assert clock.ends_at == ends_at


@in_a_process
def test_a_job_that_is_begun_anew_is_not_kept_up_by_what_its_node_kept(new: New) -> None:
    """The node died in the middle of the run before, and this one got the same node."""
    script = new(light=True)
    script.scratch.mkdir()
    script.start(SCENEBRIDGE_RESTARTS="1").ready()
    assert read_json(script.control / control_files.ENDPOINT)["restarts"] == 1
    end = script.stop()
    assert (end["end_reason"], end["restarts"]) == ("stopped", 1)


def test_term_while_it_is_starting_leaves_nothing(new: New) -> None:
    script = new(light=True)
    (script.work / "hold").touch()
    script.start()
    wait_for("the notebook to be started", lambda: notebooks(script))
    script.process.terminate()
    assert script.end()["end_reason"] == "stopped"
    assert script.left() == []
    assert not (script.control / control_files.ENDPOINT).exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs PR_SET_PDEATHSIG")
def test_kill_of_the_script_takes_the_notebook_along(started: New) -> None:
    script = started(light=True).ready()
    os.kill(script.process.pid, signal.SIGKILL)
    script.process.wait()
    # a scheduler's epilogue or the node removes the folder
    wait_for("its processes to go", lambda: script.left() == [str(script.scratch)])
    subprocess.run(["rm", "-rf", str(script.scratch)], check=True)


def test_a_crashed_notebook_says_its_last_words(started: New) -> None:
    script = started(light=True).ready()
    os.kill(notebooks(script)[0], signal.SIGKILL)
    end = script.end()
    assert end["end_reason"] == "crashed"
    assert "137" in end["reason"]
    assert script.left() == []


@in_a_process
def test_a_module_that_breaks_off_leaves_the_notebook_running(started: New) -> None:
    script = started(light=True, params={"exit_code": 2, "text": "bad params"}).ready()
    wait_for("the module to end", (script.control / control_files.MODULE).exists)
    report = read_json(script.control / control_files.MODULE)
    assert report["exit_code"] == 2
    assert "bad params" in report["message"]
    assert script.ask("GET", "/api/status")[0] == 200
    script.process.terminate()
    script.end()


@pytest.mark.parametrize(
    ("new", "code", "reason"),
    [
        *((runtime, 3, "finished") for runtime in RUNTIMES),
        ("process", 0, "finished"),
        ("process", 1, "crashed"),
    ],
    indirect=["new"],
)
def test_a_run_ends_as_its_module(started: New, code: int, reason: str) -> None:
    script = started(kind="run", params={"exit_code": code})
    end = script.end()
    assert (end["end_reason"], end["exit_code"]) == (reason, code)
    assert script.process.returncode == code
    assert script.left() == []


@in_a_process
def test_scratch_lies_where_a_variable_of_the_job_says(new: New, tmp_path: Path) -> None:
    script = new(kind="run")
    script.change(scratch=f"$JOB_TMP/{script.scratch.name}")
    assert script.start(JOB_TMP="/tmp").end()["end_reason"] == "finished"
    assert script.left() == []
    (script.control / "exit.json").unlink()
    end = script.start().end()
    assert end["end_reason"] == "failed to start"
    assert "no JOB_TMP is set for its jobs" in end["reason"]
    (script.control / "exit.json").unlink()
    script.change(kind="session", scratch=f"{tmp_path}/{'x' * 60}/sb-1")
    assert "too long for notebooks' sockets" in script.start().end()["reason"]


@in_a_process
def test_a_scratch_folder_that_somebody_made_before_is_not_used(new: New) -> None:
    script = new()
    script.scratch.mkdir(mode=0o777)
    (script.scratch / "planted").write_text("x")
    try:
        end = script.start().end()
        assert end["end_reason"] == "failed to start"
        assert "exists" in end["reason"]
        assert (script.scratch / "planted").exists()  # not ours to remove
    finally:
        subprocess.run(["rm", "-rf", str(script.scratch)], check=True)


def test_folders_that_a_task_closed_are_removed_too(started: New, tmp_path: Path) -> None:
    closes = tmp_path / "python"
    closes.write_text("#!/bin/sh\nmkdir -p $PWD/a/b\ntouch $PWD/a/b/c\nchmod 0 $PWD/a/b $PWD/a\n")
    closes.chmod(0o755)
    script = started(kind="run", program=closes)
    assert script.end()["end_reason"] == "finished"
    assert script.left() == []


@in_a_process
def test_a_module_that_prints_without_end_fills_no_disk(started: New, tmp_path: Path) -> None:
    noisy = tmp_path / "python"
    noisy.write_text('#!/bin/sh\nyes "a line of noise" | head -c 20000000\necho the end\n')
    noisy.chmod(0o755)
    script = started(kind="run", program=noisy)
    assert script.end()["end_reason"] == "finished"
    sizes = [f.stat().st_size for f in script.control.glob("module.log*")]
    assert 2 * 2**20 < sum(sizes) < 5 * 2**20
    assert script.log("module.log").endswith("the end\n")


def test_a_task_cannot_write_an_endless_file(started: New, tmp_path: Path) -> None:
    writer = tmp_path / "python"
    writer.write_text("#!/bin/sh\nhead -c 5000000 /dev/zero > $PWD/big; ls -l $PWD/big; exit 0\n")
    writer.chmod(0o755)
    script = started(kind="run", program=writer)
    script.end()
    size = int(next(x for x in script.log("module.log").splitlines() if "big" in x).split()[4])
    assert size == 2**20


# --- faults that nobody foresaw ------------------------------------------------------------


@in_a_process
async def test_a_fault_of_asking_the_notebook_is_not_its_end(
    new: New, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once; the idle time is found by the next look."""
    script = new(idle_s=1)
    monkeypatch.setattr("lib.jobs.session._IDLE_POLL_S", 0.0)
    monkeypatch.setattr("lib.jobs.session.IdleClock", lambda limit, now: IdleClock(limit, 0.0))
    job, looks = Job(script.control), 0
    module = asyncio.get_running_loop().create_future()
    module.set_result(None)

    async def activity(_client: NotebookClient) -> Activity:
        nonlocal looks
        looks += 1
        if looks < 4:
            raise OverflowError("planted")
        return Activity(last=0.0, busy=False)

    monkeypatch.setattr(NotebookClient, "activity", activity)
    await job._until_idle(NotebookClient(script.scratch, "token"), module)
    assert looks == 4
    assert [r.levelname for r in caplog.records].count("ERROR") == 1


@in_a_process
async def test_a_module_that_cannot_be_run_is_told_and_the_notebook_goes_on(
    new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = new()
    job = Job(script.control)

    async def start(*_: object, **__: object) -> RunningTask:
        raise RuntimeError("planted")

    monkeypatch.setattr(RunningTask, "start", start)
    await job._module_beside()
    told = read_json(script.control / control_files.MODULE)
    assert (told["exit_code"], "planted" in told["message"]) == (1, True)


async def test_a_fault_of_a_log_does_not_stop_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose output is not read any more waits for ever when it has printed enough."""

    def write(_log: BoundedLog, _data: bytes) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(BoundedLog, "write", write)
    code = "print('x' * 2**20)"
    what = Invocation(argv=(sys.executable, "-c", code), env=dict(os.environ), cwd=tmp_path)
    loops = Loops("The session script", logging.getLogger(__name__))
    task = await RunningTask.start(what, tmp_path / "log", max_file_bytes=2**30, loops=loops)
    assert await task.wait() == 0
    await task.close()
    assert [r.levelname for r in caplog.records].count("ERROR") == 1


def test_a_log_whose_older_half_cannot_be_put_aside_keeps_its_own_file(tmp_path: Path) -> None:
    """A descriptor that was closed may be a socket's a moment later."""
    log = BoundedLog(tmp_path / "log")
    (tmp_path / "log.1").mkdir()
    log.write(b"x" * (2 * 2**20))
    log.write(b"more")
    with (tmp_path / "other").open("w+b") as other:
        log.write(b"and more")
        assert other.read() == b""
    log.close()


def test_a_job_whose_files_are_broken_holds_up_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("00000001", "00000002"):
        (tmp_path / "jobs" / name).mkdir(parents=True)
        (tmp_path / "jobs" / name / "job.json").write_text('{"slots": 1}')
    (tmp_path / "jobs" / "00000001" / "runner.json").write_text("{")
    runner = Runner(tmp_path / "jobs" / "00000002")
    for _ in range(3):
        assert not runner._somebody_is_ahead()
    errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert [e.partition(":")[0] for e in errors] == ["job 00000001"]


def test_the_end_of_a_job_is_written_when_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(local_runner, "_SAY_AGAIN_S", 0.0)
    (tmp_path / "job.json").write_text('{"slots": 1}')
    tries = 0

    def write(path: Path, value: object) -> None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_json(path, value)

    monkeypatch.setattr(local_runner, "write_json", write)
    Runner(tmp_path)._end("exited", 0)
    assert read_json(tmp_path / "end.json")["exit_code"] == 0
    assert [r.levelname for r in caplog.records].count("ERROR") == 1


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ("a\n\nb\nc\nd\n", ["b", "c", "d"]),
        (
            "\x1b[33mWARNING:\x1b[0m no nv files\nTraceback\nKeyError: 1\n",
            ["Traceback", "KeyError: 1"],
        ),
        ("FATAL:   could not open image\nINFO:    Cleaning up\nx\n", ["could not open image"]),
        ("\x1b[31mFATAL:  \x1b[0m no space left\nWARNING: y\n", ["no space left"]),
        ("WARNING: only this\n", ["WARNING: only this"]),
        ("", []),
    ],
)
def test_why_it_failed_is_told_and_not_what_a_runtime_warned_of(
    printed: str, told: list[str]
) -> None:
    """As Apptainer 1.4.5 begins its lines, with and without colours."""
    assert last_words(printed.encode(), 3) == told
