"""`./run`: its refusals, its start, its end, and what a killed portal leaves to the next."""

import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from lib.config import settings
from lib.config.data_dir import PortalRecord, lock_data_folder
from lib.config.runtime_dir import runtime_path
from lib.server import main
from lib.server.local_gate import STOPPED_TEXT
from tests.crowd import LANDSAT, SCENE
from tests.pages.sample_portal import plant_scene
from tests.running import PROJECT, RunningPortal, first_start_is_over, free_port, wait_for
from tools import bootstrap

pytestmark = pytest.mark.slow


@pytest.fixture
def portal(unstarted: RunningPortal) -> RunningPortal:
    """Each test starts it in its own way."""
    return unstarted


def one_sentence(code: int, out: str, err: str) -> str:
    """What a start says that must not succeed."""
    assert code == 1, out + err
    assert "ready" not in out
    assert err.count("\n") == 1, err
    assert err.startswith("SceneBridge: ")
    return err


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., str]]:
    """Start here, as the program does, what must not succeed; its sentence."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    mask, folder = os.umask(0o077), Path.cwd()
    monkeypatch.setattr(settings, "_current", None)
    yield lambda *arguments: one_sentence(
        main.main(["--no-browser", *map(str, arguments)]), *capsys.readouterr()
    )
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)
    os.umask(mask)
    os.chdir(folder)


# --- what can stand in the way --------------------------------------------------------------


def test_a_missing_ssh_client_is_said(refused, data, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    said = refused("--data", data, "--port", free_port())
    assert "the program ssh is missing" in said
    assert "openssh-client" in said


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_a_port_in_use_is_said_with_another_to_take(refused, data, family, address):
    with socket.socket(family) as other:
        try:
            other.bind((address, 0))
        except OSError:
            pytest.skip(f"this computer has no {address}")
        other.listen()
        port = other.getsockname()[1]
        said = refused("--data", data, "--port", port)
    assert f"port {port} is in use" in said
    assert "--port" in said


@pytest.mark.parametrize("option", [False, True])
def test_the_notebooks_port_is_looked_at_before_anything_is_written(refused, data, option):
    port, before = free_port(), sorted(data.rglob("*"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", port + 1))
        other.listen()
        asked = ["--notebook-port", port + 1] if option else []
        said = refused("--data", data, "--port", port, *asked)
    assert f"port {port + 1} is in use" in said
    assert "--notebook-port" in said
    assert sorted(data.rglob("*")) == before


def test_a_folder_that_cannot_be_written_is_said(refused):
    assert "cannot be written to" in refused("--data", "/proc/1/data", "--port", free_port())


def test_a_file_as_data_folder_is_said(refused, tmp_path):
    (tmp_path / "data").touch()
    assert "it is a file" in refused("--data", tmp_path / "data", "--port", free_port())


def test_a_folder_of_a_newer_version_is_said(refused, data):
    with sqlite3.connect(data / "portal.sqlite") as store:
        store.execute("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    assert "newer version of SceneBridge" in refused("--data", data, "--port", free_port())


def test_a_wrong_setting_is_said(refused, data):
    (data / "settings.toml").write_text("colour = 3")
    assert "unknown setting 'colour'" in refused("--data", data, "--port", free_port())


def test_a_squatted_runtime_folder_is_said(refused, data, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    runtime = runtime_path(data.resolve())
    runtime.mkdir(mode=0o755)
    runtime.chmod(0o755)
    try:
        assert "not private to you" in refused("--data", data, "--port", free_port())
    finally:
        runtime.rmdir()


def test_a_second_portal_on_the_same_folder_is_refused(refused, data):
    with lock_data_folder(data, PortalRecord(os.getpid(), "http://localhost:8999", "/nowhere")):
        said = refused("--data", data, "--port", free_port())
    assert "already running" in said
    assert "http://localhost:8999" in said


def test_wrong_usage_ends_with_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(["--host", "0.0.0.0"])
    assert ended.value.code == 2
    assert "--host" in capsys.readouterr().err


# --- the start and the end --------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningPortal]:
    folder = Path(tempfile.mkdtemp(prefix="sb-run-"))
    first_start_is_over(folder)
    running = RunningPortal(folder)
    yield running
    if running.runs:
        running.stop()
    running.leaves_nothing()
    shutil.rmtree(folder)


@pytest.fixture
def started(shared: RunningPortal) -> RunningPortal:
    """A portal that runs; the next test starts it again where this one ends it."""
    if not shared.runs:
        shared.start()
    return shared


def test_the_link_signs_one_browser_in_and_a_stranger_gets_nothing(started):
    portal, link = started, started.link
    assert link.startswith(f"http://localhost:{portal.port}/")
    with httpx.Client() as stranger, httpx.Client() as owner, httpx.Client() as late:
        assert stranger.get(f"{portal.origin}/api/scenes").status_code == 401
        let_in = owner.get(link)
        assert let_in.status_code < 400
        # Browsers send a Secure cookie to http://localhost; httpx does not by itself.
        cookie = {"cookie": let_in.headers["set-cookie"].split(";")[0]}
        assert owner.get(f"{portal.origin}/api/scenes", headers=cookie).status_code == 200
        late.get(link)
        assert late.get(f"{portal.origin}/api/scenes").status_code == 401
    key = link.split("key=")[1]
    assert all(key not in line for line in portal.output if "ready" not in line)
    assert key not in (portal.data / "portal.log").read_text()


def test_everything_is_on_loopback_and_private(started):
    portal, data = started, started.data
    tree = [psutil.Process(portal.process.pid)]
    wait_for("the gate", lambda: gates(data))
    gate = gate_of(data)
    listening = [
        connection.laddr
        for process in [*tree, gate]
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}
    assert portal.port in {address.port for address in listening}
    for secret in ("portal.sqlite", "keys/here", "embedded"):
        assert stat.S_IMODE((data / secret).stat().st_mode) & 0o077 == 0, secret
    runtime = runtime_path(data.resolve())
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700


def test_the_browser_is_opened_without_the_key_in_its_arguments(portal, data, tmp_path):
    """And a second signal while the portal stops breaks nothing."""
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$*" > "{opened}"\n')
    browser.chmod(0o755)
    portal.process = subprocess.Popen(
        [sys.executable, "-P", "-m", "lib.server.main", "--data", data, "--port", str(portal.port)],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "BROWSER": str(browser), "DISPLAY": ":0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for("the browser", lambda: opened.exists() and opened.read_text())
    page = data.resolve() / "sign-in.html"
    assert opened.read_text() == page.as_uri()
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    portal.process.send_signal(signal.SIGTERM)
    before = lines_until("Stopping", portal.process)
    portal.process.send_signal(signal.SIGINT)
    portal.process.send_signal(signal.SIGTERM)
    said, _ = portal.process.communicate(timeout=300)
    assert "Still stopping" in said
    assert "SceneBridge has stopped." in said
    assert portal.process.returncode == 0
    portal.leaves_nothing()
    link = next(line for line in before if "ready" in line).split(": ", 1)[1]
    assert not page.exists()
    assert link.startswith(portal.origin)


def lines_until(word: str, process: subprocess.Popen[str]) -> list[str]:
    """What it prints, up to the line with that word."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            return lines
    raise AssertionError("".join(lines))


