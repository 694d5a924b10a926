"""How much may be open in the gate at once, and what gives way to a newcomer.

A limit alone would let whoever comes first keep everybody else out: with connections that
say nothing, with commands that never ask, or simply with many of them.
"""

from __future__ import annotations

from collections import Counter
from typing import Generic, Protocol, TypeVar


class Guest(Protocol):
    """Something that takes a place."""

    @property
    def owner(self) -> object:
        """Whose it is: places are shared out between owners."""

    @property
    def silent(self) -> bool:
        """Whether it has not said yet what it is there for."""

    def drop(self) -> None:
        """End it, since its place was given away."""


G = TypeVar("G", bound=Guest)


class Places(Generic[G]):
    """A number of places, in the order in which they were taken.

    When all are taken, one gives way: of the older half, which had time to speak, the oldest
    silent one, first of the owner who holds most. Where none is silent, the oldest one of the
    owner who holds most, if the newcomer's owner holds fewer even with the new one. So
    neither silence nor numbers keep another owner out.
    """

    def __init__(self, count: int, *, newest_wins: bool = False) -> None:
        """
        Args:
            newest_wins: nobody is refused; where nothing else says which, the oldest one of the
                owner who holds most gives way.
        """
        self._count = count
        self._newest_wins = newest_wins
        self._taken: dict[G, None] = {}

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, guest: G) -> bool:
        """Give it a place, another's if need be; whether it got one."""
        if len(self._taken) >= self._count:
            other = self._who_gives_way(guest)
            if other is None:
                return False
            self.leave(other)
            other.drop()
        self._taken[guest] = None
        return True

    def leave(self, guest: G) -> None:
        """Its place is free; no error if it has none."""
        self._taken.pop(guest, None)

    def _who_gives_way(self, newcomer: G) -> G | None:
        held = Counter(guest.owner for guest in self._taken)
        older = list(self._taken)[: max(1, self._count // 2)]
        silent = [guest for guest in older if guest.silent]
        oldest = max(silent or self._taken, key=lambda guest: held[guest.owner])
        if silent or self._newest_wins or held[oldest.owner] > held[newcomer.owner] + 1:
            return oldest
        return None
