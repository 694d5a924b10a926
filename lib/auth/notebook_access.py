"""The portal's word on who may use a notebook, quick enough to be asked at every request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachetools import TTLCache
from starlette.concurrency import run_in_threadpool

from lib.auth import auth_of
from lib.auth.authorization import Access, Act
from lib.config.offerings import load_offerings
from lib.config.settings import PROJECT
from lib.errors import NotFound, Refused
from lib.model import SessionState

if TYPE_CHECKING:
    from lib.auth import Auth
    from lib.config.settings import Settings
    from lib.model import SessionId, UserId
    from lib.store import Store

#: A withdrawn login or an ended session is noticed within this time.
REMEMBER_S = 0.2
_MOST_REMEMBERED = 1000


def notebook_access(settings: Settings, store: Store) -> NotebookAccess:
    """The notebook access of a process that has the store open, whichever process it is."""
    auth = auth_of(settings, store)
    return NotebookAccess(auth, Access(auth, load_offerings(PROJECT), store.audit), store)


class NotebookAccess:
    """`NotebookAccessCheck` of the proxy, over the sign-ins and the one authorization function."""

    def __init__(self, auth: Auth, access: Access, store: Store) -> None:
        self._auth = auth
        self._access = access
        self._work = store.work
        self._answers: TTLCache[tuple[str, str, str], bool] = TTLCache(_MOST_REMEMBERED, REMEMBER_S)

    async def may_open(self, session: SessionId, user: UserId, login: str) -> bool:
        """Whether that sign-in is still valid and the session still theirs to use."""
        question = (session, user, login)
        known = self._answers.get(question)
        if known is not None:
            return known
        answer = await run_in_threadpool(self._ask, session, user, login)
        self._answers[question] = answer
        return answer

    async def ends_at(self, session: SessionId) -> float | None:
        """When the job of that notebook ends; Unix seconds, None where it is not known."""
        return await run_in_threadpool(self._ends_at, session)

    async def active(self, login: str) -> None:
        """Somebody works in a notebook under that sign-in: its idle time starts again."""
        await run_in_threadpool(self._auth.logins.touch, login)

    def _ends_at(self, session: SessionId) -> float | None:
        try:
            ends = self._work.session(session).ends_at
        except NotFound:
            return None
        return ends.timestamp() if ends is not None else None

    def _ask(self, session_id: SessionId, user_id: UserId, login_id: str) -> bool:
        login = self._auth.logins.by_id(login_id)
        if login is None or login.user.id != user_id:
            return False
        try:
            session = self._work.session(session_id)
            self._access.require(login.user, Act.OPEN, session)
        except (NotFound, Refused):
            return False
        return session.state is not SessionState.ENDED
