"""admin.py doctor about clusters: each fault is made, found, and said with what to do."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lib.config.settings import Settings
from lib.doctor import clusters
from lib.model import TunnelState
from tests.fakes.installation import bad, found, make_data_folder, private
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
    assert not any(name.startswith(("tunnels", "cluster")) for name in found(data))


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
    assert "No tunnel to far has been opened yet" in bad(data, "cluster far: gate")
    more: dict[str, Any] = {"state": TunnelState.CLOSED, "reason": "Cut."}
    write_record(tunnels, "far", group="forest", **more)
    assert "is closed. Cut. ada can open it again" in bad(data, "cluster far: gate")
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
