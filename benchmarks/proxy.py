"""What the way through proxy and gate costs, against asking the notebook directly.

    python -m benchmarks.proxy [--rounds N] [--out FILE]

client -> proxy (a process of its own) -> ControlMaster -> gate -> TLS relay of the session
script -> a notebook server that costs next to nothing (benchmarks/plain_notebook). Every
part but that server is the real one. Direct and through the line alternate; each figure
is the median over the rounds. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import uvicorn
import uvloop

from lib.model import ClusterId, Endpoint, SessionId, UserId
from lib.notebook_proxy.asgi import NotebookProxy, ProxySettings
from lib.notebook_proxy.port_listeners import SERVER_SETTINGS
from lib.notebook_proxy.upstream import Upstream
from lib.protocol.messages import JobKind, SubmitRequest
from lib.tunnels import ClusterLink, TcpAddress

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "benchmarks" / "plain_notebook"
DOWNLOAD_BYTES = 200 * 10**6
CONCURRENCY = (1, 10, 20)
REQUESTS = 1500
ECHOES = 1500
ORIGIN = "http://localhost:8501"
_POLICY = """
format = 1
cluster = "bench"
users = ["*"]
portal_origins = ["http://localhost:*"]
data_paths = [{data}]
https_hosts = []
[scheduler]
name = "local"
[runtime]
name = "process"
python = {python}
code = {code}
[[modules]]
id = "plain"
version = "1.0.0"
entry = "json.tool"
[[presets]]
name = "small"
title = "Small"
cores = 1
memory_mb = 500
max_walltime_s = 3600
"""


@dataclass(frozen=True)
class Way:
    """One way to the notebook: where to connect and what to send along."""

    name: str
    port: int
    headers: dict[str, str]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


# --- the line ---------------------------------------------------------------------


@asynccontextmanager
async def line(folder: Path) -> AsyncIterator[tuple[Way, Way, int]]:
    """Everything started: the direct way, the way through, and the proxy's process id."""
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(_gate(folder))
        session = SessionId(str(uuid.uuid4()))
        endpoint = await _session(link, session, folder / "data" / "blue.tif")
        work = folder / "gate" / "sessions" / session / "work"
        direct = json.loads((work / "direct.json").read_text())["port"]
        given = {
            "session": session,
            "socket": str(await link.open_forward(session)),
            "endpoint": dataclasses.asdict(endpoint),
        }
        pid, port, entry = await stack.enter_async_context(_proxy(given))
        through = Way("through the line", port, await _enter(port, entry))
        yield Way("direct", direct, {"Authorization": f"token {endpoint.token}"}), through, pid


@asynccontextmanager
async def _gate(folder: Path) -> AsyncIterator[ClusterLink]:
    key, home = folder / "key", folder / "gate"
    running = await asyncio.to_thread(_start_gate, folder, key, home)
    link = ClusterLink(
        ClusterId("bench"),
        gate_address=lambda: TcpAddress("127.0.0.1", running["port"]),
        key=key,
        host_key=running["host_key"],
        runtime=folder / "r",
    )
    try:
        yield link
    finally:
        await link.disconnect()
        await asyncio.to_thread(_gate_command, "stop", home, "--jobs")


def _start_gate(folder: Path, key: Path, home: Path) -> dict[str, Any]:
    data = folder / "data"
    data.mkdir()
    (data / "blue.tif").write_bytes(b"II*\0")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    paths = {"python": sys.executable, "code": str(NOTEBOOK), "data": str(data)}
    policy = folder / "policy.toml"
    policy.write_text(_POLICY.format_map({k: json.dumps(v) for k, v in paths.items()}))
    public = f"{key}.pub"
    _gate_command(
        "init", home, "--cluster", "bench", "--portal-key", public, "--policy", str(policy)
    )
    return _gate_command("serve", home, "--detach")


def _gate_command(verb: str, home: Path, *more: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "lib.gate", verb, "--home", str(home), *more],
        cwd=ROOT, check=True, capture_output=True, timeout=90,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


async def _session(link: ClusterLink, session: SessionId, data: Path) -> Endpoint:
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": "none",
        "geometry": None,
        "properties": {"datetime": "2024-01-01T00:00:00Z"},
        "assets": {"blue": {"href": str(data)}},
        "links": [],
    }
    await link.submit(
        SubmitRequest(
            session, JobKind.SESSION, "bench", "plain", "1.0.0", {}, [item], "small", 3600,
            portal_origin=ORIGIN,
        )
    )  # fmt: skip
    async with asyncio.timeout(60), aclosing(link.watch({})) as messages:
        async for message in messages:
            for status in message.jobs:
                if status.endpoint is not None:
                    return status.endpoint
                if status.end_reason is not None:
                    raise RuntimeError(status.reason)
    raise RuntimeError("the gate's stream ended")


