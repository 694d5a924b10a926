"""A login node for tests of setting up gates: a real sshd, an agent, and a bare Python."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from lib import cli
from lib.cli.output import Output
from lib.gate_deploy import bundle
from lib.gate_deploy.bundle import BundleFile
from tests.sshd import HERE, Sshd, free_port, new_key

CODE = Path(__file__).resolve().parent / "fixtures" / "gate_code"
NOISE = "echo; echo 'Welcome to the cluster {'; echo scenebridge; printf 'no newline at the end'"


class LoginNode:
    """Cluster `nchc`, whose account's home is `root/home`; everything below `root`.

    Its Python is a fresh environment without any package.
    """

    def __init__(self, root: Path, *options: str) -> None:
        self.root = root
        self.home = root / "home"
        self.home.mkdir(mode=0o700)
        self.gate = self.home / ".scenebridge" / "nchc"
        self.python = root / "bare" / "bin" / "python"
        make = [sys.executable, "-m", "venv", "--without-pip", "--copies", str(root / "bare")]
        subprocess.run(make, check=True)
        self.port = free_port()
        self.path = os.defpath
        self.before = NOISE
        self.sshd = Sshd(root / "sshd", f"ForceCommand {root / 'login'}", *options)
        self.key = root / "admin"
        self.sshd.authorized(new_key(self.key))
        self.portal_key = new_key(root / "portal")
        self.write_login()
        self.write_cluster()
        self._agent: subprocess.Popen[bytes] | None = None

    def write_login(self) -> None:
        """What the account's shell does: noise first, then the command in an account's place."""
        login = self.root / "login"
        login.write_text(
            f"#!/bin/sh\n{self.before}\nexport HOME={self.home} PATH={self.path}\n"
            f'cd; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        login.chmod(0o755)

    def write_cluster(self, **gate: Any) -> None:
        """The cluster's file."""
        folder = self.root / "site" / "clusters"
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "nchc.toml"
        values = {"port": self.port, "python": str(self.python), **gate}
        table = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
        self.file.write_text(
            f'id = "nchc"\ntitle = "Taiwania"\ngroups = ["everyone"]\n[login]\nhost = "{HERE}"\n'
            f'port = {self.sshd.port}\nuser = "{self.sshd.user}"\n'
            f'host_keys = ["{self.sshd.host_key}"]\n# of the gate\n[gate]\n{table}'
        )

    def start(self) -> dict[str, str]:
        """Start sshd and an agent with the administrator's key; the environment for both."""
        self.sshd.start()
        socket = self.root / "agent"
        self._agent = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL
        )
        while not socket.exists():
            assert self._agent.poll() is None
        environment = {"SSH_AUTH_SOCK": str(socket)}
        subprocess.run(
            ["ssh-add", "-q", str(self.key)], check=True, env={**os.environ, **environment}
        )
        return {**environment, "SCENEBRIDGE_SITE": str(self.root / "site")}

    def stop(self) -> None:
        """End the gate with its jobs, sshd and the agent."""
        (self.gate / "node").unlink(missing_ok=True)
        (self.gate / "STOP").unlink(missing_ok=True)
        stopped = self.there("stop", "--jobs") if (self.gate / "current").exists() else None
        self.sshd.stop()
        if self._agent is not None:
            self._agent.terminate()
            self._agent.wait(300)
        left = processes_of(self.root)
        for process in left:
            process.kill()
        assert not left, (left, stopped)

    def there(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`python -m lib.gate` as deployed."""
        current = self.gate / "current"
        return subprocess.run(
            [str(self.python), "-m", "lib.gate", command, "--home", str(self.gate), *arguments],
            cwd="/", capture_output=True, text=True, timeout=300,
            env={"HOME": str(self.home), "PATH": os.defpath,
                 "PYTHONPATH": f"{current}:{current / 'packages'}"},
        )  # fmt: skip

    def ask(self, verb: str, request: str = "{}\n") -> dict[str, Any]:
        """Ask the gate itself, with the portal's key."""
        key = json.loads((self.gate / "gate.json").read_text())["host_key"]
        known = self.root / "known"
        known.write_text(f"gate {key}\n")
        options = shlex.split(
            f"-F /dev/null -i {self.root / 'portal'} -oHostKeyAlias=gate -oIdentitiesOnly=yes "
            f"-oUserKnownHostsFile={known} -oStrictHostKeyChecking=yes -oBatchMode=yes "
            f"-oIdentityAgent=none -oUpdateHostKeys=no -p {self.port} -l portal"
        )
        done = subprocess.run(
            ["ssh", *options, "--", HERE, f"scenebridge-1 {verb}"],
            input=request, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.stdout, done.stderr
        reply = json.loads(done.stdout.splitlines()[0])
        assert reply["ok"], reply
        result: dict[str, Any] = reply["result"]
        return result

    def running(self) -> dict[str, Any]:
        """What the gate says of itself in its folder."""
        found: dict[str, Any] = json.loads((self.gate / "gate.json").read_text())
        return found

    def versions(self) -> set[str]:
        return {folder.name for folder in (self.gate / "versions").iterdir()}

    def current(self) -> str:
        return (self.gate / "current").readlink().name


def processes_of(folder: Path) -> list[psutil.Process]:
    """Those that have something below the folder in their arguments."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(f"{folder}/" in word for word in process.info["cmdline"] or ())
    ]


def admin(words: Sequence[str]) -> Output:
    """What `admin.py WORDS` answers; errors are raised."""
    options: argparse.Namespace = cli._parser().parse_args([*words])
    answer: Output = options.command(options)
    return answer


def deploy(node: LoginNode, packages: Path, *words: str) -> dict[str, Any]:
    answer = admin([
        "gate", "deploy", "nchc", "--portal-key", node.portal_key, "--scheduler", "local",
        "--runtime", "process", "--wheels", str(packages), *words,
    ])  # fmt: skip
    value: dict[str, Any] = answer.value
    return value


def policy(node: LoginNode) -> str:
    return f"""
format = 1
cluster = "nchc"
users = ["ada"]
data_paths = ["{node.root / "data"}"]
stop_files = ["{node.root / "scenebridge.stop"}"]
[listen]
port = {node.port}
[scheduler]
name = "local"
[runtime]
name = "process"
python = "{sys.executable}"
code = "{CODE}"
[[modules]]
id = "small"
version = "1.0.0"
entry = "small_module"
[[presets]]
name = "small"
title = "Small"
cores = 1
memory_mb = 500
max_walltime_s = 3600
"""


def submit(node: LoginNode, **params: Any) -> str:
    """A run that stays until it is stopped."""
    data = node.root / "data"
    data.mkdir(exist_ok=True)
    (data / "blue.tif").write_bytes(b"II*\0")
    item = {
        "type": "Feature", "stac_version": "1.1.0", "id": "S1", "geometry": None,
        "properties": {"datetime": "2024-01-01T00:00:00Z"}, "links": [],
        "assets": {"blue": {"href": str(data / "blue.tif")}},
    }  # fmt: skip
    request = {
        "id": str(uuid.uuid4()), "kind": "run", "owner": "ada", "module": "small",
        "module_version": "1.0.0", "params": {"objects": 2000, "pause_s": 1, **params},
        "items": [item],
        "preset": "small", "walltime_s": 600,
    }  # fmt: skip
    node.ask("submit", json.dumps(request) + "\n")
    return str(request["id"])


def record(node: LoginNode, job: str) -> dict[str, Any]:
    file = node.gate / "sessions" / job / "control" / "record.json"
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def job_process(node: LoginNode, job: str) -> psutil.Process:
    """The session script of a job that runs."""
    wait(lambda: record(node, job)["state"] == "running")
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "lib.jobs.session" in line and any(job in word for word in line):
            return process
    raise AssertionError("no such process")


def wait(until: Callable[[], bool], timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < deadline, "not reached"
        time.sleep(0.05)


def other_code(patch: pytest.MonkeyPatch, **changes: str) -> None:
    """From now on another version is shipped: file name (`_` for `/`) to what is added."""
    real = bundle.code_pieces
    added = {name.replace("__", "/") + ".py": text for name, text in changes.items()}

    def pieces() -> list[BundleFile]:
        return [
            replace(piece, data=piece.data + added.get(piece.path, "").encode()) for piece in real()
        ]

    patch.setattr(bundle, "code_pieces", pieces)
