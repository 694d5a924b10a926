"""What many people at once cost one of them.

    python -m benchmarks.load [--seconds 15] [--users 30] [--notebooks 10] [--out FILE]

A real portal is started as `./run` does, with a real gate and, in Jupyter's place, notebook
servers that cost next to nothing (benchmarks/plain_notebook). One person and one notebook are
measured, first alone, then while a crowd in a process of its own uses the portal:

* USERS signed-in browsers, each on one of the three pages, going to the next every five
  seconds, with the polling that the pages do, footprints and thumbnails;
* NOTEBOOKS of which each sends 50 WebSocket messages of 1 KiB a second to a browser; the last
  also sends a download of 2 MB/s.

Measured one after the other, in both states, by the same process:

* `page`: a click in the portal, from the request for a rerun over Streamlit's WebSocket to
  the end of the script, over the three pages in turn;
* `bare page`: the same for a page of Streamlit alone in a process of its own;
* `proxied`: a request with an answer of 1 kB through proxy, ssh, gate and relay, 30 a second;
* `direct`: the same from the notebook's own port.

The ratios of the bare rows are what the computer itself gets slower by. Prints a table and
writes JSON. Targets: p95 of a page and p99 of a proxied request at most twice the quiet ones.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import uvloop

from benchmarks.load import visitor
from benchmarks.load.browser import Page, repeat, sign_in
from benchmarks.load.crowd import PAGES
from benchmarks.load.place import Place, cpu, place, wait_for
from lib.config.settings import PROJECT
from tests.running import free_port

RATE, SIZE, DOWNLOAD_RATE, EVERY_S = 50, 1024, 2_000_000, 5.0
CLICK_PAUSE_S, REQUEST_PAUSE_S = 0.2, 1 / 30
#: Rows that the crowd touches little; when they get slower than this, somebody else is at work.
BARE, BUSY = (("bare page", "p50"), ("direct", "p50"), ("direct", "p95")), 2.5
TARGETS = {"page": (95, 2.0), "proxied": (99, 2.0)}


@dataclass
class Scenery:
    """What is measured."""

    place: Place
    page: Page
    bare: Page
    proxied: visitor.Way
    direct: visitor.Way
    http: aiohttp.ClientSession
    known: dict[int, str]

    async def measure(self, seconds: float) -> dict[str, Any]:
        """Every row, one after the other; milliseconds, and processor time by part."""
        turns = itertools.cycle(PAGES)
        acts: dict[str, tuple[float, Callable[[], Awaitable[float]]]] = {
            "page": (CLICK_PAUSE_S, lambda: self.page.click(next(turns))),
            "bare page": (CLICK_PAUSE_S, self.bare.click),
            "proxied": (REQUEST_PAUSE_S, partial(visitor.request, self.http, self.proxied)),
            "direct": (REQUEST_PAUSE_S, partial(visitor.request, self.http, self.direct)),
        }
        rows: dict[str, Any] = {}
        before, began = cpu(self.place.data, self.known), time.monotonic()
        for name, (pause, act) in acts.items():
            rows[name] = figures(await repeat(seconds, pause, act))
        took = time.monotonic() - began
        after = cpu(self.place.data, self.known)
        used = {part: 100 * (after[part] - before.get(part, 0.0)) / took for part in after}
        return {"rows": rows, "cpu": used}


def figures(taken: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(taken, n=100)
    return {"n": len(taken), **{f"p{p}": 1000 * cuts[p - 1] for p in (50, 95, 99)}}


@asynccontextmanager
async def scenery(on: Place, sessions: list[str], cookie: str) -> AsyncIterator[Scenery]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(visitor.client())
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.load.bare", str(port)]
        bare = await asyncio.create_subprocess_exec(
            *command, cwd=PROJECT, stderr=asyncio.subprocess.DEVNULL
        )
        stack.push_async_callback(bare.wait)
        stack.callback(bare.terminate)
        await asyncio.to_thread(wait_for, "the bare page", lambda: _listens(bare.pid))
        yield Scenery(
            on,
            await stack.enter_async_context(Page(http, on.port, cookie)),
            await stack.enter_async_context(Page(http, port, "")),
            await visitor.enter(http, on.port, cookie, sessions[0]),
            on.direct(sessions[0]),
            http,
            {os.getpid(): "measuring", bare.pid: "bare page", on.process.pid: "portal"},
        )


def _listens(pid: int) -> bool:
    return any(c.status == psutil.CONN_LISTEN for c in psutil.Process(pid).net_connections())


@asynccontextmanager
async def crowd(given: dict[str, Any]) -> AsyncIterator[tuple[int, dict[str, float]]]:
    """The process of the crowd, everybody in; what they did, at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.load.crowd",
        cwd=PROJECT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("no pipes")
    done: dict[str, float] = {}
    try:
        process.stdin.write(json.dumps(given).encode() + b"\n")
        async with asyncio.timeout(120):
            if await process.stdout.readline() != b"ready\n":
                raise RuntimeError("the crowd did not get in")
        yield process.pid, done
        process.stdin.close()
        async with asyncio.timeout(20):
            done.update(json.loads(await process.stdout.readline()))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    with place(options.notebooks) as on:
        async with visitor.client() as http:
            cookies = [await sign_in(http, on.link()) for _ in range(options.users + 1)]
        sessions = await asyncio.to_thread(on.open_notebooks, cookies[0], options.notebooks)
        await asyncio.to_thread(on.settle)
        async with scenery(on, sessions, cookies[0]) as seen:
            await seen.measure(2)
            quiet = await seen.measure(options.seconds)
            given = {
                "port": on.port,
                "cookies": cookies[1:],
                "sessions": sessions,
                "streams": options.notebooks,
                "rate": RATE,
                "size": SIZE,
                "download_rate": DOWNLOAD_RATE,
                "every_s": EVERY_S,
                "chip": on.chip,
            }
            began = time.monotonic()
            async with crowd(given) as (pid, done):
                seen.known[pid] = "crowd"
                await asyncio.sleep(3)
                loaded = await seen.measure(options.seconds)
            done["seconds"] = time.monotonic() - began
    ratios = {
        row: {p: values[p] / quiet["rows"][row][p] for p in ("p50", "p95", "p99")}
        for row, values in loaded["rows"].items()
    }
    return {
        "users": options.users,
        "notebooks": options.notebooks,
        "quiet": quiet,
        "loaded": loaded,
        "ratios": ratios,
        "crowd": done,
    }


