"""A read-through cache of the store: what was read counts until something stored has changed.

A page asks for the same more than once while it is drawn, and is drawn again for each press of
a button, most of which change nothing that is stored.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from cachetools import LRUCache

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

_V = TypeVar("_V")


class Reads(Generic[_V]):
    """Values of one kind, those that were asked for last. Safe to use from any thread.

    Args:
        version: another number after each change of the store (`lib.store.stamps`).
        most: so many are kept.
    """

    def __init__(self, version: Callable[[], int], most: int) -> None:
        self._version = version
        self._lock = threading.Lock()
        self._known: LRUCache[Hashable, tuple[int, _V]] = LRUCache(most)

    def of(self, key: Hashable, read: Callable[[], _V]) -> _V:
        """What `read` gives, which must depend on `key` and the store alone."""
        version = self._version()  # before it is read: what changes meanwhile is read again
        with self._lock:
            known = self._known.get(key)
        if known is not None and known[0] == version:
            return known[1]
        value = read()
        with self._lock:
            self._known[key] = version, value
        return value
