"""Peer credentials of a loopback TCP connection: which account is at its other end (Linux)."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

from lib.jobs.processes import LINUX, tcp_address

_TABLE = Path("/proc/net/tcp")
_SOCK_DIAG, _BY_FAMILY, _REQUEST, _ERROR = 4, 20, 1, 2
_HEAD = struct.Struct("=IHHII")
#: family, protocol, extensions, padding, states; ports, addresses, interface, cookie.
_ASK = struct.Struct("=BBBxI2s2s4s12x4s12xI8s")
#: family, state, timer, retransmits; the same socket; expires, two queues; uid, inode.
_TOLD = struct.Struct("=4x48x12xII")
_ALL_STATES = 0xFFFFFFFF
_WAIT_S = 0.2

#: Whether this kernel has answered such a question before: then "none" means none.
_answers = False


def is_own_account(peer: tuple[str, int], local: tuple[str, int]) -> bool:
    """Whether an accepted IPv4 connection comes from a process of this account.

    Every account of a login node can connect to a loopback port; only ours (the sshd that
    carries the tunnel runs as ours) has business here. Where the system does not tell,
    True: the key decides then.
    """
    if not LINUX:
        return True
    owner = _asked(peer, local)
    if owner is None:
        return _read(peer, local)
    return owner == os.getuid()


def _asked(peer: tuple[str, int], local: tuple[str, int]) -> int | None:
    """Ask the kernel for this one connection: the uid, -1 for none; None if it cannot tell.

    Its table, in which one would have to look otherwise, is long exactly while somebody
    floods the port: 200 connections a second made verbs wait for 13 s.
    """
    global _answers
    request = _ASK.pack(
        socket.AF_INET, socket.IPPROTO_TCP, 0, _ALL_STATES,
        *(peer[1].to_bytes(2, "big"), local[1].to_bytes(2, "big")),
        *(socket.inet_aton(peer[0]), socket.inet_aton(local[0])), 0, b"\xff" * 8,
    )  # fmt: skip
    head = _HEAD.pack(_HEAD.size + len(request), _BY_FAMILY, _REQUEST, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as line:
            line.settimeout(_WAIT_S)
            line.send(head + request)
            answer = line.recv(4096)
    except OSError:
        return None
    _, kind, *_ = _HEAD.unpack_from(answer)
    if kind == _ERROR:
        # A kernel without this part says the same as one without such a connection.
        (code,) = struct.unpack_from("=i", answer, _HEAD.size)
        return -1 if code == -errno.ENOENT and _answers else None
    _answers = True
    uid, inode = _TOLD.unpack_from(answer, _HEAD.size)
    return int(uid) if inode else -1  # the end of a closed one belongs to nobody


def _read(peer: tuple[str, int], local: tuple[str, int]) -> bool:
    """Look in the table of all connections."""
    theirs, ours = tcp_address(*peer), tcp_address(*local)
    try:
        lines = _TABLE.read_text("ascii").splitlines()[1:]
    except OSError:
        return True
    for line in lines:
        fields = line.split()
        if fields[1] == theirs and fields[2] == ours:
            return int(fields[7]) == os.getuid()
    return False
