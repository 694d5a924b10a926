"""Clusters as users see them: the catalog's words, their tunnels, what their gates last said."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from lib.auth.authorization import Act
from lib.model import Cluster, ClusterId, Fault, Isolation, Reachability, Tunnel, TunnelState
from lib.portal.advice import LOOKS_AFTER_PORTAL, advice
from lib.portal.tunnels import closed
from lib.reconciler.cluster import ClusterHealth
from lib.store.times import maybe_datetime, to_datetime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.auth.authorization import Access
    from lib.config.clusters import ClusterEntry
    from lib.config.offerings import LeftOut, Offerings
    from lib.model import User
    from lib.protocol.messages import GateInfo
    from lib.reconciler.reconciler import Reconciler

_LEFT_OUT_TOLD = 3
ROOT = "Root of the portal's computer"
_PUT_BACK = (
    "Put the cluster's file back, or have its work stopped on the cluster. No restart is needed."
)
_ASK_DOCTOR = ((LOOKS_AFTER_PORTAL, "python admin.py doctor"),)
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
            self._view(entry)
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
            view = self._view(entry)
            tunnel = view.tunnel
            missing = tunnel is not None and tunnel.state is TunnelState.NONE
            view = dataclasses.replace(
                view,
                refused=refused,
                lacks_tunnel=missing and self._access.in_its_groups(user, entry),
            )
            found.append(_without_names(view) if refused and not now.administrator else view)
        for left_out in self._left_out():
            view = self._view_left_out(left_out)
            if not now.administrator:
                view = dataclasses.replace(view, mend=_ASK_DOCTOR)
            found.append(view)
        return tuple(found)

    def stamp(self) -> object:
        """Differs where anything differs that is shown of clusters to anybody."""
        offerings = self._offerings
        return (
            [(entry.groups, self._view(entry)) for entry in offerings.clusters.values()],
            [self._view_left_out(left_out) for left_out in self._left_out()],
            offerings.withheld,
        )

    def view(self, cluster_id: ClusterId) -> Cluster:
        """Raises NotFound."""
        return self._view(self._offerings.cluster(cluster_id))

    def _left_out(self) -> list[LeftOut]:
        offered = self._offerings.clusters
        return [left for c, left in self._offerings.left_out.items() if c not in offered]

    def _view_left_out(self, left_out: LeftOut) -> Cluster:
        entry = left_out.entry
        try:
            since = self._reconciler.health(entry.id).since
        except KeyError:
            since = self._begun
        return Cluster(
            id=entry.id,
            title=entry.title,
            institute=entry.institute,
            reachability=Reachability.UNKNOWN,
            unreachable_since=to_datetime(since),
            unreachable_reason=left_out.reason,
            tunnel=Tunnel(entry.id, TunnelState.NONE),
            mend=((ROOT, left_out.fault),) if left_out.fault else ((ROOT, _PUT_BACK),),
            refused=left_out.reason,
            configured=False,
        )

    def _view(self, entry: ClusterEntry) -> Cluster:
        tunnel = self._access.tunnel(entry)
        health = self._health(entry, tunnel)
        cluster = Cluster(
            id=entry.id,
            title=entry.title,
            institute=entry.institute,
            reachability=self.reachability(entry.id),
            unreachable_since=None if health.reachable else to_datetime(health.since),
            unreachable_reason=health.reason,
            reachable_since=to_datetime(health.since) if health.reachable else None,
            tunnel=tunnel,
            belongs_to=self._access.belongs_to(tunnel) if tunnel is not None else "",
            mend=()
            if health.reachable
            else advice(entry, tunnel, health.fault, one_person=self._access.one_person),
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
