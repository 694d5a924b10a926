"""What many people at once cost one of them, and whether a hundred fit on one core.

    python -m benchmarks.load [--seconds 15] [--users 30] [--notebooks 10] [--runs 1]
                              [--browsers 100] [--every 10] [--smoke]

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

The ratios of the bare rows are what the computer itself gets slower by. Targets: p95 of a page
and p99 of a proxied request at most twice the quiet ones, in each of RUNS runs; each has a portal
of its own.

Then, in the last one's portal, BROWSERS browsers with a click every EVERY seconds, and the same
notebooks: every click of theirs counts, for four times SECONDS. Targets: p95 under 500 ms, and the
portal, its notebooks' process included, under one core. `--runs 0` and `--browsers 0` leave either
part out.

Prints tables and writes benchmarks/results/load.json. It needs the test packages
(`./test --version` installs them).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import aiohttp
import psutil
import uvloop

from benchmarks.command import PROJECT, Bound, Command, Figures, Row, finish, percentiles, table
from benchmarks.load import visitor
from benchmarks.load.browser import Page, repeat, sign_in
from benchmarks.load.crowd import PAGES, Given, Report
from benchmarks.load.place import Place, cpu, place, wait_for
from tests.running import free_port

RATE, SIZE, DOWNLOAD_RATE, EVERY_S = 50, 1024, 2_000_000, 5.0
CLICK_PAUSE_S, REQUEST_PAUSE_S = 0.2, 1 / 30
#: So long the crowd may take to get in.
IN_S = 300
#: Rows that the crowd touches little; when they get slower than this, somebody else is at work.
BARE, BUSY = (("bare page", "p50"), ("direct", "p50"), ("direct", "p95")), 2.5
TARGETS = {"page": ("p95", 2.0), "proxied": ("p99", 2.0)}
#: Of many browsers: p95 of a click, and what the portal may use.
CLICK_MS, PORTAL_PERCENT = 500.0, 100.0
PORTAL_PARTS = ("portal", "proxy")
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


class Many(TypedDict):
    """What many browsers measured: their clicks, milliseconds, and per cent of a core by part."""

    browsers: int
    every_s: float
    clicks: Figures
    cpu: Figures
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
        used: Figures = {}
        with using(self.place, self.known, used):
            for name, (pause, act) in acts.items():
                rows[name] = figures(await repeat(seconds, pause, act))
        return {"rows": rows, "cpu": used}


@contextmanager
def using(on: Place, known: dict[int, str], used: Figures) -> Iterator[None]:
    """Fill `used` with what each part uses meanwhile, per cent of a core."""
    before, began = cpu(on.data, known), time.monotonic()
    yield
    took, after = time.monotonic() - began, cpu(on.data, known)
    used.update({part: 100 * (after[part] - before.get(part, 0.0)) / took for part in after})


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
async def crowd(given: Given) -> AsyncIterator[tuple[int, Figures, list[float]]]:
    """The process of the crowd, everybody in; what they did a second and how long each of their
    clicks took, seconds, at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.load.crowd",
        cwd=PROJECT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("no pipes")
    done: Figures = {}
    clicks: list[float] = []
    try:
        process.stdin.write(json.dumps(given).encode() + b"\n")
        async with asyncio.timeout(IN_S):
            if await process.stdout.readline() != b"ready\n":
                raise RuntimeError("the crowd did not get in")
        began = time.monotonic()
        yield process.pid, done, clicks
        process.stdin.close()
        async with asyncio.timeout(IN_S):
            did: Report = json.loads(await process.stdout.readline())
        clicks.extend(did["clicks"])
        done.update(
            seconds=time.monotonic() - began,
            clicks=len(clicks),
            messages=did["messages"],
            downloaded_mb=did["downloaded_mb"],
            pictures=did["pictures"],
        )
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def measure(
    options: argparse.Namespace, *, compare: bool, many: bool
) -> tuple[Result | None, Many | None]:
    """One person's figures with and without the crowd, and those of many browsers, in one portal;
    None for what is not asked for."""
    with place(options.notebooks) as on:
        people = max(options.users * compare, options.browsers * many)
        async with visitor.client() as http:
            cookies = [await sign_in(http, on.link()) for _ in range(people + 1)]
        sessions = await asyncio.to_thread(on.open_notebooks, cookies[0], options.notebooks)
        await asyncio.to_thread(on.settle, min(3.0, options.seconds))
        given: Given = {
            "port": on.port,
            "cookies": [],
            "sessions": sessions,
            "streams": options.notebooks,
            "rate": RATE,
            "size": SIZE,
            "download_rate": DOWNLOAD_RATE,
            "every_s": EVERY_S,
            "chip": on.chip,
        }
        compared = found = None
        if compare:
            given["cookies"] = cookies[1 : options.users + 1]
            compared = await _one_person(on, options, given, cookies[0])
        if many:
            given["cookies"] = cookies[1 : options.browsers + 1]
            given["every_s"] = options.every
            found = await _many_browsers(on, options, given)
    return compared, found


