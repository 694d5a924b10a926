"""Hostile ids, methods and bodies against the API, also through a real server."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import uvicorn

from lib.web import api as api_module
from tests.fakes.reconciler_harness import hurry, until
from tests.fakes.site import ALICE, Site, serve_site

HOSTILE = [
    "..",
    ".",
    "...",
    "%2e%2e",
    "../../portal.sqlite",
    "..%2f..%2fportal.sqlite",
    "/etc/passwd",
    "a\x00b",
    "\x00",
    "x" * 5000,
    "scène",
    "🛰" * 100,
    "\u202e\u2066",
    "%",
    "%s%n",
    "' or '1'='1",
    "<script>",
    "-rf",
    "CON",
    "\r\nX-Injected: 1",
    "00000000-0000-0000-0000-000000000000",
    "LC08_A\n",
    " LC08_A",
]


@pytest.fixture
async def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    hurry(monkeypatch)
    async with serve_site(tmp_path) as it:
        yield it


@pytest.mark.slow
async def test_hostile_ids_are_not_found(here: Site) -> None:
    routes = [route for route in api_module.routes() if "{" in route.path]
    async with here.client(ALICE) as client:
        for route, name in itertools.product(routes, HOSTILE):
            path = route.path
            for part in ("{scene}", "{session}", "{run}", "{z}", "{x}", "{y}", "{n}"):
                path = path.replace(part, quote(name, safe="").replace(".", "%2E"))
            for method in sorted(route.methods or ()):
                answer = await client.request(method, path)
                assert answer.status_code in (404, 405), (method, path, answer.text)
                assert "x-injected" not in answer.headers
                assert "Traceback" not in answer.text
                assert str(here.world.home) not in answer.text


async def test_other_methods_and_addresses_do_nothing(here: Site) -> None:
    """An address that takes none of it says what it takes; one that is none, that it is none."""
    methods = ("PUT", "PATCH", "TRACE", "CONNECT", "BREW", "OPTIONS")
    taken: dict[str, set[str]] = {}
    for route in api_module.routes():
        taken.setdefault(route.path, set()).update(route.methods or ())
    async with here.client(ALICE) as client:
        for path, method in itertools.product(taken, methods):
            answer = await client.request(method, path.replace("{", "").replace("}", ""))
            if path == "/healthz":
                continue
            assert answer.status_code == (405 if taken[path] else 404), path
            allowed = answer.headers.get("allow", "")
            assert {name for name in allowed.split(", ") if name} == taken[path], path
            assert answer.json()["error"]["code"] == ("invalid" if taken[path] else "not-found")
        for path in ("/api/", "/api/scene", "/api/scenes/", "/api/runs/1/2", "/api/audit"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not-found"), path
    assert here.reached == []


async def test_a_body_over_the_limit_is_refused_while_it_streams(here: Site) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 2**16
            yield b" " * 2**16

    async with here.client(ALICE) as client:
        answer = await client.post("/api/runs", content=endless())
    assert answer.status_code == 422
    assert "too large" in answer.json()["error"]["message"]
    assert sent < 2**21
    assert here.world.store.work.runs_of(ALICE.id) == ()


@pytest.fixture
async def port(here: Site) -> AsyncIterator[int]:
    """The same application behind a real server on loopback."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(here.app, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    yield int(listener.getsockname()[1])
    server.should_exit = True
    await serving
    listener.close()


async def speak(port: int, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(65536), 300)
    writer.close()
    return answer


async def test_through_a_real_server(here: Site, port: int) -> None:
    host = b"Host: localhost:8501\r\n"
    token = b"Authorization: Bearer " + here.token().encode() + b"\r\n"
    end = b"Connection: close\r\n\r\n"
    ok = await speak(port, b"GET /api/scenes HTTP/1.1\r\n" + host + token + end)
    assert ok.startswith(b"HTTP/1.1 200")
    for head, status in (
        (b"GET /api/scenes HTTP/1.1\r\n" + host, b"401"),
        (b"GET /api/scenes HTTP/1.1\r\nHost: evil.example\r\n" + token, b"421"),
        (b"GET /api/scenes HTTP/1.1\r\n" + host + host + token, b"4"),
        (b"GET http://evil.example/api/scenes HTTP/1.1\r\nHost: evil.example\r\n", b"421"),
        (b"GET /api/../api/sessions HTTP/1.1\r\n" + host, b"401"),
        (b"GET //api/sessions HTTP/1.1\r\n" + host, b"401"),
        (b"GET /api/scenes/a%00b HTTP/1.1\r\n" + host + token, b"404"),
        (b"GET /api/scenes/%ff%fe HTTP/1.1\r\n" + host + token, b"404"),
        (b"GET /api/runs/" + b"9" * 20_000 + b" HTTP/1.1\r\n" + host + token, b"404"),
    ):
        answer = await speak(port, head + end)
        assert answer.split(b" ", 2)[1].startswith(status), (head[:60], answer[:200])


async def test_a_large_body_through_a_real_server(here: Site, port: int) -> None:
    headers = {"host": "localhost:8501", "authorization": f"Bearer {here.token()}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
        answer = await client.post("/api/runs", content=b" " * (2**20 + 1))
        assert answer.status_code == 413
        small = await client.post("/api/runs", content=b"{}")
        assert small.status_code == 422
        assert "lacks" in small.json()["error"]["message"]
