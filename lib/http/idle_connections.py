"""The connections of one server that wait for a request, by client, the oldest first."""

from __future__ import annotations

from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

C = TypeVar("C")


class IdleConnections(Generic[C]):
    """Whoever is no longer idle, or has ended, is taken out by `discard`."""

    def __init__(self) -> None:
        self._of: dict[str, dict[C, None]] = {}

    def add(self, client: str, connection: C) -> None:
        """From now on the youngest of this client."""
        self.discard(client, connection)
        self._of.setdefault(client, {})[connection] = None

    def discard(self, client: str, connection: C) -> None:
        """No error if it is not there."""
        known = self._of.get(client, {})
        known.pop(connection, None)
        if not known:
            self._of.pop(client, None)

    def surplus(self, client: str, most: int) -> C | None:
        """The oldest one of a client that has more than `most`."""
        known = self._of.get(client, {})
        return next(iter(known)) if len(known) > most else None

    def oldest_of_most(self) -> C | None:
        """The oldest one of the client that has most; None where none is idle."""
        known = max(self._of.values(), key=len, default=None)
        return next(iter(known)) if known else None


class PerServer(Generic[C]):
    """One `IdleConnections` for each server, which is known by an object that lives as long."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[object, IdleConnections[C]] = WeakKeyDictionary()

    def of(self, server: object) -> IdleConnections[C]:
        """The same one for the same server."""
        return self._known.setdefault(server, IdleConnections())
