"""The inner connection through an outer tunnel: stock ssh, a process that carries the bytes,
and the record that says whose it is and until when."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

import lib.tunnels.link as link_module
from lib.config.clusters import ClusterEntry, GatePlace, SshHost
from lib.config.offerings import Offerings
from lib.config.settings import Settings
from lib.errors import ClusterUnreachable
from lib.model import ClusterId, Fault, SessionId, TunnelState
from lib.portal.tunnels import OuterTunnels
from lib.server.gate_links import end_masters, links
from lib.tunnels.link import ClusterLink
from tests.contract.small_gate import SmallGate
from tests.fakes.reconciler_harness import until
from tests.fakes.supervisor import Supervisor
from tests.folders import short_folder
from tests.running import RunningPortal, first_start_is_over

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="no OpenSSH client")
SMALL = ClusterId("small")


class Place:
    """One gate, the folder of tunnels to it, and portals that come and go."""

    def __init__(self, gate: SmallGate, home: Path, runtime: Path) -> None:
        self.gate, self.tunnels, self.runtime = gate, home / "tunnels", runtime
        self.supervisors: list[Supervisor] = []

    def open(self, **more: Any) -> Supervisor:
        supervisor = Supervisor(self.tunnels, SMALL, self.gate.port, **{"group": "forest", **more})
        self.supervisors.append(supervisor)
        return supervisor

    def link(self) -> ClusterLink:
        tunnels = OuterTunnels(self.tunnels)
        return ClusterLink(
            SMALL,
            gate_address=lambda: tunnels.reach(SMALL),
            key=self.gate.key,
            host_key=self.gate.host_key,
            runtime=self.runtime,
        )


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(link_module, "_FRESH_S", 0.0)
    gate = SmallGate(tmp_path / "gate")
    await gate.start()
    with short_folder() as runtime:
        it = Place(gate, tmp_path, runtime)
        yield it
        await it.link().disconnect()
        for supervisor in it.supervisors:
            supervisor.kill()
        await gate.stop()


async def unreachable(link: ClusterLink) -> ClusterUnreachable:
    with pytest.raises(ClusterUnreachable) as refusal:
        await link.info()
    return refusal.value


async def test_a_tunnel_that_was_never_opened(place: Place) -> None:
    said = await unreachable(place.link())
    assert said.message.startswith("No tunnel to small has been opened yet.")
    assert said.fault == Fault.TUNNEL


async def test_open_gone_and_opened_again(place: Place) -> None:
    link, session = place.link(), SessionId(str(uuid.uuid4()))
    first = place.open()
    assert (await link.info()).cluster == "small"
    forward = await link.open_forward(session)
    assert forward.is_socket()

    first.kill()
    said = await unreachable(link)
    if said.fault != Fault.TUNNEL:  # ssh noticed the end of the connection first
        said = await unreachable(link)
    assert said.message == (
        "The tunnel that ada opened is closed. It has ended without saying why. "
        "ada can open it again."
    )

    place.open(account="ben")
    assert (await link.info()).cluster == "small"
    assert await link.forwards() == {session}
    assert place.gate.connections == 2


async def test_the_stream_ends_with_its_tunnel(place: Place) -> None:
    link, supervisor = place.link(), place.open()
    async with aclosing(link.watch({})) as messages:
        assert (await anext(messages)).kind == "snapshot"
        supervisor.kill()
        with pytest.raises(ClusterUnreachable):
            await anext(messages)


async def test_a_tunnel_whose_time_is_over_carries_nothing_any_more(place: Place) -> None:
    """Its supervisor still lives, and so do the bytes: the portal gives it up by itself."""
    link, supervisor = place.link(), place.open()
    await link.info()
    supervisor.write(until=time.time() - 1)
    said = await unreachable(link)
    assert "is closed. Its time is over. ada can open it again." in said.message
    assert not (place.runtime / "small.ctl").exists()
    supervisor.write(until=time.time() + 60, opened_at=time.time())
    await link.info()
    assert place.gate.connections == 2


async def test_a_tunnel_that_its_administrator_closed_says_so(place: Place) -> None:
    link, supervisor = place.link(), place.open()
    await link.info()
    supervisor.write(state=TunnelState.CLOSED, closed_at=time.time(), reason="Ada closed it.")
    assert "is closed. Ada closed it. ada can open" in (await unreachable(link)).message


async def test_a_tunnel_that_was_replaced_is_left(place: Place) -> None:
    """The new one may belong to somebody else, lead to another node, or be sealed."""
    link = place.link()
    place.open()
    await link.info()
    assert place.gate.connections == 1
    await link.info()
    assert place.gate.connections == 1
    place.open(account="ben", opened_at=time.time() + 5)
    await link.info()
    assert place.gate.connections == 2


async def test_a_portal_that_comes_back_keeps_the_tunnel_or_leaves_a_closed_one(
    place: Place,
) -> None:
    supervisor = place.open()
    await place.link().info()
    again = place.link()
    await again.info()
    assert place.gate.connections == 1, "the master was adopted"
    supervisor.write(until=time.time() - 1)
    assert "Its time is over" in (await unreachable(place.link())).message
    assert not (place.runtime / "small.ctl").exists()


async def test_no_gate_behind_an_open_tunnel(place: Place) -> None:
    place.open()
    await place.gate.stop()
    said = await unreachable(place.link())
    assert said.message == (
        "The gate of cluster small is not running. Its administrator can start it again."
    )
    assert said.fault == Fault.GATE


async def test_a_gate_with_another_host_key_is_told_nothing(place: Place) -> None:
    place.open()
    pinned = place.gate.host_key
    link = place.link()
    await place.gate.stop()
    await place.gate.start(port=place.gate.port, new_host_key=True)
    assert place.gate.host_key != pinned
    said = await unreachable(link)
    assert said.fault == Fault.HOST_KEY
    assert place.gate.commands == []


async def test_a_portal_that_stops_leaves_no_master(place: Place, tmp_path: Path) -> None:
    place.open()
    await place.link().info()
    pid = json.loads((place.runtime / "small.json").read_text())["pid"]
    assert psutil.pid_exists(pid)
    await end_masters(Settings(data=tmp_path, runtime=place.runtime))
    assert not psutil.pid_exists(pid)
    assert not (place.runtime / "small.ctl").exists()


# --- which clusters get a link ------------------------------------------------------------


def entry(host_key: str) -> ClusterEntry:
    login = SshHost("login.example", 22, "u1001", ("ssh-ed25519 " + "A" * 68,))
    place = GatePlace(22022, host_key, "", ".scenebridge")
    return ClusterEntry(SMALL, "Small", "", False, ("forest",), login, None, place)


@pytest.fixture
def short() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def test_every_cluster_gets_a_key_and_those_with_a_host_key_a_link(
    tmp_path: Path, short: Path
) -> None:
    settings = Settings(data=tmp_path, runtime=short)
    tunnels = OuterTunnels(tmp_path / "tunnels")
    private = tmp_path / "keys" / "small"
    without = Offerings({}, {SMALL: entry("")}, {})
    assert links(settings, without, tunnels) == {}
    assert private.stat().st_mode & 0o777 == 0o600
    made = private.read_bytes()
    assert private.with_suffix(".pub").read_text().startswith("ssh-ed25519 ")
    pinned = Offerings({}, {SMALL: entry("ssh-ed25519 " + "A" * 68)}, {})
    assert set(links(settings, pinned, tunnels)) == {SMALL}
    assert private.read_bytes() == made, "the key stays"


# --- cluster files while a portal runs ---------------------------------------------------------


@pytest.mark.slow
async def test_a_running_portal_follows_its_cluster_files(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Added, changed, broken, mended and removed: no restart, and open pages are told."""
    monkeypatch.setenv("SCENEBRIDGE_SITE", str(tmp_path / "site"))
    monkeypatch.setenv("SCENEBRIDGE_TUNNELS", str(place.tunnels))
    file = tmp_path / "site" / "clusters" / "small.toml"
    file.parent.mkdir(parents=True)
    data = tmp_path / "data"
    data.mkdir(0o700)
    first_start_is_over(data)
    (data / "keys").mkdir(0o700)
    shutil.copy(place.gate.key, data / "keys" / "small")
    known = "ssh-ed25519 " + "A" * 68
    text = f"""
        id = "small"
        title = "Small cluster"
        groups = ["forest"]
        [login]
        host = "login.example"
        host_keys = ["{known}"]
        [gate]
        port = 22022
        host_key = "{place.gate.host_key.strip()}"
    """
    place.open()
    portal = RunningPortal(data)
    await asyncio.to_thread(portal.start)
    client = await asyncio.to_thread(portal.api)

    def shown() -> dict[str, Any]:
        answer = client.get("/api/clusters", params={"all": 1})
        return {cluster["id"]: cluster for cluster in answer.json()}

    async def becomes(what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        last: dict[str, Any] = {}

        async def holds() -> bool:
            nonlocal last
            last = await asyncio.to_thread(shown)
            return what(last)

        await until(holds, lambda: str(last))
        return last

    try:
        assert set(await asyncio.to_thread(shown)) == {"here"}
        file.write_text(text)
        now = await becomes(lambda c: c.get("small", {}).get("reachability") == "REACHABLE")
        assert 'groups = ["everyone"] in the file' in now["small"]["refused"], "it has no groups"
        assert "here" not in now, "work there could read the key to the new one"
        assert place.gate.connections == 1
        file.write_text(text.replace("Small cluster", "Smaller"))
        await becomes(lambda c: c["small"]["title"] == "Smaller")
        assert place.gate.connections == 1, "it is reached as before"
        file.write_text(text.replace(place.gate.host_key.strip(), known))
        await becomes(lambda c: "compare the key" in str(c["small"]["mend"]))
        file.write_text(text.replace("port = 22022", "port = none"))
        now = await becomes(lambda c: not c["small"]["configured"])
        assert "line 9" in now["small"]["mend"][0][1]
        assert (await asyncio.to_thread(client.get, "/healthz")).is_success
        file.write_text(text)
        await becomes(lambda c: c["small"]["reachability"] == "REACHABLE")
        file.unlink()
        await becomes(lambda c: set(c) == {"here"})
        await until(lambda: place.gate.watching == 0)
    finally:
        client.close()
        await asyncio.to_thread(portal.stop)
    portal.leaves_nothing()