@asynccontextmanager
async def _proxy(given: dict[str, Any]) -> AsyncIterator[tuple[int, int, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.proxy", "--serve",
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("no pipes")
    process.stdin.write(json.dumps(given).encode() + b"\n")
    said = json.loads(await process.stdout.readline())
    try:
        yield process.pid, said["port"], said["entry"]
    finally:
        process.terminate()
        await process.wait()


class _Anyone:
    async def may_open(self, session: SessionId, user: UserId, login: str) -> bool:  # noqa: ARG002
        return True


async def serve() -> None:
    """The proxy's own process: read where the notebook is, say where we are, serve."""
    given = json.loads(sys.stdin.readline())
    session = SessionId(given["session"])
    proxy = NotebookProxy(ProxySettings(ORIGIN, b"benchmark" * 4), _Anyone())
    upstream = Upstream(Path(given["socket"]), Endpoint(**given["endpoint"]))
    await upstream.probe()
    await proxy.open(session, upstream)
    config = uvicorn.Config(
        proxy, port=0, lifespan="off", log_level="error", access_log=False, **SERVER_SETTINGS
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    entry = proxy.entry_url(session, UserId("bench"), "bench")
    print(json.dumps({"port": port, "entry": entry}), flush=True)
    await serving


async def _enter(port: int, entry: str) -> dict[str, str]:
    """Come in as a browser does; the headers of the notebook's own page."""
    origin, _, path = entry.partition("/_portal/")
    host = origin.removeprefix("http://")
    asked = {"Host": host, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    url = f"http://127.0.0.1:{port}/_portal/{path}"
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
        http.get(url, headers=asked, allow_redirects=False) as answer,
    ):
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
    return {"Host": host, "Origin": origin, "Sec-Fetch-Site": "same-origin", "Cookie": cookie}


# --- measuring --------------------------------------------------------------------


def client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0),
        read_bufsize=2**18,
    )


async def requests(way: Way, concurrency: int) -> dict[str, float]:
    """Requests per second and latencies (ms) of a 1 kB answer."""
    taken: list[float] = []

    async def one(http: aiohttp.ClientSession, count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            async with http.get(way.url("/small"), headers=way.headers) as answer:
                await answer.read()
            taken.append(time.perf_counter() - began)
            if answer.status != 200:
                raise RuntimeError(f"{way.name}: status {answer.status}")

    async with client() as http:
        await asyncio.gather(*(one(http, 5) for _ in range(concurrency)))
        taken.clear()
        began = time.perf_counter()
        await asyncio.gather(*(one(http, REQUESTS // concurrency) for _ in range(concurrency)))
        total = time.perf_counter() - began
    cuts = statistics.quantiles(taken, n=100)
    return {
        f"requests/s at {concurrency}": len(taken) / total,
        f"p50 ms at {concurrency}": cuts[49] * 1000,
        f"p99 ms at {concurrency}": cuts[98] * 1000,
    }


async def download(way: Way) -> dict[str, float]:
    """MB/s of one 200 MB answer."""
    async with client() as http:
        began, size = time.perf_counter(), 0
        async with http.get(way.url(f"/large/{DOWNLOAD_BYTES}"), headers=way.headers) as answer:
            async for chunk in answer.content.iter_any():
                size += len(chunk)
        took = time.perf_counter() - began
    if size != DOWNLOAD_BYTES:
        raise RuntimeError(f"{way.name}: {size} bytes")
    return {"download MB/s": size / took / 1e6}


async def echo(way: Way) -> dict[str, float]:
    """Round trip of a 200-byte WebSocket message, ms."""
    taken = []
    async with client() as http, http.ws_connect(way.url("/echo"), headers=way.headers) as ws:
        for _ in range(ECHOES):
            began = time.perf_counter()
            await ws.send_str("x" * 200)
            await ws.receive_str()
            taken.append(time.perf_counter() - began)
    cuts = statistics.quantiles(taken, n=100)
    return {"echo p50 ms": cuts[49] * 1000, "echo p99 ms": cuts[98] * 1000}


async def one_round(way: Way) -> dict[str, float]:
    """All measurements of one way."""
    found: dict[str, float] = {}
    for concurrency in CONCURRENCY:
        found |= await requests(way, concurrency)
    return found | await download(way) | await echo(way)


async def measure(rounds: int) -> dict[str, Any]:
    """Median of every figure, by way."""
    with tempfile.TemporaryDirectory(prefix="sb-") as name:
        async with line(Path(name)) as (direct, through, pid):
            figures: dict[str, list[dict[str, float]]] = {direct.name: [], through.name: []}
            proxy = psutil.Process(pid)
            before = proxy.memory_info().rss
            for number in range(rounds):
                pair = (direct, through) if number % 2 == 0 else (through, direct)
                for way in pair:
                    figures[way.name].append(await one_round(way))
            grown = proxy.memory_info().rss - before
    medians = {
        name: {key: statistics.median(r[key] for r in rows) for key in rows[0]}
        for name, rows in figures.items()
    }
    return {"rounds": rounds, "proxy_grew_mib": grown / 2**20, "medians": medians}


def table(result: dict[str, Any]) -> str:
    """For people."""
    (first, direct), (second, through) = result["medians"].items()
    lines = [f"{'':<22}{first:>14}{second:>20}"]
    lines += [f"{key:<22}{direct[key]:>14.2f}{through[key]:>20.2f}" for key in direct]
    return "\n".join([*lines, f"memory of the proxy grew by {result['proxy_grew_mib']:.1f} MiB"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "proxy.json")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(serve())
        return
    result = uvloop.run(measure(arguments.rounds))
    print(table(result))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
