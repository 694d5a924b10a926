"""Connections to notebooks, from an endpoint to READY: a forward is added, proved by an
authenticated request, and only then is the notebook offered; when the session ends all of it
is taken away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from lib.backoff import Backoff
from lib.errors import SceneBridgeError, Unavailable
from lib.model import SessionState
from lib.reconciler.states import CONNECTING, READY
from lib.store.changes import SessionChange

if TYPE_CHECKING:
    from lib.loops import Loops
    from lib.model import Endpoint, SessionId
    from lib.reconciler.interfaces import Link, NotebookRoutes
    from lib.store import Store

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0


class Connections:
    """The notebooks of one cluster that are connected or being connected."""

    def __init__(self, link: Link, store: Store, routes: NotebookRoutes, loops: Loops) -> None:
        self._loops = loops
        self._link = link
        self._work = store.work
        self._routes = routes
        self._tasks: dict[SessionId, asyncio.Task[None]] = {}
        self._proved: set[SessionId] = set()

    def connected(self, session: SessionId) -> bool:
        return session in self._proved

    def prove_all_again(self) -> None:
        """The connection to the gate was made anew: take nothing for granted."""
        self._proved.clear()

    async def keep(self, session: SessionId) -> None:
        """Its idle time starts again. Raises `Conflict`, `Unavailable`."""
        if session not in self._proved:
            raise Unavailable("The notebook cannot be reached now. Try again in a moment.")
        await self._routes.keep(session)

    def idle(self, session: SessionId, at: float | None) -> None:
        """When it is ended because nobody works in it, once that is near."""
        self._routes.idle(session, at)

    def want(self, session: SessionId, endpoint: Endpoint) -> None:
        """See to it that this notebook gets connected. Idempotent."""
        if session not in self._proved and session not in self._tasks:
            self._tasks[session] = asyncio.create_task(self._connect(session, endpoint))

    async def drop(self, session: SessionId, reason: str = "") -> None:
        """The session has ended, and why. Idempotent."""
        task = self._tasks.pop(session, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._proved.discard(session)
        await self._routes.close(session, reason)
        try:
            await self._link.close_forward(session)
        except SceneBridgeError as exc:
            log.info("session %s: the forward goes with its master: %s", session, exc)

    async def drop_strays(self, live: frozenset[SessionId]) -> None:
        """Close forwards that belong to no live session (left by a portal that died)."""
        for session in await self._link.forwards() - live:
            with self._loops.item(session):
                await self.drop(session)

    async def close(self) -> None:
        """Stop trying. Forwards stay: they belong to the master."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()

    async def _connect(self, session: SessionId, endpoint: Endpoint) -> None:
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        try:
            while True:
                with self._loops.item(session):
                    if await self._try(session, endpoint):
                        return
                await asyncio.sleep(backoff.next_s())
        finally:
            if self._tasks.get(session) is asyncio.current_task():
                del self._tasks[session]

    async def _try(self, session: SessionId, endpoint: Endpoint) -> bool:
        try:
            socket = await self._link.open_forward(session)
            await self._routes.open(session, socket, endpoint)
            await asyncio.to_thread(self._say_ready, session)
        except (SceneBridgeError, OSError) as exc:
            log.info("session %s does not answer yet: %s", session, exc)
            told = SessionChange(reason=f"{CONNECTING} ({exc})")
            with contextlib.suppress(Unavailable):  # the store may lie on a full disk
                await asyncio.to_thread(self._work.update_session, session, told)
            return False
        self._proved.add(session)
        return True

    def _say_ready(self, session: SessionId) -> None:
        """The one place where a session becomes READY; the first time counts."""
        before = self._work.session(session).ready_at
        ready_at = before.timestamp() if before is not None else time.time()
        change = SessionChange(state=SessionState.READY, ready_at=ready_at, reason=READY)
        self._work.update_session(session, change)
