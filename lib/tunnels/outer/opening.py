"""Opening a tunnel: `admin.py tunnel up`, in the administrator's own account.

What is checked here comes before any connection. The connection itself is the supervisor's,
which stays when this process has ended; the seal test is made here, where the agent is.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib.config.settings import PROJECT
from lib.errors import Conflict, InvalidInput, NotFound, Refused, Unavailable
from lib.model import Seal, TunnelState
from lib.protocol.codec import decode, encode
from lib.tunnels.outer import admin_ssh, admission, closing, record_writer, seal
from lib.tunnels.outer.agent import Agent, AgentState, agent_state
from lib.tunnels.outer.records import TunnelFiles, TunnelRecord
from lib.tunnels.outer.ssh_errors import reason
from lib.tunnels.outer.supervisor import (
    SealReport,
    StartReply,
    StartRequest,
    foreground_terminal,
    receive,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lib.config.clusters import ClusterEntry

GATE_BANNER = "SSH-2.0-SceneBridge"
MAX_LIFETIME_S = 31 * 86400.0
#: sockaddr_un holds 108 bytes on Linux, the closing NUL included.
_MAX_SOCKET_PATH = 103
_ANSWER_TIMEOUT_S = admin_ssh.SIGN_IN_TIMEOUT_S + 60
_METHOD = re.compile(r'^Authenticated to .* using "([a-z-]+)"', re.MULTILINE)
_PARTIAL = re.compile(r'^Authenticated using "([a-z-]+)" with partial success', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TunnelRequest:
    """What the administrator asks for.

    Args:
        user: the account on the login node; "" is that of the cluster file.
        group, person: to whom the tunnel belongs; exactly one.
        key: comment or fingerprint of the agent's key to use; "" lets ssh try all.
    """

    user: str
    group: str
    person: str
    lifetime_s: float
    key: str = ""


@dataclass(frozen=True, slots=True)
class OpenedTunnel:
    """An open tunnel, and sentences about what is not as it should be with the gate
    and this host."""

    record: TunnelRecord
    warnings: tuple[str, ...]


def open_tunnel(
    entry: ClusterEntry, request: TunnelRequest, tunnels: Path, say: Callable[[str], None]
) -> OpenedTunnel:
    """Open it and leave it to its supervisor.

    Args:
        say: called with sentences while it goes on.
    Raises:
        SceneBridgeError: one sentence that says why not, and who can mend it.
    """
    login, gate = admin_ssh.login_of(entry)
    user = admin_ssh.account_on(entry, request.user)
    if not 0 < request.lifetime_s <= MAX_LIFETIME_S:
        raise InvalidInput("A tunnel is opened for at most 31 days, and for more than no time.")
    files = TunnelFiles(admission.own_folder(tunnels), entry.id)
    if len(str(admin_ssh.plain(files.socket))) > _MAX_SOCKET_PATH:
        raise InvalidInput(f"{files.socket} is too long for a socket: use a shorter folder.")
    admission.require_safe([*([entry.file] if entry.file else []), *admission.code_files()])
    with _held(files, tunnels) as lock, tempfile.TemporaryDirectory(prefix="sb-") as folder:
        prompts = _may_prompt()
        agent = _agent(prompts, say)
        config = admin_ssh.write_config(
            entry, Path(folder), user=user, key=_chosen(agent, request.key), prompts=prompts
        )
        record = TunnelRecord(
            entry.id, admission.calling_account(), TunnelState.OPEN, Seal.UNKNOWN, "",
            request.group, request.person, f"{user}@{login.host}", gate.port, 0.0, 0.0, 0, 0.0,
        )  # fmt: skip
        argv = [
            *admin_ssh.connection(
                config,
                "LogLevel=VERBOSE",
                "ExitOnForwardFailure=yes",
                "StreamLocalBindMask=0117",
                "StreamLocalBindUnlink=yes",
            ),
            *("-N", "-T", "-L", f"{files.socket}:127.0.0.1:{gate.port}", "--", admin_ssh.LOGIN),
        ]
        plan = StartRequest(
            argv, admin_ssh.environment(), str(files.folder), record, request.lifetime_s, prompts
        )
        say(f"Signing in to {record.login_node} …")
        with _supervisor(lock) as link:
            link.sendall(encode(plan))
            started = _started(link)
            if started.interrupted:
                raise KeyboardInterrupt
            if not started.opened:
                raise reason(started.said, entry)
            found = _seal(started, config, agent, gate.port, say)
            link.sendall(encode(SealReport(found.seal, found.note)))
            receive(link, _ANSWER_TIMEOUT_S)
    kept = files.read()
    if kept is None:
        raise Unavailable(f"The tunnel is open, but its record {files.record} cannot be read.")
    return OpenedTunnel(kept, tuple(_warnings(entry, started)))


@contextmanager
def _held(files: TunnelFiles, tunnels: Path) -> Iterator[int]:
    """Refuses where the cluster has a tunnel; holds its lock otherwise."""
    other = closing.owner_of_open_tunnel(tunnels, files.cluster)
    if other and other != admission.calling_account():
        raise Conflict(
            f"{other} has a tunnel to cluster {files.cluster} open already, and a cluster has "
            f"one. {other} can end it with `admin.py tunnel down {files.cluster}`."
        )
    closing.close_stale_record(files)
    lock = record_writer.lock(files)
    if lock is None:
        raise Conflict(
            f"You have a tunnel to cluster {files.cluster} open already. To open it anew: "
            f"`admin.py tunnel down {files.cluster}` first."
        )
    try:
        yield lock
    finally:
        os.close(lock)


@contextmanager
def _supervisor(lock: int) -> Iterator[socket.socket]:
    """Start it; it holds the lock from now on, and ends with this connection unless told."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.Popen(
            [sys.executable, "-m", "lib.tunnels.outer.supervisor", str(theirs.fileno())],
            cwd=PROJECT,
            env=admin_ssh.environment(agent=False),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), lock),
        ).returncode = 0  # it outlives us; nobody waits for it
        theirs.close()
        yield ours


