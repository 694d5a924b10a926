"""The portal's own share of a launch, beside what the same needs without a portal.

    python -m benchmarks.launch [--runs 5]
    python -m benchmarks.launch --site nchc [--runs 9]

From one session's own timestamps: click to submit accepted, and endpoint written to READY.
What lies between (queue, session script, Jupyter's start) is not the portal's. Without a
site it runs on this computer, beside a bare JupyterLab, bound 0.7 s together. With one it
runs on that site of the test-bed (as root, docs/testbed.md), beside a script of `sbatch`,
`ssh -O forward` and an authenticated request, bound 0.8 s. Prints a table of medians and
writes benchmarks/results/launch.json or launch-SITE.json.
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
from pathlib import Path

import httpx

from benchmarks.one_launch import Parts, launch
from tests.running import RunningPortal, free_port, wait_for

BOUND_S = 0.7
SITE_BOUND_S = 0.8
_RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run the benchmark; 1 where the bound is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int)
    parser.add_argument("--site", choices=["nchc"], help="a site of the test-bed")
    options = parser.parse_args()
    if options.site:
        from benchmarks.launch_site import measure  # wants the test-bed

        launches, bare, set_up = measure(options.runs or 9)
        return _report(launches, bare, SITE_BOUND_S, f"launch-{options.site}", set_up)
    launches, bare = _here(options.runs or 5)
    return _report(launches, bare, BOUND_S, "launch", {})


def _here(runs: int) -> tuple[list[Parts], list[Parts]]:
    launches, bare = [], []
    with tempfile.TemporaryDirectory(prefix="sb-bench-") as folder:
        portal = RunningPortal(Path(folder) / "data")
        portal.start()
        try:
            with portal.api() as api:
                for _ in range(runs):
                    launches.append(launch(api))
                    bare.append({"bare jupyter lab answers": bare_jupyter()})
        finally:
            portal.stop()
    return launches, bare


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


def _report(
    launches: list[Parts], bare: list[Parts], bound_s: float, name: str, more: Parts
) -> int:
    shares = [o["click to submit accepted"] + o["endpoint to READY"] for o in launches]
    share = statistics.median(shares)
    rows = {**_medians(launches), "the portal's own share": share, **_medians(bare), **more}
    print(f"median of {len(launches)} interleaved runs")
    for part, value in rows.items():
        print(f"  {part:<28} {value:7.3f} s")
    verdict = "met" if share <= bound_s else "NOT met"
    print(f"bound for the portal's own share: {bound_s} s, {verdict}")
    _RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"medians": rows, "launches": launches, "bare": bare}, indent=1)
    (_RESULTS / f"{name}.json").write_text(text)
    return 0 if share <= bound_s else 1


def _medians(runs: list[Parts]) -> Parts:
    return {part: statistics.median(one[part] for one in runs) for part in runs[0]}


if __name__ == "__main__":
    sys.exit(main())
