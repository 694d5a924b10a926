"""That somebody works in a notebook keeps their sign-in alive, although they ask the portal
for nothing: requests that change something, and what their page sends over a WebSocket."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from lib.errors import SceneBridgeError

log = logging.getLogger(__name__)

EVERY_S = 60.0
_MOST_KNOWN = 1000

#: Told the id of a sign-in that is in use.
Active = Callable[[str], Awaitable[None]]


class Activity:
    """Tells `active` of each sign-in at most once in `EVERY_S`. Belongs to one event loop."""

    def __init__(self, active: Active | None) -> None:
        self._active = active
        self._told: dict[str, float] = {}
        self._telling: set[asyncio.Task[None]] = set()

    def note(self, login: str) -> None:
        """Costs next to nothing; for every message."""
        now = time.monotonic()
        if self._active is None or now - self._told.get(login, -EVERY_S) < EVERY_S:
            return
        if len(self._told) >= _MOST_KNOWN:
            self._told.clear()
        self._told[login] = now
        task = asyncio.create_task(self._tell(self._active, login))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, active: Active, login: str) -> None:
        try:
            await active(login)
        except SceneBridgeError as exc:
            self._told.pop(login, None)  # the next message tries again
            log.warning("the use of a sign-in could not be noted: %s", exc)
