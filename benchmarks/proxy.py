"""What the way through proxy and gate costs, against asking the notebook directly.

    python -m benchmarks.proxy [--rounds 5] [--smoke]

Through the line: client -> proxy (a process of its own) -> forward of the ControlMaster -> gate
-> TLS relay of the session script -> a notebook server that costs next to nothing
(benchmarks/plain_notebook). Every part but that server is the real one. Beside it:

* direct: the client asks the notebook server;
* configurable-http-proxy (of JupyterHub): in our proxy's place, on a forward of the same
  ControlMaster, with the session's certificate;
* plain `ssh -L`: the client itself asks the relay through such a forward.

The ways take turns; each figure is the median over the rounds. Prints a table and writes
benchmarks/results/proxy.json. It needs the test packages of Python and npm
(`./test --version` installs them).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import aiohttp
import psutil
import uvicorn
import uvloop

from benchmarks.command import (
    PROJECT,
    Command,
    Figures,
    Row,
    finish,
    lacking,
    medians,
    percentiles,
    table,
)
from lib.http.server_settings import SERVER_SETTINGS
from lib.model import (
    ClusterId,
    Endpoint,
    JsonObject,
    JsonValue,
    SessionId,
    UserId,
    json_number,
    json_text,
)
from lib.notebook_proxy.asgi import NotebookProxy, ProxySettings
from lib.notebook_proxy.upstream import Upstream, tls_context
from lib.protocol.messages import JobKind, SubmitRequest
from lib.tunnels.gate_address import TcpAddress
from lib.tunnels.link import ClusterLink
from tests.running import free_port

NOTEBOOK = PROJECT / "benchmarks" / "plain_notebook"
THEIRS = PROJECT / "node_modules" / "configurable-http-proxy" / "bin" / "configurable-http-proxy"
CONCURRENCY = (1, 10, 20)
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
class Amount:
    """How much is asked of each way in a round."""

    requests: int
    echoes: int
    megabytes: int


USUAL, SMALL = Amount(1500, 1500, 200), Amount(60, 20, 2)


@dataclass(frozen=True)
class Way:
    """One way to the notebook: where to connect and what to send along.

    Args:
        relay: how to trust the relay and which name it has, where the client is at it itself.
    """

    name: str
    port: int
    headers: dict[str, str]
    relay: tuple[ssl.SSLContext, str] | None = None

    def url(self, path: str) -> str:
        return f"http{'s' if self.relay else ''}://127.0.0.1:{self.port}{path}"

    @property
    def asked(self) -> _Asked:
        """What a request of this way needs beside its address."""
        if self.relay is None:
            return {"headers": self.headers}
        context, name = self.relay
        return {"headers": self.headers, "ssl": context, "server_hostname": name}


class _Asked(TypedDict, total=False):
    """Keyword arguments of a request of aiohttp."""

    headers: dict[str, str]
    ssl: ssl.SSLContext
    server_hostname: str


class _Given(TypedDict):
    """What the proxy's process is told: `messages.Open` without a port."""

    session: SessionId
    socket: str
    endpoint: dict[str, str]


class Result(TypedDict):
    """`medians` of every figure, by way."""

    rounds: int
    proxy_grew_mib: float
    medians: dict[str, Figures]


# --- the line ---------------------------------------------------------------------


@asynccontextmanager
async def line(folder: Path) -> AsyncIterator[tuple[list[Way], int]]:
    """Everything started: every way, and the process id of our proxy."""
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(_gate(folder))
        session = SessionId(str(uuid.uuid4()))
        endpoint = await _session(link, session, folder / "data" / "blue.tif")
        work = folder / "gate" / "sessions" / session / "work"
        direct = json.loads((work / "direct.json").read_text())["port"]
        given: _Given = {
            "session": session,
            "socket": str(await link.open_forward(session)),
            "endpoint": dataclasses.asdict(endpoint),
        }
        pid, port, entry = await stack.enter_async_context(_proxy(given))
        forward = await _plain_forward(folder, endpoint)
        their_port = await stack.enter_async_context(_their_proxy(folder, forward, endpoint))
        token = {"Authorization": f"token {endpoint.token}"}
        ways = [
            Way("direct", direct, token),
            Way("through the line", port, await _enter(port, entry)),
            Way("configurable-http-proxy", their_port, {**token, "Host": endpoint.name}),
            Way("plain `ssh -L`", forward, token, (tls_context(endpoint, folder), endpoint.name)),
        ]
        yield ways, pid


