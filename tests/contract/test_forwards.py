"""Forwards through a real ControlMaster: prove one, cancel it, prove it is gone; rebuild."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncssh
import pytest

from lib.errors import ClusterUnreachable, InvalidInput
from lib.model import ClusterId, SessionId
from lib.tunnels.gate_address import SocketAddress, TcpAddress
from lib.tunnels.link import ClusterLink
from tests.contract.small_gate import SmallGate
from tests.folders import short_folder

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="no OpenSSH client")


def new_session() -> SessionId:
    return SessionId(str(uuid.uuid4()))


@pytest.fixture
def runtime() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[SmallGate]:
    gate = SmallGate(tmp_path / "gate")
    await gate.start()
    yield gate
    await gate.stop()


def make_link(gate: SmallGate, runtime: Path) -> ClusterLink:
    return ClusterLink(
        ClusterId("small"),
        gate_address=lambda: TcpAddress("127.0.0.1", gate.port),
        key=gate.key,
        host_key=gate.host_key,
        runtime=runtime,
    )


@pytest.fixture
async def link(gate: SmallGate, runtime: Path) -> AsyncIterator[ClusterLink]:
    link = make_link(gate, runtime)
    yield link
    await link.disconnect()
    assert masters(runtime) == []
    assert sockets(runtime) == []


@pytest.fixture
async def echo(gate: SmallGate) -> AsyncIterator[SessionId]:
    """A live session whose endpoint repeats what it hears."""

    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(repeat, "127.0.0.1", 0)
    session = new_session()
    gate.endpoints[f"s-{session}"] = server.sockets[0].getsockname()[:2]
    yield session
    server.close()


def masters(runtime: Path) -> list[int]:
    """Processes that have this runtime folder in their arguments."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(runtime) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def sockets(runtime: Path) -> list[Path]:
    return [path for path in runtime.rglob("*") if path.is_socket()]


