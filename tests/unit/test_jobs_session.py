"""The session script with a real Jupyter server: secrets, ends, and what is left."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib.gate.certificates import make_pair
from lib.jobs import spec as control_files
from lib.jobs.files import read_json, write_private
from lib.jobs.spec import Spec, script_argv, script_env
from tests.fixtures.gate_site import CODE

TOKEN = secrets.token_urlsafe(16)


class Script:
    """A session script started as a scheduler would."""

    def __init__(self, root: Path, *, kind: str = "session", params: dict[str, Any] | None = None,
                 python: str = sys.executable, idle_s: int = 0) -> None:  # fmt: skip
        self.control, self.work = root / "control", root / "work"
        self.scratch = Path("/tmp") / f"sb-test-{secrets.token_hex(6)}"
        self.control.mkdir()
        (self.work / "in" / "S1").mkdir(parents=True)
        item = {"rel": "item", "href": "./S1/S1.json"}
        (self.work / "in" / "catalog.json").write_text(json.dumps({"links": [item]}))
        (self.work / "in" / "S1" / "S1.json").write_text('{"id": "S1"}')
        (self.work / "in" / "params.json").write_text(json.dumps(params or {}))
        server, client = make_pair("s-x", server=True), make_pair("c", server=False)
        for name, data in (
            (control_files.SERVER_CERT, server.cert),
            (control_files.SERVER_KEY, server.key),
            (control_files.CLIENT_CERT, client.cert),
            (control_files.TOKEN, TOKEN.encode()),
        ):
            write_private(self.control / name, data)
        Spec(
            kind=kind,
            work=str(self.work),
            scratch=str(self.scratch),
            host="127.0.0.1",
            entry="small_module",
            notebook="",
            frame_origin="",
            idle_s=idle_s,
            max_file_bytes=2**20,
            readable=[],
            runtime="process",
            runtime_options={"python": python, "code": str(CODE)},
        ).write(self.control)

    def start(self) -> Script:
        self.process = subprocess.Popen(
            script_argv(self.control), env=dict(script_env()), cwd=self.control
        )
        return self

    def ready(self) -> Script:
        deadline = time.monotonic() + 60
        while not (self.control / control_files.ENDPOINT).exists():
            assert self.process.poll() is None, self.exit()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self

    def ask(self, method: str, path: str, token: str = TOKEN) -> tuple[int, Any]:
        """A request on the notebook's own socket."""

        async def ask() -> bytes:
            reader, writer = await asyncio.open_unix_connection(self.scratch / "jupyter.sock")
            head = f"{method} {path} HTTP/1.0\r\nHost: x\r\nAuthorization: token {token}\r\n"
            writer.write(f"{head}Content-Length: 0\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            return answer

        head, _, body = asyncio.run(ask()).partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body) if body[:1] in (b"{", b"[") else body

    def exit(self) -> Any:
        return read_json(self.control / control_files.EXIT)

    def end(self, timeout_s: float = 20) -> Any:
        self.process.wait(timeout=timeout_s)
        return self.exit()

    def left(self) -> list[str]:
        """What still runs that was given our folders, and what lies in /tmp."""
        out = subprocess.run(["ps", "-axwwo", "args="], capture_output=True, text=True, check=True)
        names = [line for line in out.stdout.splitlines() if self.scratch.name in line]
        return names + ([str(self.scratch)] if self.scratch.exists() else [])

    def log(self, name: str) -> str:
        return (self.control / name).read_text()


@pytest.fixture
def scripts() -> Iterator[list[Script]]:
    made: list[Script] = []
    yield made
    for script in made:
        if script.process.poll() is None:
            script.process.kill()
            script.process.wait()


def started(scripts: list[Script], root: Path, **changes: Any) -> Script:
    script = Script(root, **changes).start()
    scripts.append(script)
    return script


def test_secrets_reach_neither_command_lines_nor_kernels(
    scripts: list[Script], tmp_path: Path
) -> None:
    script = started(scripts, tmp_path).ready()
    assert script.ask("GET", "/api/status", token="wrong")[0] == 403
    assert script.ask("POST", "/api/kernels", token="")[0] == 403
    status, kernel = script.ask("POST", "/api/kernels")
    assert status == 201
    (connection,) = (script.scratch / "r").glob("kernel-*.json")
    assert json.loads(connection.read_text())["transport"] == "ipc"
    out = subprocess.run(["ps", "-axwwo", "pid=,args="], capture_output=True, text=True, check=True)
    assert TOKEN not in out.stdout
    pids = [line.split()[0] for line in out.stdout.splitlines() if kernel["id"] in line]
    assert len(pids) == 1
    environ = Path(f"/proc/{pids[0]}/environ")
    if environ.exists():
        assert TOKEN.encode() not in environ.read_bytes()
        assert f"SCENEBRIDGE_WORK={script.work}".encode() in environ.read_bytes()
    assert len(script.left()) > 1
    assert script.scratch.stat().st_mode & 0o777 == 0o700
    assert (script.scratch / "jupyter.sock").stat().st_mode & 0o777 == 0o600
    page = script.ask("GET", "/lab")[1]
    assert TOKEN.encode() not in page
    assert TOKEN not in script.log("notebook.log") + script.log("module.log")
    script.process.terminate()
    assert script.end()["end_reason"] == "stopped"
    assert script.process.returncode == 0
    assert script.left() == []


