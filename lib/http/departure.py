"""Told when the client of a request leaves, without a task that waits for `http.disconnect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Scope

#: Of a scope's extensions.
_NAME = "scenebridge.departure"


class Departure:
    """Of one connection, on which one request is answered at a time."""

    __slots__ = ("_calls", "gone")

    def __init__(self) -> None:
        self._calls: set[Callable[[], None]] = set()
        self.gone = False

    @staticmethod
    def of(scope: Scope) -> Departure:
        """That of the connection this request came on; `StrictProtocol` sets it."""
        return cast(Departure, scope["extensions"][_NAME])

    def extension(self) -> dict[str, Departure]:
        """What `of` reads."""
        return {_NAME: self}

    def add(self, call: Callable[[], None]) -> None:
        """Call it once, when the client leaves; see `gone` first."""
        self._calls.add(call)

    def discard(self, call: Callable[[], None]) -> None:
        self._calls.discard(call)

    def tell(self) -> None:
        """The client has left, or is told nothing more."""
        self.gone = True
        while self._calls:
            self._calls.pop()()