async def says(path: Path, text: bytes = b"hello") -> bytes:
    """Send `text` through the socket; what comes back (empty when it is refused)."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(text)
        writer.write_eof()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def eventually(condition: object, timeout_s: float = 300.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "did not happen in time"
        await asyncio.sleep(0.02)


async def test_forward_is_proved_cancelled_and_gone(link: ClusterLink, echo: SessionId) -> None:
    path = await link.open_forward(echo)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert await says(path) == b"hello"
    assert await link.open_forward(echo) == path
    assert await link.forwards() == {echo}

    await link.close_forward(echo)
    assert not path.exists()
    assert await link.forwards() == frozenset()
    await link.close_forward(echo)

    assert await link.open_forward(echo) == path
    assert await says(path, b"again") == b"again"


async def test_large_data_arrives_whole(link: ClusterLink, echo: SessionId) -> None:
    path = await link.open_forward(echo)
    reader, writer = await asyncio.open_unix_connection(str(path))
    data = os.urandom(8 * 2**20)

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    sending = asyncio.create_task(send())
    assert await reader.read(-1) == data
    await sending
    writer.close()


async def test_gate_refuses_a_session_that_is_not_live(link: ClusterLink, echo: SessionId) -> None:
    path = await link.open_forward(new_session())
    assert await says(path) == b""
    assert await says(await link.open_forward(echo)) == b"hello"


async def test_two_forwards_do_not_mix(link: ClusterLink, gate: SmallGate, echo: SessionId) -> None:
    other = new_session()
    path, other_path = await asyncio.gather(link.open_forward(echo), link.open_forward(other))
    await link.close_forward(other)
    assert not other_path.exists()
    assert await says(path) == b"hello"


@pytest.mark.parametrize("name", ["", "x", "-oProxyCommand=id", "../../etc", "A" * 36])
async def test_names_that_are_no_session_are_refused(link: ClusterLink, name: str) -> None:
    with pytest.raises(InvalidInput):
        await link.open_forward(SessionId(name))
    with pytest.raises(InvalidInput):
        await link.close_forward(SessionId(name))


async def test_killed_master_is_started_again_and_its_forwards_rebuilt(
    link: ClusterLink, runtime: Path, gate: SmallGate, echo: SessionId
) -> None:
    path = await link.open_forward(echo)
    closed = new_session()
    await link.open_forward(closed)
    await link.close_forward(closed)
    (pid,) = masters(runtime)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not gate._links)
    with pytest.raises(ConnectionError):
        await says(path)

    link._answered_at = float("-inf")  # as after two quiet seconds
    await link.ensure()
    assert masters(runtime) not in ([], [pid])
    assert await says(path) == b"hello"
    assert await link.forwards() == {echo}
    assert not (runtime / "f" / f"{closed.replace('-', '')}.sock").exists()


async def test_verbs_notice_a_killed_master_at_once(
    link: ClusterLink, runtime: Path, echo: SessionId
) -> None:
    path = await link.open_forward(echo)
    (pid,) = masters(runtime)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ClusterUnreachable):
        await link.info()
    assert (await link.info()).cluster == "small"
    assert await says(path) == b"hello"


async def test_frozen_master_is_replaced(
    link: ClusterLink, runtime: Path, echo: SessionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.tunnels.master.CONTROL_TIMEOUT_S", 0.5)
    path = await link.open_forward(echo)
    (pid,) = masters(runtime)
    os.kill(pid, signal.SIGSTOP)
    link._answered_at = float("-inf")
    await link.ensure()
    assert pid not in masters(runtime)
    assert await says(path) == b"hello"


async def test_restarted_portal_adopts_master_and_forwards(
    gate: SmallGate, runtime: Path, echo: SessionId
) -> None:
    first = make_link(gate, runtime)
    path = await first.open_forward(echo)
    reader, writer = await asyncio.open_unix_connection(str(path))
    (pid,) = masters(runtime)
    del first  # the portal is gone; its master is not

    second = make_link(gate, runtime)
    assert await second.forwards() == {echo}
    await second.ensure()
    assert masters(runtime) == [pid]
    writer.write(b"still here")
    assert await reader.readexactly(10) == b"still here"
    writer.close()
    assert await second.open_forward(echo) == path
    assert gate.connections == 1
    await second.disconnect()
    assert masters(runtime) == []
    assert not path.exists()


async def test_restarted_portal_rebuilds_when_the_master_died_meanwhile(
    gate: SmallGate, runtime: Path, echo: SessionId
) -> None:
    path = await make_link(gate, runtime).open_forward(echo)
    os.kill(masters(runtime)[0], signal.SIGKILL)
    second = make_link(gate, runtime)
    await second.ensure()
    assert await says(path) == b"hello"
    await second.disconnect()


async def test_adopted_master_lacks_a_forward_of_the_record(
    gate: SmallGate, runtime: Path, echo: SessionId
) -> None:
    path = await make_link(gate, runtime).open_forward(echo)
    path.unlink()
    second = make_link(gate, runtime)
    assert await says(await second.open_forward(echo)) == b"hello"
    await second.disconnect()


async def test_master_of_a_broken_record_is_still_found(
    gate: SmallGate, runtime: Path, echo: SessionId
) -> None:
    await make_link(gate, runtime).open_forward(echo)
    (pid,) = masters(runtime)
    (runtime / "small.json").write_text("{")
    second = make_link(gate, runtime)
    await second.ensure()
    assert masters(runtime) == [pid]
    await second.disconnect()
    assert masters(runtime) == []


async def test_runtime_folder_that_was_tidied_away_is_made_again(
    gate: SmallGate, tmp_path: Path, echo: SessionId, runtime: Path
) -> None:
    folder = runtime / "r"
    link = make_link(gate, folder)
    path = await link.open_forward(echo)
    (pid,) = masters(folder)
    shutil.rmtree(folder)
    link._answered_at = float("-inf")
    await link.ensure()
    assert await says(path) == b"hello"
    assert len(masters(folder)) == 1, "the lost master was ended"
    assert pid not in masters(folder)
    await link.disconnect()


async def test_unusable_runtime_folder_is_told(
    gate: SmallGate, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = make_link(gate, runtime / "r")
    shutil.rmtree(runtime / "r")
    (runtime / "r").write_text("a file where the folder should be")
    with pytest.raises(ClusterUnreachable, match=r"runtime folder .* cannot be used"):
        await link.ensure()
    assert masters(runtime) == []


async def test_gate_restarts_and_forwards_return(
    link: ClusterLink, gate: SmallGate, echo: SessionId
) -> None:
    path = await link.open_forward(echo)
    port = gate.port
    await gate.stop()
    with pytest.raises(ClusterUnreachable):
        await link.info()
    with pytest.raises(ClusterUnreachable, match="is not running"):
        await link.info()
    await gate.start(port=port)
    await link.ensure()
    assert await says(path) == b"hello"


async def test_changed_host_key_is_refused(link: ClusterLink, gate: SmallGate) -> None:
    await link.ensure()
    port = gate.port
    await gate.stop()
    await gate.start(port=port, new_host_key=True)
    with pytest.raises(ClusterUnreachable):
        await link.info()
    with pytest.raises(ClusterUnreachable, match="host key of cluster small is not the one"):
        await link.ensure()


async def test_key_that_the_gate_does_not_know_is_refused(
    gate: SmallGate, runtime: Path, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger"
    stranger.touch(0o600)
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(stranger))
    link = ClusterLink(
        ClusterId("small"),
        gate_address=lambda: TcpAddress("127.0.0.1", gate.port),
        key=stranger,
        host_key=gate.host_key,
        runtime=runtime,
    )
    with pytest.raises(ClusterUnreachable, match="refused the portal's key"):
        await link.ensure()
    assert masters(runtime) == []


async def test_key_that_others_can_read_is_refused(gate: SmallGate, runtime: Path) -> None:
    gate.key.chmod(0o644)
    with pytest.raises(ClusterUnreachable, match="key for cluster small cannot be read"):
        await make_link(gate, runtime).ensure()


async def test_unix_socket_reach(gate: SmallGate, runtime: Path, echo: SessionId) -> None:
    """An outer tunnel's socket: connected by our helper and passed to ssh."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", gate.port)
        await asyncio.gather(_pipe(reader, far_writer), _pipe(far_reader, writer))

    tunnel = runtime / "tun nel'%h.sock"
    server = await asyncio.start_unix_server(relay, str(tunnel))
    link = ClusterLink(
        ClusterId("small"),
        gate_address=lambda: SocketAddress(tunnel),
        key=gate.key,
        host_key=gate.host_key,
        runtime=runtime,
    )
    assert (await link.info()).cluster == "small"
    assert await says(await link.open_forward(echo)) == b"hello"
    await link.disconnect()
    server.close()
    tunnel.unlink(missing_ok=True)
    with pytest.raises(ClusterUnreachable, match="tunnel to cluster small is not open"):
        await link.ensure()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def test_callers_share_one_connection_attempt(link: ClusterLink, gate: SmallGate) -> None:
    await asyncio.gather(*(link.info() for _ in range(12)))
    assert gate.connections == 1


async def test_cancelled_connect_leaves_the_others_waiting(link: ClusterLink) -> None:
    waiting = asyncio.create_task(link.ensure())
    other = asyncio.create_task(link.ensure())
    await asyncio.sleep(0)
    waiting.cancel()
    await other
    with pytest.raises(asyncio.CancelledError):
        await waiting