def test_a_notebook_shut_down_from_inside_ends_the_job(
    scripts: list[Script], tmp_path: Path
) -> None:
    script = started(scripts, tmp_path).ready()
    assert script.ask("POST", "/api/shutdown")[0] == 200
    end = script.end()
    assert (end["end_reason"], end["exit_code"]) == ("finished", 0)
    assert "shut down" in end["reason"]
    assert script.left() == []


def test_an_unused_notebook_ends_after_the_idle_time(scripts: list[Script], tmp_path: Path) -> None:
    script = started(scripts, tmp_path, idle_s=2).ready()
    assert script.end(30)["end_reason"] == "idle"
    assert script.left() == []


def test_term_while_it_is_starting_leaves_nothing(scripts: list[Script], tmp_path: Path) -> None:
    script = started(scripts, tmp_path)
    while not script.scratch.exists():
        time.sleep(0.01)
    time.sleep(0.3)
    script.process.terminate()
    assert script.end()["end_reason"] == "stopped"
    assert script.left() == []
    assert not (script.control / control_files.ENDPOINT).exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs PR_SET_PDEATHSIG")
def test_kill_of_the_script_takes_the_notebook_along(scripts: list[Script], tmp_path: Path) -> None:
    script = started(scripts, tmp_path).ready()
    os.kill(script.process.pid, signal.SIGKILL)
    script.process.wait()
    deadline = time.monotonic() + 15
    while [x for x in script.left() if "jupyterlab" in x] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [x for x in script.left() if "jupyterlab" in x] == []
    subprocess.run(["rm", "-rf", str(script.scratch)], check=True)


def test_a_crashed_notebook_says_its_last_words(scripts: list[Script], tmp_path: Path) -> None:
    script = started(scripts, tmp_path).ready()
    out = subprocess.run(["ps", "-axwwo", "pid=,args="], capture_output=True, text=True, check=True)
    mine = [x for x in out.stdout.splitlines() if script.scratch.name in x and "jupyterlab" in x]
    os.kill(int(mine[0].split()[0]), signal.SIGKILL)
    end = script.end()
    assert end["end_reason"] == "crashed"
    assert "137" in end["reason"]
    assert script.left() == []


def test_a_module_that_breaks_off_leaves_the_notebook_running(
    scripts: list[Script], tmp_path: Path
) -> None:
    script = started(scripts, tmp_path, params={"exit_code": 2, "text": "bad params"}).ready()
    deadline = time.monotonic() + 20
    while not (script.control / control_files.MODULE).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    report = read_json(script.control / control_files.MODULE)
    assert report["exit_code"] == 2
    assert "bad params" in report["message"]
    assert script.ask("GET", "/api/status")[0] == 200
    script.process.terminate()
    script.end()


@pytest.mark.parametrize(("code", "reason"), [(0, "finished"), (3, "finished"), (1, "crashed")])
def test_a_run_ends_as_its_module(
    scripts: list[Script], tmp_path: Path, code: int, reason: str
) -> None:
    script = started(scripts, tmp_path, kind="run", params={"exit_code": code})
    end = script.end()
    assert (end["end_reason"], end["exit_code"]) == (reason, code)
    assert script.process.returncode == code
    assert script.left() == []


def test_a_scratch_folder_that_somebody_made_before_is_not_used(
    scripts: list[Script], tmp_path: Path
) -> None:
    script = Script(tmp_path)
    script.scratch.mkdir(mode=0o777)
    (script.scratch / "planted").write_text("x")
    try:
        scripts.append(script.start())
        end = script.end()
        assert end["end_reason"] == "failed to start"
        assert "exists" in end["reason"]
        assert (script.scratch / "planted").exists()  # not ours to remove
    finally:
        subprocess.run(["rm", "-rf", str(script.scratch)], check=True)


def test_a_module_that_prints_without_end_fills_no_disk(
    scripts: list[Script], tmp_path: Path
) -> None:
    noisy = tmp_path / "python"
    noisy.write_text('#!/bin/sh\nyes "a line of noise" | head -c 20000000\necho the end\n')
    noisy.chmod(0o755)
    script = started(scripts, tmp_path, kind="run", python=str(noisy))
    assert script.end()["end_reason"] == "finished"
    sizes = [f.stat().st_size for f in script.control.glob("module.log*")]
    assert 2 * 2**20 < sum(sizes) < 5 * 2**20
    assert script.log("module.log").endswith("the end\n")


def test_a_task_cannot_write_an_endless_file(scripts: list[Script], tmp_path: Path) -> None:
    writer = tmp_path / "python"
    writer.write_text("#!/bin/sh\nhead -c 5000000 /dev/zero > $PWD/big; ls -l $PWD/big; exit 0\n")
    writer.chmod(0o755)
    script = started(scripts, tmp_path, kind="run", python=str(writer))
    script.end()
    size = int(next(x for x in script.log("module.log").splitlines() if "big" in x).split()[4])
    assert size == 2**20
