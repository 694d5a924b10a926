"""The stream that tells open pages that something has changed: one WebSocket per browser tab.

    browser -> {"follow": ["work", "run:ID", ...]}     what its page shows; as often as it likes
    portal  -> {"work": "STAMP", ...}                  at once, and again whenever one changes

A stamp (`lib.portal.changes`) is the same before and after a cut of the line or a restart, so
whoever comes back learns by the first answer whether anything was missed. A WebSocket because
it ends with its sign-in like those of the pages (`websocket_sessions`), and because a browser
opens only six other connections to a portal without HTTP/2: as many tabs would stop the seventh.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from lib.errors import NotFound, Refused, SceneBridgeError
from lib.loops import Loops
from lib.portal import facade

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.websockets import WebSocket

    from lib.model import User

log = logging.getLogger(__name__)

PATH = "/changes"
#: So often the portal looks whether anything has changed, and, where nothing was stored, whether
#: clusters and connections are as they were.
LOOK_S, LOOK_ALL_S = 0.25, 1.0
#: One tab asks for a handful; a browser opens one per tab.
MOST_TOPICS, LONGEST_TOPIC, MOST_OF_A_LOGIN = 20, 80, 30
_NOT_UNDERSTOOD, _TOO_MANY, _LATER = 4400, 4429, 1013
_PAUSE_S = 0.05


@dataclass(eq=False)
class _Follower:
    """One open tab."""

    websocket: WebSocket
    user: User
    login: str
    topics: frozenset[str] = frozenset()
    told: dict[str, str] = field(default_factory=dict)
    news: dict[str, str] = field(default_factory=dict)
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, stamps: Mapping[str, str]) -> None:
        """What differs from what it was told goes out as soon as it takes more."""
        fresh = {t: s for t, s in stamps.items() if t in self.topics and self.told.get(t) != s}
        if fresh:
            self.told |= fresh
            self.news |= fresh
            self.woken.set()

    async def send_for_ever(self) -> None:
        while True:
            await self.woken.wait()
            self.woken.clear()
            news, self.news = self.news, {}
            await self.websocket.send_text(json.dumps(news))


class ChangeFeed:
    """All open tabs. Belongs to the event loop that first runs one."""

    def __init__(self) -> None:
        self._followers: set[_Follower] = set()
        self._looking: asyncio.Task[None] | None = None
        self._loops = Loops("The portal", log)

    def route(self) -> WebSocketRoute:
        return WebSocketRoute(PATH, self.follow)

    async def follow(self, websocket: WebSocket) -> None:
        """Serve one tab until it goes."""
        await websocket.accept()
        login = websocket.state.login.id
        if sum(f.login == login for f in self._followers) >= MOST_OF_A_LOGIN:
            await websocket.close(_TOO_MANY)
            return
        follower = _Follower(websocket, websocket.state.user, login)
        self._followers.add(follower)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_for_ever())
        sending = asyncio.create_task(follower.send_for_ever())
        try:
            await self._listen(follower)
        except WebSocketDisconnect:
            pass
        finally:
            self._followers.discard(follower)
            sending.cancel()
            await asyncio.wait((sending,))
            if not sending.cancelled():
                sending.exception()  # the browser has gone: that is how sending ends

    async def _listen(self, follower: _Follower) -> None:
        while True:
            asked = _topics(await follower.websocket.receive_text())
            if asked is None:
                await follower.websocket.close(_NOT_UNDERSTOOD)
                return
            try:
                stamps = await run_in_threadpool(_stamps, follower.user, asked)
            except SceneBridgeError:  # the store is busy: the tab asks only once in a connection
                await follower.websocket.close(_LATER)
                return
            follower.topics, follower.told = frozenset(stamps), {}
            follower.tell(stamps)
            await asyncio.sleep(_PAUSE_S)  # whoever asks without end does not stop the others

    async def _look_for_ever(self) -> None:
        """Ends with the last follower."""
        version, looked = -1, 0.0
        try:
            while self._followers:
                await asyncio.sleep(LOOK_S)
                all_again = time.monotonic() - looked >= LOOK_ALL_S
                try:
                    now = await run_in_threadpool(facade.current().changes.version)
                    if now == version and not all_again:
                        continue
                    await self._look()
                    version, looked = now, time.monotonic()
                except Exception as exc:  # whatever it is, the next look may go well
                    self._loops.note("telling open pages", exc)
        finally:
            self._looking = None

    async def _look(self) -> None:
        followers = tuple(self._followers)
        asked = [(f.user.id, f.topics) for f in followers]
        changes = facade.current().changes
        found = await run_in_threadpool(lambda: [changes.stamps(*one) for one in asked])
        for follower, stamps in zip(followers, found, strict=True):
            follower.tell(stamps)


def _topics(text: str) -> frozenset[str] | None:
    """What a tab asks for; None where that is not understood."""
    try:
        asked = json.loads(text)["follow"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(asked, list) or len(asked) > MOST_TOPICS:
        return None
    topics = [t for t in asked if isinstance(t, str) and len(t) <= LONGEST_TOPIC]
    return frozenset(topics) if len(topics) == len(asked) else None


def _stamps(user: User, topics: Iterable[str]) -> Mapping[str, str]:
    """Of those that this user may follow; of the others nothing is ever said."""
    changes = facade.current().changes
    allowed = []
    for topic in topics:
        with suppress(NotFound, Refused):
            changes.check(user, topic)
            allowed.append(topic)
    return changes.stamps(user.id, allowed)