async def _plain_forward(folder: Path, endpoint: Endpoint) -> int:
    """A TCP port that the ControlMaster forwards to the session's relay."""
    port = free_port()
    asked = ["ssh", "-F", "none", "-S", str(folder / "r" / "bench.ctl"), "-O", "forward"]
    asked += ["-L", f"127.0.0.1:{port}:{endpoint.name}:1", "gate"]
    process = await asyncio.create_subprocess_exec(*asked)
    if await process.wait():
        raise RuntimeError("the plain forward cannot be opened")
    return port


@asynccontextmanager
async def _their_proxy(folder: Path, forward: int, endpoint: Endpoint) -> AsyncIterator[int]:
    """configurable-http-proxy on that forward, as JupyterHub runs it with `internal_ssl`; its port.

    It expects the certificate of whom the client's `Host` names.
    """
    port = free_port()
    certificates = {"cert": endpoint.client_cert, "key": endpoint.client_key}
    certificates["ca"] = endpoint.server_cert
    asked = [_node(), str(THEIRS), "--ip", "127.0.0.1", "--port", str(port)]
    asked += ["--default-target", f"https://127.0.0.1:{forward}"]
    for name, text in certificates.items():
        file = folder / f"client.{name}"
        file.write_text(text)
        asked += [f"--client-ssl-{name}", str(file)]
    process = await asyncio.create_subprocess_exec(
        *asked, "--log-level", "error", env={**os.environ, "CONFIGPROXY_AUTH_TOKEN": "benchmark"}
    )
    try:
        async with asyncio.timeout(60):
            while not await _listens(port):
                if process.returncode is not None:
                    raise RuntimeError("configurable-http-proxy does not start")
                await asyncio.sleep(0.05)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