def table(result: dict[str, Any]) -> str:
    """For people."""
    quiet, loaded = result["quiet"], result["loaded"]
    lines = [
        f"{result['users']} people, {result['notebooks']} streaming notebooks; milliseconds",
        f"{'':<12}{'quiet p50':>10}{'p95':>8}{'p99':>8}{'loaded p50':>12}{'p95':>8}{'p99':>8}"
        f"{'ratio p50':>11}{'p95':>7}{'p99':>7}",
    ]
    for row, q in quiet["rows"].items():
        a, r = loaded["rows"][row], result["ratios"][row]
        lines.append(
            f"{row:<12}{q['p50']:>10.1f}{q['p95']:>8.1f}{q['p99']:>8.1f}"
            f"{a['p50']:>12.1f}{a['p95']:>8.1f}{a['p99']:>8.1f}"
            f"{r['p50']:>11.2f}{r['p95']:>7.2f}{r['p99']:>7.2f}"
        )
    for row, (p, bound) in TARGETS.items():
        ratio = result["ratios"][row][f"p{p}"]
        verdict = "kept" if ratio <= bound else "missed"
        lines.append(f"p{p} of {row}: {ratio:.2f} times the quiet one; target {bound}: {verdict}")
    if max(result["ratios"][row][p] for row, p in BARE) > BUSY:
        lines.append(
            "The bare rows got much slower too: other programs used this computer, and the ratios "
            "say little."
        )
    lines.append("processor, % of one core (quiet / loaded):")
    parts = sorted({*quiet["cpu"], *loaded["cpu"]})
    lines += [
        f"  {part:<12}{quiet['cpu'].get(part, 0):>6.1f}{loaded['cpu'].get(part, 0):>8.1f}"
        for part in parts
    ]
    total = [sum(state["cpu"].values()) for state in (quiet, loaded)]
    lines.append(f"  {'all':<12}{total[0]:>6.1f}{total[1]:>8.1f}  of {100 * (os.cpu_count() or 1)}")
    did = result["crowd"]
    lines.append(
        f"crowd: {did['clicks'] / did['seconds']:.1f} clicks/s, "
        f"{did['messages'] / did['seconds']:.0f} messages/s, "
        f"{did['downloaded_mb'] / did['seconds']:.1f} MB/s, {did['pictures']:.0f} pictures"
    )
    return "\n".join(lines)


def main() -> int:
    """Command line; 1 when a target is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=15, help="for each row and state")
    parser.add_argument("--users", type=int, default=30)
    parser.add_argument("--notebooks", type=int, default=10)
    results = PROJECT / "benchmarks" / "results"
    parser.add_argument("--out", type=Path, default=results / "load.json")
    options = parser.parse_args()
    result = uvloop.run(measure(options))
    print(table(result))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    return int(any(result["ratios"][row][f"p{p}"] > bound for row, (p, bound) in TARGETS.items()))


if __name__ == "__main__":
    sys.exit(main())
