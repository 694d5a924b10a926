"""A portal host with its accounts, and a cluster that tunnels lead to, for tests as root.

Accounts are some that every Debian has and nobody uses. `admin.py` runs as one of them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lib.model import ClusterId
from lib.tunnels.outer.records import TunnelFiles, TunnelRecord, is_open
from tests.folders import short_folder
from tests.running import wait_for
from tests.sshd import HERE, SSHD, Account, SshAgent, Sshd, new_key

PROJECT = Path(__file__).resolve().parents[1]
ADMIN, OTHER_ADMIN = Account("games"), Account("uucp")
PORTAL, STRANGER = Account("mail"), Account("news")
NEEDS = [
    pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="no OpenSSH"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as several accounts"),
    pytest.mark.skipif(PROJECT.stat().st_uid != 0, reason="the project is not root's"),
]
CLUSTER = ClusterId("nchc")
BANNER = b"SSH-2.0-SceneBridge\r\n"


@contextmanager
def python_for_all() -> Iterator[str]:
    """`find_python` in a folder that all can enter; skips the tests where there is none."""
    with short_folder() as folder:
        folder.chmod(0o755)
        found = find_python(folder)
        if not found:
            pytest.skip("other accounts cannot run the project's Python")
        yield found


def find_python(folder: Path) -> str:
    """A Python with our packages that every account can run; "" where there is none.

    The one that runs the tests may lie in root's home, which others cannot enter.
    """
    if _runs(Path(sys.executable)):
        return sys.executable
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    system = Path("/usr/bin") / version
    packages = folder / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(system)
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (packages / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return str(folder / "bin" / "python") if _runs(folder / "bin" / "python") else ""


def _runs(python: Path) -> bool:
    try:
        script = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import lib.cli.tunnel"
        return ADMIN.run([str(python), "-c", script]).returncode == 0
    except OSError:
        return False


class Gate:
    """Says what a gate says first, then repeats what it hears."""

    def __init__(self, banner: bytes = BANNER, port: int = 0) -> None:
        self._server = socket.create_server((HERE, port))
        self._banner = banner
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                conn, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(conn,), daemon=True).start()

    def _echo(self, conn: socket.socket) -> None:
        with conn:
            conn.sendall(self._banner)
            try:
                while data := conn.recv(1024):
                    conn.sendall(data)
            except OSError:
                return

    def stop(self) -> None:
        """Idempotent."""
        if self._server.fileno() >= 0:
            self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()


class Site:
    """One folder with everything; `login` and `jump` are started by the test."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder
        self.python = python
        self.login = Sshd(folder / "login")
        self.jump = Sshd(folder / "jump")
        self.key = folder / "key"
        self.public = new_key(self.key)
        self.agent = SshAgent(ADMIN, folder / "agent")
        self.gate = Gate()
        self.tunnels = folder / "tunnels"
        self.tunnels.mkdir(mode=0o755)
        self.tunnels.chmod(0o755)
        for account in (ADMIN, OTHER_ADMIN):
            self.admit(account)
        (folder / "site" / "clusters").mkdir(parents=True)
        self.describe()

    def admit(self, account: Account) -> Path:
        own = self.tunnels / account.name
        own.mkdir(exist_ok=True)
        os.chown(own, account.uid, PORTAL.gid)
        own.chmod(0o2750)
        return own

    @property
    def file(self) -> Path:
        return self.folder / "site" / "clusters" / "nchc.toml"

    @property
    def place(self) -> TunnelFiles:
        return TunnelFiles(self.tunnels / ADMIN.name, CLUSTER)

    def record(self) -> TunnelRecord:
        record = self.place.read()
        assert record is not None
        return record

    def describe(self, *, jump: bool = False, port: int | None = None, host_key: str = "") -> None:
        """Write the cluster's file; `port` and `host_key` are another login node's."""
        text = f"""
            id = "{CLUSTER}"
            title = "Taiwania 2"
            groups = ["forest"]
            [login]
            host = "{HERE}"
            port = {port or self.login.port}
            user = "{self.login.user}"
            host_keys = ["{host_key or self.login.host_key}"]
            [gate]
            port = {self.gate.port}
        """
        if jump:
            text += f"""
            [jump]
            host = "{HERE}"
            port = {self.jump.port}
            host_keys = ["{self.jump.host_key}"]
            """
        self.file.write_text(text)

    def environment(self, *, agent: bool = True) -> dict[str, str]:
        """What the administrator's shell has."""
        env = {
            "SCENEBRIDGE_SITE": str(self.folder / "site"),
            "SCENEBRIDGE_TUNNELS": str(self.tunnels),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return {**env, "SSH_AUTH_SOCK": str(self.agent.socket)} if agent else env

    def admin(
        self, *words: str, account: Account = ADMIN, agent: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """`admin.py tunnel WORDS` without a terminal."""
        return account.run(self.command(*words), timeout=timeout, **self.environment(agent=agent))

    def command(self, *words: str) -> list[str]:
        """What admin.py does once it has found its Python."""
        script = (
            f"import sys; sys.path.insert(0, {str(PROJECT)!r}); from lib.cli import run;"
            "sys.exit(run(sys.argv[1:]))"
        )
        return [self.python, "-c", script, "tunnel", *words]

    def up(self, *words: str, **how: Any) -> subprocess.CompletedProcess[str]:
        return self.admin("up", CLUSTER, "--group", "forest", *words, **how)

    def status(self, account: Account = ADMIN) -> dict[str, Any]:
        done = self.admin("status", CLUSTER, "--json", account=account)
        assert done.returncode == 0, done.stderr
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    def close(self) -> None:
        """End all that was started, and insist that nothing is left."""
        for own in self.tunnels.glob("*"):
            files = TunnelFiles(own, CLUSTER)
            record = files.read()
            if record is not None and is_open(files, record):
                os.kill(record.pid, signal.SIGTERM)
        self.login.stop()
        self.jump.stop()
        self.gate.stop()
        self.agent.stop()


def through(path: Path, account: Account) -> str:
    """What that account gets through the socket: the banner and an echo, or an error."""
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.settimeout(300);"
        "s.connect(sys.argv[1]); f = s.makefile('rwb');"
        "print(f.readline().decode().strip()); f.write(b'hello\\n'); f.flush();"
        "print(f.readline().decode().strip())"
    )
    done = account.run(["/usr/bin/python3", "-c", script, str(path)])
    return done.stdout + done.stderr.strip().split("\n")[-1]


def eventually(condition: Callable[[], object]) -> None:
    wait_for("what was waited for", condition, every_s=0.05)
