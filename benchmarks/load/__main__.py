"""What many people at once cost one of them.

    python -m benchmarks.load [--seconds 15] [--users 30] [--notebooks 10] [--smoke]

A real portal is started as `./run` does, with a real gate and, in Jupyter's place, notebook
servers that cost next to nothing (benchmarks/plain_notebook). One person and one notebook are
measured, first alone, then while a crowd in a process of its own uses the portal:

* USERS signed-in browsers, each on one of the three pages, going to the next every five
  seconds, with what the pages follow and are told, footprints and thumbnails;
* NOTEBOOKS of which each sends 50 WebSocket messages of 1 KiB a second to a browser; the last
  also sends a download of 2 MB/s.

Measured one after the other, in both states, by the same process:

* `page`: a click in the portal, from the request for a rerun over Streamlit's WebSocket to
  the end of the script, over the three pages in turn;
* `bare page`: the same for a page of Streamlit alone in a process of its own;
* `proxied`: a request with an answer of 1 kB through proxy, ssh, gate and relay, 30 a second;
* `direct`: the same from the notebook's own port.

The ratios of the bare rows are what the computer itself gets slower by. Prints a table and
writes benchmarks/results/load.json. Targets: p95 of a page and p99 of a proxied request at most
twice the quiet ones. It needs the test packages (`./test --version` installs them).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import aiohttp
import psutil
import uvloop

from benchmarks.command import PROJECT, Bound, Command, Figures, Row, finish, percentiles, table
from benchmarks.load import visitor
from benchmarks.load.browser import Page, repeat, sign_in
from benchmarks.load.crowd import PAGES, Given
from benchmarks.load.place import Place, cpu, place, wait_for
from tests.running import free_port

RATE, SIZE, DOWNLOAD_RATE, EVERY_S = 50, 1024, 2_000_000, 5.0
CLICK_PAUSE_S, REQUEST_PAUSE_S = 0.2, 1 / 30
#: Rows that the crowd touches little; when they get slower than this, somebody else is at work.
BARE, BUSY = (("bare page", "p50"), ("direct", "p50"), ("direct", "p95")), 2.5
TARGETS = {"page": ("p95", 2.0), "proxied": ("p99", 2.0)}
PERCENTILES = (50, 95, 99)


class State(TypedDict):
    """Milliseconds by row and percentile, and per cent of a core by part."""

    rows: dict[str, Figures]
    cpu: Figures


class Result(TypedDict):
    """All that was measured; `ratios` are of loaded to quiet, by row and percentile."""

    users: int
    notebooks: int
    quiet: State
    loaded: State
    ratios: dict[str, Figures]
    crowd: Figures


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

    async def measure(self, seconds: float) -> State:
        """Every row, one after the other; milliseconds, and processor time by part."""
        turns = itertools.cycle(PAGES)
        acts: dict[str, tuple[float, Callable[[], Awaitable[float]]]] = {
            "page": (CLICK_PAUSE_S, lambda: self.page.click(next(turns))),
            "bare page": (CLICK_PAUSE_S, self.bare.click),
            "proxied": (REQUEST_PAUSE_S, partial(visitor.request, self.http, self.proxied)),
            "direct": (REQUEST_PAUSE_S, partial(visitor.request, self.http, self.direct)),
        }
        rows: dict[str, Figures] = {}
        before, began = cpu(self.place.data, self.known), time.monotonic()
        for name, (pause, act) in acts.items():
            rows[name] = figures(await repeat(seconds, pause, act))
        took = time.monotonic() - began
        after = cpu(self.place.data, self.known)
        used = {part: 100 * (after[part] - before.get(part, 0.0)) / took for part in after}
        return {"rows": rows, "cpu": used}


def figures(taken: list[float]) -> Figures:
    cuts = percentiles(taken, *PERCENTILES)
    found = {f"p{p}": 1000 * cut for p, cut in zip(PERCENTILES, cuts, strict=True)}
    return {"n": len(taken), **found}


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
async def crowd(given: Given) -> AsyncIterator[tuple[int, dict[str, float]]]:
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


async def measure(options: argparse.Namespace) -> Result:
    with place(options.notebooks) as on:
        async with visitor.client() as http:
            cookies = [await sign_in(http, on.link()) for _ in range(options.users + 1)]
        sessions = await asyncio.to_thread(on.open_notebooks, cookies[0], options.notebooks)
        await asyncio.to_thread(on.settle, min(3.0, options.seconds))
        async with scenery(on, sessions, cookies[0]) as seen:
            await seen.measure(min(2, options.seconds))
            quiet = await seen.measure(options.seconds)
            given: Given = {
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
                await asyncio.sleep(min(3, options.seconds))
                loaded = await seen.measure(options.seconds)
            done["seconds"] = time.monotonic() - began
    ratios = {
        row: {p: values[p] / quiet["rows"][row][p] for p in values if p != "n"}
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


def report(result: Result, *, smoke: bool) -> int:
    """Print what was measured and who used the processor, write it, compare with the targets."""
    quiet, loaded, ratios = result["quiet"], result["loaded"], result["ratios"]
    names = [f"p{p}" for p in PERCENTILES]
    head = ["ms", *(f"quiet {p}" for p in names), *(f"loaded {p}" for p in names)]
    rows: list[Row] = [
        [
            row,
            *(q[p] for p in names),
            *(loaded["rows"][row][p] for p in names),
            *(f"{ratios[row][p]:.2f}" for p in names),
        ]
        for row, q in quiet["rows"].items()
    ]
    printed = [
        f"{result['users']} people, {result['notebooks']} streaming notebooks",
        table([*head, *(f"ratio {p}" for p in names)], rows, 1),
    ]
    if max(ratios[row][p] for row, p in BARE) > BUSY:
        printed.append(
            "The bare rows got much slower too: other programs used this computer, and the ratios "
            "say little."
        )
    used = [state["cpu"] for state in (quiet, loaded)]
    parts: list[Row] = [[p, *(u.get(p, 0.0) for u in used)] for p in sorted({*used[0], *used[1]})]
    parts.append(["all", *(sum(u.values()) for u in used)])
    printed.append(table(("% of a core", "quiet", "loaded"), parts, 1))
    did = result["crowd"]
    printed.append(
        f"crowd: {did['clicks'] / did['seconds']:.1f} clicks/s, "
        f"{did['messages'] / did['seconds']:.0f} messages/s, "
        f"{did['downloaded_mb'] / did['seconds']:.1f} MB/s, {did['pictures']:.0f} pictures"
    )
    bounds = [
        Bound(f"{p} of {row}, times the quiet one", ratios[row][p], most=most)
        for row, (p, most) in TARGETS.items()
    ]
    return finish("load", "\n\n".join(printed), result, bounds, smoke=smoke)


def main() -> int:
    """Command line; 1 when a target is missed."""
    command = Command(__doc__)
    command.size("--seconds", 15.0, smoke=0.3)
    command.size("--users", 30, smoke=2)
    command.size("--notebooks", 10, smoke=1)
    options = command.parse()
    return report(uvloop.run(measure(options)), smoke=options.smoke)


if __name__ == "__main__":
    sys.exit(main())
