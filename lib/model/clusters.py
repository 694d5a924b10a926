"""Clusters, their tunnels, and what they offer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from lib.model.bounds import Count, Name, Seconds, Within
from lib.model.ids import ClusterId, StrEnum, UserId


@dataclass(frozen=True, slots=True)
class Preset:
    """A named set of resources; the name travels, the site's flags stay there."""

    name: Name
    title: Name
    cores: Annotated[int, Within(0, 10**6)]
    memory_mb: Annotated[int, Within(0, 2**34)]
    gpus: Annotated[int, Within(0, 10**5)]
    max_walltime_s: Seconds
    default_walltime_s: Seconds


class Isolation(StrEnum):
    """How far a job is kept from the account that runs it."""

    NONE = "none"
    CONTAINER = "container"


class Reachability(StrEnum):
    """Second axis of every Session and Run: can the cluster be asked?"""

    REACHABLE = "REACHABLE"
    UNKNOWN = "UNKNOWN"


class Fault(StrEnum):
    """Where the trouble lies while a cluster cannot be asked; it decides who can mend it."""

    TUNNEL = "tunnel closed"
    SOCKET = "tunnel's socket not usable"
    GATE = "gate not running"
    HOST_KEY = "host key changed"
    KEY = "portal's key not usable"
    KEY_REFUSED = "portal's key refused"
    SCHEDULER = "scheduler silent"
    NOT_SET_UP = "gate never set up"
    NOT_CONFIGURED = "no file of it, or a broken one"
    OTHER = ""


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """How busy one queue (partition) of a cluster is; a node counts as free when idle.

    `gpus` are those of the queue's nodes that are up, `longest_s` the longest time that a
    job may ask for there (0: no limit known).
    """

    name: Name
    nodes: Count
    nodes_free: Count
    cores: Count
    cores_free: Count
    gpus: Count
    gpus_free: Count
    waiting: Count
    longest_s: Count = 0


class TunnelState(StrEnum):
    """What is known of a cluster's outer tunnel on the portal host."""

    OPEN = "open"
    CLOSED = "closed"
    NONE = "none"


class Seal(StrEnum):
    """Whether the key that opened a tunnel can run anything on the cluster."""

    SEALED = "sealed"
    UNSEALED = "unsealed"
    UNKNOWN = "not tested"


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The outer SSH connection to one cluster, opened by a person.

    Args:
        account: whose account on the portal host opened it.
        group, person: to whom it belongs: a group's id, or a user's id; nobody launches
            through one that has neither.
        login_node: where it leads, as people know it.
        reason: while it is closed, a sentence that says why.
    """

    cluster: ClusterId
    state: TunnelState
    account: str = ""
    group: str = ""
    person: UserId | None = None
    seal: Seal = Seal.UNKNOWN
    login_node: str = ""
    opened_at: datetime | None = None
    until: datetime | None = None
    closed_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A place that runs jobs, with what its gate last said about itself.

    `tunnel` is None for a cluster that needs none (this computer). `account` is the
    cluster account that jobs run under, `node` the login node of its gate. `mend` says
    who can do what while the cluster cannot be asked: (for whom, command or sentence).
    `belongs_to` names whose the tunnel is; `refused` says why whoever asked may not start
    work there, and is empty where they may. `lacks_tunnel`: they could, if somebody opened its
    tunnel. `configured` is false for one that is not offered and shown for the work it still has,
    or since its file is broken.
    """

    id: ClusterId
    title: str
    institute: str
    reachability: Reachability
    unreachable_since: datetime | None = None
    unreachable_reason: str = ""
    scheduler: str = ""
    runtime: str = ""
    isolation: Isolation = Isolation.NONE
    gate_version: str = ""
    modules: tuple[tuple[str, str], ...] = ()
    presets: tuple[Preset, ...] = ()
    max_live: int = 0
    live: int = 0
    tunnel: Tunnel | None = None
    account: str = ""
    node: str = ""
    load: tuple[QueueLoad, ...] = ()
    load_at: datetime | None = None
    troubles: tuple[str, ...] = ()
    mend: tuple[tuple[str, str], ...] = ()
    reachable_since: datetime | None = None
    belongs_to: str = ""
    refused: str = ""
    lacks_tunnel: bool = False
    configured: bool = True

    @property
    def own_computer(self) -> bool:
        """Whether it is the portal's own computer, whose work ends when the portal is stopped."""
        return self.tunnel is None
