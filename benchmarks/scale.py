"""200 notebook sessions on one cluster: what the reconciler and the gate cost while they idle.

    python -m benchmarks.scale [--sessions 200] [--idle-s 60] [--smoke]

Run as root: it makes a test-bed of its own (`docs/testbed.md`) whose compute nodes pose as
large ones. Everything is real (portal, tunnel, gate, Slurm, session scripts, forwards)
except the notebook server, for which a small stand-in runs. Prints a table and writes
benchmarks/results/scale.json. Bounds: reconciler (the whole portal process) and gate together
under 10 % of one core, one question to the scheduler per poll, a change of state visible in
the portal within 3 s. It needs the test packages (`./test --version` installs them).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import on_a_site
from benchmarks.command import Bound, Command, Figures, finish, table
from testbed.places import PROJECT
from testbed.sites import Site, every_site
from tests.running import wait_for
from tests.sites.standing import CLUSTER, Standing

if TYPE_CHECKING:
    import httpx

#: Of one core.
CPU_BOUND_PERCENT = 10.0
SEEN_BOUND_S = 3.0
#: What falls on the edge of the minute is more than one.
QUESTIONS_BOUND = 1.1
POLL_S = 1.5
_CHANGES = 9
_MEMORY_MB = 64
_RUNTIME = f"""[runtime]
name = "process"
python = "{PROJECT}/benchmarks/stand_in/python"
code = "{PROJECT}"
"""


def main() -> int:
    """Run the benchmark; 1 where a bound is not met."""
    command = Command(__doc__)
    command.size("--sessions", 200, smoke=2)
    command.size("--idle-s", 60.0, smoke=3.0)
    command.parser.add_argument("--standing", type=int, help=argparse.SUPPRESS)
    options = command.parse()
    with ExitStack() as stack:
        port = options.standing
        it, _ = stack.enter_context(on_a_site.site(port, Scale, _large_sites()))
        if port:
            stack.enter_context(on_a_site.policy(it, it.policy(), _MEMORY_MB))
        rows, seen = _measure(it, options.sessions, options.idle_s)
    bounds = [
        Bound(_BOTH, rows[_BOTH], most=CPU_BOUND_PERCENT),
        Bound(_QUESTIONS, rows[_QUESTIONS], most=QUESTIONS_BOUND),
        Bound(_WORST, rows[_WORST], most=SEEN_BOUND_S),
    ]
    printed = table(("", f"{options.sessions} sessions"), list(rows.items()), 2)
    return finish("scale", printed, {"rows": rows, "seen": seen}, bounds, smoke=options.smoke)


class Scale(Standing):
    """A site whose policy runs the stand-in, many times."""

    def policy(self, **_: object) -> str:
        text = super().policy(max_live=1000)
        head, rest = text.split("[runtime]", 1)
        tail = rest.split("\n\n", 1)[1]
        lines = [line for line in tail.splitlines() if not line.startswith(("image", "sha256"))]
        tail = "\n".join(lines).replace("memory_mb = 1000", f"memory_mb = {_MEMORY_MB}")
        return f"{head}{_RUNTIME}\n{tail}\n"


def _large_sites() -> list[Site]:
    large = {"cpus": "512", "memory_mb": "64000"}
    return [
        dataclasses.replace(site, options={**site.options, **large}) if site.kind else site
        for site in every_site()
    ]


def _measure(site: Standing, count: int, idle_s: float) -> tuple[Figures, list[float]]:
    """The rows of the table, and after how many seconds each end of a job was seen."""
    with site.api() as api:
        scene = api.get("/api/scenes").json()["features"][0]["id"]
        begun = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            sessions = list(pool.map(lambda _: _submit(api, scene), range(count)))
        wait_for("all READY", lambda: _all_ready(api, sessions), timeout_s=600, every_s=2)
        all_ready_s = time.monotonic() - begun
        time.sleep(min(10.0, idle_s))
        idle = _idle(site, idle_s)
        seen = [_seen_after(site, api, session) for session in sessions[:_CHANGES]]
    rows = {
        "portal, % of a core": 100 * idle["portal"],
        "gate, % of a core": 100 * idle["gate"],
        _BOTH: 100 * (idle["portal"] + idle["gate"]),
        "`ssh` between them, % of a core": 100 * idle["master"],
        _QUESTIONS: idle["questions"] / (idle_s / POLL_S),
        "end of a job seen in the portal after, s": statistics.median(seen),
        _WORST: max(seen),
        "until all were READY, s": all_ready_s,
    }
    return rows, seen


_BOTH = "both, % of a core"
_QUESTIONS = "questions to the scheduler per poll"
_WORST = "the latest of them, s"


def _submit(api: httpx.Client, scene: str) -> str:
    """A new session's id."""
    asked = {
        "scenes": [scene],
        "module": "active-fire",
        "cluster": CLUSTER,
        "resources": {"preset": "small", "walltime_s": 3600},
    }
    made = api.post("/api/sessions", json=asked)
    made.raise_for_status()
    return str(made.json()["id"])


def _all_ready(api: httpx.Client, sessions: list[str]) -> bool:
    states = {session["id"]: session["state"] for session in api.get("/api/sessions").json()}
    return all(states[session] == "READY" for session in sessions)


def _idle(site: Standing, seconds: float) -> dict[str, float]:
    """Seconds of processor per second, and questions to the scheduler."""
    before, asked = _used(site), _questions(site)
    began = time.monotonic()
    time.sleep(seconds)
    after, span = _used(site), time.monotonic() - began
    shares = {name: (after[name] - before[name]) / span for name in before}
    return {**shares, "questions": _questions(site) - asked}


def _used(site: Standing) -> dict[str, float]:
    """Processor seconds so far, by part. Other processes of the portal do not count."""
    found = {"portal": 0.0, "gate": 0.0, "master": 0.0}
    for host, part, words in (
        (site.portal, "portal", "lib.server.main"),
        (site.portal, "master", f"{CLUSTER}.ctl"),
        (site.login, "gate", "lib.gate"),
    ):
        for process in host.processes():
            line = " ".join(process.argv)
            if words in line and ("serve" in line or part == "master"):
                found[part] += _cpu_s(host.path(f"/proc/{process.pid}/stat"))
    return found


def _cpu_s(stat: Path) -> float:
    """Of the process and of its children that have ended (`squeue`, `ssh`)."""
    fields = stat.read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _questions(site: Standing) -> int:
    """How often slurmctld was asked for jobs, by its own statistics; only the gate asks it.

    One `squeue` is one of these, and one question each for partitions and federation.
    """
    told = site.login.run(["sdiag"]).stdout
    return sum(map(int, re.findall(r"REQUEST_JOB_(?:USER_)?INFO\s.*?count:(\d+)", told)))


def _seen_after(site: Standing, api: httpx.Client, session: str) -> float:
    """The site's root cancels the job; seconds until the portal says that it has ended."""
    path = f"/api/sessions/{session}"
    job = api.get(path).json()["job"]
    site.login.run(["scancel", job])
    began = time.monotonic()
    wait_for("ENDED", lambda: api.get(path).json()["state"] == "ENDED", every_s=0.05)
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
