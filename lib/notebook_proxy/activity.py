"""Idle time of sign-ins: work in a notebook counts as use, although it asks the portal for
nothing. Counted are requests that change something, and what a page sends over a WebSocket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cachetools import TTLCache

from lib.errors import SceneBridgeError

log = logging.getLogger(__name__)

REPORT_EVERY_S = 60.0
_MOST_KNOWN = 1000

#: Told the id of a sign-in that is in use.
OnSignInUse = Callable[[str], Awaitable[None]]


class SignInActivity:
    """Tells `active` of each sign-in at most every `REPORT_EVERY_S`; on one event loop."""

    def __init__(self, active: OnSignInUse | None) -> None:
        self._active = active
        self._told: TTLCache[str, None] = TTLCache(_MOST_KNOWN, REPORT_EVERY_S)
        self._telling: set[asyncio.Task[None]] = set()

    def note(self, login: str) -> None:
        """Costs next to nothing; for every message."""
        if self._active is None or login in self._told:
            return
        self._told[login] = None
        task = asyncio.create_task(self._tell(self._active, login))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, active: OnSignInUse, login: str) -> None:
        try:
            await active(login)
        except SceneBridgeError as exc:
            self._told.pop(login, None)  # the next message tries again
            log.warning("the use of a sign-in could not be noted: %s", exc)
        except Exception:  # tried again after a while
            log.exception("the use of a sign-in could not be noted")
