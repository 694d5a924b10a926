"""The reconcile loop: it makes the world agree with the store.

One `ClusterReconciler` per cluster holds one long-poll to its gate; state changes, endpoints
and results come back in that one stream. Pages write wishes into the store and wake the
reconciler; nobody waits for a cluster while a page is drawn.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from lib.loops import Loops
from lib.reconciler.cluster import ClusterHealth, ClusterReconciler
from lib.reconciler.connections import Connections
from lib.reconciler.runs import Runs
from lib.reconciler.submit import Submitter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lib.model import ClusterId, Module, ModuleId, SessionId, UserId
    from lib.reconciler.interfaces import Link, NotebookRoutes
    from lib.results.folder import ResultFolder
    from lib.store import Store


log = logging.getLogger(__name__)


class Reconciler:
    """All clusters. `start` and `close` belong to the server's event loop; `wake`,
    `health` and `link` may be called from any thread."""

    def __init__(
        self,
        links: Mapping[ClusterId, Link],
        store: Store,
        folder: ResultFolder,
        routes: NotebookRoutes,
        modules: Mapping[ModuleId, Module],
        portal_origin: str,
        refusal: Callable[[UserId, ClusterId], str] = lambda _owner, _cluster: "",
    ) -> None:
        """
        Args:
            refusal: why this person may not start work there now, or "": asked in a worker
                thread before anything is handed to a gate, which may be long after they
                pressed the button.
        """
        self._loop: asyncio.AbstractEventLoop | None = None

        def reconciler(cluster: ClusterId, link: Link) -> ClusterReconciler:
            loops = Loops("The portal", log)
            return ClusterReconciler(
                cluster,
                link,
                store,
                Submitter(cluster, link, store, modules, portal_origin, refusal, loops),
                Connections(link, store, routes, loops),
                Runs(cluster, link, store, folder, loops),
                loops,
            )

        self._reconciler = reconciler
        self._clusters = {cluster: reconciler(cluster, link) for cluster, link in links.items()}

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for reconciler in self._clusters.values():
            reconciler.start()

    def follow(self, cluster: ClusterId, link: Link) -> None:
        """From now on, this cluster too; one of that id must have been left before."""
        assert cluster not in self._clusters  # noqa: S101 - a fault of ours
        self._clusters[cluster] = reconciler = self._reconciler(cluster, link)
        if self._loop is not None:
            reconciler.start()

    async def leave(self, cluster: ClusterId, reason: str = "") -> None:
        """Follow it no more, and end the connection to it. Idempotent; its jobs go on.

        Args:
            reason: what visitors of its notebooks read from now on; "" where they may wait.
        """
        reconciler = self._clusters.pop(cluster, None)
        if reconciler is None:
            return
        await reconciler.close()
        if reason:
            await reconciler.turn_visitors_away(reason)
        await reconciler.link.disconnect()

    async def close(self) -> None:
        """Stop following all clusters; nothing on them is touched."""
        self._loop = None
        await asyncio.gather(*(reconciler.close() for reconciler in self._clusters.values()))

    def wake(self, cluster: ClusterId) -> None:
        """There is something new in the store for this cluster."""
        reconciler = self._clusters.get(cluster)
        if reconciler is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(reconciler.wake)

    def health(self, cluster: ClusterId) -> ClusterHealth:
        """Raises KeyError for an unknown cluster."""
        return self._clusters[cluster].health

    def connected(self, cluster: ClusterId, session: SessionId) -> bool:
        """Whether this notebook was proved to answer since the portal started."""
        reconciler = self._clusters.get(cluster)
        return reconciler is not None and reconciler.connected(session)

    def idle_at(self, cluster: ClusterId, session: SessionId) -> float | None:
        """When that notebook is ended if nobody works in it, once that is near."""
        reconciler = self._clusters.get(cluster)
        return reconciler.idle_at(session) if reconciler is not None else None

    async def keep(self, cluster: ClusterId, session: SessionId) -> None:
        """Somebody works in that notebook. Raises KeyError, `Conflict`, `Unavailable`."""
        await self._clusters[cluster].keep(session)

    def link(self, cluster: ClusterId) -> Link:
        """Raises KeyError for an unknown cluster."""
        return self._clusters[cluster].link

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that links may be used on, while the reconciler runs."""
        return self._loop