def _node() -> str:
    """The computer's Node.js, or that of `.venv`."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    node = shutil.which("node", path=path)
    if node is None or not THEIRS.is_file():
        lacking(
            "configurable-http-proxy is not installed; `./test --version` installs the packages "
            "of npm, with Node.js where there is none"
        )
    return node


@asynccontextmanager
async def _gate(folder: Path) -> AsyncIterator[ClusterLink]:
    key, home = folder / "key", folder / "gate"
    running = await asyncio.to_thread(_start_gate, folder, key, home)
    port, host_key = int(json_number(running["port"])), json_text(running["host_key"])
    link = ClusterLink(
        ClusterId("bench"),
        gate_address=lambda: TcpAddress("127.0.0.1", port),
        key=key,
        host_key=host_key,
        runtime=folder / "r",
    )
    try:
        yield link
    finally:
        await link.disconnect()
        await asyncio.to_thread(_gate_command, "stop", home, "--jobs")


def _start_gate(folder: Path, key: Path, home: Path) -> JsonObject:
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


def _gate_command(verb: str, home: Path, *more: str) -> JsonObject:
    done = subprocess.run(
        [sys.executable, "-m", "lib.gate", verb, "--home", str(home), *more],
        cwd=PROJECT, check=True, capture_output=True, timeout=90,
    )  # fmt: skip
    answer: JsonObject = json.loads(done.stdout)
    return answer


async def _session(link: ClusterLink, session: SessionId, data: Path) -> Endpoint:
    item: dict[str, JsonValue] = {
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
async def _proxy(given: _Given) -> AsyncIterator[tuple[int, int, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.proxy", "--serve",
        cwd=PROJECT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
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

    async def ends_at(self, session: SessionId) -> float | None:  # noqa: ARG002
        return None


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


async def requests(way: Way, concurrency: int, count: int) -> Figures:
    """Requests per second and latencies (ms) of a 1 kB answer."""
    taken: list[float] = []

    async def one(http: aiohttp.ClientSession, count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            async with http.get(way.url("/small"), **way.asked) as answer:
                await answer.read()
            taken.append(time.perf_counter() - began)
            if answer.status != 200:
                raise RuntimeError(f"{way.name}: status {answer.status}")

    async with client() as http:
        await asyncio.gather(*(one(http, 5) for _ in range(concurrency)))
        taken.clear()
        began = time.perf_counter()
        await asyncio.gather(*(one(http, count // concurrency) for _ in range(concurrency)))
        total = time.perf_counter() - began
    p50, p99 = percentiles(taken, 50, 99)
    return {
        f"requests/s at {concurrency}": len(taken) / total,
        f"p50 at {concurrency}, ms": 1000 * p50,
        f"p99 at {concurrency}, ms": 1000 * p99,
    }


async def download(way: Way, megabytes: int) -> Figures:
    """MB/s of one large answer."""
    wanted = megabytes * 10**6
    async with client() as http:
        began, size = time.perf_counter(), 0
        async with http.get(way.url(f"/large/{wanted}"), **way.asked) as answer:
            async for chunk in answer.content.iter_any():
                size += len(chunk)
        took = time.perf_counter() - began
    if size != wanted:
        raise RuntimeError(f"{way.name}: {size} bytes")
    return {"download, MB/s": size / took / 1e6}


async def echo(way: Way, count: int) -> Figures:
    """Round trip of a 200-byte WebSocket message, ms."""
    taken = []
    async with client() as http, http.ws_connect(way.url("/echo"), **way.asked) as ws:
        for _ in range(count):
            began = time.perf_counter()
            await ws.send_str("x" * 200)
            await ws.receive_str()
            taken.append(time.perf_counter() - began)
    p50, p99 = percentiles(taken, 50, 99)
    return {"WebSocket echo p50, ms": 1000 * p50, "WebSocket echo p99, ms": 1000 * p99}


async def one_round(way: Way, amount: Amount) -> Figures:
    """All measurements of one way."""
    found: Figures = {}
    for concurrency in CONCURRENCY:
        found |= await requests(way, concurrency, amount.requests)
    return found | await download(way, amount.megabytes) | await echo(way, amount.echoes)


async def measure(rounds: int, amount: Amount) -> Result:
    """Median of every figure, by way."""
    with tempfile.TemporaryDirectory(prefix="sb-") as name:
        async with line(Path(name)) as (ways, pid):
            figures: dict[str, list[Figures]] = {way.name: [] for way in ways}
            proxy = psutil.Process(pid)
            before = proxy.memory_info().rss
            for number in range(rounds):
                for way in ways if number % 2 == 0 else reversed(ways):
                    figures[way.name].append(await one_round(way, amount))
            grown = proxy.memory_info().rss - before
    middle = {name: medians(each) for name, each in figures.items()}
    return {"rounds": rounds, "proxy_grew_mib": grown / 2**20, "medians": middle}


def report(result: Result, *, smoke: bool) -> int:
    """Print the table, write the JSON."""
    ways = result["medians"]
    rows: list[Row] = [
        [figure, *(ways[name][figure] for name in ways)] for figure in ways["direct"]
    ]
    print(f"\nmemory of our proxy grew by {result['proxy_grew_mib']:.1f} MiB")
    return finish("proxy", table(("", *ways), rows, 2), result, smoke=smoke)


def main() -> int:
    command = Command(__doc__)
    command.size("--rounds", 5, smoke=1)
    command.parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = command.parse()
    if options.serve:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(serve())
        return 0
    _node()
    result = uvloop.run(measure(options.rounds, SMALL if options.smoke else USUAL))
    return report(result, smoke=options.smoke)


if __name__ == "__main__":
    sys.exit(main())
