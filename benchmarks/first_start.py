"""The first start: from a fresh clone to the page, beside a plain `pip install`.

The clone is of what is committed, in a folder of its own, with empty caches of uv, pip and npm
(`--warm`: with this account's). Its `./run` is watched until `/healthz` answers and the Explore
page opens with the printed link; then the sample scenes are waited for. The plain way is
`python -m venv` and `pip install -r requirements.txt`, with nothing of the front end. Prints a
table and writes `benchmarks/results/first_start.json`. Fetches packages from the index.

    python -m benchmarks.first_start [--warm] [--rounds 1]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

from lib.server.sample_scenes import mark_of

ROOT = Path(__file__).resolve().parents[1]
READY = "SceneBridge is ready: "
#: From a clone to the page, seconds, on two quiet cores.
BOUND_S = 45.0
_SAMPLES_S = 300.0


def main() -> int:
    """Measure, print, write. Exit code 1 when the bound is missed."""
    parser = argparse.ArgumentParser(description="The first start of a fresh clone.")
    parser.add_argument("--warm", action="store_true", help="with this account's caches")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    rounds = [measure(warm=options.warm) for _ in range(options.rounds)]
    numbers = "".join(f"{n:>9}" for n in range(1, len(rounds) + 1))
    print(f"\n{'seconds after the start':40}{numbers}")
    for step in rounds[0]:
        print(f"{step:40}" + "".join(f"{times.get(step, float('nan')):9.1f}" for times in rounds))
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "first_start.json").write_text(json.dumps(rounds, indent=1), "utf-8")
    slowest = max(times["Explore answers"] for times in rounds)
    print(f"\nThe page: at most {slowest:.1f} s; {BOUND_S:.0f} s are the bound.")
    return 1 if slowest > BOUND_S else 0


def measure(*, warm: bool) -> dict[str, float]:
    """Seconds from the start to each step, and those of the plain way."""
    with tempfile.TemporaryDirectory(prefix="sb-first-") as name:
        folder = Path(name)
        clone = folder / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        times = start(clone, folder / "data", caches(folder / "run", warm=warm))
        environment = caches(folder / "plain", warm=warm)
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        command = [str(folder / "venv" / "bin" / "pip"), "install", "-q", "-r", "requirements.txt"]
        subprocess.run(command, cwd=clone, env=environment, check=True)
        times["beside it: plain pip install -r"] = time.monotonic() - began
        return times


def caches(folder: Path, *, warm: bool) -> dict[str, str]:
    """Variables for caches that are empty."""
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    if not warm:
        for name in ("UV_CACHE_DIR", "PIP_CACHE_DIR", "npm_config_cache"):
            environment[name] = str(folder / name)
    return environment


def start(clone: Path, data: Path, environment: dict[str, str]) -> dict[str, float]:
    """Run the clone's `./run` until its page opens; seconds to each line and step."""
    port = free_port()
    times: dict[str, float] = {}
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
            times["Explore answers"] = time.monotonic() - began
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


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    raise SystemExit(main())
