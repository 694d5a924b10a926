"""The first start: from a fresh clone to the page, beside a plain `pip install`.

The clone is of what is committed, in a folder of its own, with empty caches of uv, pip and npm
(`--warm`: with this account's). Its `./run` is watched until `/healthz` answers and the Explore
page opens with the printed link; then the sample scenes are waited for. The plain way is
`python -m venv` and `pip install -r requirements.txt`, with nothing of the front end. Prints a
table and writes `benchmarks/results/first_start.json`. Fetches packages from the index. It
itself needs the test packages (`./test --version` installs them).

A smoke run fetches nothing: in the clone's place stands this checkout, set up before, the sample
scenes are there already, and the plain way only makes an empty environment.

    python -m benchmarks.first_start [--warm] [--rounds 1] [--smoke]
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

from benchmarks.command import PROJECT, Bound, Command, Figures, Row, finish, lacking, table
from lib.server.sample_scenes import mark_of
from tests.running import first_start_is_over, free_port
from tools.bootstrap import PARTS, Project, is_due

READY = "SceneBridge is ready: "
PAGE = "Explore answers"
#: From a clone to the page, seconds, on two quiet cores.
BOUND_S = 45.0
_SAMPLES_S = 300.0


def main() -> int:
    """Measure, print, write. Exit code 1 when the bound is missed."""
    command = Command(__doc__)
    command.parser.add_argument("--warm", action="store_true", help="with this account's caches")
    command.size("--rounds", 1, smoke=1)
    options = command.parse()
    if options.smoke and any(is_due(Project(PROJECT), part, "run") for part in PARTS):
        lacking("this checkout is not set up; `./test --version` does it")
    rounds = [measure(warm=options.warm, smoke=options.smoke) for _ in range(options.rounds)]
    rows: list[Row] = [[step, *(each.get(step) for each in rounds)] for step in rounds[0]]
    head = ("seconds after the start", *(f"round {n}" for n in range(1, len(rounds) + 1)))
    slowest = max(times[PAGE] for times in rounds)
    bounds = [Bound("the page, s", slowest, most=BOUND_S)]
    return finish("first_start", table(head, rows, 1), rounds, bounds, smoke=options.smoke)


def measure(*, warm: bool, smoke: bool) -> Figures:
    """Seconds from the start to each step, and those of the plain way."""
    with tempfile.TemporaryDirectory(prefix="sb-first-") as name:
        folder = Path(name)
        data, clone, venv = folder / "data", folder / "clone", folder / "venv"
        if smoke:
            clone = PROJECT
            first_start_is_over(data)
        else:
            subprocess.run(["git", "clone", "-q", str(PROJECT), str(clone)], check=True)
        times = start(clone, data, caches(folder / "run", warm=warm))
        environment = caches(folder / "plain", warm=warm)
        began = time.monotonic()
        without = ["--without-pip"] if smoke else []
        subprocess.run([sys.executable, "-m", "venv", *without, str(venv)], check=True)
        if not smoke:
            packages = str(clone / "requirements.txt")
            command = [str(venv / "bin" / "pip"), "install", "-qq", "-r", packages]
            subprocess.run(command, env=environment, check=True)
        times["beside it: plain pip install -r"] = time.monotonic() - began
        return times


def caches(folder: Path, *, warm: bool) -> dict[str, str]:
    """Variables for caches that are empty."""
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    if not warm:
        for name in ("UV_CACHE_DIR", "PIP_CACHE_DIR", "npm_config_cache"):
            environment[name] = str(folder / name)
    return environment


def start(clone: Path, data: Path, environment: dict[str, str]) -> Figures:
    """Run the clone's `./run` until its page opens; seconds to each line and step."""
    port = free_port()
    times: Figures = {}
    began = time.monotonic()
    command = [str(clone / "run"), "--data", str(data), "--port", str(port), "--no-browser"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as portal:
        try:
            assert portal.stdout is not None
            for line in portal.stdout:
                if line.startswith(READY):
                    break
                times[line.strip()[:40]] = time.monotonic() - began
            else:
                raise SystemExit("The portal did not start.")
            ask(port, "/healthz")
            times["/healthz answers"] = time.monotonic() - began
            key = line[line.index("/", line.index("localhost")) :].strip()
            # A browser sends a Secure cookie to http://localhost; no client here does.
            cookie = ask(port, key)[0].split(";")[0]
            if "streamlit" not in ask(port, "/", cookie)[1].lower():
                raise SystemExit("The page did not come.")
            times[PAGE] = time.monotonic() - began
            while not mark_of(data).exists() and time.monotonic() - began < _SAMPLES_S:
                time.sleep(0.1)
            if mark_of(data).exists():
                times["all sample scenes are there"] = time.monotonic() - began
        finally:
            portal.send_signal(signal.SIGTERM)
            portal.communicate(timeout=170)
    return times


def ask(port: int, path: str, cookie: str = "") -> tuple[str, str]:
    """The cookie that an answer sets, and its body.

    Raises:
        SystemExit: the portal refuses.
    """
    connection = HTTPConnection("localhost", port, timeout=30)
    try:
        connection.request("GET", path, headers={"Cookie": cookie} if cookie else {})
        answer = connection.getresponse()
        if answer.status >= 400:
            raise SystemExit(f"{path.partition('?')[0]} answers {answer.status}.")
        return answer.getheader("Set-Cookie", ""), answer.read().decode()
    finally:
        connection.close()


if __name__ == "__main__":
    raise SystemExit(main())
