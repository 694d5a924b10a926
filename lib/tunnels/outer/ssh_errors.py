"""What ssh says when an administrator signs in, in sentences that say who can mend it."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING

from lib.errors import ClusterUnreachable, Refused, SceneBridgeError
from lib.tunnels.outer.admin_ssh import JUMP, LOGIN, alias

if TYPE_CHECKING:
    from lib.config.clusters import ClusterEntry


class SshFault(Enum):
    """Why ssh did not sign in."""

    HOST_KEY = auto()
    AGENT_REFUSED = auto()
    TOO_MANY_KEYS = auto()
    NOT_ACCEPTED = auto()
    SOCKET = auto()
    FORWARD_REFUSED = auto()
    JUMP_REFUSED = auto()
    NOTHING_IN_COMMON = auto()
    UNKNOWN_NAME = auto()
    LOST = auto()
    NO_ANSWER = auto()
    NO_SERVER = auto()
    CLOSED = auto()
    OLD_SSH = auto()
    OTHER = auto()


class Loss(Enum):
    """Why a connection that was open ended."""

    NO_ANSWER = auto()
    CLOSED = auto()
    SSH_ENDED = auto()
    OTHER = auto()


#: Patterns of OpenSSH 8.4 to 9.9 (`LC_ALL=C`), first match wins: whether it is a refusal
#: (asking again does not help), and the sentence. {host} is the host that it is about.
_CAUSES: tuple[tuple[SshFault, re.Pattern[str], bool, str], ...] = (
    (
        SshFault.HOST_KEY,
        re.compile(r"Host key verification failed|IDENTIFICATION HAS CHANGED|host key is known"),
        True,
        "The host key of {host} is not one that is pinned in {file}, so nothing was sent to "
        "it. Somebody may be posing as it, or its operators changed the key: ask them, and only "
        "if they confirm the new key write it into host_keys.",
    ),
    (
        SshFault.AGENT_REFUSED,
        re.compile(r"agent refused operation"),
        True,
        "Your agent refused to sign for {host}. A key that was added with `ssh-add -h` can be "
        "used on the named way only: add it with -h 'PORTAL>HOST' for each host (the jump host "
        "too); a key that was added with -c waits for your yes.",
    ),
    (
        SshFault.TOO_MANY_KEYS,
        re.compile(r"Too many authentication failures"),
        True,
        "{host} gave up after too many keys. Leave in your agent only the key that belongs "
        "there (`ssh-add -D`, then `ssh-add KEY`).",
    ),
    (
        SshFault.NOT_ACCEPTED,
        re.compile(r"Permission denied"),
        True,
        "{host} accepted none of your keys and passwords for this account. The account's "
        "authorized_keys must have the public key (`ssh-add -L` shows what your agent would "
        "use), and a key that was added with `ssh-add -h` must be allowed for this way.",
    ),
    (
        SshFault.SOCKET,
        re.compile(r"remote port forwarding failed|cannot listen to|Could not request local"),
        True,
        "The tunnel's socket could not be made: {last}",
    ),
    (
        SshFault.FORWARD_REFUSED,
        re.compile(r"administratively prohibited"),
        True,
        "{host} does not let this key forward to the port of the gate. Its sshd must allow "
        "AllowTcpForwarding, and a sealed key must name the port in permitopen.",
    ),
    (
        SshFault.NOTHING_IN_COMMON,
        re.compile(r"no matching (host key|cipher|key exchange|mac)", re.IGNORECASE),
        True,
        "{host} and the ssh of this host have no cipher or key type in common: {last}",
    ),
    (
        SshFault.UNKNOWN_NAME,
        re.compile(r"Could not resolve"),
        False,
        "The name of {host} is not known to the network. Look at it in {file}.",
    ),
    (
        SshFault.LOST,
        re.compile(r"Timeout, server|Broken pipe|Connection reset"),
        False,
        "The connection to {host} was lost. Open the tunnel again.",
    ),
    (
        SshFault.NO_ANSWER,
        re.compile(r"timed out|No route to host|Network is unreachable"),
        False,
        "{host} does not answer. It may be down, or a firewall keeps this host from it.",
    ),
    (
        SshFault.NO_SERVER,
        re.compile(r"Connection refused"),
        False,
        "No ssh server runs at {host}. Look at its port in {file}, or ask its operators.",
    ),
    (
        SshFault.CLOSED,
        re.compile(r"Connection (closed|to .* closed)|banner|kex_exchange_identification"),
        False,
        "{host} closed the connection. It may be shutting down, or admit nobody at the moment.",
    ),
    (
        SshFault.OLD_SSH,
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


def fault_of(stderr: str) -> SshFault:
    """What ssh's words mean; the first pattern that matches counts."""
    if _JUMP_REFUSES.search(stderr):
        return SshFault.JUMP_REFUSED
    return next((fault for fault, words, _, _ in _CAUSES if words.search(stderr)), SshFault.OTHER)


def reason(stderr: str, entry: ClusterEntry) -> SceneBridgeError:
    """The error for what ssh wrote: Refused, or ClusterUnreachable where it may pass."""
    said = last_line(stderr)
    host = _host_name(stderr, entry)
    found = fault_of(stderr)
    if found is SshFault.JUMP_REFUSED:
        return Refused(
            f"The jump host of cluster {entry.id} does not let you go on to its login node. "
            "Ask its operators, or look at [login] and [jump] in the cluster's file."
        )
    for fault, _, refused, sentence in _CAUSES:
        if fault is found:
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


def host_of(stderr: str, entry: ClusterEntry) -> str:
    """Which of the two hosts it is about: `LOGIN` or `JUMP`."""
    if entry.jump is None:
        return LOGIN
    if alias(entry, JUMP) in stderr:
        return JUMP
    if alias(entry, LOGIN) not in stderr and "UNKNOWN port" in stderr:
        # The jump host's ssh ended first; it says so itself where it got through to there.
        return LOGIN if "stdio forwarding failed" in stderr else JUMP
    return LOGIN


def _host_name(stderr: str, entry: ClusterEntry) -> str:
    """That host as people know it."""
    jump = host_of(stderr, entry) == JUMP
    place = entry.jump if jump else entry.login
    kind = "jump host" if jump else "login node"
    return f"the {kind} of cluster {entry.id}" + (
        f" ({place.host}, port {place.port})" if place else ""
    )


def is_noise(line: str) -> bool:
    """Whether a line of ssh tells people nothing."""
    return _NOISE.match(line) is not None


def loss_of(stderr: str) -> Loss:
    """Why an open connection ended, from ssh's last lines.

    Behind a jump host two ssh speak, and the one that gave up need not be the last to.
    """
    last = "\n".join(_telling(stderr)[-3:])
    if "Timeout, server" in last or "timed out" in last:
        return Loss.NO_ANSWER
    if any(words in last for words in _CLOSED):
        return Loss.CLOSED
    return Loss.OTHER if last else Loss.SSH_ENDED


def lost(stderr: str) -> str:
    """`loss_of` as a sentence."""
    match loss_of(stderr):
        case Loss.NO_ANSWER:
            return (
                "The login node, or what lies between, did not answer any more, so the connection "
                "was given up."
            )
        case Loss.CLOSED:
            return "The login node, or what lies between, closed the connection."
        case Loss.SSH_ENDED:
            return "Its ssh ended without saying why; somebody on this host may have ended it."
        case Loss.OTHER:
            return f"Its ssh ended: {last_line(stderr)}"
