"""How stock `ssh` is called as the administrator, for tunnels and for setting up gates.

Everything is in a configuration file of our own, because `ssh` hands `-F FILE` on to the
`ssh` that it starts for a jump host, and `-o` options it does not. The file knows two hosts,
`LOGIN` and, where there is one, `JUMP`. Keys come from the agent alone: what lies on the
portal host's disk is never read. Passwords are typed to `ssh` itself.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from lib.config.clusters import ACCOUNT_PATTERN, HOST_PATTERN, KEY_PATTERN
from lib.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

    from lib.config.clusters import ClusterEntry, GatePlace, SshHost

LOGIN, JUMP = "login", "jump"
CONNECT_TIMEOUT_S = 20
#: For signing in, with a password and whatever else is asked for.
SIGN_IN_TIMEOUT_S = 300
#: A silent connection is given up after about ALIVE_INTERVAL_S * (ALIVE_COUNT + 1).
ALIVE_INTERVAL_S = 15
ALIVE_COUNT = 3

_PATH = re.compile(r"/[A-Za-z0-9._/+@=,-]*")
_COMMON = f"""\
Host *
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  UpdateHostKeys no
  VerifyHostKeyDNS no
  CheckHostIP no
  CanonicalizeHostname no
  IdentityFile none
  CertificateFile none
  PKCS11Provider none
  AddKeysToAgent no
  ForwardAgent no
  ForwardX11 no
  Tunnel no
  PermitLocalCommand no
  ControlMaster no
  ControlPath none
  ControlPersist no
  EscapeChar none
  RequestTTY no
  LogLevel INFO
  Compression no
  Ciphers ^aes128-gcm@openssh.com,aes256-gcm@openssh.com
  PreferredAuthentications publickey,keyboard-interactive,password
  ConnectTimeout {CONNECT_TIMEOUT_S}
  ConnectionAttempts 1
  TCPKeepAlive yes
  ServerAliveInterval {ALIVE_INTERVAL_S}
  ServerAliveCountMax {ALIVE_COUNT}
