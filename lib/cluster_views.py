"""Clusters as users see them: the catalogue's words, and what the gates last said."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from lib.keeper.cluster import ClusterHealth
from lib.model import Cluster, ClusterId, Isolation, Reachability
from lib.store.times import to_datetime

if TYPE_CHECKING:
    from lib.catalogs import Catalogs
    from lib.keeper import Keeper


class ClusterViews:
    def __init__(self, catalogs: Catalogs, keeper: Keeper) -> None:
        self._catalogs = catalogs
        self._keeper = keeper

    def reachability(self, cluster: ClusterId) -> Reachability:
        """UNKNOWN also for a cluster that is no longer in the catalogue."""
        try:
            reachable = self._keeper.health(cluster).reachable
        except KeyError:
            reachable = False
        return Reachability.REACHABLE if reachable else Reachability.UNKNOWN

    def view(self, cluster_id: ClusterId) -> Cluster:
        """Raises NotFound."""
        entry = self._catalogs.cluster(cluster_id)
        try:
            health = self._keeper.health(cluster_id)
        except KeyError:
            health = ClusterHealth(False, time.time(), "This portal is not connected to it.", None)
        cluster = Cluster(
            id=entry.id,
            title=entry.title,
            institute=entry.institute,
            reachability=self.reachability(cluster_id),
            unreachable_since=None if health.reachable else to_datetime(health.since),
            unreachable_reason=health.reason,
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
        )
