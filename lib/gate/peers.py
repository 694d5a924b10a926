"""Which account is at the other end of a loopback connection (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

from lib.jobs.processes import LINUX, tcp_address

_TABLE = Path("/proc/net/tcp")


def is_own_account(peer: tuple[str, int], local: tuple[str, int]) -> bool:
    """Whether an accepted IPv4 connection comes from a process of this account.

    Every account of a login node can connect to a loopback port; only ours (the sshd that
    carries the tunnel runs as ours) has business here. Where the system does not tell,
    True: the key decides then.
    """
    if not LINUX:
        return True
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
