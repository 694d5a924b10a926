"""Submitting and cancelling on a gate, quiet and while one job does its worst.

    python -m benchmarks.flood [--acts 60] [--folders 100000] [--smoke]

One run appends events and rubbish to its `status.jsonl` as fast as they are read, and has made a
tree of folders; then it ends and leaves them to be removed. Meanwhile others submit runs and cancel
them, by stock `ssh` over one ControlMaster as the portal does. The gate is that of the embedded
cluster: scheduler `local`, runtime `process`. Prints a table and writes
benchmarks/results/flood.json. Bound: 95 of 100 within a second. It needs the test packages
(`./test --version` installs them).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.command import Bound, Command, finish, percentiles, table
from lib.model import JobState
from lib.protocol.codec import encode
from lib.protocol.messages import COMMAND, CancelRequest, JobKind, Verb
from tests.fakes.things import module_event, object_event
from tests.fixtures.gate_site import GateSite
from tests.running import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

BOUND_S = 1.0
_WIDTH, _DEPTH = 100, 20
#: Below what is read of one module at all (`lib.protocol.events`).
_FLOOD_BYTES = 200 * 2**20
_PIECE_BYTES = 256 * 1024
_PAUSE_S = 0.02
_WHEN = ("quiet", "while one floods", "once it has ended")


def main() -> int:
    """Measure, print, write. Exit code 1 when the bound is missed."""
    command = Command(__doc__)
    command.size("--acts", 60, smoke=2)
    command.size("--folders", 100_000, smoke=200)
    options = command.parse()
    with tempfile.TemporaryDirectory(prefix="sb-flood-") as name:
        taken = _measure(Path(name), options.acts, options.folders)
    rows: dict[str, list[float]] = {}
    for act in ("submit", "cancel"):
        cuts = [percentiles(seconds[act], 50, 95) for seconds in taken]
        rows[f"{act} p50, s"] = [p50 for p50, _ in cuts]
        rows[f"{act} p95, s"] = [p95 for _, p95 in cuts]
    bounds = [
        Bound(f"{name} {when}", figure, most=BOUND_S)
        for name, figures in rows.items()
        if "p95" in name
        for when, figure in list(zip(_WHEN, figures, strict=True))[1:]
    ]
    printed = table(("", *_WHEN), [(name, *figures) for name, figures in rows.items()], 2)
    record = {"rows": rows, "taken": dict(zip(_WHEN, taken, strict=True))}
    return finish("flood", printed, record, bounds, smoke=options.smoke)


Taken = dict[str, list[float]]


def _measure(folder: Path, acts: int, folders: int) -> list[Taken]:
    """Seconds of each submit and cancel: quiet, beside the flood, and after its end."""
    site = GateSite(folder, slots=2, max_live=1000, keep_days=0, max_disk_mb=2**20)
    site.start()
    try:
        with _master(site) as ask:
            taken = [_acts(site, ask, acts)]
            bad = site.submit(JobKind.RUN, params={"linger_s": 3600, "objects": 0}).id
            status = site.work(bad) / "out" / "status.jsonl"
            wait_for("the module", status.exists)
            _tree(site.work(bad) / "tree", folders)
            stop = threading.Event()
            flood = threading.Thread(target=_flood, args=(status, stop))
            flood.start()
            try:
                taken.append(_acts(site, ask, acts))
            finally:
                stop.set()
                flood.join()
            ask(Verb.CANCEL, encode(CancelRequest(bad)))
            site.wait(bad, lambda job: job.state is JobState.ENDED, timeout_s=600)
            taken.append(_acts(site, ask, acts))
        return taken
    finally:
        site.stop()


def _acts(site: GateSite, ask: Ask, acts: int) -> Taken:
    taken: Taken = {"submit": [], "cancel": []}
    for _ in range(acts):
        request = site.request(JobKind.RUN, params={"linger_s": 3600}, owner="somebody")
        taken["submit"].append(ask(Verb.SUBMIT, encode(request)))
        taken["cancel"].append(ask(Verb.CANCEL, encode(CancelRequest(request.id))))
    return taken


class Ask:
    """Asks verbs over one connection; says how many seconds each took."""

    def __init__(self, site: GateSite, socket: Path) -> None:
        self._command = site.ssh("-S", str(socket), "--", "127.0.0.1")

    def __call__(self, verb: Verb, data: bytes) -> float:
        began = time.monotonic()
        done = subprocess.run(
            [*self._command, f"{COMMAND} {verb.value}"],
            input=data, capture_output=True, check=True,
        )  # fmt: skip
        took = time.monotonic() - began
        if b'"error"' in done.stdout.partition(b"\n")[0][:20]:
            raise RuntimeError(done.stdout.decode())
        return took


@contextlib.contextmanager
def _master(site: GateSite) -> Iterator[Ask]:
    socket = site.root / "ctl"
    flags = ("-o", "ControlMaster=yes", "-S", str(socket), "-N", "--", "127.0.0.1")
    process = subprocess.Popen(site.ssh(*flags), stderr=subprocess.DEVNULL)
    try:
        wait_for("the ControlMaster", socket.exists)
        yield Ask(site, socket)
    finally:
        process.terminate()
        process.wait()


def _tree(root: Path, folders: int) -> None:
    """So many folders, `_WIDTH` beside each other, the first ones deep below each other."""
    here = root
    for number in range(0, folders, _WIDTH):
        here = here / "deeper" if number < _DEPTH * _WIDTH else root / f"beside-{number}"
        here.mkdir(parents=True)
        for other in range(min(_WIDTH, folders - number) - 1):
            (here / f"{other}").mkdir()


def _flood(status: Path, stop: threading.Event) -> None:
    """Events that count and lines that do not, in turn."""
    event = json.dumps({**object_event(1, "S1"), "time": 1.0}) + "\n"
    begun = json.dumps(module_event("scene_started", "S1")) + "\n"
    lines = (event + "{}\n" * 50).encode()
    piece = lines * (_PIECE_BYTES // len(lines))
    with status.open("ab", buffering=0) as file:
        file.write(begun.encode())
        for _ in range(_FLOOD_BYTES // len(piece)):
            if stop.wait(_PAUSE_S):
                return
            file.write(piece)
        stop.wait()


if __name__ == "__main__":
    sys.exit(main())
