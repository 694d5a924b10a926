"""admin.py doctor about clusters: each fault is made, found, and said with what to do."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lib import __version__
from lib.config.data_dir import PortalRecord, lock_data_folder
from lib.config.runtime_dir import runtime_path
from lib.config.settings import Settings
from lib.doctor import Check, clusters
from lib.model import ClusterId, Preset, TunnelState
from lib.protocol.messages import ModuleOffer
from lib.tunnels.portal_keys import portal_key
from tests.contract.small_gate import SmallGate
from tests.fakes.installation import bad, found, make_data_folder, private
from tests.fakes.supervisor import Supervisor
from tests.fakes.tunnels import write_record

FAR = """
id = "far"
title = "Far cluster"
institute = "Institute of Tests"
groups = ["everyone"]
[login]
host = "login.far.example"
user = "u1001"
host_keys = ["ssh-ed25519 {key}"]
[gate]
port = 22022
host_key = "ssh-ed25519 {key}"
""".format(key="A" * 68)
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="gives folders to root and others")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A portal with one cluster beside its own computer."""
    monkeypatch.setenv("SCENEBRIDGE_SITE", str(tmp_path / "site"))
    monkeypatch.setenv("SCENEBRIDGE_TUNNELS", str(tmp_path / "tunnels"))
    (tmp_path / "site" / "clusters").mkdir(parents=True)
    (tmp_path / "site" / "clusters" / "far.toml").write_text(FAR)
    (tmp_path / "tunnels" / "ada").mkdir(parents=True, mode=0o755)
    (tmp_path / "tunnels" / "ada").chmod(0o2750)
    return make_data_folder(tmp_path / "data")


@contextmanager
def answering(tunnels: Path, says: bytes) -> Iterator[None]:
    """Somebody listens on the socket of the tunnel, and says that."""
    path = tunnels / "ada" / "far.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            link, _ = listener.accept()
            link.sendall(says)
            link.close()

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join(300)
    path.unlink()


def test_without_another_cluster_nothing_is_said_of_tunnels(data: Path, tmp_path: Path) -> None:
    (tmp_path / "site" / "clusters" / "far.toml").unlink()
    said = found(data)
    assert not any(name.startswith("tunnels") for name in said)
    assert [name for name in said if name.startswith("cluster")] == ["cluster here: gate"]
    assert said["cluster here: gate"].detail == "it starts with the portal, which does not run"
    running = PortalRecord(os.getpid(), "http://localhost:8501", "/nowhere")
    with lock_data_folder(data, running):
        assert "although the portal does" in bad(data, "cluster here: gate")


def test_this_computer_is_left_out_beside_another_cluster(data: Path) -> None:
    said = found(data)["own computer"]
    assert said.ok
    assert said.detail == "here is not offered, since there are other clusters"
    private(data / "settings.toml", 'embedded_groups = ["everyone"]\n')
    assert "can read the portal's keys to the other clusters" in bad(data, "own computer")


def test_the_folder_of_tunnels(data: Path, tmp_path: Path) -> None:
    tunnels = tmp_path / "tunnels"
    tunnels.chmod(0o777)
    assert "must belong to root" in bad(data, "tunnels")
    tunnels.chmod(0o755)
    (tunnels / "ada").rename(tmp_path / "elsewhere")
    tunnels.rmdir()
    assert "is not there: sudo install -d -m 0755" in bad(data, "tunnels")


