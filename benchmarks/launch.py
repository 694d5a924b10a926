"""The portal's own share of a launch, beside what a bare JupyterLab needs to answer.

    python -m benchmarks.launch [--runs 5]

From one session's own timestamps: click to submit accepted, and endpoint written to READY.
What lies between (queue, session script, Jupyter's start) is not the portal's. Prints a
table of medians and writes benchmarks/results/launch.json. Bound: 0.7 s together.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tests.running import RunningPortal, free_port, wait_for

BOUND_S = 0.7
_RESULTS = Path(__file__).parent / "results" / "launch.json"


def main() -> int:
    """Run the benchmark; 1 where the bound is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    runs: int = parser.parse_args().runs
    launches, bare = [], []
    with tempfile.TemporaryDirectory(prefix="sb-bench-") as folder:
        portal = RunningPortal(Path(folder) / "data")
        portal.start()
        try:
            with portal.api() as api:
                for _ in range(runs):
                    launches.append(launch(api))
                    bare.append(bare_jupyter())
        finally:
            portal.stop()
    return _report(launches, bare)


def launch(api: httpx.Client) -> dict[str, float]:
    """One session from click to READY and its end; seconds per part."""
    scene = api.get("/api/scenes", params={"platform": "landsat-8"}).json()["features"][0]["id"]
    cluster = wait_for("a cluster", lambda: _ready_cluster(api))
    body = {
        "scenes": [scene],
        "module": "active-fire",
        "cluster": cluster["id"],
        "resources": {"preset": cluster["presets"][0]["name"], "walltime_s": 600},
    }
    made = api.post("/api/sessions", json=body)
    made.raise_for_status()
    address = made.headers["Location"]
    session = wait_for("READY", lambda: _in_state(api, address, "READY"), every_s=0.02)
    api.delete(address).raise_for_status()
    wait_for("the end", lambda: _in_state(api, address, "ENDED"))
    at = {name: _seconds(session[name]) for name in _STAMPS}
    return {
        "click to submit accepted": at["submitted_at"] - at["created_at"],
        "job and Jupyter": at["endpoint_at"] - at["submitted_at"],
        "endpoint to READY": at["ready_at"] - at["endpoint_at"],
        "click to READY": at["ready_at"] - at["created_at"],
    }


_STAMPS = ("created_at", "submitted_at", "endpoint_at", "ready_at")


def bare_jupyter() -> float:
    """Seconds from starting `jupyter lab` until it answers an authenticated request."""
    port, token = free_port(), secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="sb-bare-") as folder:
        started = time.monotonic()
        options = [f"--port={port}", "--ServerApp.port_retries=0"]
        options += [f"--ServerApp.root_dir={folder}", "--no-browser", "--allow-root"]
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env={**os.environ, "JUPYTER_TOKEN": token, "HOME": folder},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for("bare JupyterLab", lambda: _answers(port, token), every_s=0.02)
            return time.monotonic() - started
        finally:
            process.terminate()
            process.wait(30)


def _answers(port: int, token: str) -> bool:
    try:
        headers = {"Authorization": f"token {token}"}
        answer = httpx.get(f"http://127.0.0.1:{port}/api/status", headers=headers, timeout=2)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200


def _ready_cluster(api: httpx.Client) -> dict[str, Any] | None:
    return next((c for c in api.get("/api/clusters").json() if c["presets"]), None)


def _in_state(api: httpx.Client, address: str, state: str) -> dict[str, Any] | None:
    session: dict[str, Any] = api.get(address).json()
    if session["state"] == "ENDED" and state != "ENDED":
        raise AssertionError(f"the session ended: {session['reason']}")
    return session if session["state"] == state else None


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def _report(launches: list[dict[str, float]], bare: list[float]) -> int:
    medians = {part: statistics.median(one[part] for one in launches) for part in launches[0]}
    shares = [o["click to submit accepted"] + o["endpoint to READY"] for o in launches]
    share = statistics.median(shares)
    rows = {
        **medians,
        "the portal's own share": share,
        "bare jupyter lab answers": statistics.median(bare),
    }
    print(f"median of {len(launches)} interleaved runs")
    for part, value in rows.items():
        print(f"  {part:<28} {value:7.3f} s")
    verdict = "met" if share <= BOUND_S else "NOT met"
    print(f"bound for the portal's own share: {BOUND_S} s, {verdict}")
    _RESULTS.parent.mkdir(exist_ok=True)
    _RESULTS.write_text(json.dumps({"medians": rows, "launches": launches, "bare": bare}, indent=1))
    return 0 if share <= BOUND_S else 1


if __name__ == "__main__":
    sys.exit(main())