"""


def login_of(entry: ClusterEntry) -> tuple[SshHost, GatePlace]:
    """Where a cluster's gate is.

    Raises:
        InvalidInput: the cluster is this computer.
    """
    if entry.login is None or entry.gate is None:
        raise InvalidInput(
            f"Cluster {entry.id} is this computer: it needs neither tunnel nor gate."
        )
    return entry.login, entry.gate


def account_on(entry: ClusterEntry, user: str = "") -> str:
    """The cluster account to sign in as: the given one, or that of the cluster file.

    Raises:
        InvalidInput: there is none, or it is no account's name.
    """
    login, _ = login_of(entry)
    account = user or login.user
    if not account:
        raise InvalidInput(
            f"Which account on cluster {entry.id}? Give it with --user, or as user in [login] "
            f"of {entry.file}."
        )
    if ACCOUNT_PATTERN.fullmatch(account) is None:
        raise InvalidInput(f"{account!r:.60} is not the name of an account.")
    return account


def config_text(
    entry: ClusterEntry,
    *,
    user: str = "",
    known_hosts: Path,
    key: Path | None = None,
    prompts: bool = True,
) -> str:
    """The file for `ssh -F`.

    Args:
        user: the account on the login node, and on a jump host whose file names none.
        known_hosts: where `known_hosts_text` was written.
        key: a public key; the agent's key to it is the only one the login node is offered.
        prompts: whether passwords may be asked for; needs a terminal.
    """
    login, _ = login_of(entry)
    account = account_on(entry, user)
    blocks = [_block(entry, LOGIN, login, account, known_hosts)]
    if key is not None:
        blocks[0] += f"  IdentityFile {plain(key)}\n  IdentitiesOnly yes\n"
    if entry.jump is not None:
        blocks[0] += f"  ProxyJump {JUMP}\n"
        if prompts:  # OpenSSH counts what somebody types at the jump host in (measured: 9.2)
            blocks[0] += f"  ConnectTimeout {SIGN_IN_TIMEOUT_S}\n"
        blocks.append(_block(entry, JUMP, entry.jump, entry.jump.user or account, known_hosts))
    return "".join([*blocks, _COMMON, "" if prompts else "  BatchMode yes\n"])


def known_hosts_text(entry: ClusterEntry) -> str:
    """The pinned host keys, under the names that the configuration uses."""
    login, _ = login_of(entry)
    hosts = [(LOGIN, login)] + ([(JUMP, entry.jump)] if entry.jump else [])
    keys = [(name, key) for name, host in hosts for key in host.host_keys]
    if any(KEY_PATTERN.fullmatch(key) is None for _, key in keys):
        raise InvalidInput(f"{entry.file}: host_keys holds what is no OpenSSH public key.")
    return "".join(f"{alias(entry, name)} {key}\n" for name, key in keys)


def write_config(
    entry: ClusterEntry, folder: Path, *, user: str = "", key: str = "", prompts: bool = True
) -> Path:
    """Write all files into a private folder; the configuration's path.

    Args:
        key: a public key as text; see `config_text`.
    """
    known_hosts, config, public = folder / "known_hosts", folder / "config", folder / "key.pub"
    text = config_text(
        entry,
        user=user,
        known_hosts=known_hosts,
        key=public if key else None,
        prompts=prompts,
    )
    files = [(known_hosts, known_hosts_text(entry)), (config, text)]
    for file, text in [*files, (public, f"{key}\n")] if key else files:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as out:
            out.write(text)
    return config


def command(config: Path, remote: str, *options: str, host: str = LOGIN) -> list[str]:
    """Run `remote` (a command line for the account's shell) on the login node.

    Its stdin, stdout, stderr and exit code are those of the process; 255 is ssh's own.
    `options` are of the form `BatchMode=yes`; they do not reach the jump host's ssh.
    """
    return [*connection(config, *options), "-T", "--", host, remote]


def connection(config: Path, *options: str) -> list[str]:
    """The beginning of every call; the caller adds its flags, `--` and the host."""
    return ["ssh", "-F", str(plain(config)), *(word for o in options for word in ("-o", o))]


def environment(*, agent: bool = True) -> dict[str, str]:
    """All that ssh needs of ours; messages in English, prompts on the terminal."""
    kept = ("PATH", "HOME", "TERM", *(("SSH_AUTH_SOCK",) if agent else ()))
    return {
        "PATH": os.defpath,
        **{name: os.environ[name] for name in kept if os.environ.get(name)},
        "LC_ALL": "C",
        "SHELL": "/bin/sh",  # runs the ssh of a jump host; a login shell could refuse to
        "SSH_ASKPASS_REQUIRE": "never",
    }


def alias(entry: ClusterEntry, name: str) -> str:
    """What ssh calls the host `LOGIN` or `JUMP` of a cluster when it speaks of its key."""
    return f"scenebridge-{entry.id}-{name}"


def _block(entry: ClusterEntry, name: str, host: SshHost, account: str, known_hosts: Path) -> str:
    if HOST_PATTERN.fullmatch(host.host) is None or ACCOUNT_PATTERN.fullmatch(account) is None:
        raise InvalidInput(f"{account!r:.60} at {host.host!r:.60} is not an account at a host.")
    return (
        f"Host {name}\n"
        f"  HostName {host.host}\n"
        f"  Port {host.port}\n"
        f"  User {account}\n"
        f"  HostKeyAlias {alias(entry, name)}\n"
        f"  UserKnownHostsFile {plain(known_hosts)}\n"
    )


def plain(path: Path) -> Path:
    """ssh expands `%` and `${`, and writes `-F FILE` unquoted into a jump host's command."""
    if _PATH.fullmatch(str(path)) is None:
        raise InvalidInput(
            f"ssh cannot read files in {str(path)!r}: use an absolute folder of plain letters, "
            "digits and . _ - / only (it is chosen by TMPDIR)."
        )
    return path
