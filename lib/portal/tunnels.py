"""What the portal knows of the outer tunnels, which people open in accounts of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cachetools import TTLCache

from lib.errors import ClusterUnreachable
from lib.model import ClusterId, Fault, Tunnel, TunnelState
from lib.tunnels.gate_address import SocketAddress
from lib.tunnels.outer import records

if TYPE_CHECKING:
    from pathlib import Path

    from lib.config.clusters import ClusterEntry

#: What was read counts for so long, seconds: pages and rules ask many times a second.
REMEMBER_S = 1.0
_MOST_KNOWN = 1000


class OuterTunnels:
    """The tunnels below one folder. Safe to call from any thread."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._known: TTLCache[ClusterId, Tunnel] = TTLCache(_MOST_KNOWN, REMEMBER_S, clock)
        self._lock = threading.Lock()

    def of(self, entry: ClusterEntry) -> Tunnel | None:
        """The tunnel of a cluster, at most a second old; None for one that needs none."""
        if entry.embedded:
            return None
        with self._lock:
            known = self._known.get(entry.id)
        if known is not None:
            return known
        tunnel, _ = records.find(self._folder, entry.id)
        with self._lock:
            self._known[entry.id] = tunnel
        return tunnel

    def reach(self, cluster: ClusterId) -> SocketAddress:
        """Where the gate can be reached at this moment.

        Raises:
            ClusterUnreachable: whose tunnel closed, why, and who can open it again.
        """
        tunnel, socket = records.find(self._folder, cluster)
        with self._lock:  # what is told of it from now on agrees with what is said here
            self._known[cluster] = tunnel
        if socket is None:
            raise ClusterUnreachable(closed(tunnel), fault=Fault.TUNNEL)
        opened = tunnel.opened_at.timestamp() if tunnel.opened_at else 0.0
        return SocketAddress(socket, opening=f"{tunnel.account} {opened:.3f}")


def closed(tunnel: Tunnel) -> str:
    """Why there is no tunnel, and who can open one."""
    if tunnel.state is TunnelState.NONE:
        return (
            f"No tunnel to {tunnel.cluster} has been opened yet. "
            "An administrator of the portal's computer can open one."
        )
    why = f" {tunnel.reason.strip()}" if tunnel.reason.strip() else ""
    who = tunnel.account
    return f"The tunnel that {who} opened is closed.{why} {who} can open it again."