@needs_root
def test_an_administrator_s_folder(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tunnels" / "ada"
    os.chown(data, 4001, 4001)
    chosen = Settings(data=data, runtime=tmp_path)

    def said() -> str:
        (check,) = clusters.tunnels(chosen, tmp_path / "tunnels")
        return "" if check.ok else check.detail

    assert "the portal cannot use what is in" in said()
    os.chown(folder, 4002, 4001)
    folder.chmod(0o2750)
    assert said() == ""
    for mode, words in ((0o2770, "open to others, or to writing by the portal"),
                        (0o2755, "open to others"), (0o750, "sudo chmod 2750")):  # fmt: skip
        folder.chmod(mode)
        assert words in said()
    folder.chmod(0o2750)
    os.chown(folder, 4001, 4001)
    assert "belongs to the portal's account" in said()
    folder.rename(tmp_path / "ada")
    folder.symlink_to(tmp_path / "ada")
    assert "is no folder" in said()


def test_who_may_change_a_cluster_s_file(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "site" / "clusters" / "far.toml"
    if os.getuid() == 0:
        assert found(data)["cluster far: file"].ok
        os.chown(file, 4001, 4001)
        os.chown(data, 4001, 4001)
        assert "sudo chown root" in bad(data, "cluster far: file")
        os.chown(file, 0, 0)
        os.chown(data, 0, 0)
    file.chmod(0o666)
    assert "or others may change" in bad(data, "cluster far: file")


def test_key_and_host_key(data: Path, tmp_path: Path) -> None:
    assert "is made when the portal starts" in bad(data, "cluster far: key")
    private(data / "keys" / "far", "key")
    assert found(data)["cluster far: key"].ok
    assert found(data)["cluster far: host key"].ok
    file = tmp_path / "site" / "clusters" / "far.toml"
    file.write_text(FAR.rpartition("host_key")[0])
    assert "admin.py gate deploy far" in bad(data, "cluster far: host key")


def test_the_tunnel_and_the_gate_behind_it(data: Path, tmp_path: Path) -> None:
    tunnels = tmp_path / "tunnels"
    said = bad(data, "cluster far: tunnel")
    assert said.startswith("No tunnel to far has been opened yet")
    assert said.endswith(": python admin.py tunnel up far --person owner")
    assert "cluster far: gate" not in found(data), "nobody can ask it"
    more: dict[str, Any] = {"state": TunnelState.CLOSED, "reason": "Cut."}
    write_record(tunnels, "far", group="forest", **more)
    said = bad(data, "cluster far: tunnel")
    assert "is closed. Cut. ada can open it again: python admin.py tunnel up far --per" in said
    write_record(tunnels, "far", group="forest")
    assert "admin.py tunnel status far" in bad(data, "cluster far: gate")
    with answering(tunnels, b""):
        assert "no gate answers behind it: admin.py gate start far" in bad(
            data, "cluster far: gate"
        )
    with answering(tunnels, b"HTTP/1.1 400 Bad Request\r\n"):
        assert "no gate answers" in bad(data, "cluster far: gate")
    with answering(tunnels, b"SSH-2.0-AsyncSSH\r\n"):
        good = found(data)["cluster far: gate"]
    assert good.ok
    assert good.detail == "it answers through the tunnel of ada"


def test_a_broken_file_is_said_and_the_others_are_looked_at(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site" / "clusters"
    (folder / "near.toml").write_text(FAR.replace('"far"', '"near"').replace("port =", "prt ="))
    said = bad(data, "cluster near: file")
    assert said.startswith("this cluster is left out: ")
    assert "near.toml [gate], line 10 needs a whole number for 'port'" in said
    assert found(data)["cluster far: host key"].ok


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no OpenSSH client")
async def test_what_the_gate_answers_by_the_portal_s_key(data: Path, tmp_path: Path) -> None:
    """Its version, what its policy allows and whether its scheduler answers; each refused too."""
    small = SmallGate(tmp_path / "gate")
    await small.start()
    supervisor = Supervisor(tmp_path / "tunnels", "far", small.port, group="forest")
    file = tmp_path / "site" / "clusters" / "far.toml"
    pinned = FAR.rpartition("host_key")[0] + f'host_key = "{small.host_key.strip()}"\n'
    file.write_text(pinned)
    shutil.copy(small.key, data / "keys" / "far")

    async def look() -> dict[str, Check]:
        said = await asyncio.to_thread(found, data)
        return {n.split(": ")[1]: c for n, c in said.items() if n.startswith("cluster far: ")}

    async def bad_one(name: str) -> str:
        check = (await look())[name]
        assert not check.ok
        return check.detail

    try:
        assert (await bad_one("policy")).startswith("it allows no module and no preset, so noth")
        preset = Preset("small", "Small", 2, 4000, 0, 3600, 600)
        small.offers = {"modules": [ModuleOffer("active-fire", "1.0.0")], "presets": [preset]}
        good = await look()
        assert all(check.ok for name, check in good.items() if name != "file"), good
        assert good["gate"].detail == (
            "version 0 answers through the tunnel of ada; "
            f"admin.py gate upgrade far brings {__version__}"
        )
        assert (
            good["policy"].detail == "active-fire 1.0.0 in none, presets small, 0 of at most 4 jobs"
        )
        assert good["scheduler"].detail == "none answers"

        small.offers["troubles"] = ["The image of active-fire is missing."]
        said = await bad_one("policy")
        assert said == "The image of active-fire is missing: admin.py gate status far"
        small.scheduler_silent = "The scheduler of the cluster does not answer: timed out."
        assert "does not answer: timed out: ask the help" in await bad_one("scheduler")
        small.scheduler_silent = ""
        small.offers["scheduler"] = "slurm"
        said = await bad_one("scheduler")
        assert said.startswith("slurm does not say how busy its queues are: ask the help desk of")

        file.write_text(FAR)
        assert "compare the key that" in await bad_one("gate")
        file.write_text(pinned)
        (data / "keys" / "far").unlink()
        portal_key(data, ClusterId("far"))
        assert "admin.py gate key far" in await bad_one("gate")
        assert small.watching == 0
        assert not list(runtime_path(data).parent.glob("sb-*/far.ctl")), "a master was left"
    finally:
        supervisor.kill()
        await small.stop()
