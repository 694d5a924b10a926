"""The WebSockets of open pages, so that they end with the sign-in that opened them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from lib.errors import SceneBridgeError
from lib.loops import Loops

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from lib.auth import Auth

log = logging.getLogger(__name__)

#: A sign-in that ended in another process, or by its age, is noticed after this time.
RECHECK_S = 0.5
#: The close code that says so, in the range for applications (RFC 6455, section 7.4.2).
SIGNED_OUT = 4401


class WebSocketSessions:
    """WebSockets by sign-in. Belongs to the event loop that first runs one."""

    def __init__(self, auth: Auth) -> None:
        self._auth = auth
        self._open: dict[asyncio.Future[None], str] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rechecking: asyncio.Task[None] | None = None
        self._loops = Loops("The portal", log)
        auth.logins.on_end(self._ended)

    async def run(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, login: str
    ) -> None:
        """Let `app` serve a WebSocket for as long as the sign-in lives."""
        self._loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = self._loop.create_future()
        self._open[over] = login
        if self._rechecking is None:
            self._rechecking = asyncio.create_task(self._recheck())
        try:
            await app(scope, _until(over, receive, send), _before(over, send))
        finally:
            del self._open[over]
            over.cancel()

    def _ended(self, logins: frozenset[str]) -> None:
        """In any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._finish, logins)

    def _finish(self, logins: frozenset[str]) -> None:
        for over, login in self._open.items():
            if login in logins and not over.done():
                over.set_result(None)

    async def _recheck(self) -> None:
        try:
            while self._open:
                await asyncio.sleep(RECHECK_S)
                asked = frozenset(self._open.values())
                try:
                    living = await run_in_threadpool(self._auth.logins.living, asked)
                except SceneBridgeError as exc:  # could not ask: nothing ends for that
                    log.warning("open pages go on unchecked: %s", exc)
                    continue
                except Exception as exc:  # the same
                    self._loops.note("the sign-ins of open pages", exc)
                    continue
                self._finish(asked - living)
        finally:
            self._rechecking = None


def _until(over: asyncio.Future[None], receive: Receive, send: Send) -> Receive:
    """What the browser sends, until the sign-in is over; then it is told, and has left."""
    told = False

    async def wrapped() -> Message:
        nonlocal told
        if not over.done():
            message = asyncio.ensure_future(receive())
            try:
                await asyncio.wait((message, over), return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                message.cancel()
                raise
            if message.done():
                return message.result()
            message.cancel()
        if not told:
            told = True
            await send({"type": "websocket.close", "code": SIGNED_OUT})
        return {"type": "websocket.disconnect", "code": SIGNED_OUT}

    return wrapped


def _before(over: asyncio.Future[None], send: Send) -> Send:
    """Nothing goes out any more once the sign-in is over."""

    async def wrapped(message: Message) -> None:
        if not over.done():
            await send(message)

    return wrapped
