"""The portal's word on who may use a notebook, quick enough to be asked at every request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

if TYPE_CHECKING:
    from lib.auth import Auth
    from lib.model import SessionId, UserId
    from lib.portal import Portal

#: A withdrawn login or an ended session is noticed within this time.
REMEMBER_S = 0.8
_MOST_REMEMBERED = 1000


class PortalGatekeeper:
    """`lib.proxy.Gatekeeper` over the sign-in registry and the owners of sessions."""

    def __init__(self, auth: Auth, portal: Portal) -> None:
        self._auth = auth
        self._portal = portal
        self._answers: dict[tuple[str, str, str], tuple[float, bool]] = {}

    async def may_open(self, session: SessionId, user: UserId, login: str) -> bool:
        """Whether that sign-in is still valid and the session still theirs to use."""
        question = (session, user, login)
        known = self._answers.get(question)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        answer = await run_in_threadpool(self._ask, session, user, login)
        if len(self._answers) >= _MOST_REMEMBERED:
            self._answers.clear()
        self._answers[question] = (time.monotonic() + REMEMBER_S, answer)
        return answer

    def _ask(self, session: SessionId, user: UserId, login: str) -> bool:
        found = self._auth.login(login)
        return (
            found is not None
            and found.user.id == user
            and self._portal.may_open(found.user, session)
        )
