"""Cached queue load: the scheduler is asked at most every so often, however many ask."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence

from lib.errors import Unavailable
from lib.loops import Loops
from lib.model import QueueLoad

_ASK_EVERY_S = 15.0
_PATIENCE_S = 2.0
_TOO_OLD_S = 600.0


class QueueLoads:
    """The last answer of a scheduler about its queues.

    Args:
        ask: `Scheduler.load`.
        loops: are told of what goes wrong with it.
    """

    def __init__(self, ask: Callable[[], Awaitable[Sequence[QueueLoad]]], loops: Loops) -> None:
        self._ask = ask
        self._loops = loops
        self._asking: asyncio.Task[None] | None = None
        self._next_at = 0.0
        self._load: list[QueueLoad] = []
        self._at: float | None = None

    async def now(self) -> tuple[list[QueueLoad], float | None]:
        """The load and when it was so (Unix time); waits briefly where it is asked anew.

        Nothing when the scheduler has not said it for long, or never does.
        """
        if self._asking is None and time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + _ASK_EVERY_S
            self._asking = asyncio.ensure_future(self._refresh())
            await asyncio.wait({self._asking}, timeout=_PATIENCE_S)
        if self._at is None or time.time() - self._at > _TOO_OLD_S:
            return [], None
        return self._load, self._at

    async def _refresh(self) -> None:
        try:
            # Otherwise the last answer stands, with its time.
            silent = contextlib.suppress(Unavailable)
            with self._loops.item("asking how busy the queues are"), silent:
                load = list(await self._ask())
                self._load, self._at = load, time.time() if load else None
        finally:
            self._asking = None
