"""The embedded cluster with its real gate: started, taken over, replaced, stopped."""

import json
import os
import signal
import socket
import stat
import tomllib
from dataclasses import replace

import psutil
import pytest

from lib.config import settings
from lib.config.offerings import load_offerings
from lib.config.settings import PROJECT
from lib.errors import ClusterUnreachable, Unavailable
from lib.server import local_gate
from lib.server.local_gate import LocalGate, policy_text, presets
from tests.running import wait_for

#: Most start a gate, by the portal's own means.
pytestmark = pytest.mark.portal
CATALOGS = load_offerings(PROJECT)


@pytest.fixture
def chosen(tmp_path):
    (tmp_path / "scenes").mkdir()
    return settings.load(tmp_path)


@pytest.fixture
def cluster(chosen):
    made = LocalGate(chosen, CATALOGS)
    yield made
    made.stop()
    assert processes_of(chosen) == []


def processes_of(chosen) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(str(chosen.data) in word for word in process.info["cmdline"] or ())
    ]


def banner(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=300) as connection:
        return connection.recv(7)


def test_it_starts_a_gate_once_which_another_portal_takes_over(cluster, chosen):
    first = cluster.start()
    assert banner(first.port) == b"SSH-2.0"
    assert cluster.start() == first
    assert cluster.address() == first
    assert (chosen.data / "keys" / "here.host").read_text().strip() == first.host_key
    key = chosen.data / "keys" / "here"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert LocalGate(chosen, CATALOGS).start() == first


def test_a_gate_that_was_killed_is_started_again_with_the_same_keys(cluster):
    first = cluster.start()
    os.kill(first.pid, signal.SIGKILL)
    wait_for("the killed gate to be gone", lambda: cluster.address() is None)
    assert cluster.address() is None
    second = cluster.start()
    assert second.pid != first.pid
    assert second.host_key == first.host_key
    assert banner(second.port) == b"SSH-2.0"


def test_a_changed_policy_replaces_the_gate(cluster, chosen):
    first = cluster.start()
    changed = LocalGate(replace(chosen, slots=7), CATALOGS)
    second = changed.start()
    assert second.pid != first.pid
    assert "slots = 7" in (chosen.data / "embedded" / "policy.toml").read_text()
    changed.stop()


def test_a_stop_leaves_neither_process_nor_address_and_may_be_repeated(cluster, chosen):
    """Nor is another program taken for the gate that was there."""
    first = cluster.start()
    cluster.stop()
    assert processes_of(chosen) == []
    assert cluster.address() is None
    cluster.stop()
    note = {"pid": os.getpid(), "port": first.port, "host_key": first.host_key}
    note |= {"start": "another", "cluster": "here", "version": "1"}
    (chosen.data / "embedded" / "gate.json").write_text(json.dumps(note))
    assert cluster.address() is None


def test_the_end_of_a_job_says_that_the_portal_was_stopped(cluster, monkeypatch):
    cluster.start()
    asked = []
    gate = LocalGate._gate
    monkeypatch.setattr(
        LocalGate, "_gate", lambda self, *a, **more: asked.append(a) or gate(self, *a, **more)
    )
    cluster.stop()
    assert asked[-1][-3:] == ("--jobs", "--because", local_gate.STOPPED_TEXT)


def test_a_stop_ends_a_gate_that_does_not_listen_yet(cluster, chosen, monkeypatch):
    """Its start was interrupted."""

    def interrupted(gate: LocalGate) -> None:
        if gate._process is not None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalGate, "address", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cluster.start()
    cluster.stop()
    assert processes_of(chosen) == []


@pytest.mark.parametrize("broken", ["", "[]", "{}", "not json"])
def test_a_broken_note_of_the_gate_is_no_gate(cluster, chosen, broken):
    (chosen.data / "embedded").mkdir(mode=0o700)
    (chosen.data / "embedded" / "gate.json").write_text(broken)
    assert cluster.address() is None


def test_a_gate_that_cannot_start_says_why(cluster, monkeypatch):
    program = "import runpy, sys; 'serve' in sys.argv and sys.exit('no luck'); "
    program += "runpy.run_module('lib.gate', run_name='__main__')"
    monkeypatch.setattr(local_gate, "_GATE", (*local_gate._GATE[:2], "-c", program))
    with pytest.raises(ClusterUnreachable, match=r"did not start: no luck .*gate\.log"):
        cluster.start()
    monkeypatch.undo()


def test_a_key_that_cannot_be_made_is_said(chosen, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Unavailable, match="key could not be made: ssh-keygen cannot be started"):
        LocalGate(chosen, CATALOGS).start()


def test_the_policy_offers_the_catalogue_s_modules_and_reads_scenes_only(chosen):
    policy = tomllib.loads(policy_text(replace(chosen, keep_days=3), CATALOGS))
    assert {m["id"] for m in policy["modules"]} == set(CATALOGS.modules)
    assert policy["data_paths"] == [str(chosen.data / "scenes")]
    assert policy["https_hosts"] == []
    assert policy["limits"]["keep_days"] == 3


@pytest.mark.parametrize(
    ("cores", "memory_mb", "small", "medium"),
    [
        (1, 2000, (1, 500), (1, 1000)),
        (2, 4000, (1, 1000), (2, 2000)),
        (16, 64000, (8, 16000), (15, 32000)),
    ],
)
def test_presets_fit_the_computer(cores, memory_mb, small, medium):
    offered = {p["name"]: (p["cores"], p["memory_mb"]) for p in presets(cores, memory_mb)}
    assert offered == {"small": small, "medium": medium}