def test_a_signal_before_it_is_ready_leaves_nothing(portal, data):
    options = ["--data", data, "--port", str(portal.port), "--no-browser"]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "lib.server.main", *options],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(
        "the gate's folder", lambda: (data / "embedded").exists() or process.poll() is not None
    )
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode in (0, 130), said
    assert "Traceback" not in said
    portal.leaves_nothing()


# --- a portal that is killed ----------------------------------------------------------------


def gate_of(data: Path) -> psutil.Process:
    (found,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "lib.gate" in (words := process.info["cmdline"] or [])
        and str(data / "embedded") in words
    ]
    return found


def test_the_next_portal_takes_over_from_a_killed_one(started):
    portal, data = started, started.data
    gate, runtime = gate_of(data), runtime_path(data.resolve())
    control = runtime / "here.ctl"
    wait_for("the ssh master", control.exists)
    inode = control.stat().st_ino
    portal.kill()
    assert gate.is_running()
    assert control.exists()
    portal.start()
    assert gate_of(data).pid == gate.pid
    assert control.stat().st_ino == inode


def test_a_gate_that_dies_is_started_again(started):
    data = started.data
    first = gate_of(data)
    first.kill()
    wait_for("another gate", lambda: [p for p in gates(data) if p != first.pid])


def gates(data: Path) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if str(data / "embedded") in (process.info["cmdline"] or [])
    ]


def test_a_stop_names_the_running_notebooks_leaves_nothing_and_is_why_they_ended(started):
    """It is started again by the script, which becomes the portal's own process."""
    project = bootstrap.Project(PROJECT)
    if any(bootstrap.is_due(project, part, "run") for part in bootstrap.PARTS):
        pytest.skip("this folder is not set up by ./run or ./test yet")
    portal, data = started, started.data
    plant_scene(data, SCENE, bands=("coastal", *LANDSAT))
    with portal.api() as api:
        request = {
            "scenes": [SCENE],
            "module": "active-fire",
            "params": {},
            "cluster": "here",
            "resources": {"preset": "small", "walltime_s": 600},
            "title": "Fires near Osaka",
        }
        opened = wait_for("the cluster to be reachable", lambda: accepted(api, request))
        path = f"/api/sessions/{opened['id']}"
        wait_for("the notebook", lambda: api.get(path).json()["state"] == "READY")
    said = portal.stop()
    assert "Fires near Osaka" in said
    assert "SceneBridge has stopped." in said
    assert portal.process.returncode == 0
    portal.leaves_nothing()
    portal.start(script=PROJECT / "run")  # the card says why it ended
    assert psutil.Process(portal.process.pid).cmdline()[1:4] == ["-P", "-m", "lib.server.main"]
    with portal.api() as api:
        wait_for("the end", lambda: api.get(path).json()["state"] == "ENDED")
        assert api.get(path).json()["reason"] == f"It was stopped. {STOPPED_TEXT}"
    assert "SceneBridge has stopped." in portal.stop()
    assert portal.process.returncode == 0


def accepted(api: httpx.Client, request: dict) -> dict | None:
    answer = api.post("/api/sessions", json=request)
    return answer.json() if answer.status_code == 201 else None
