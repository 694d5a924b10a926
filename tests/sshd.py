"""Real OpenSSH for tests: servers of the current account on loopback, and agents.

As root a server needs the folder /run/sshd, which is made where it is missing.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = "127.0.0.1"
SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


def new_key(file: Path) -> str:
    """Make a key pair; the public key without its comment."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", file.name, "-f", str(file)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return " ".join(file.with_suffix(".pub").read_text().split()[:2])


def free_port() -> int:
    """Below the ports that the system gives to whoever asks for any."""
    while True:
        port = random.randrange(12000, 32000)
        with contextlib.suppress(OSError), socket.create_server((HERE, port)):
            return port


class Sshd:
    """A server that admits the current account with the keys of `authorized`.

    Args:
        options: further lines of sshd_config; the first that names an option counts.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.port = free_port()
        self.host_key = new_key(folder / "host")
        self.authorized()

    def authorized(self, *lines: str) -> None:
        """Replace what authorized_keys holds."""
        (self._folder / "authorized_keys").write_text("".join(f"{line}\n" for line in lines))

    def start(self, *options: str) -> None:
        """Serve; `options` come before those of the beginning."""
        assert SSHD is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        config = self._folder / "sshd_config"
        lines = [
            *options, *self._options, f"Port {self.port}", f"ListenAddress {HERE}",
            f"HostKey {self._folder / 'host'}", "PidFile none", "UsePAM no", "StrictModes no",
            f"AuthorizedKeysFile {self._folder / 'authorized_keys'}", "PermitRootLogin yes",
            "PasswordAuthentication no", "KbdInteractiveAuthentication no",
            "Subsystem sftp internal-sftp",
        ]  # fmt: skip
        config.write_text("".join(f"{line}\n" for line in lines))
        self._process = subprocess.Popen([SSHD, "-D", "-f", str(config), "-E", str(self.log)])
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection((HERE, self.port), timeout=300).close()
                return
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def change_host_key(self) -> None:
        """From the next start on it shows another key."""
        for name in ("host", "host.pub"):
            (self._folder / name).unlink()
        new_key(self._folder / "host")

    @property
    def log(self) -> Path:
        return self._folder / "log"

    def stop(self, *, connections: bool = True) -> None:
        """Stop listening, and end the connections too."""
        if self._process is None:
            return
        children = _children(self._process.pid) if connections else []
        self._process.terminate()
        self._process.wait(timeout=300)
        self._process = None
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 15)


@dataclass(frozen=True)
class Account:
    """An account of this computer that tests act as; only root can."""

    name: str

    @property
    def uid(self) -> int:
        return pwd.getpwnam(self.name).pw_uid

    @property
    def gid(self) -> int:
        return pwd.getpwnam(self.name).pw_gid

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str = "",
        timeout: float = 300,
        proc: str = "",
        **env: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run it as this account, with nothing in its environment but `env`."""
        return subprocess.run(
            self.command(argv, proc), cwd="/", input=stdin, capture_output=True, text=True,
            timeout=timeout, start_new_session=True, env=self.environment(**env),
        )  # fmt: skip

    def command(self, argv: Sequence[str], proc: str = "") -> list[str]:
        """What root runs so that `argv` runs as this account, under the same pid.

        Args:
            proc: options of a /proc of its own, such as `hidepid=invisible`.
        """
        ids = [f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]
        # setpriv still has root's rights when it starts a program; env has them no more.
        become = ["setpriv", *ids, "--bounding-set=-all", "--", "env", *argv]
        if not proc and Path("/proc").stat().st_mode & 0o005:
            return become
        # Some containers close /proc to all but root, as no ordinary computer does.
        mount = f'mount -t proc -o {proc or "rw"} proc /proc && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", mount, "sh", *become]

    def environment(self, **env: str) -> dict[str, str]:
        return {"PATH": os.defpath, "HOME": "/nonexistent", "LC_ALL": "C", **env}


class SshAgent:
    """A real agent of an account."""

    def __init__(self, account: Account, folder: Path) -> None:
        self.account = account
        folder.mkdir(mode=0o700)
        os.chown(folder, account.uid, account.gid)
        self.socket = folder / "agent"
        self._process = subprocess.Popen(
            account.command(["ssh-agent", "-D", "-a", str(self.socket)]),
            cwd="/",
            stdout=subprocess.PIPE,
            env=account.environment(),
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "it says its address once it listens"

    def add(self, key: Path, *options: str) -> None:
        """The account itself never reads the file."""
        argv = ["ssh-add", "-q", *options, "-"]
        done = self.account.run(argv, stdin=key.read_text(), SSH_AUTH_SOCK=str(self.socket))
        assert done.returncode == 0, done.stderr

    def clear(self) -> None:
        self.account.run(["ssh-add", "-qD"], SSH_AUTH_SOCK=str(self.socket))

    def stop(self) -> None:
        """Idempotent."""
        self._process.terminate()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait(timeout=300)
        self.socket.unlink(missing_ok=True)


def _children(pid: int) -> list[int]:
    return list(_below(pid))


def _below(pid: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return  # it has ended meanwhile
    for child in map(int, children.split()):
        yield child
        yield from _below(child)
