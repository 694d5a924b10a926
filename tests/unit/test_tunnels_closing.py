"""A tunnel that an older version opened is found and closed by this one."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lib.config.data_dir import account_name
from lib.model import ClusterId, Seal, TunnelState
from lib.tunnels.outer import closing, records

CLUSTER = ClusterId("nchc")
#: As `python -m lib.tunnels.outer.guardian FD` of 0.1.0: holds the lock, ends when asked.
OLD = """
import fcntl, os, signal, sys
def end(number, frame):
    os._exit(0)
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o640)
fcntl.flock(fd, fcntl.LOCK_EX)
print("up", flush=True)
signal.pause()
"""


@pytest.fixture
def old(tmp_path: Path) -> Iterator[psutil.Popen]:
    """A supervisor under its former name, with the record that it wrote."""
    folder = tmp_path / account_name(os.geteuid())
    folder.mkdir()
    argv = [sys.executable, "-c", OLD, str(folder / "nchc.lock"), "lib.tunnels.outer.guardian"]
    with psutil.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        record = {
            "cluster": "nchc", "account": folder.name, "state": "open", "seal": "sealed",
            "seal_note": "", "group": "forest", "person": "", "login_node": "u1@login.example",
            "gate_port": 22022, "opened_at": time.time(), "until": time.time() + 3600,
            "pid": process.pid, "start": process.create_time(), "closed_at": None, "reason": "",
        }  # fmt: skip
        (folder / "nchc.json").write_text(json.dumps(record))
        yield process
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def test_an_old_supervisor_counts_as_open(old: psutil.Popen, tmp_path: Path) -> None:
    tunnel, socket = records.find(tmp_path, CLUSTER)
    assert (tunnel.state, tunnel.seal, tunnel.group) == (TunnelState.OPEN, Seal.SEALED, "forest")
    assert socket is not None
    assert socket.name == "nchc.sock"


def test_an_old_supervisor_is_ended(old: psutil.Popen, tmp_path: Path) -> None:
    reaper = threading.Thread(target=old.wait)  # it is a child of ours, not of init
    reaper.start()
    (closed,) = closing.close_tunnel(tmp_path, CLUSTER)
    reaper.join(300)
    assert closed.cluster == CLUSTER
    assert old.returncode == 0
    assert records.find(tmp_path, CLUSTER)[0].state is TunnelState.CLOSED
