"""The OpenSSH command lines of one inner connection, as argv lists. No I/O.

Every call stands on its own: no configuration file is read, no agent is asked, and only
the pinned host key is known. Calls that use the master can never open a connection of
their own: where the control socket is gone, stock ``ssh -S`` quietly connects directly,
so they carry a ``ProxyCommand`` that fails.

Options as understood by OpenSSH 8.4 and newer; measured with 9.2.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lib.errors import InvalidInput
from lib.model import ClusterId, SessionId
from lib.protocol import ssh_algorithms
from lib.protocol.messages import COMMAND, ID_PATTERN, NAME_PATTERN, Verb
from lib.tunnels import fdpass
from lib.tunnels.gate_address import GateAddress, SocketAddress, TcpAddress

USER = "portal"
CONNECT_TIMEOUT_S = 10
#: The master gives a silent gate up after about ALIVE_INTERVAL_S * (ALIVE_COUNT + 1).
ALIVE_INTERVAL_S = 5
ALIVE_COUNT = 3
#: The port of every symbolic destination; the gate resolves the name alone.
FORWARD_PORT = 1

#: Prints the key exchanges that this computer's ssh knows: it refuses a list with others.
KNOWN_KEY_EXCHANGES = ("ssh", "-Q", "kex")
_HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:-]{0,252}")
_RUNTIME = re.compile(r"/[A-Za-z0-9._/+@=,-]*")
_HOST_KEY = re.compile(r"[a-z0-9@.-]{4,64} [A-Za-z0-9+/]{20,4096}={0,3}")
#: sockaddr_un holds 108 bytes on Linux and 104 elsewhere, the closing NUL included.
_MAX_SOCKET_PATH = 103
#: ssh makes the control socket under a longer temporary name, then links it.
_CONTROL_SUFFIX = 17


@dataclass(frozen=True, slots=True)
class ConnectionFiles:
    """The files of one cluster's inner connection below the private runtime folder."""

    cluster: ClusterId
    runtime: Path

    def __post_init__(self) -> None:
        if not NAME_PATTERN.fullmatch(self.cluster):
            raise InvalidInput(f"“{self.cluster:.60}” is not a valid cluster name.")
        if not _RUNTIME.fullmatch(str(self.runtime)):
            raise InvalidInput(
                f"The runtime folder {self.runtime} must be an absolute path of plain letters, "
                "digits and . _ - / only, because ssh reads other characters in its own way."
            )
        longest = max(
            len(str(self.control)) + _CONTROL_SUFFIX,
            len(str(self.forward(SessionId("0" * 32)))),
        )
        if longest > _MAX_SOCKET_PATH:
            raise InvalidInput(
                f"The runtime folder {self.runtime} is too long for sockets; choose a shorter one."
            )

    @property
    def control(self) -> Path:
        """The ControlMaster's socket."""
        return self.runtime / f"{self.cluster}.ctl"

    @property
    def known_hosts(self) -> Path:
        return self.runtime / f"{self.cluster}.known"

    @property
    def log(self) -> Path:
        """What the master said last; read to explain why it did not start."""
        return self.runtime / f"{self.cluster}.log"

    @property
    def record(self) -> Path:
        """The master's process id and its forwards, for a portal that starts again."""
        return self.runtime / f"{self.cluster}.json"

    @property
    def forwards(self) -> Path:
        return self.runtime / "f"

    def forward(self, session: SessionId) -> Path:
        """The UNIX socket that leads to that session's notebook."""
        return self.forwards / f"{session.replace('-', '')}.sock"


def known_hosts_line(cluster: ClusterId, host_key: str) -> str:
    """The one line that pins the gate's key.

    Args:
        host_key: as in a `.pub` file: type, base64, and perhaps a comment.
    """
    key = " ".join(host_key.split()[:2])
    if not _HOST_KEY.fullmatch(key) or "\n" in host_key.strip():
        raise InvalidInput(
            f"The pinned host key of cluster {cluster} is not an OpenSSH public key."
        )
    return f"{_alias(cluster)} {key}\n"


def destination(session: SessionId) -> str:
    """The symbolic ``host:port`` that the gate resolves to that session's endpoint."""
    if not ID_PATTERN.fullmatch(session):
        raise InvalidInput(f"“{session:.60}” is not a session.")
    return f"s-{session}:{FORWARD_PORT}"


