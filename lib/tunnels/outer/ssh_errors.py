"""What ssh says when an administrator signs in, in sentences that say who can mend it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lib.errors import ClusterUnreachable, Refused, SceneBridgeError
from lib.tunnels.outer.admin_ssh import JUMP, LOGIN, alias

if TYPE_CHECKING:
    from lib.config.clusters import ClusterEntry

#: Patterns of OpenSSH 8.4 to 9.9 (`LC_ALL=C`), first match wins: whether it is a refusal
#: (asking again does not help), and the sentence. {host} is the host that it is about.
_CAUSES: tuple[tuple[re.Pattern[str], bool, str], ...] = (
    (
        re.compile(r"Host key verification failed|IDENTIFICATION HAS CHANGED|host key is known"),
        True,
        "The host key of {host} is not one that is pinned in {file}, so nothing was sent to "
        "it. Somebody may be posing as it, or its operators changed the key: ask them, and only "
        "if they confirm the new key write it into host_keys.",
    ),
    (
        re.compile(r"agent refused operation"),
        True,
        "Your agent refused to sign for {host}. A key that was added with `ssh-add -h` can be "
        "used on the named way only: add it with -h 'PORTAL>HOST' for each host (the jump host "
        "too); a key that was added with -c waits for your yes.",
    ),
    (
        re.compile(r"Too many authentication failures"),
        True,
        "{host} gave up after too many keys. Leave in your agent only the key that belongs "
        "there (`ssh-add -D`, then `ssh-add KEY`).",
    ),
    (
        re.compile(r"Permission denied"),
        True,
        "{host} accepted none of your keys and passwords for this account. The account's "
        "authorized_keys must have the public key (`ssh-add -L` shows what your agent would "
        "use), and a key that was added with `ssh-add -h` must be allowed for this way.",
    ),
    (
        re.compile(r"remote port forwarding failed|cannot listen to|Could not request local"),
        True,
        "The tunnel's socket could not be made: {last}",
    ),
    (
        re.compile(r"administratively prohibited"),
        True,
        "{host} does not let this key forward to the port of the gate. Its sshd must allow "
        "AllowTcpForwarding, and a sealed key must name the port in permitopen.",
    ),
    (
        re.compile(r"no matching (host key|cipher|key exchange|mac)", re.IGNORECASE),
        True,
        "{host} and the ssh of this host have no cipher or key type in common: {last}",
    ),
    (
        re.compile(r"Could not resolve"),
        False,
        "The name of {host} is not known to the network. Look at it in {file}.",
    ),
    (
        re.compile(r"Timeout, server|Broken pipe|Connection reset"),
        False,
        "The connection to {host} was lost. Open the tunnel again.",
    ),
    (
        re.compile(r"timed out|No route to host|Network is unreachable"),
        False,
        "{host} does not answer. It may be down, or a firewall keeps this host from it.",
    ),
    (
        re.compile(r"Connection refused"),
        False,
        "No ssh server runs at {host}. Look at its port in {file}, or ask its operators.",
    ),
    (
        re.compile(r"Connection (closed|to .* closed)|banner|kex_exchange_identification"),
        False,
        "{host} closed the connection. It may be shutting down, or admit nobody at the moment.",
    ),
    (
        re.compile(r"Bad configuration option|Bad SSH2 cipher|terminating, \d+ bad"),
        True,
        "The ssh of this host is too old; OpenSSH 8.4 or newer is needed: {last}",
    ),
)
_NOISE = re.compile(
    r"Transferred: |Bytes per second: |Authenticated to |Killed by signal|@@@|debug\d:"
    # One connection through it found no gate; the tunnel goes on, and may end of something else.
    r"|channel \d+: open failed: connect failed"
)
_CLOSED = ("closed by remote host", "Connection reset", "Broken pipe")
_JUMP_REFUSES = re.compile(r"open failed: administratively prohibited[^\n]*\n+stdio forwarding")


def reason(stderr: str, entry: ClusterEntry) -> SceneBridgeError:
    """The error for what ssh wrote: Refused, or ClusterUnreachable where it may pass."""
    said = last_line(stderr)
    host = _host(stderr, entry)
    if _JUMP_REFUSES.search(stderr):
        return Refused(
            f"The jump host of cluster {entry.id} does not let you go on to its login node. "
            "Ask its operators, or look at [login] and [jump] in the cluster's file."
        )
    for pattern, refused, sentence in _CAUSES:
        if pattern.search(stderr):
            text = sentence.format(host=host, file=entry.file, last=said)
            text = text[0].upper() + text[1:]
            return Refused(text) if refused else ClusterUnreachable(text)
    return ClusterUnreachable(
        f"ssh to {host} ended" + (f": {said}" if said else " without saying why.")
    )


def last_line(stderr: str) -> str:
    """The last line that says something."""
    told = _telling(stderr)
    return told[-1] if told else ""


def _telling(stderr: str) -> list[str]:
    """The lines that say something, fit to be shown."""
    lines = [line.strip() for line in stderr.splitlines()]
    told = [line for line in lines if line and not is_noise(line)]
    return ["".join(c if c.isprintable() else "?" for c in line[:300]) for line in told]


def _host(stderr: str, entry: ClusterEntry) -> str:
    """Which of the two hosts it is about, as people know it."""
    name = LOGIN
    if entry.jump is not None:
        if alias(entry, JUMP) in stderr:
            name = JUMP
        elif alias(entry, LOGIN) not in stderr and "UNKNOWN port" in stderr:
            # The jump host's ssh ended first; it says so itself where it got through to there.
            name = LOGIN if "stdio forwarding failed" in stderr else JUMP
    place = entry.jump if name == JUMP else entry.login
    kind = "jump host" if name == JUMP else "login node"
    return f"the {kind} of cluster {entry.id}" + (
        f" ({place.host}, port {place.port})" if place else ""
    )


def is_noise(line: str) -> bool:
    """Whether a line of ssh tells people nothing."""
    return _NOISE.match(line) is not None


def lost(stderr: str) -> str:
    """Why an open connection ended, from ssh's last lines.

    Behind a jump host two ssh speak, and the one that gave up need not be the last to.
    """
    last = "\n".join(_telling(stderr)[-3:])
    if "Timeout, server" in last or "timed out" in last:
        return (
            "The login node, or what lies between, did not answer any more, so the connection was "
            "given up."
        )
    if any(words in last for words in _CLOSED):
        return "The login node, or what lies between, closed the connection."
    if not last:
        return "Its ssh ended without saying why; somebody on this host may have ended it."
    return f"Its ssh ended: {last_line(stderr)}"
