"""Clusters as users see them: the catalog's words, their tunnels, what their gates last said."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from lib.auth.authorization import Act
from lib.model import Cluster, ClusterId, Fault, Isolation, Reachability, TunnelState
from lib.portal.advice import advice
from lib.portal.tunnels import closed
from lib.reconciler.cluster import ClusterHealth
from lib.store.times import maybe_datetime, to_datetime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.auth.authorization import Access
    from lib.config.clusters import ClusterEntry
    from lib.config.offerings import Offerings
    from lib.model import Tunnel, User
    from lib.protocol.messages import GateInfo
    from lib.reconciler.reconciler import Reconciler

_LEFT_OUT_TOLD = 3
_NOT_LINKED = "This portal is not connected to it; the portal's log says why."


class ClusterViews:
    def __init__(self, offerings: Offerings, reconciler: Reconciler, access: Access) -> None:
        self._offerings = offerings
        self._reconciler = reconciler
        self._access = access
        self._begun = time.time()

    def reachability(self, cluster: ClusterId) -> Reachability:
        """UNKNOWN also for a cluster that is no longer in the catalog."""
        try:
            reachable = self._reconciler.health(cluster).reachable
        except KeyError:
            reachable = False
        return Reachability.REACHABLE if reachable else Reachability.UNKNOWN

    def launchable(self, user: User) -> tuple[Cluster, ...]:
        """Those on which the user may start work."""
        return tuple(
            self.view(entry.id)
            for entry in self._offerings.clusters.values()
            if self._access.may(user, Act.LAUNCH, entry)
        )

    def all(self, user: User) -> tuple[Cluster, ...]:
        """Every one, with why the user may not start work there.

        Accounts and login nodes are for those who may, and for administrators.
        """
        now = self._access.require(user, Act.SEARCH)
        found = []
        for entry in self._offerings.clusters.values():
            refused = self._access.why_not(user, Act.LAUNCH, entry)
            view = dataclasses.replace(self.view(entry.id), refused=refused)
            found.append(_without_names(view) if refused and not now.administrator else view)
        return tuple(found)

    def views(self) -> tuple[Cluster, ...]:
        """Every one, as nobody in particular sees them."""
        return tuple(self.view(entry) for entry in self._offerings.clusters)

    def view(self, cluster_id: ClusterId) -> Cluster:
        """Raises NotFound."""
        entry = self._offerings.cluster(cluster_id)
        tunnel = self._access.tunnel(entry)
        health = self._health(entry, tunnel)
        cluster = Cluster(
            id=entry.id,
            title=entry.title,
            institute=entry.institute,
            reachability=self.reachability(cluster_id),
            unreachable_since=None if health.reachable else to_datetime(health.since),
            unreachable_reason=health.reason,
            reachable_since=to_datetime(health.since) if health.reachable else None,
            tunnel=tunnel,
            belongs_to=self._access.belongs_to(tunnel) if tunnel is not None else "",
            mend=() if health.reachable else advice(entry, tunnel, health.fault),
        )
        if health.info is None:
            return cluster
        info = health.info
        return dataclasses.replace(
            cluster,
            scheduler=info.scheduler,
            runtime=info.runtime,
            isolation=Isolation(info.isolation),
            gate_version=info.gate_version,
            modules=tuple((m.id, m.version) for m in info.modules),
            presets=tuple(info.presets),
            max_live=info.max_live,
            live=info.live,
            account=info.account,
            node=info.node,
            load=tuple(info.load),
            load_at=maybe_datetime(info.load_at),
            troubles=(*info.troubles, *_left_out(info)),
        )

    def _health(self, entry: ClusterEntry, tunnel: Tunnel | None) -> ClusterHealth:
        try:
            health = self._reconciler.health(entry.id)
        except KeyError:
            return self._not_kept(entry)
        if not health.reachable and tunnel is not None and tunnel.state is not TunnelState.OPEN:
            # Said at once, in its own words: the reconciler notices only when it connects again.
            return dataclasses.replace(health, reason=closed(tunnel), fault=Fault.TUNNEL)
        return health

    def _not_kept(self, entry: ClusterEntry) -> ClusterHealth:
        if entry.gate is not None and not entry.gate.host_key:
            reason = f"Its gate has not been set up: admin.py gate deploy {entry.id}"
            return ClusterHealth(False, self._begun, reason, None, Fault.NOT_SET_UP)
        return ClusterHealth(False, self._begun, _NOT_LINKED, None)


def _left_out(info: GateInfo) -> Iterator[str]:
    """Sentences on what the gate offers and this portal cannot show."""
    for row in info.left_out[:_LEFT_OUT_TOLD]:
        yield f"Left out of what the gate says: {row.problem}."
    if (more := len(info.left_out) - _LEFT_OUT_TOLD) > 0:
        yield f"{more:,} more were left out."


def _without_names(cluster: Cluster) -> Cluster:
    tunnel = cluster.tunnel
    if tunnel is not None:
        tunnel = dataclasses.replace(tunnel, login_node="")
    return dataclasses.replace(cluster, account="", node="", tunnel=tunnel)