def master(
    files: ConnectionFiles, address: GateAddress, key: Path, known: Collection[str] = ()
) -> list[str]:
    """Start the ControlMaster in the foreground; it ends with its connection.

    Args:
        known: what `KNOWN_KEY_EXCHANGES` printed; hybrids are asked for if they are in it.
    """
    # Of a connection that the other end closes at once OpenSSH 9.2 tells only at INFO.
    argv = [
        "ssh",
        *_alone(log_level="INFO"),
        "-M",
        "-N",
        "-T",
        "-S",
        str(files.control),
        "-l",
        USER,
    ]
    argv += ["-i", _path(key)]
    argv += _options(
        f"UserKnownHostsFile={_quoted(files.known_hosts)}",
        "GlobalKnownHostsFile=/dev/null",
        f"HostKeyAlias={_alias(files.cluster)}",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        "CheckHostIP=no",
        "VerifyHostKeyDNS=no",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "PreferredAuthentications=publickey",
        f"KexAlgorithms={','.join(_key_exchanges(known))}",
        f"Ciphers={','.join(ssh_algorithms.CIPHERS)}",
        f"MACs={','.join(ssh_algorithms.MACS)}",
        f"HostKeyAlgorithms={','.join(ssh_algorithms.KEY_TYPES)}",
        "Compression=no",
        f"ConnectTimeout={CONNECT_TIMEOUT_S}",
        "ConnectionAttempts=1",
        f"ServerAliveInterval={ALIVE_INTERVAL_S}",
        f"ServerAliveCountMax={ALIVE_COUNT}",
        "ControlPersist=no",
        # Both are read from the master; on the `-O forward` client they do nothing.
        "StreamLocalBindMask=0177",
        "StreamLocalBindUnlink=yes",
        "ExitOnForwardFailure=yes",
    )
    match address:
        case TcpAddress(host, port):
            if not _HOST.fullmatch(host) or not 0 < port < 65536:
                raise InvalidInput(f"“{host:.60}:{port}” is not an address of a gate.")
            return [*argv, "-p", str(port), "--", host]
        case SocketAddress(path):
            proxy = [sys.executable, "-I", "-S", str(Path(fdpass.__file__)), str(path)]
            argv += _options("ProxyUseFdpass=yes", f"ProxyCommand={_shell(proxy)}")
            return [*argv, "--", _alias(files.cluster)]


def control(files: ConnectionFiles, operation: str, *extra: str) -> list[str]:
    """``-O check``, ``exit``, ``forward`` or ``cancel`` through the control socket."""
    return ["ssh", *_through(files), "-O", operation, *extra, "--", _alias(files.cluster)]


def forward(files: ConnectionFiles, operation: str, session: SessionId) -> list[str]:
    """Add (``forward``) or take away (``cancel``) the forward of a session."""
    spec = f"{files.forward(session)}:{destination(session)}"
    return control(files, operation, "-L", spec)


def verb(files: ConnectionFiles, name: Verb) -> list[str]:
    """Run one verb of the gate; request on stdin, reply on stdout."""
    return ["ssh", *_through(files), "-T", "--", _alias(files.cluster), f"{COMMAND} {name}"]


def _key_exchanges(known: Collection[str]) -> list[str]:
    return [
        name
        for name in ssh_algorithms.KEY_EXCHANGES
        if name in known or name not in ssh_algorithms.HYBRIDS
    ]


def _alias(cluster: ClusterId) -> str:
    return f"scenebridge-{cluster}"


def _alone(*, log_level: str = "ERROR") -> list[str]:
    return [
        "-F",
        "/dev/null",
        *_options(
            "BatchMode=yes",
            f"LogLevel={log_level}",
            "EscapeChar=none",
            "ForwardAgent=no",
            "ForwardX11=no",
            "PermitLocalCommand=no",
        ),
    ]


def _through(files: ConnectionFiles) -> list[str]:
    return [
        *_alone(),
        "-S",
        str(files.control),
        *_options("ControlMaster=no", "ProxyCommand=exit 255"),
    ]


def _options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("-o", setting)]


def _path(path: Path) -> str:
    """A path where ssh expands ``%`` tokens and ``${NAME}`` (the latter has no escape)."""
    text = str(path)
    if "${" in text or '"' in text or not text.isprintable():
        raise InvalidInput(
            f"The folder of {text!r} has characters that ssh cannot read; rename it."
        )
    return text.replace("%", "%%")


def _quoted(path: Path) -> str:
    return f'"{_path(path)}"'


def _shell(argv: list[str]) -> str:
    """The one place where a shell reads a command line of ours: ssh runs it so."""
    line = shlex.join(argv)
    if "\n" in line:
        raise InvalidInput("The path of the tunnel's socket has a line break; rename it.")
    return line.replace("%", "%%")
