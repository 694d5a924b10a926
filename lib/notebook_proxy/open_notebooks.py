"""The notebooks that are open now, and what passes through each of them at this moment."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from lib.errors import SceneBridgeError
from lib.loops import Loops
from lib.model import SessionId
from lib.notebook_proxy.tickets import Grant, NotebookAccessCheck
from lib.notebook_proxy.upstream import Upstream

log = logging.getLogger(__name__)

#: How often access is checked again for WebSockets and transfers that stay open.
RECHECK_S = 0.4
#: Requests go on for so long while the access check cannot be made.
_UNASKED_S = 30.0
#: A check that takes longer will not come to an end.
_LATE_S = 60.0
_REMEMBERED = 1000
_CLOSED = "This notebook is not running. Its card on the portal says why."
_NOT_YET = "This notebook is not connected at the moment. It is tried again by itself."


class OpenNotebooks:
    """Session -> upstream. Belongs to one event loop."""

    def __init__(self) -> None:
        self._open: dict[SessionId, Upstream] = {}
        self._closed_reason: OrderedDict[SessionId, str] = OrderedDict()
        #: Those to which the last request found no way.
        self._away: set[SessionId] = set()
        self._idle_at: dict[SessionId, float] = {}

    def get(self, session: SessionId) -> Upstream | None:
        return self._open.get(session)

    def closed(self, session: SessionId) -> bool:
        """Whether it was open and is over, not just unknown (as after a restart)."""
        return session in self._closed_reason

    def closed_reason(self, session: SessionId) -> str:
        """One sentence for who asks for a notebook that is not open."""
        return self._closed_reason.get(session, _NOT_YET)

    def add(self, session: SessionId, upstream: Upstream) -> Upstream | None:
        """Returns the upstream that was there before; the caller closes it."""
        previous = self._open.get(session)
        self._open[session] = upstream
        self._closed_reason.pop(session, None)
        self._away.discard(session)
        return previous

    def remove(self, session: SessionId, reason: str) -> Upstream | None:
        """Returns the upstream that was there; the caller closes it."""
        self._closed_reason[session] = reason or _CLOSED
        while len(self._closed_reason) > _REMEMBERED:
            self._closed_reason.popitem(last=False)
        self._away.discard(session)
        self._idle_at.pop(session, None)
        return self._open.pop(session, None)

    def note(self, session: SessionId, *, away: bool) -> None:
        """Whether a request has just found no way to it."""
        (self._away.add if away else self._away.discard)(session)

    def away(self, session: SessionId) -> bool:
        """Whether the last request found no way to it."""
        return session in self._away

    def idle(self, session: SessionId, at: float | None) -> None:
        """When it is ended because nobody works in it, once that is near; Unix seconds."""
        if at is None:
            self._idle_at.pop(session, None)
        else:
            self._idle_at[session] = at

    def idle_at(self, session: SessionId) -> float | None:
        return self._idle_at.get(session)

    def sessions(self) -> frozenset[SessionId]:
        return frozenset(self._open)


class ActiveRequests:
    """Requests and WebSockets under way; each can be ended from outside.

    While there are any, the access of each grant is checked again every `RECHECK_S`.
    """

    def __init__(self, access_check: NotebookAccessCheck) -> None:
        self._access_check = access_check
        self._under_way: dict[asyncio.Future[None], Grant] = {}
        self._rechecking: asyncio.Task[None] | None = None
        self.loops = Loops("The notebooks' process", log)
        self._rechecks = self.loops.add("checked again who may be there", late_after_s=_LATE_S)
        self._asked_at: dict[Grant, float] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    @contextmanager
    def track(self, grant: Grant) -> Iterator[asyncio.Future[None]]:
        """While inside, the future completes when the request has to end."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._under_way[ended] = grant
        if self._rechecking is None:
            self._rechecking = asyncio.create_task(self._recheck())
        try:
            yield ended
        finally:
            del self._under_way[ended]
            ended.cancel()

    def end(self, *, session: SessionId | None = None, login: str | None = None) -> None:
        """End the requests to a session, or of a sign-in; all of them where both are None."""
        for ended, grant in self._under_way.items():
            if session in (None, grant.session) and login in (None, grant.login):
                _finish(ended)

    def close(self) -> None:
        """End everything, for good."""
        self.end()
        if self._rechecking is not None:
            self._rechecking.cancel()

    async def _recheck(self) -> None:
        try:
            while self._under_way:
                self._rechecks.turned()
                await asyncio.sleep(RECHECK_S)
                grants = set(self._under_way.values())
                now = time.monotonic()
                self._asked_at = {grant: self._asked_at.get(grant, now) for grant in grants}
                for grant in grants:
                    if not await self._still_allowed(grant):
                        self._end_grant(grant)
        finally:
            self._rechecks.rest()
            self._rechecking = None

    async def _still_allowed(self, grant: Grant) -> bool:
        try:
            allowed = await self._access_check.may_open(grant.session, grant.user, grant.login)
        except SceneBridgeError as exc:  # could not ask: nothing ends for a moment of that
            log.warning("requests go on unchecked: %s", exc)
        except Exception as exc:
            self.loops.note(grant.session, exc)
        else:
            self._asked_at[grant] = time.monotonic()
            return allowed
        return time.monotonic() - self._asked_at[grant] < _UNASKED_S

    def _end_grant(self, grant: Grant) -> None:
        for ended, other in self._under_way.items():
            if other == grant:
                _finish(ended)


def _finish(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
