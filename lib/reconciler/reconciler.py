"""The loop that makes the world agree with the store.

One `ClusterKeeper` per cluster holds one long-poll to its gate; state changes, endpoints
and results come back in that one stream. Pages write wishes into the store and wake the
keeper; nobody waits for a cluster while a page is drawn.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lib.reconciler.cluster import ClusterHealth, ClusterKeeper
from lib.reconciler.connections import Connections
from lib.reconciler.runs import Runs
from lib.reconciler.submit import Errands

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lib.model import ClusterId, Module, ModuleId, SessionId, UserId
    from lib.reconciler.interfaces import Link, NotebookDoor
    from lib.results.folder import ResultFolder
    from lib.store import Store


class Keeper:
    """All clusters. `start` and `close` belong to the server's event loop; `wake`,
    `health` and `link` may be called from any thread."""

    def __init__(
        self,
        links: Mapping[ClusterId, Link],
        store: Store,
        folder: ResultFolder,
        door: NotebookDoor,
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
        self._clusters = {
            cluster: ClusterKeeper(
                cluster,
                link,
                store,
                Errands(cluster, link, store, modules, portal_origin, refusal),
                Connections(link, store, door),
                Runs(cluster, link, store, folder),
            )
            for cluster, link in links.items()
        }

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for keeper in self._clusters.values():
            keeper.start()

    async def close(self) -> None:
        """Stop following all clusters; nothing on them is touched."""
        self._loop = None
        await asyncio.gather(*(keeper.close() for keeper in self._clusters.values()))

    def wake(self, cluster: ClusterId) -> None:
        """There is something new in the store for this cluster."""
        keeper = self._clusters.get(cluster)
        if keeper is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(keeper.wake)

    def health(self, cluster: ClusterId) -> ClusterHealth:
        """Raises KeyError for a cluster that is not kept."""
        return self._clusters[cluster].health

    def connected(self, cluster: ClusterId, session: SessionId) -> bool:
        """Whether this notebook was proved to answer since the portal started."""
        keeper = self._clusters.get(cluster)
        return keeper is not None and keeper.connected(session)

    def link(self, cluster: ClusterId) -> Link:
        """Raises KeyError for a cluster that is not kept."""
        return self._clusters[cluster].link

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that links may be used on, while the keeper runs."""
        return self._loop
