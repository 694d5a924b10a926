"""Every verb through a real ssh, and what a gate that misbehaves leads to."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import lib.tunnels.link as module
from lib.errors import (
    ClusterUnreachable,
    InvalidInput,
    NotFound,
    ProtocolError,
    Refused,
    StorageFull,
    Unavailable,
)
from lib.model import ClusterId
from lib.protocol.codec import error_line
from lib.protocol.messages import (
    COMMAND,
    MAX_REPLY_BYTES,
    ArtifactKind,
    GetRequest,
    JobKind,
    LogRequest,
    PutRequest,
    SubmitRequest,
    Verb,
)
from lib.tunnels.gate_address import TcpAddress
from lib.tunnels.link import ClusterLink
from tests.contract.small_gate import SmallGate, ping, rubbish
from tests.fakes.reconciler_harness import until
from tests.folders import short_folder

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="no OpenSSH client")
JOB = str(uuid.uuid4())
FULL = Path("/dev/full")


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


@pytest.fixture
async def link(gate: SmallGate, runtime: Path) -> AsyncIterator[ClusterLink]:
    link = ClusterLink(
        ClusterId("small"),
        gate_address=lambda: TcpAddress("127.0.0.1", gate.port),
        key=gate.key,
        host_key=gate.host_key,
        runtime=runtime,
    )
    yield link
    await link.disconnect()
    assert children() == set()


def children() -> set[str]:
    """The ssh processes that this test process started and did not reap."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text().rsplit(")", 1)
            command = (entry / "comm").read_text().strip()
        except OSError:
            continue
        if int(stat[1].split()[1]) == os.getpid() and command == "ssh":
            found.add(entry.name)
    return found


def request(**change: Any) -> SubmitRequest:
    values: dict[str, Any] = {
        "id": JOB,
        "kind": JobKind.SESSION,
        "owner": "ada",
        "module": "active-fire",
        "module_version": "1.0.0",
        "params": {},
        "items": [],
        "preset": "small",
        "walltime_s": 60,
    }
    return SubmitRequest(**{**values, **change})


async def test_submit_twice_is_one_job(link: ClusterLink) -> None:
    first, second = await link.submit(request()), await link.submit(request())
    assert (first.created, second.created) == (True, False)
    assert first.status.id == JOB


async def test_what_the_gate_refuses_comes_as_it_said(link: ClusterLink) -> None:
    with pytest.raises(Refused, match="does not offer that module"):
        await link.submit(request(module="mining"))
    with pytest.raises(NotFound, match="no such job"):
        await link.cancel(str(uuid.uuid4()))


async def test_cancel_and_log(link: ClusterLink) -> None:
    await link.submit(request())
    assert (await link.cancel(JOB)).status.id == JOB
    log = await link.log(LogRequest(id=JOB, max_bytes=200_000))
    assert (len(log.text), log.truncated) == (200_000, True)


async def test_large_requests_pass_and_larger_ones_are_refused_here(link: ClusterLink) -> None:
    item = {"id": "A", "notes": ["x" * 10_000]}
    assert (await link.submit(request(items=[item] * 300))).created
    with pytest.raises(InvalidInput, match="choose fewer scenes"):
        await link.submit(request(items=[item] * 500))


async def test_many_verbs_at_once(link: ClusterLink, gate: SmallGate) -> None:
    infos = await asyncio.gather(*(link.info() for _ in range(30)))
    assert len(infos) == 30
    assert gate.connections == 1


# --- get ------------------------------------------------------------------------


def wanted(**change: Any) -> GetRequest:
    return GetRequest(**{"id": JOB, "artifact": ArtifactKind.CATALOG, **change})


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
async def test_get_writes_the_file(
    link: ClusterLink, gate: SmallGate, tmp_path: Path, size: int
) -> None:
    gate.artifact = os.urandom(size)
    into = tmp_path / "out" / "catalog.json"
    into.parent.mkdir()
    into.write_text("older")
    assert await link.get(wanted(), into) == size
    assert into.read_bytes() == gate.artifact
    assert [p.name for p in into.parent.iterdir()] == ["catalog.json"]


