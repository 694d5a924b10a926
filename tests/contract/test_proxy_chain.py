"""The whole line, every part real: proxy, ControlMaster, gate, TLS relay, Jupyter, kernel."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import lib.tunnels.link as module
from lib.errors import ClusterUnreachable, InvalidInput, Unavailable
from lib.model import ClusterId, Endpoint, JobState, SessionId
from lib.notebook_proxy.asgi import NotebookProxy, ProxySettings
from lib.notebook_proxy.upstream import Upstream
from lib.protocol.messages import JobKind, JobStatus, Verb
from lib.tunnels.gate_address import TcpAddress
from lib.tunnels.link import ClusterLink
from tests.contract.small_notebook import Forward, Porter, Stage, serving
from tests.fixtures.gate_site import GateSite, running_site
from tests.folders import short_folder

ORIGIN = "http://localhost:8501"
#: Most of it is printed while the line is cut.
LINES = """
import pathlib, time
for number in range(30):
    print(number, flush=True)
    time.sleep(0.1)
pathlib.Path({done!r}).touch()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GateSite]:
    yield from running_site(tmp_path_factory.mktemp("site"), slots=3, max_live=6)


@pytest.fixture
def runtime() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def make_link(site: GateSite, runtime: Path) -> ClusterLink:
    return ClusterLink(
        ClusterId("test"),
        gate_address=lambda: TcpAddress("127.0.0.1", site.port),
        key=site.key,
        host_key=(site.root / "known_hosts").read_text().partition(" ")[2],
        runtime=runtime,
    )


def master_of(runtime: Path) -> int:
    return int(json.loads((runtime / "test.json").read_text())["pid"])


async def until(link: ClusterLink, job: str, state: JobState) -> JobStatus:
    """Watch until the job is in that state (a running one: until its endpoint is there)."""
    async with asyncio.timeout(300), aclosing(link.watch({})) as messages:
        async for message in messages:
            for status in message.jobs:
                over = status.state is JobState.ENDED
                if status.id == job and status.state is state and (over or status.endpoint):
                    return status
                assert not over or status.id != job, status
    raise AssertionError("the stream ended")


@asynccontextmanager
async def portal(link: ClusterLink, session: SessionId, endpoint: Endpoint) -> AsyncIterator[Stage]:
    """What the portal does once a notebook has its endpoint; and a visitor inside."""
    porter = Porter()
    proxy = NotebookProxy(ProxySettings(ORIGIN, b"s" * 32), porter)
    async with AsyncExitStack() as stack:
        socket = await link.open_forward(session)
        upstream = Upstream(socket, endpoint)
        await upstream.probe()
        port = await stack.enter_async_context(serving(proxy))
        stack.push_async_callback(proxy.aclose)
        await proxy.open(session, upstream)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        )
        made = Stage(proxy, session, endpoint, Forward(socket), port, porter, http)
        await made.enter()
        yield made


async def begin(ws: aiohttp.ClientWebSocketResponse, code: str) -> str:
    """Have the kernel run `code`; what its answers refer to."""
    asked = uuid.uuid4().hex
    header = {"msg_id": asked, "msg_type": "execute_request", "session": "t", "version": "5.3"}
    content = {"code": code, "silent": False, "stop_on_error": True}
    await ws.send_json(
        {
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": content,
            "channel": "shell",
        }
    )
    return asked


async def printed(ws: aiohttp.ClientWebSocketResponse, asked: str) -> AsyncIterator[str]:
    """What the kernel prints, until it is done."""
    async with asyncio.timeout(300):
        while True:
            message = await ws.receive_json()
            if message["parent_header"].get("msg_id") != asked:
                continue
            if message["msg_type"] == "stream":
                yield message["content"]["text"]
            if message["msg_type"] == "execute_reply":
                assert message["content"]["status"] == "ok", message
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return


async def execute(ws: aiohttp.ClientWebSocketResponse, code: str) -> str:
    """Run `code` in the kernel; what it printed."""
    return "".join([text async for text in printed(ws, await begin(ws, code))])


async def new_kernel(on: Stage) -> str:
    async with on.http.post(on.url("/api/kernels"), headers=on.headers(), json={}) as answer:
        assert answer.status == 201, await answer.text()
        kernel: dict[str, Any] = await answer.json()
        return str(kernel["id"])


async def test_notebook_works_and_outlives_master_and_portal(site: GateSite, runtime: Path) -> None:
    link = make_link(site, runtime)
    assert (await link.info()).cluster == "test"
    request = site.request(JobKind.SESSION, portal_origin=ORIGIN)
    assert (await link.submit(request)).created
    assert not (await link.submit(request)).created
    session = SessionId(request.id)
    status = await until(link, request.id, JobState.RUNNING)
    assert status.endpoint is not None

    async with portal(link, session, status.endpoint) as on:
        async with on.http.get(on.url("/lab"), headers=on.navigation()) as answer:
            page = await answer.text()
            policies = answer.headers.getall("Content-Security-Policy")
        assert answer.status == 200
        assert "jupyter-config-data" in page
        assert status.endpoint.token not in page + str(answer.headers)
        assert "frame-ancestors 'self' http://localhost:8501" in policies
        kernel = await new_kernel(on)
        channels = f"/api/kernels/{kernel}/channels?session_id=t"
        async with on.websocket(channels) as ws:
            assert await execute(ws, "x = 6 * 7; print(x)") == "42\n"
            said = printed(ws, await begin(ws, LINES.format(done=str(runtime / "done"))))
            lines = await anext(said)
            os.kill(master_of(runtime), signal.SIGKILL)
            while not (runtime / "done").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert (await on.get("/api/status"))[0] == 502
            (runtime / "done").unlink()
            link._answered_at = float("-inf")
            await link.ensure()
            assert (await on.get("/api/status"))[0] == 200
            lines += "".join([text async for text in said])
            assert lines.split() == [str(number) for number in range(30)]
            assert await execute(ws, "print(x)") == "42\n"

    pid = master_of(runtime)
    restarted = make_link(site, runtime)
    async with portal(restarted, session, status.endpoint) as on:
        assert master_of(runtime) == pid
        async with on.websocket(channels) as ws:
            assert await execute(ws, "print(x + 1)") == "43\n"

    await restarted.cancel(request.id)
    await until(restarted, request.id, JobState.ENDED)
    socket = await restarted.open_forward(session)
    ended = Upstream(socket, status.endpoint)
    with pytest.raises(Unavailable):
        await ended.probe()
    await ended.aclose()
    await restarted.close_forward(session)
    assert not socket.exists()
    await restarted.disconnect()
    assert os.listdir(runtime) == ["f"]  # noqa: PTH208


async def test_frozen_gate_is_told_and_comes_back(
    site: GateSite, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = make_link(site, runtime)
    await link.info()
    os.kill(site.process.pid, signal.SIGSTOP)
    try:
        with monkeypatch.context() as short:
            short.setattr(module, "VERB_TIMEOUT_S", {**module.VERB_TIMEOUT_S, Verb.INFO: 0.5})
            short.setattr(module, "_PROBE_S", 0.5)
            short.setattr("lib.tunnels.ssh_options.CONNECT_TIMEOUT_S", 1)
            for _ in range(2):
                with pytest.raises(ClusterUnreachable):
                    await link.info()
    finally:
        os.kill(site.process.pid, signal.SIGCONT)
    await link.info()
    await link.disconnect()


async def test_large_requests_reach_the_real_gate(site: GateSite, runtime: Path) -> None:
    link = make_link(site, runtime)
    with pytest.raises(InvalidInput):
        await link.submit(site.request(title="x" * 3_000_000))
    await link.disconnect()
