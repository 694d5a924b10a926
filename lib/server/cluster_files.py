"""The cluster files, while the portal runs: what is added, changed or removed is taken over.

A change counts once the files look the same at two looks: nobody writes them at one moment. A
cluster whose file is gone or broken is left out of what is offered; while work of it lives it is
shown, as one that cannot be asked, with the reason.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from typing import TYPE_CHECKING

from lib.config.clusters import ClusterEntry
from lib.config.offerings import LeftOut, cluster_files, load_clusters, offered
from lib.errors import InvalidInput, Unavailable
from lib.loops import Loops
from lib.server.gate_links import through_a_tunnel
from lib.server.no_link import NoLink

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

    from lib.config.offerings import Offerings
    from lib.config.settings import Settings
    from lib.model import ClusterId
    from lib.portal.tunnels import OuterTunnels
    from lib.reconciler.reconciler import Reconciler
    from lib.store import Store

log = logging.getLogger(__name__)

LOOK_S = 2.0
_REMOVED = (
    "It is not configured in this portal any more: its file was removed. What runs there goes on, "
    "and can be asked again once the file is back."
)
_BROKEN = "Its file cannot be taken, so it is left out. What runs there goes on."
_HERE_LATER = (
    "“{title}” is offered again once this portal is started again: its gate is started then."
)


class ClusterFiles:
    """Makes `offerings` and the reconciler follow the files. For the server's event loop."""

    def __init__(
        self,
        project: Path,
        settings: Settings,
        offerings: Offerings,
        tunnels: OuterTunnels,
        reconciler: Reconciler,
        store: Store,
    ) -> None:
        """
        Args:
            offerings: as they were read when the portal was put together.
        """
        self._project = project
        self._settings = settings
        self._offerings = offerings
        self._tunnels = tunnels
        self._reconciler = reconciler
        self._store = store
        self._taken: Hashable = cluster_files(project)
        self._seen: Hashable = self._taken
        #: Whose gates the start of the portal has brought up.
        self._here = frozenset(c.id for c in offerings.clusters.values() if c.embedded)
        #: What was last known of those that had a file.
        self._known = dict(offerings.clusters)
        self._loops = Loops("The portal", log)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        loop = self._loops.add("looked at the cluster files", late_after_s=math.inf)
        self._task = asyncio.create_task(loop.run(self.look, LOOK_S))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> None:
        """Take over what has changed since the look before the last one."""
        before, self._seen = self._seen, await asyncio.to_thread(cluster_files, self._project)
        new = self._offerings
        if self._seen == before != self._taken:
            self._taken = before
            new = await asyncio.to_thread(self._read)
        live = await asyncio.to_thread(self._store.work.live_clusters)
        left_out = self._left_out(new, live)
        if new is not self._offerings or left_out != self._offerings.left_out:
            await self._take_over(dataclasses.replace(new, left_out=left_out))

    # --- what is configured -----------------------------------------------------------

    def _read(self) -> Offerings:
        clusters, broken = load_clusters(self._project)
        read = dataclasses.replace(
            self._offerings, clusters=clusters, broken=broken, withheld="", left_out={}
        )
        new = offered(read, self._settings)
        later = [c for c in new.clusters.values() if c.embedded and c.id not in self._here]
        if not later:
            return new
        kept = {c: entry for c, entry in new.clusters.items() if entry not in later}
        withheld = _HERE_LATER.format(title=later[0].title)
        return dataclasses.replace(new, clusters=kept, withheld=withheld)

    async def _take_over(self, new: Offerings) -> None:
        old, shown = self._offerings.clusters, self._offerings.left_out
        self._known.update(new.clusters)
        self._offerings.take_over(new)
        for broken in new.broken:
            log.error("cluster %s is left out: %s", broken.cluster, broken.fault)
        for cluster, entry in new.clusters.items():
            if not entry.embedded and not _reached_alike(old.get(cluster), entry):
                log.info("cluster %s: its file is new or has changed; it is contacted", cluster)
                with self._loops.item(cluster):
                    await self._contact(entry)
        for cluster, why in new.left_out.items():
            if shown.get(cluster) != why:
                with self._loops.item(cluster):
                    await self._reconciler.leave(cluster, why.reason)
                    self._reconciler.follow(cluster, NoLink(why.reason))
        for cluster in old.keys() | shown.keys():
            known = self._known.get(cluster)
            if cluster in new.clusters or cluster in new.left_out:
                continue
            if known is None or not known.embedded:
                with self._loops.item(cluster):
                    await self._reconciler.leave(cluster, _REMOVED)

    async def _contact(self, entry: ClusterEntry) -> None:
        """As at the start of the portal: with the key, and through the tunnel that is open."""
        await self._reconciler.leave(entry.id)
        try:
            link = await asyncio.to_thread(through_a_tunnel, self._settings, entry, self._tunnels)
        except (Unavailable, InvalidInput) as exc:
            log.error("cluster %s is left out: %s", entry.id, exc)
            return
        if link is not None:
            self._reconciler.follow(entry.id, link)

    def _left_out(self, new: Offerings, live: frozenset[ClusterId]) -> dict[ClusterId, LeftOut]:
        """Those with a broken file, and those whose work lives on without one."""
        faults = {b.cluster: b.fault for b in new.broken}
        found = {}
        for cluster in sorted(live | set(faults)):
            known = self._known.get(cluster)
            if cluster in new.clusters or (known is not None and known.embedded):
                continue
            entry = known or ClusterEntry(cluster, str(cluster), "", embedded=False)
            reason = _BROKEN if cluster in faults else _REMOVED
            found[cluster] = LeftOut(entry, reason, faults.get(cluster, ""))
        return found


def _reached_alike(one: ClusterEntry | None, other: ClusterEntry) -> bool:
    return one is not None and (one.login, one.jump, one.gate) == (
        other.login,
        other.jump,
        other.gate,
    )
