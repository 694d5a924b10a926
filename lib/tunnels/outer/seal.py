"""Tests what else the key of a tunnel could do on the login node: nothing, if it is sealed.

Further connections with the same key try what a thief of the connection would try. It is
sealed only where each attempt was *refused* by a server that had accepted the key; what
could not be tried is not tested. UNIX sockets of the login node need no attempt of their own:
sshd holds them to `permitopen` too (OpenSSH 9.2, tests/contract/test_tunnel_ssh.py).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import re
import secrets
import select
import subprocess
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lib.model import Seal
from lib.tunnels.outer.admin_ssh import LOGIN, connection, environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_TIMEOUT_S = 40
_OTHER_PORT = 22
_ACCEPTED = re.compile(r"Server accepts key: .*?(SHA256:[A-Za-z0-9+/]{43})")
_AUTHENTICATED = re.compile(r"^Authenticated to .*", re.MULTILINE)
#: What sftp is asked first (SSH_FXP_INIT, version 3), and the type of its answer.
_SFTP_INIT, _SFTP_VERSION = b"\0\0\0\x05\x01\0\0\0\x03", 2

TYPED = (
    "It was opened with a typed password, and who can type one can run commands: against root "
    "on this host it is not sealed. A key of its own, sealed on the cluster, would be."
)
TWO_FACTORS = (
    "The login node asks for a password besides the key, each time, so what the key could do "
    "was not tried."
)


@dataclass(frozen=True, slots=True)
class SealResult:
    """`key` is the public key that was used ("" where that is not known)."""

    seal: Seal
    note: str
    key: str = ""


class _NotTried(Exception):
    """The login node did not accept the key this time."""


def try_key(config: Path, keys: Sequence[str], gate_port: int) -> SealResult:
    """Try what a sealed key must not be able to do.

    Args:
        config: as for the tunnel; nothing is asked for on the terminal.
        keys: public keys of the agent.
    """
    try:
        said, can = _commands(config)
        can += [what for what in _files(config) if what not in can]
        can += _other_ports(config)
    except _NotTried:
        return SealResult(Seal.UNKNOWN, "The login node did not answer all that was tried.")
    match = _ACCEPTED.search(said)
    key = next((k for k in keys if match and fingerprint(k) == match.group(1)), "")
    if not can:
        return SealResult(Seal.SEALED, "", key)
    return SealResult(
        Seal.UNSEALED,
        f"Whoever takes over this connection, as root on this host can, may {' and '.join(can)}. "
        f"To seal its key, let it stand in the account's authorized_keys as: "
        f"{sealed_line(key, gate_port)}",
        key,
    )


def sealed_line(key: str, gate_port: int) -> str:
    """The line of authorized_keys with which a key can do nothing but reach the gate."""
    return (
        f'restrict,port-forwarding,permitopen="127.0.0.1:{gate_port}",'
        f'permitlisten="127.0.0.1:1",command="/bin/false" {key or "KEY"}'
    )


def fingerprint(key: str) -> str:
    """As `ssh-add -l` shows it; "" for what is no key."""
    try:
        blob = base64.b64decode(key.split()[1], validate=True)
    except (IndexError, binascii.Error):
        return ""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _commands(config: Path) -> tuple[str, list[str]]:
    """Run a command, and listen on a port of the login node; also what ssh said."""
    token = f"scenebridge-{secrets.token_hex(8)}"
    # Where sftp is all that an account may do, it answers to this whatever is asked for.
    out, said = _run(config, "-R", "127.0.0.1:0:127.0.0.1:9", "-T", "--", LOGIN, f"echo {token}")
    can = ["run commands"] if token.encode() in out else []
    if _is_sftp(out):
        can.append("read and write files")
    if "Allocated port" in said:
        can.append("listen on its ports")
    return said, can


def _files(config: Path) -> list[str]:
    out, _ = _run(config, "-T", "-s", "--", LOGIN, "sftp")
    return ["read and write files"] if _is_sftp(out) else []


def _other_ports(config: Path) -> list[str]:
    _, said = _run(config, "-W", f"127.0.0.1:{_OTHER_PORT}", "--", LOGIN)
    refused = "administratively prohibited" in said
    return [] if refused else ["reach other ports and hosts from there"]


def _run(config: Path, *words: str) -> tuple[bytes, str]:
    """One more connection: the beginning of its answer, and what ssh said.

    Raises:
        _NotTried: it was not let in, or nothing came in time.
    """
    argv = [*connection(config, "BatchMode=yes", "LogLevel=DEBUG1"), *words]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            argv,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as process,
    ):
        try:
            out = _answer(process)
            process.wait(_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise _NotTried from exc
        finally:
            process.kill()
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace")
    if not _AUTHENTICATED.search(said):
        raise _NotTried
    return out, said


def _answer(process: subprocess.Popen[bytes]) -> bytes:
    """What comes first to a question for sftp; its server says nothing once stdin ends."""
    if process.stdin is None or process.stdout is None:
        raise OSError("a child is always started with its pipes")
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(_SFTP_INIT)
        process.stdin.flush()
    ready, _, _ = select.select([process.stdout], [], [], _TIMEOUT_S)
    out = os.read(process.stdout.fileno(), 4096) if ready else b""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    return out


def _is_sftp(answer: bytes) -> bool:
    return answer[:2] == b"\0\0" and answer[4:5] == bytes([_SFTP_VERSION])
