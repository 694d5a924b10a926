"""A notebook on a node that others use, too: what they see, read and reach.

The paths of one real session, in every runtime that works here.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.files.atomic import read_json
from lib.gate.certificates import make_pair
from lib.jobs import control_files
from tests.fixtures.module_scenes import CASES, write_catalog, write_scene
from tests.fixtures.session_script import RUNTIMES, TOKEN, New, Script, new_scripts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
ROOT = Path(__file__).resolve().parents[2]
_OTHER = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--")


@pytest.fixture(params=RUNTIMES)
def new(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[New]:
    yield from new_scripts(request.param, tmp_path)


@pytest.fixture(scope="module", params=RUNTIMES)
def script(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Script]:
    """A notebook with a kernel, which the tests look at; it leaves nothing."""
    for new in new_scripts(request.param, tmp_path_factory.mktemp("node")):
        made = new()
        assert not (made.control / control_files.ENDPOINT).exists()
        kernel_of(made.start().ready())
        yield made
        assert len(made.left()) > 1
        assert made.stop()["end_reason"] == "stopped"
        assert made.process.returncode == 0
        assert made.left() == []


def listening(pids: list[int]) -> dict[int, list[str]]:
    """Process to the local addresses (IPv4 and IPv6, TCP) that it listens at."""
    inodes = {}
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                inodes[f"socket:[{fields[9]}]"] = fields[1]
    found: dict[int, list[str]] = {}
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = str(fd.readlink())
            except OSError:
                continue
            if target in inodes:
                found.setdefault(pid, []).append(inodes[target])
    return found


def kernel_of(script: Script) -> str:
    status, kernel = script.ask_endpoint("POST", "/api/kernels")
    assert status == 201
    deadline = time.monotonic() + 300
    while not list((script.scratch / "r").glob("kernel-*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return str(kernel["id"])


def test_the_one_port_of_a_job_is_the_scripts_and_takes_one_certificate(script: Script) -> None:
    endpoint = read_json(script.control / control_files.ENDPOINT)
    ports = listening(script.tree())
    assert list(ports) == [script.process.pid]  # neither notebook nor kernel nor terminal
    assert [int(a.split(":")[1], 16) for a in ports[script.process.pid]] == [endpoint["port"]]
    (connection,) = (script.scratch / "r").glob("kernel-*.json")
    assert json.loads(connection.read_text())["transport"] == "ipc"

    assert script.ask_endpoint("GET", "/api/status")[0] == 200
    assert script.ask_endpoint("GET", "/api/status", token="wrong")[0] == 403
    stranger = make_pair("c", server=False)
    (script.control / "stranger.crt").write_bytes(stranger.cert)
    (script.control / "stranger.key").write_bytes(stranger.key)
    for client in ("", "stranger", "server"):
        with pytest.raises((OSError, ConnectionError)):
            script.ask_endpoint("GET", "/api/status", client=client)
    with socket.create_connection((endpoint["host"], endpoint["port"]), 300) as plain:
        plain.sendall(b"GET /api/status HTTP/1.0\r\n\r\n")
        plain.settimeout(300)
        assert plain.recv(100) == b""
    assert script.ask_endpoint("GET", "/api/status")[0] == 200


def test_the_nodes_folder_is_new_and_private_and_secrets_are_in_no_command_line(
    script: Script,
) -> None:
    assert stat.S_IMODE(script.scratch.stat().st_mode) == 0o700
    assert stat.S_IMODE((script.scratch / "jupyter.sock").stat().st_mode) == 0o600
    assert len(os.fsencode(script.scratch / "jupyter.sock")) < 104
    for name in (control_files.TOKEN, control_files.SERVER_KEY, control_files.ENDPOINT):
        assert stat.S_IMODE((script.control / name).stat().st_mode) == 0o600
    key = (script.control / control_files.SERVER_KEY).read_text().splitlines()[1]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        assert TOKEN.encode() not in line
        assert key.encode() not in line


def test_secrets_reach_neither_command_lines_nor_kernels(script: Script) -> None:
    assert script.ask("GET", "/api/status", token="wrong")[0] == 403
    assert script.ask("POST", "/api/kernels", token="")[0] == 403
    status, (kernel,) = script.ask("GET", "/api/kernels")
    assert status == 200
    out = subprocess.run(["ps", "-axwwo", "pid=,args="], capture_output=True, text=True, check=True)
    assert TOKEN not in out.stdout
    pids = [line.split()[0] for line in out.stdout.splitlines() if kernel["id"] in line]
    assert len(pids) == 1
    environ = Path(f"/proc/{pids[0]}/environ").read_bytes()
    assert TOKEN.encode() not in environ
    assert f"SCENEBRIDGE_WORK={script.inside(script.work)}".encode() in environ
    assert TOKEN.encode() not in script.ask("GET", "/lab")[1]
    assert TOKEN not in script.log("notebook.log") + script.log("module.log")


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="becomes another user")
def test_another_user_of_the_node_gets_nothing(script: Script) -> None:
    """The account is root here; its sibling reads and connects."""
    root = script.control.parent
    for folder in (root, *root.parents):  # only the files' own modes shall protect them
        if root.parents[2] in folder.parents:
            folder.chmod(0o755)
    paths = [script.control / control_files.TOKEN, script.control / control_files.SERVER_KEY]
    paths += [script.control / control_files.CLIENT_KEY, script.control / control_files.ENDPOINT]
    for path in paths:
        assert subprocess.run(("cat", path), capture_output=True, check=True).stdout
        refused = subprocess.run((*_OTHER, "cat", path), capture_output=True, check=False)
        assert b"Permission denied" in refused.stderr
    connect = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print('in')"
    )
    argv = ("/usr/bin/python3", "-c", connect, str(script.scratch / "jupyter.sock"))
    assert b"in" in subprocess.run(argv, capture_output=True, check=True).stdout
    refused = subprocess.run((*_OTHER, *argv), capture_output=True, check=False)
    assert b"Permission" in refused.stderr
    for what in (f"ls {script.scratch}", f"cat /proc/{script.tree()[-1]}/environ"):
        refused = subprocess.run((*_OTHER, *what.split()), capture_output=True, check=False)
        assert refused.returncode != 0
        assert refused.stdout == b""


def test_a_real_module_finds_what_was_planted(new: New, tmp_path: Path) -> None:
    """From the job's folder to detections, reading data at its own place."""
    case = CASES[1]  # the one that compiles quicker
    script = new(kind="run", code=ROOT, entry=case.package, max_file_bytes=2**30)
    shutil.rmtree(script.work / "in")
    archive = tmp_path / "srv" if script.contained else tmp_path
    item = json.loads(write_scene(archive, "one", case.bands()).read_text())
    seen = Path("/srv") if script.contained else archive
    for asset in item["assets"].values():
        asset["href"] = str(seen / "one" / asset["href"])
    write_catalog(script.work / "in", ["one"])
    (script.work / "in" / "one").mkdir()
    (script.work / "in" / "one" / "one.json").write_text(json.dumps(item))
    (script.work / "in" / "params.json").write_text("{}")
    script.change(readable=[asset["href"] for asset in item["assets"].values()])
    end = script.start().end(100)
    assert end["end_reason"] == "finished", end
    found = json.loads((script.work / "out/one/detections.geojson").read_text())
    assert len(found["features"]) == case.objects
    assert script.left() == []
