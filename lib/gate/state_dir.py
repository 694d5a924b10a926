"""The gate's state directory: keys, policy, lock, and `gate.json` of the gate that runs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import Conflict, InvalidInput, NotFound, Refused
from lib.files.atomic import read_json, text_of, write_atomic, write_json
from lib.gate import kill_switch
from lib.gate.policy import Policy, load
from lib.jobs.processes import ProcessId
from lib.model.bounds import Count, Key, Name, Port
from lib.protocol.codec import from_plain
from lib.protocol.messages import NAME_PATTERN
from lib.protocol.ssh_algorithms import KEY_TYPES

if TYPE_CHECKING:
    import asyncssh  # takes 0.2 s to load, and most commands need no key

#: What `flock` says where a file system has no locks (NFS without its daemon, Lustre).
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_ENDING = "ending.json"
#: Until a gate that was stopped is ended by whoever comes next.
_PATIENCE_S = 15.0
_LOOK_EVERY_S = 0.02

_FIRST_POLICY = """\
# What this gate allows. docs/gate.md explains every key; empty lists allow nothing.
format = 1
cluster = "{cluster}"
users = ["*"]
portal_origins = []
data_paths = []
https_hosts = []

[scheduler]
name = "local"

[runtime]
name = "process"
python = "{python}"
code = "{code}"
"""


@dataclass(frozen=True, slots=True)
class RunningGate:
    """The content of `gate.json`. `pid` and `start` together name one process of `node`.

    `code` is the folder name of the version that it runs from.
    """

    pid: Count
    start: Name
    port: Port
    host_key: Key
    cluster: Name
    version: Name
    node: Name = ""
    code: Name = ""

    @property
    def process(self) -> ProcessId:
        """The process, for signals."""
        return ProcessId(self.pid, self.start)


@dataclass(frozen=True, slots=True)
class StateDir:
    """A gate's folder, mode 0700."""

    path: Path

    @property
    def sessions(self) -> Path:
        return self.path / "sessions"

    @property
    def audit(self) -> Path:
        return self.path / "audit.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "gate.log"

    def init(
        self,
        cluster: str,
        portal_key: Path | None,
        policy: Path | None,
        first: dict[str, str],
        *,
        fix_node: bool = False,
    ) -> str:
        """Make or complete the folder. Returns the public host key.

        An existing host key is kept, so that what the portal pinned stays right; a given
        authorized key and a given policy replace what is there.

        Args:
            portal_key: None keeps the one that is there.
            fix_node: from now on this node alone serves the folder, which others share.
        Raises:
            InvalidInput: a name, key or policy that is not acceptable.
            Refused: the folder belongs to somebody else.
            Conflict: the folder belongs to another node.
        """
        if NAME_PATTERN.fullmatch(cluster) is None:
            raise InvalidInput(f"{cluster!r:.60} cannot be the id of a cluster.")
        import asyncssh

        key = _public_key(portal_key or self.path / "authorized_key")
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_mode(mend=True)
        self.check_node()
        self.sessions.mkdir(mode=0o700, exist_ok=True)
        if not (self.path / "host_key").exists():
            made = asyncssh.generate_private_key("ssh-ed25519", comment=f"gate {cluster}")
            write_atomic(self.path / "host_key", made.export_private_key())
        write_atomic(self.path / "authorized_key", key.export_public_key())
        if policy is not None:
            write_atomic(self.path / "policy.toml", policy.read_bytes())
        elif not (self.path / "policy.toml").exists():
            text = _FIRST_POLICY.format(cluster=cluster, **first)
            write_atomic(self.path / "policy.toml", text.encode())
        if self.policy().cluster != cluster:
            raise InvalidInput(f"The policy is for {self.policy().cluster}, not for {cluster}.")
        if fix_node:
            write_atomic(self.path / "node", this_node().encode() + b"\n")
        return public_text(self.host_key())

    def policy(self) -> Policy:
        """The policy, checked. Raises `InvalidInput`."""
        return load(self.path / "policy.toml", self.path)

    def policy_cluster(self) -> str:
        """The cluster that this folder's own policy names; "" where it cannot be read."""
        try:
            return self.policy().cluster
        except InvalidInput:
            return ""

    def host_key(self) -> asyncssh.SSHKey:
        """The gate's own key. Raises `NotFound`, and `InvalidInput` at one of another type."""
        import asyncssh

        return _of_our_type(
            asyncssh.import_private_key(self.host_key_data()), str(self.path / "host_key")
        )

    def host_key_data(self) -> bytes:
        """The file with that key. Raises `NotFound`."""
        self._check_mode(mend=False)
        try:
            return (self.path / "host_key").read_bytes()
        except OSError as exc:
            raise NotFound(f"{self.path} is no gate's folder; make one with init.") from exc

    def portal_key(self) -> asyncssh.SSHKey:
        """The one key that may connect."""
        return _public_key(self.path / "authorized_key")

    @property
    def node(self) -> str:
        """The one node that serves this folder; "" where any may."""
        return text_of(self.path / "node").strip()

    def check_node(self) -> None:
        """Raise `Conflict` on any other node than the one that was fixed.

        Login nodes share their home, and a process of one means nothing on another.
        """
        if self.node not in ("", this_node()):
            raise Conflict(
                f"The gate of {self.path} belongs to the node {self.node}, and this is "
                f"{this_node()}. Name {self.node} as the login host in the cluster file. If that "
                f"node is gone for good: remove the file {self.path / 'node'}, and deploy again."
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held by the gate that serves this folder. Raises `Conflict`.

        A gate that was stopped and whose process is not over yet (it reads a large file, say)
        is waited for, and ended when it takes too long: there are never two.

        Some shared file systems know no locks, or keep them from other nodes. There the
        fixed node and the process named in `gate.json` must do.
        """
        self.check_node()
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._wait_for_lock(fd)
            yield
        finally:
            os.close(fd)

    def _wait_for_lock(self, fd: int) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            free = self._try_lock(fd)
            ending = self.ending()
            if ending is None:
                if free or self._try_lock(fd):  # it may have ended just now
                    return
                raise Conflict(f"A gate serves {self.path} already.")
            if time.monotonic() > deadline:
                ending.signal(signal.SIGKILL)
            time.sleep(_LOOK_EVERY_S)

    def _try_lock(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            return exc.errno in _NO_LOCKS and self.running() is None
        return True

    def running(self) -> RunningGate | None:
        """The gate that serves this folder now, if one does."""
        return self._living("gate.json")

    def ending(self) -> ProcessId | None:
        """The process of a gate that serves no more, and that is not over yet."""
        gate = self._living(_ENDING)
        return gate.process if gate is not None and gate.pid != os.getpid() else None

    def _living(self, name: str) -> RunningGate | None:
        data = read_json(self.path / name)
        if data is None:
            return None
        gate = from_plain(RunningGate, data)
        return gate if gate.process.alive() else None

    def active_stop_file(self, stop_files: tuple[Path, ...]) -> Path | None:
        """The file that switches the gate off, if one is there."""
        return kill_switch.active_stop_file(self.path, stop_files)

    def announce(self, gate: RunningGate) -> None:
        """Say that a gate listens, and that nothing is wrong with it yet."""
        self.say_trouble("")
        write_json(self.path / "gate.json", asdict(gate))

    def withdraw(self) -> None:
        """No gate listens any more; the process that did is about to end."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / "gate.json").replace(self.path / _ENDING)
        self.say_trouble("")

    def say_trouble(self, text: str) -> None:
        """What is wrong with the gate that runs; "" for nothing."""
        file = self.path / "trouble"
        if text:
            write_atomic(file, text.encode())
        else:
            file.unlink(missing_ok=True)

    @property
    def trouble(self) -> str:
        """What the gate that runs said of itself; "" for nothing."""
        return text_of(self.path / "trouble")

    def _check_mode(self, *, mend: bool) -> None:
        try:
            info = self.path.lstat()
        except FileNotFoundError as exc:
            raise NotFound(f"{self.path} does not exist; make it with init.") from exc
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
            raise Refused(f"{self.path} is not a folder of this account.")
        if info.st_mode & 0o077:
            if not mend:
                raise Refused(f"{self.path} is open to others; make its mode 0700.")
            self.path.chmod(0o700)


def this_node() -> str:
    """The name of this computer among those that share a home."""
    return socket.gethostname()


def public_text(key: asyncssh.SSHKey) -> str:
    """`ssh-ed25519 AAAA...` without a comment."""
    return " ".join(key.export_public_key().decode().split()[:2])


def _public_key(path: Path) -> asyncssh.SSHKey:
    import asyncssh

    try:
        key = asyncssh.read_public_key(path)
    except (OSError, asyncssh.KeyImportError) as exc:
        raise InvalidInput(f"{path} cannot be read as an SSH public key.") from exc
    return _of_our_type(key, str(path))


def _of_our_type(key: asyncssh.SSHKey, name: str) -> asyncssh.SSHKey:
    if key.get_algorithm() not in KEY_TYPES:
        raise InvalidInput(
            f"{name} is a key of type {key.get_algorithm()}; portal and gate use "
            f"{' or '.join(KEY_TYPES)} alone. Make another with ssh-keygen -t ed25519."
        )
    return key
