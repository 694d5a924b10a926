"""What ssh says, in plain sentences that name who can mend it."""

from __future__ import annotations

import re

from lib.errors import ClusterUnreachable
from lib.model import ClusterId, Fault

#: Patterns of OpenSSH 8.4 to 9.9 (`LC_ALL=C`), first match wins.
_CAUSES: tuple[tuple[re.Pattern[str], Fault, str], ...] = (
    (
        re.compile(r"tunnel socket: Permission denied"),
        Fault.SOCKET,
        "The portal's account may not use the socket of the tunnel to cluster {cluster}. Its "
        "folder must belong to the portal's group (docs/operate.md).",
    ),
    (
        re.compile(r"tunnel socket: "),
        Fault.TUNNEL,
        "The tunnel to cluster {cluster} is not open. Whoever it belongs to can open it again.",
    ),
    (
        re.compile(r"IDENTIFICATION HAS CHANGED|Host key verification failed|host key is known"),
        Fault.HOST_KEY,
        "The host key of cluster {cluster} is not the one that was pinned, so nothing was sent "
        "to it. Ask the cluster's administrator whether the gate was set up again, and pin its "
        "new key only then.",
    ),
    (
        re.compile(r"UNPROTECTED PRIVATE KEY|Load key|no such identity|not accessible"),
        Fault.KEY,
        "The portal's key for cluster {cluster} cannot be read. Its file must be there, belong "
        "to the portal's account and be readable by nobody else.",
    ),
    (
        re.compile(r"Permission denied|Too many authentication failures"),
        Fault.KEY_REFUSED,
        "The gate of cluster {cluster} refused the portal's key. Its administrator can admit "
        "the key again.",
    ),
    (
        re.compile(r"no matching (host key|cipher|key exchange|mac)", re.IGNORECASE),
        Fault.OTHER,
        "The gate of cluster {cluster} and this portal have no cipher or key type in common. "
        "Its administrator should update the gate.",
    ),
    (
        re.compile(r"timed out|Timeout, server|No route to host|Network is unreachable"),
        Fault.OTHER,
        "Cluster {cluster} does not answer. The network or its login node may be down.",
    ),
    (
        re.compile(
            r"Connection refused|Could not resolve|Connection (closed|reset)|Broken pipe"
            r"|banner|kex_exchange_identification"
        ),
        Fault.GATE,
        "The gate of cluster {cluster} is not running. Its administrator can start it again.",
    ),
    (
        re.compile(r"Session open refused|session request failed"),
        Fault.OTHER,
        "The gate of cluster {cluster} is busy and took no further command. Try again.",
    ),
    (
        re.compile(r"Control socket|mux_client|ProxyCommand|Connection to UNKNOWN"),
        Fault.OTHER,
        "The connection to cluster {cluster} was lost.",
    ),
)


def unreachable(cluster: ClusterId, stderr: str) -> ClusterUnreachable:
    """The error to raise when ssh ended with `stderr`."""
    for pattern, fault, sentence in _CAUSES:
        if pattern.search(stderr):
            return ClusterUnreachable(sentence.format(cluster=cluster), fault=fault)
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = f" ssh said: {_printable(lines[-1])}" if lines else ""
    return ClusterUnreachable(f"The connection to cluster {cluster} was lost.{said}")


def not_signed_in(cluster: ClusterId, stderr: str) -> ClusterUnreachable:
    """The error to raise when a master ended with `stderr` before it had signed in.

    OpenSSH 9.2 says nothing at all where the connection ends before its first byte, which is
    what a tunnel does whose far end finds no gate.
    """
    return unreachable(cluster, stderr if stderr.strip() else "Connection closed")


def silent(cluster: ClusterId) -> ClusterUnreachable:
    """The error to raise when the gate did not answer in time."""
    return ClusterUnreachable(
        f"Cluster {cluster} is connected but does not answer. It is asked again by itself."
    )


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:200]