async def test_get_refuses_more_than_it_asked_for(
    link: ClusterLink, gate: SmallGate, tmp_path: Path
) -> None:
    gate.artifact = b"x" * 1000
    with pytest.raises(ProtocolError, match="1000 bytes where 999"):
        await link.get(wanted(max_bytes=999), tmp_path / "x")
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("announced", "error"), [(7, ProtocolError), (9, ClusterUnreachable), (-1, ProtocolError)]
)
async def test_get_takes_the_announced_size_only(
    link: ClusterLink, gate: SmallGate, tmp_path: Path, announced: int, error: type[Exception]
) -> None:
    gate.announce = lambda size: announced
    into = tmp_path / "x"
    into.write_text("older")
    with pytest.raises(error):
        await link.get(wanted(), into)
    assert into.read_text() == "older"
    assert files(tmp_path) == ["x"]


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
async def test_full_disk_is_told(
    link: ClusterLink, tmp_path: Path, gate: SmallGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.artifact = b"x" * 100_000

    monkeypatch.setattr("lib.tunnels.transfer._new_file", lambda path: FULL.open("wb"))
    with pytest.raises(StorageFull, match="no space left"):
        await link.get(wanted(), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()]


# --- put ------------------------------------------------------------------------


def staged(data: bytes, **change: Any) -> PutRequest:
    values = {
        "id": JOB,
        "scene": "S1",
        "asset": "blue",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return PutRequest(**{**values, **change})


@pytest.mark.parametrize("size", [0, 1, 9_000_000])
async def test_put_sends_the_file(
    link: ClusterLink, gate: SmallGate, tmp_path: Path, size: int
) -> None:
    data = os.urandom(size)
    (tmp_path / "b.tif").write_bytes(data)
    assert (await link.put(staged(data), tmp_path / "b.tif")).stored
    assert gate.stored["S1/blue"] == data


async def test_put_refused_early_does_not_hang(
    link: ClusterLink, gate: SmallGate, tmp_path: Path
) -> None:
    gate.refuse_put = True
    data = bytes(30_000_000)
    (tmp_path / "b.tif").write_bytes(data)
    with pytest.raises(Refused, match="quota"):
        await link.put(staged(data), tmp_path / "b.tif")


async def test_put_of_changed_bytes_is_refused(link: ClusterLink, tmp_path: Path) -> None:
    (tmp_path / "b.tif").write_bytes(b"12345")
    with pytest.raises(InvalidInput, match="5 bytes, not 4"):
        await link.put(staged(b"1234"), tmp_path / "b.tif")
    with pytest.raises(InvalidInput, match="not those announced"):
        await link.put(staged(b"54321"), tmp_path / "b.tif")


# --- a gate that misbehaves --------------------------------------------------------


@pytest.mark.parametrize("line", [b"[]\n", b"hello\n", b'{"ok": true}\n', b"x" * 70_000 + b"\n"])
async def test_rubbish_is_a_protocol_error(link: ClusterLink, gate: SmallGate, line: bytes) -> None:
    gate.reply_instead = line
    with pytest.raises(ProtocolError):
        await link.log(LogRequest(id=JOB))


async def test_endless_line_is_cut_off(link: ClusterLink, gate: SmallGate) -> None:
    gate.reply_instead = b"x" * (MAX_REPLY_BYTES + 10) + b"\n"
    with pytest.raises(ProtocolError, match="longer than the protocol allows"):
        await link.log(LogRequest(id=JOB))


@pytest.mark.parametrize("line", [b"", b'{"ok": true, "result'])
async def test_half_an_answer_is_unreachable(
    link: ClusterLink, gate: SmallGate, line: bytes
) -> None:
    gate.reply_instead = line
    with pytest.raises(ClusterUnreachable):
        await link.log(LogRequest(id=JOB))


async def test_silent_gate_is_unreachable_and_asked_again(
    link: ClusterLink, gate: SmallGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    await link.ensure()
    with monkeypatch.context() as short:
        short.setattr(module, "VERB_TIMEOUT_S", {**module.VERB_TIMEOUT_S, Verb.LOG: 0.3})
        gate.hang = {Verb.LOG}
        with pytest.raises(ClusterUnreachable, match="does not answer"):
            await link.log(LogRequest(id=JOB))
        assert (await link.info()).cluster == "small"
        assert gate.connections == 1, "a master whose gate answers is kept"
        gate.hang = {Verb.LOG, Verb.INFO}
        short.setattr(module, "_PROBE_S", 0.3)
        with pytest.raises(ClusterUnreachable):
            await link.log(LogRequest(id=JOB))
    gate.hang = set()
    await link.log(LogRequest(id=JOB))


async def test_master_whose_gate_hangs_is_replaced(
    link: ClusterLink, gate: SmallGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    await link.ensure()
    monkeypatch.setattr(module, "_PROBE_S", 0.3)
    link._suspect = True
    gate.hang = {Verb.INFO}
    await link.ensure()
    assert gate.connections == 2


async def test_cancelled_verb_ends_its_process(link: ClusterLink, gate: SmallGate) -> None:
    await link.ensure()
    before = children()
    gate.hang = {Verb.LOG}
    asked = asyncio.create_task(link.log(LogRequest(id=JOB)))
    await until(lambda: f"{COMMAND} {Verb.LOG}" in gate.commands)
    assert children() > before
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert children() == before


async def test_files_on_the_way_hold_up_no_command(
    link: ClusterLink, gate: SmallGate, tmp_path: Path
) -> None:
    gate.hang = {Verb.GET}
    coming = [asyncio.create_task(link.get(wanted(), tmp_path / str(n))) for n in range(10)]
    await until(lambda: f"{COMMAND} {Verb.GET}" in gate.commands)
    await asyncio.gather(*(link.info() for _ in range(10)))
    for task in coming:
        task.cancel()
    await asyncio.gather(*coming, return_exceptions=True)


async def test_missing_ssh_client_is_told(
    gate: SmallGate, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(runtime))
    link = ClusterLink(
        ClusterId("small"),
        gate_address=lambda: TcpAddress("127.0.0.1", gate.port),
        key=gate.key,
        host_key=gate.host_key,
        runtime=runtime,
    )
    with pytest.raises(Unavailable, match="install the OpenSSH client"):
        await link.info()


# --- watch --------------------------------------------------------------------------


async def test_watch_begins_with_a_snapshot_and_goes_on(link: ClusterLink, gate: SmallGate) -> None:
    await link.submit(request())
    async with aclosing(link.watch({JOB: 0})) as messages:
        first = await anext(messages)
        assert (first.kind, [job.id for job in first.jobs]) == ("snapshot", [JOB])
        gate.watch_lines.put_nowait(ping())
        assert (await anext(messages)).kind == "ping"
        assert gate.watching == 1
        assert (await link.info()).live == 1
    await until(lambda: not gate.watching)


async def test_watch_that_breaks_is_unreachable(link: ClusterLink, gate: SmallGate) -> None:
    async with aclosing(link.watch({})) as messages:
        await anext(messages)
        await gate.stop()
        with pytest.raises(ClusterUnreachable):
            await anext(messages)


async def test_watch_that_ends_is_unreachable(link: ClusterLink, gate: SmallGate) -> None:
    async with aclosing(link.watch({})) as messages:
        await anext(messages)
        gate.watch_lines.put_nowait(None)
        with pytest.raises(ClusterUnreachable):
            await anext(messages)


async def test_silent_watch_is_unreachable(
    link: ClusterLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.tunnels.link.SILENCE_S", 0.5)
    async with aclosing(link.watch({})) as messages:
        await anext(messages)
        with pytest.raises(ClusterUnreachable, match="does not answer"):
            await anext(messages)
    assert link._suspect


async def test_watch_with_rubbish_is_a_protocol_error(link: ClusterLink, gate: SmallGate) -> None:
    async with aclosing(link.watch({})) as messages:
        await anext(messages)
        gate.watch_lines.put_nowait(rubbish())
        with pytest.raises(ProtocolError):
            await anext(messages)


async def test_watch_can_be_refused(link: ClusterLink, gate: SmallGate) -> None:
    gate.reply_instead = error_line(Refused("This portal may not watch."))
    async with aclosing(link.watch({})) as messages:
        with pytest.raises(Refused, match="may not watch"):
            await anext(messages)
