"""A started portal with scenes, a finished run and notebooks, and who uses the processor."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.load.visitor import Way
from lib.auth import Auth
from lib.config.settings import PROJECT
from lib.model import RunState, SessionState
from lib.store import Store
from tests.pages import sample_portal
from tests.running import first_start_is_over, free_port

SCENES = 300
DETECTIONS = 200
_READY = re.compile(r"SceneBridge is ready: (http://localhost:\d+/\S*)")
_START_S = 180.0


@dataclass
class Place:
    """A portal that runs.

    Args:
        chip: path of a thumbnail, with ``{}`` for its number.
    """

    data: Path
    port: int
    process: subprocess.Popen[str]
    chip: str

    def link(self) -> str:
        """A fresh one-time sign-in link."""
        store = Store(self.data / "portal.sqlite")
        try:
            return Auth(store).links.new(f"http://localhost:{self.port}")
        finally:
            store.close()

    def open_notebooks(self, cookie: str, count: int) -> list[str]:
        """Start that many and wait until all are READY and their modules are done."""
        with httpx.Client(
            base_url=f"http://localhost:{self.port}",
            headers={"Cookie": cookie, "Origin": f"http://localhost:{self.port}"},
            timeout=30,
        ) as api:
            wait_for("the cluster", lambda: api.get("/api/clusters").json()[0]["presets"])
            sessions = [_open(api) for _ in range(count)]
            wait_for("the notebooks", lambda: _all_ready(api, sessions))
        return sessions

    def direct(self, session: str) -> Way:
        """To the notebook's own port, past everything."""
        work = self.data / "embedded" / "sessions" / session / "work"
        found = json.loads((work / "direct.json").read_text())
        return Way(found["port"], {"Authorization": f"token {found['token']}"})

    def settle(self, seconds: float) -> None:
        """Wait until nothing but polling goes on for so long: modules run and compile at first."""
        idle = 0
        deadline = time.monotonic() + _START_S
        while idle < seconds and time.monotonic() < deadline:
            before = total_cpu(self.data)
            time.sleep(1)
            idle = idle + 1 if total_cpu(self.data) - before < 0.3 else 0


@contextmanager
def place(notebooks: int) -> Iterator[Place]:
    """A portal on a temporary data folder; ended with all that it started."""
    folder = Path(tempfile.mkdtemp(prefix="sb-load-"))
    process: subprocess.Popen[str] | None = None
    try:
        data, code = folder / "data", folder / "code"
        chip = _plant(data, notebooks)
        _copy_code(code)
        port = free_port()
        process = _start(data, code, port)
        yield Place(data, port, process, chip)
    finally:
        if process is not None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(120)
            process.kill()
            process.wait()
        _end_leftovers(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _end_leftovers(folder: Path) -> None:
    """A portal that was killed because it took too long to stop leaves its gate and jobs."""
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != os.getpid() and str(folder) in " ".join(process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.Error):
                process.kill()


def _plant(data: Path, notebooks: int) -> str:
    sample_portal.plant_sample(data)
    for i in range(SCENES - 5):
        sample_portal.plant_scene(
            data, f"LC08_{i:06d}", lon=-170 + (i * 7.31) % 338, lat=-60 + (i * 3.17) % 120,
            size=1.6, cloud=float(i % 100), rasters=False,
        )  # fmt: skip
    site = sample_portal.Site(data)
    run = site.add_run(["LC08_A"], RunState.DONE)
    site.add_detections(run, "LC08_A", [i / 250 for i in range(DETECTIONS)])
    site.store.close()
    first_start_is_over(data)
    (data / "settings.toml").write_text(f"slots = {notebooks + 2}\n")
    return f"/api/runs/{run.id}/scenes/LC08_A/chips/{{}}.webp"


def _copy_code(code: Path) -> None:
    for name in ("modules", "modulekit"):
        shutil.copytree(PROJECT / name, code / name)
    shutil.copytree(PROJECT / "benchmarks" / "plain_notebook", code, dirs_exist_ok=True)


def _start(data: Path, code: Path, port: int) -> subprocess.Popen[str]:
    arguments = [code, "--data", data, "--port", port, "--no-browser"]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "benchmarks.load.portal", *map(str, arguments)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_listen, args=(process, said), daemon=True).start()
    lines: list[str] = []
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        line = said.get(timeout=_START_S)
        if line is None:
            break
        lines.append(line)
        if _READY.search(line):
            return process
    process.kill()
    raise RuntimeError("the portal did not start:\n" + "".join(lines))


def _listen(process: subprocess.Popen[str], said: queue.Queue[str | None]) -> None:
    for line in process.stdout or ():
        said.put(line)
    said.put(None)


def _open(api: httpx.Client) -> str:
    body = {
        "scenes": ["LC08_A"],
        "module": "active-fire",
        "cluster": "here",
        "resources": {"preset": "small", "walltime_s": 3600},
    }
    answer = api.post("/api/sessions", json=body)
    if answer.status_code != 201:
        raise RuntimeError(answer.text)
    return str(answer.json()["id"])


def _all_ready(api: httpx.Client, sessions: list[str]) -> bool:
    found = {s["id"]: s for s in api.get("/api/sessions").json()}
    states = [SessionState(found[s]["state"]) for s in sessions]
    if SessionState.ENDED in states:
        raise RuntimeError(f"a notebook ended: {found}")
    return all(state is SessionState.READY for state in states)


def wait_for(what: str, ask: Callable[[], object]) -> None:
    deadline = time.monotonic() + _START_S
    while not ask():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {_START_S:.0f} s")
        time.sleep(0.3)


# --- who uses the processor ------------------------------------------------------------------


def cpu(data: Path, known: dict[int, str]) -> dict[str, float]:
    """Seconds of processor time so far, by what it was for.

    Args:
        known: process id -> name, for those that are not told by their arguments.
    """
    found = {
        process.info["pid"]: process.info
        for process in psutil.process_iter(["pid", "ppid", "cmdline", "cpu_times"])
    }
    words = {pid: " ".join(info["cmdline"] or ()) for pid, info in found.items()}
    used: dict[str, float] = {}
    for pid, info in found.items():
        name = known.get(pid) or _part(words[pid], words.get(info["ppid"], ""), str(data))
        times = info["cpu_times"]
        if name and times:
            used[name] = used.get(name, 0.0) + times.user + times.system
    return used


def _part(words: str, parent: str, data: str) -> str:
    if "jupyterlab" in words and data in parent:
        return "notebooks"
    if data not in words:
        return ""
    for mark, name in (
        ("lib.jobs", "relays"),
        ("lib.gate", "gate"),
        ("lib.notebook_proxy", "proxy"),
    ):
        if mark in words:
            return name
    return "ssh" if words.startswith("ssh") else "others"


def total_cpu(data: Path) -> float:
    return sum(cpu(data, {}).values())