async def _one_person(on: Place, options: argparse.Namespace, given: Given, cookie: str) -> Result:
    async with scenery(on, given["sessions"], cookie) as seen:
        await seen.measure(min(2, options.seconds))
        quiet = await seen.measure(options.seconds)
        async with crowd(given) as (pid, done, _):
            seen.known[pid] = "crowd"
            await asyncio.sleep(min(3, options.seconds))
            loaded = await seen.measure(options.seconds)
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


async def _many_browsers(on: Place, options: argparse.Namespace, given: Given) -> Many:
    used: Figures = {}
    async with crowd(given) as (pid, done, clicks):
        with using(on, {on.process.pid: "portal", pid: "crowd"}, used):
            await asyncio.sleep(4 * options.seconds)
    return {
        "browsers": options.browsers,
        "every_s": options.every,
        "clicks": figures(clicks),
        "cpu": used,
        "crowd": done,
    }


def printed(result: Result) -> str:
    """What was measured in one run, and who used the processor."""
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
    text = [
        f"{result['users']} people, {result['notebooks']} streaming notebooks",
        table([*head, *(f"ratio {p}" for p in names)], rows, 1),
    ]
    if max(ratios[row][p] for row, p in BARE) > BUSY:
        text.append(
            "The bare rows got much slower too: other programs used this computer, and the ratios "
            "say little."
        )
    used = [state["cpu"] for state in (quiet, loaded)]
    parts: list[Row] = [[p, *(u.get(p, 0.0) for u in used)] for p in sorted({*used[0], *used[1]})]
    parts.append(["all", *(sum(u.values()) for u in used)])
    text.append(table(("% of a core", "quiet", "loaded"), parts, 1))
    return "\n\n".join([*text, _doings(result["crowd"])])


def printed_many(many: Many) -> str:
    """What many browsers measured, and who used the processor."""
    clicks, used = many["clicks"], many["cpu"]
    rows: list[Row] = [["a click, ms", *(clicks[f"p{p}"] for p in PERCENTILES)]]
    parts: list[Row] = [[part, used[part]] for part in sorted(used)]
    return "\n\n".join(
        (
            f"{many['browsers']} browsers, a click every {many['every_s']:g} s",
            table(("of many browsers", *(f"p{p}" for p in PERCENTILES)), rows, 1),
            table(("% of a core", "used"), [*parts, ["all", sum(used.values())]], 1),
            _doings(many["crowd"]),
        )
    )


def _doings(did: Figures) -> str:
    return (
        f"crowd: {did['clicks'] / did['seconds']:.1f} clicks/s, "
        f"{did['messages'] / did['seconds']:.0f} messages/s, "
        f"{did['downloaded_mb'] / did['seconds']:.1f} MB/s, {did['pictures']:.0f} pictures"
    )


def of_all_runs(runs: Sequence[Result]) -> str:
    """The figures that count, of each run."""
    rows: list[Row] = [
        [
            f"run {number}",
            f"{run['quiet']['rows']['page']['p50']:.1f}",
            *(f"{run['ratios'][row][p]:.2f}" for row, (p, _) in TARGETS.items()),
            *(f"{run['ratios'][row][p]:.2f}" for row, p in BARE),
            f"{run['loaded']['cpu']['portal']:.0f}",
        ]
        for number, run in enumerate(runs, start=1)
    ]
    head = ["times the quiet one", "quiet page p50, ms"]
    head += [f"{p} {row}" for row, (p, _) in TARGETS.items()]
    head += [f"{p} {row}" for row, p in BARE]
    return table([*head, "portal, % of a core"], rows, 2)


def bounds(runs: Sequence[Result], many: Many | None) -> Iterator[Bound]:
    for number, run in enumerate(runs, start=1):
        for row, (p, most) in TARGETS.items():
            what = f"run {number}: {p} of {row}, times the quiet one"
            yield Bound(what, run["ratios"][row][p], most=most)
    if many is not None:
        used = sum(many["cpu"].get(part, 0.0) for part in PORTAL_PARTS)
        what = f"{many['browsers']} browsers"
        yield Bound(f"{what}: p95 of a click, ms", many["clicks"]["p95"], most=CLICK_MS)
        yield Bound(f"{what}: portal, % of a core", used, most=PORTAL_PERCENT)


def main() -> int:
    """Command line; 1 when a target is missed."""
    command = Command(__doc__)
    command.size("--seconds", 15.0, smoke=0.3)
    command.size("--users", 30, smoke=2)
    command.size("--notebooks", 10, smoke=1)
    command.size("--runs", 1, smoke=1)
    command.size("--browsers", 100, smoke=2)
    command.size("--every", 10.0, smoke=0.2)
    options = command.parse()
    runs: list[Result] = []
    many: Many | None = None
    last = max(1, options.runs)
    for number in range(1, last + 1):
        compared, many = uvloop.run(
            measure(options, compare=options.runs > 0, many=number == last and options.browsers > 0)
        )
        if compared is not None:
            runs.append(compared)
            print(f"\n{printed(compared)}\n", flush=True)
    tables = [of_all_runs(runs)] if len(runs) > 1 else []
    if many is not None:
        tables.append(printed_many(many))
    record = {"runs": runs, "many": many}
    smoke: bool = options.smoke
    return finish("load", "\n\n".join(tables), record, [*bounds(runs, many)], smoke=smoke)


if __name__ == "__main__":
    sys.exit(main())