def _started(link: socket.socket) -> StartReply:
    try:
        return decode(StartReply, receive(link, _ANSWER_TIMEOUT_S))
    except OSError as exc:
        raise Unavailable(
            "The process that was to look after the tunnel ended unexpectedly; try again."
        ) from exc


def _may_prompt() -> bool:
    terminal = foreground_terminal()
    if terminal is None:
        return False
    os.close(terminal)
    return True


def _agent(prompts: bool, say: Callable[[str], None]) -> Agent:
    agent = agent_state()
    if not prompts:
        agent.require()
    elif agent.state is not AgentState.KEYS:
        say(f"{agent.sentence()}\nssh may ask you for a password now.")
    return agent


def _chosen(agent: Agent, wanted: str) -> str:
    """The agent's only key with this comment or fingerprint."""
    if not wanted:
        return ""
    found = [
        key for key in agent.keys if wanted in (seal.fingerprint(key), " ".join(key.split()[2:]))
    ]
    if not found:
        raise NotFound(f"Your agent has no key {wanted!r:.80}; `ssh-add -l` lists what it has.")
    if len(found) > 1:
        raise Refused(f"Your agent has several keys {wanted!r:.80}; give the fingerprint.")
    return found[0]


def _seal(
    started: StartReply, config: Path, agent: Agent, gate_port: int, say: Callable[[str], None]
) -> seal.SealResult:
    ways = [*_PARTIAL.findall(started.said), *_METHOD.findall(started.said)[-1:]]
    if "publickey" not in ways:
        return seal.SealResult(Seal.UNSEALED, seal.TYPED)
    if len(set(ways)) > 1:
        return seal.SealResult(Seal.UNKNOWN, seal.TWO_FACTORS)
    say("It is open. Testing what else its key could do …")
    return seal.try_key(config, agent.keys, gate_port)


def _warnings(entry: ClusterEntry, started: StartReply) -> Iterator[str]:
    if not started.banner:
        yield (f"The gate does not answer: start it with `admin.py gate start {entry.id}`.")
    elif not started.banner.startswith(GATE_BANNER):
        port = entry.gate.port if entry.gate else 0
        yield (
            f"At port {port} of the login node another program answers ({started.banner:.60}): "
            "the gate needs a port of its own. Choose another in the cluster's file, deploy the "
            "gate anew and open the tunnel again."
        )
    if _ends_at_logout():
        yield (
            "This host ends all processes of an account that logs out (KillUserProcesses), so "
            "the tunnel would end too. Run `loginctl enable-linger` once, and open the tunnel "
            "with `systemd-run --user --scope` before the command."
        )


def _ends_at_logout() -> bool:
    """Whether systemd would take this process and its supervisor down at logout."""
    try:
        done = subprocess.run(
            ["loginctl", "show-session", "--property=KillUserProcesses"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
        scope = Path("/proc/self/cgroup").read_text("utf-8")
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "KillUserProcesses=yes" in done.stdout and "/session-" in scope
