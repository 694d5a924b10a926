"""The TLS link to a notebook: only the right server, only with the right key.

Also what `TlsUnixConnector` takes from aiohttp's inside, so a new release that changes
it fails here and not in front of a user.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import stat
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from lib.errors import ProtocolError, Unavailable
from lib.gate.certificates import make_pair
from lib.model import Endpoint, SessionId
from lib.notebook_proxy.upstream import Upstream
from lib.protocol.resumable import ALPN
from tests.contract.small_notebook import TOKEN, relayed
from tests.folders import short_folder

SESSION = SessionId(str(uuid.uuid4()))


class Jupyter:
    """ErrorPages `/api/status` as a Jupyter server does."""

    def __init__(self) -> None:
        self.status = 200
        self.hang = False

    async def status_of(self, request: web.Request) -> web.Response:
        if self.hang:
            await asyncio.sleep(30)
        if request.headers.get("Authorization") != f"token {TOKEN}":
            return web.Response(status=403)
        return web.json_response({"kernels": 0}, status=self.status)

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.receive()
        return ws


@pytest.fixture
def jupyter() -> Jupyter:
    return Jupyter()


@pytest.fixture
async def way(jupyter: Jupyter) -> AsyncIterator[tuple[Path, Endpoint]]:
    async with a_way(jupyter) as made:
        yield made


@asynccontextmanager
async def a_way(jupyter: Jupyter) -> AsyncIterator[tuple[Path, Endpoint]]:
    """The socket of a forward and the endpoint behind it."""
    with short_folder() as folder:
        app = web.Application()
        app.router.add_get("/api/status", jupyter.status_of)
        app.router.add_get("/socket", jupyter.socket)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(folder / "n.sock")).start()
        async with relayed(folder / "n.sock", folder, SESSION) as endpoint:
            yield folder / "f.sock", endpoint
        await runner.cleanup()


async def probe(way: tuple[Path, Endpoint], timeout_s: float = 5.0, **change: Any) -> None:
    upstream = Upstream(way[0], dataclasses.replace(way[1], **change))
    try:
        await upstream.probe(timeout_s)
    finally:
        await upstream.aclose()


async def test_right_notebook_is_proved(way: tuple[Path, Endpoint]) -> None:
    await probe(way)


async def test_other_server_certificate_is_an_impostor(way: tuple[Path, Endpoint]) -> None:
    other = make_pair(way[1].name, server=True)
    with pytest.raises(ProtocolError, match="is not the notebook"):
        await probe(way, server_cert=other.cert.decode())


async def test_other_name_is_an_impostor(way: tuple[Path, Endpoint]) -> None:
    with pytest.raises(ProtocolError, match="is not the notebook"):
        await probe(way, name=f"s-{uuid.uuid4()}")


async def test_other_client_key_is_not_let_in(way: tuple[Path, Endpoint]) -> None:
    other = make_pair(way[1].name, server=False)
    with pytest.raises(Unavailable):
        await probe(way, client_cert=other.cert.decode(), client_key=other.key.decode())


async def test_other_token_is_told(way: tuple[Path, Endpoint]) -> None:
    with pytest.raises(ProtocolError, match="own token"):
        await probe(way, token="other")


async def test_not_ready_and_hanging_notebooks_are_unavailable(
    way: tuple[Path, Endpoint], jupyter: Jupyter
) -> None:
    jupyter.status = 503
    with pytest.raises(Unavailable, match="503"):
        await probe(way)
    jupyter.status, jupyter.hang = 200, True
    with pytest.raises(Unavailable, match="cannot be reached yet"):
        await probe(way, timeout_s=0.3)


async def test_no_forward_is_unavailable(way: tuple[Path, Endpoint]) -> None:
    way[0].unlink()
    with pytest.raises(Unavailable):
        await probe(way)


async def test_something_that_speaks_no_tls_is_unavailable(
    way: tuple[Path, Endpoint], tmp_path: Path
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    plain = way[0].with_name("plain.sock")
    server = await asyncio.start_unix_server(talk, str(plain))
    with pytest.raises(Unavailable):
        await probe((plain, way[1]))
    server.close()


@pytest.mark.parametrize("field", ["server_cert", "client_cert", "client_key"])
async def test_unreadable_certificates_are_told(way: tuple[Path, Endpoint], field: str) -> None:
    with pytest.raises(ProtocolError, match="cannot be used"):
        await probe(way, **{field: "-----BEGIN RUBBISH-----"})
    with pytest.raises(ProtocolError, match="cannot be used"):
        await probe(way, **{field: "é"})


@pytest.mark.parametrize(("alpn", "heartbeat"), [(ALPN, None), ("an older script's", 30.0)])
async def test_a_stream_s_websocket_is_not_ended_by_a_missing_pong(
    jupyter: Jupyter, monkeypatch: pytest.MonkeyPatch, alpn: str, heartbeat: float | None
) -> None:
    monkeypatch.setattr("lib.jobs.relay.ALPN", alpn)
    async with a_way(jupyter) as way:
        upstream = Upstream(*way)
        async with upstream.websockets.ws_connect(
            upstream.url(b"/socket", b""), heartbeat=30
        ) as ws:
            assert ws._heartbeat == heartbeat
        await upstream.aclose()


async def test_client_key_stays_in_no_file(
    way: tuple[Path, Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    unlink = Path.unlink

    def noting(path: Path, missing_ok: bool = False) -> None:
        modes.append(stat.S_IMODE(path.stat().st_mode))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", noting)
    before = names(way[0].parent)
    upstream = Upstream(*way)
    assert names(way[0].parent) == before
    assert modes == [0o600]
    assert way[1].token not in repr(upstream)
    assert "PRIVATE" not in repr(way[1])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_aiohttp_still_makes_connections_as_we_override() -> None:
    original = inspect.signature(aiohttp.UnixConnector._create_connection)
    assert list(original.parameters) == ["self", "req", "traces", "timeout"]
    connector = aiohttp.UnixConnector(path="/nowhere")
    for name in ("_factory", "_path", "_loop"):
        assert hasattr(connector, name), name
    await connector.close()
