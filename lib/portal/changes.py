"""What has changed: a stamp for each thing that an open page shows.

A page remembers the stamp with which it was drawn; where the present one differs, it is drawn
again. Stamps are short, say nothing of what they stand for, and are the same in every process
and after a restart, so whoever was away asks once and knows whether anything was missed.

    work           the user's own notebooks and runs
    run:ID         one run, its scenes and what was found
    everybody      the work that a lead or an administrator looks after
    clusters       how every cluster is
    announcements  what everybody is told
"""

from __future__ import annotations

import hashlib
import threading
import time
from typing import TYPE_CHECKING

from cachetools import TTLCache

from lib.auth.authorization import Access, Act
from lib.errors import NotFound
from lib.model import RunId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lib.model import ClusterId, Run, SessionId, User, UserId
    from lib.portal.clusters import ClusterViews
    from lib.store import Store

WORK, EVERYBODY, CLUSTERS, ANNOUNCEMENTS, RUN = (
    "work",
    "everybody",
    "clusters",
    "announcements",
    "run:",
)
_ACTS = {
    WORK: Act.SEARCH,
    EVERYBODY: Act.LEAD,
    CLUSTERS: Act.SEARCH,
    ANNOUNCEMENTS: Act.SEARCH,
}
#: Clusters are in no store: what was seen of them counts for so long, seconds.
_CLUSTERS_COUNT_S = 1.0
_MOST_KNOWN = 500


class Changes:
    """`Portal.changes`. Safe to call from any thread."""

    def __init__(
        self,
        store: Store,
        access: Access,
        clusters: ClusterViews,
        now: Callable[[ClusterId, SessionId], object],
        see: Callable[[User, RunId], Run],
    ) -> None:
        """
        Args:
            now: what is shown of a notebook that is ready and stands in no store.
        """
        self._store = store
        self._access = access
        self._clusters = clusters
        self._now = now
        self._see = see
        self._lock = threading.Lock()
        self._version: int | None = None
        self._known: dict[str, str] = {}
        self._work: dict[str, str] | None = None
        self._told: list[tuple[str, float]] | None = None
        self._ready: tuple[tuple[UserId, ClusterId, SessionId], ...] = ()
        self._of_clusters: TTLCache[None, str] = TTLCache(1, _CLUSTERS_COUNT_S)

    def version(self) -> int:
        """Another number after each change of the store; clusters are not in it."""
        return self._store.stamps.version()

    def stamp(self, user: User, topic: str) -> str:
        """The present stamp.

        Raises:
            NotFound: there is no such topic, or the user may not know of it.
            Refused: they may not follow it.
        """
        self.check(user, topic)
        return self.stamps(user.id, (topic,))[topic]

    def check(self, user: User, topic: str) -> None:
        """Whether the user may follow it. Raises what `stamp` raises."""
        if topic.startswith(RUN):
            self._see(user, RunId(topic.removeprefix(RUN)))
        elif topic in _ACTS:
            self._access.require(user, _ACTS[topic])
        else:
            raise NotFound("There is nothing of that name to follow.")

    def stamps(self, user: UserId, topics: Iterable[str]) -> Mapping[str, str]:
        """The present stamps of topics that were checked."""
        with self._lock:
            self._look()
            return {topic: self._stamp(user, topic) for topic in topics}

    def _look(self) -> None:
        """Forget what is not so any more."""
        version = self._store.stamps.version()
        if version == self._version and len(self._known) < _MOST_KNOWN:
            return
        self._work = None  # asked for when somebody follows it: each click writes something
        self._told = None
        self._known = {}
        self._version = version

    def _stamp(self, user: UserId, topic: str) -> str:
        if topic == CLUSTERS:
            return self._clusters_stamp()
        if topic == ANNOUNCEMENTS:
            if self._told is None:
                self._told = self._store.stamps.announcements()
            now = time.time()
            return _hash([number for number, until in self._told if until > now])
        if topic.startswith(RUN):
            run = RunId(topic.removeprefix(RUN))
            stored = self._once(topic, lambda: self._store.stamps.run(run))
            return _hash((stored, self._clusters_stamp()))
        mine = topic == WORK
        if self._work is None:
            self._work = {o: _hash(rows) for o, rows in self._store.stamps.work().items()}
            self._ready = self._store.stamps.ready()
        stored = self._work.get(user, "") if mine else _hash(sorted(self._work.items()))
        shown = [
            self._now(cluster, session)
            for owner, cluster, session in self._ready
            if owner == user or not mine
        ]
        return _hash((stored, shown, self._clusters_stamp()))

    def _once(self, topic: str, rows: Callable[[], Sequence[object]]) -> str:
        if topic not in self._known:
            self._known[topic] = _hash(rows())
        return self._known[topic]

    def _clusters_stamp(self) -> str:
        known = self._of_clusters.get(None)
        if known is None:
            known = self._of_clusters[None] = _hash(self._clusters.stamp())
        return known


def _hash(value: object) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()
