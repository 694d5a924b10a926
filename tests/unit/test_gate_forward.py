"""A forward through the gate carries every byte, whoever speaks first and closes first."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import asyncssh
import pytest

from benchmarks.gate import byte_source, download, forward, gate_process
from lib.gate.audit import Audit
from lib.gate.places import Places
from lib.gate.ssh_server import GateServer
from tests.fakes.things import new_id


@pytest.mark.slow
def test_a_server_that_speaks_first_and_closes_loses_nothing(tmp_path: Path) -> None:
    for name in ("key", "host"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    with (
        byte_source(8) as source,
        gate_process(tmp_path, source) as gate,
        forward(tmp_path, gate) as path,
    ):
        for _ in range(5):
            assert download(path, 8) > 0  # raises when bytes are missing


class Notebooks:
    """As `Jobs` answers for live sessions, all at one address."""

    def __init__(self, port: int) -> None:
        self._port = port

    def where(self, session: str) -> tuple[str, int]:
        return "127.0.0.1", self._port

    def record(self, session: str) -> Any:
        return SimpleNamespace(owner="ada")


async def test_one_notebook_s_connections_leave_room_for_another_s(tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    talking: set[asyncio.StreamWriter] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talking.add(writer)
        while data := await reader.read(100):
            writer.write(data)
        writer.close()
        await writer.wait_closed()
        talking.remove(writer)

    far = await asyncio.start_server(echo, "127.0.0.1", 0)
    notebooks: Any = Notebooks(far.sockets[0].getsockname()[1])
    audit = Audit(tmp_path / "audit.jsonl")
    server = GateServer(key.convert_to_public(), notebooks, cast(Any, None), audit)
    server.forwards = Places(2)
    acceptor = await server.listen(0, asyncssh.generate_private_key("ssh-ed25519"))
    async with asyncssh.connect(
        "127.0.0.1",
        acceptor.get_port(),
        config=None,
        username="portal",
        client_keys=[key],
        known_hosts=None,
        agent_path=None,
    ) as client:

        async def opened(session: str) -> tuple[Any, Any]:
            reader, writer = await client.open_connection(f"s-{session}", 1)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            return reader, writer

        busy, other = new_id(), new_id()
        (oldest, _), (second, _) = await opened(busy), await opened(busy)
        with pytest.raises(asyncssh.ChannelOpenError, match="too many"):
            await client.open_connection(f"s-{busy}", 1)
        _, his = await opened(other)
        assert await oldest.read() == b""
        with pytest.raises(asyncssh.ChannelOpenError, match="too many"):
            await client.open_connection(f"s-{other}", 1)
        his.close()
        while len(server.forwards) > 1:  # noqa: ASYNC110 (it is about this event loop)
            await asyncio.sleep(0.001)
        await opened(busy)
        assert not second.at_eof()
    acceptor.close()
    await acceptor.wait_closed()
    far.close()
    while talking or server.connections:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    audit.close()
