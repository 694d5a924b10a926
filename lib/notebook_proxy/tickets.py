"""One-time tickets, the signed cookie they are changed into, and the check of access."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from cachetools import TTLCache
from itsdangerous import BadData, URLSafeTimedSerializer

from lib.errors import Refused
from lib.model import SessionId, UserId

TICKET_LIFE_S = 30.0
COOKIE_LIFE_S = 12 * 3600
#: Everything of ours in a browser's cookie jar begins so; it never reaches a notebook.
COOKIE_PREFIX = "__Host-sb-"
#: Partitioned, so that a notebook inside a page of the portal has it, and only there.
_COOKIE_FLAGS = "Path=/; Secure; HttpOnly; SameSite=None; Partitioned"
_MAX_TICKETS = 10_000
_MAX_KNOWN = 1_000


@dataclass(frozen=True, slots=True)
class Grant:
    """Who may use which notebook, under which sign-in: what a ticket and the cookie carry."""

    session: SessionId
    user: UserId
    login: str


class NotebookAccessCheck(Protocol):
    """The portal's word on who may use a notebook.

    Asked at every request, every WebSocket, and every few seconds while one is open:
    it must answer in well under a millisecond. False closes what is open.
    """

    async def may_open(self, session: SessionId, user: UserId, login: str) -> bool:
        """Whether that sign-in is still valid and the session still theirs to use."""

    async def ends_at(self, session: SessionId) -> float | None:
        """When the job of that notebook ends; Unix seconds, None where it is not known."""


class Tickets:
    """Tickets of one use each, kept in memory: whoever loses one asks for another."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._issued: TTLCache[str, tuple[Grant, str]] = TTLCache(
            _MAX_TICKETS, TICKET_LIFE_S, clock
        )

    def issue(self, grant: Grant, onward: str) -> str:
        """A ticket that brings the holder of `grant` to the local path `onward`."""
        self._issued.expire()
        if len(self._issued) >= _MAX_TICKETS:
            raise Refused("Too many notebooks are being opened at once. Try again in a minute.")
        ticket = secrets.token_urlsafe(32)
        self._issued[ticket] = (grant, onward)
        return ticket

    def redeem(self, ticket: str, session: SessionId) -> tuple[Grant, str]:
        """The grant and where its holder goes. Whatever comes of it, the ticket is spent.

        Raises:
            Refused: unknown, spent, too old, or for another notebook.
        """
        grant, onward = self._issued.pop(ticket, (None, ""))
        if grant is None or grant.session != session:
            raise Refused("This link was used already or is too old.")
        return grant, onward


class Cookies:
    """The signed cookie that a notebook's origin keeps for one user."""

    def __init__(self, secret: bytes) -> None:
        self._signer = URLSafeTimedSerializer(
            secret,
            salt="scenebridge.notebook-visitor",
            signer_kwargs={"digest_method": hashlib.sha256},
        )
        #: Values that were found good: checking one costs more than all else we do per request.
        self._known: dict[str, tuple[float, Grant]] = {}

    def set(self, grant: Grant) -> str:
        """A `Set-Cookie` value."""
        value = self._signer.dumps([grant.session, grant.user, grant.login])
        text = value if isinstance(value, str) else value.decode("ascii")
        return f"{_name(grant.session)}={text}; Max-Age={COOKIE_LIFE_S}; {_COOKIE_FLAGS}"

    def read(self, session: SessionId, cookie_headers: Iterable[bytes]) -> Grant | None:
        """The grant that the cookie holds, or None.

        Two cookies of that name mean that somebody planted one: neither counts.
        """
        name = _name(session)
        pairs = (
            pair.strip().partition("=")
            for header in cookie_headers
            for pair in header.decode("latin-1").split(";")
        )
        values = [value for key, _, value in pairs if key == name]
        if len(values) != 1:
            return None
        signed_at, grant = self._known.get(values[0]) or self._check(values[0])
        if grant is None or grant.session != session:
            return None
        return grant if time.time() - signed_at < COOKIE_LIFE_S else None

    def _check(self, value: str) -> tuple[float, Grant | None]:
        try:
            (session, user, login), signed = self._signer.loads(value, return_timestamp=True)
        except (BadData, ValueError, TypeError):
            return 0.0, None
        grant = Grant(SessionId(session), UserId(user), login)
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[value] = (signed.timestamp(), grant)
        return self._known[value]


def _name(session: SessionId) -> str:
    # A name per session: with a port per notebook all of them share one cookie jar.
    return f"{COOKIE_PREFIX}notebook-{session.replace('-', '')}"


def local_path(onward: str) -> str:
    """`onward` where it is a plain path on the notebook's own origin, else ``/``."""
    plain = (
        onward.startswith("/")
        and not onward.startswith(("//", "/_portal/"))
        and "\\" not in onward
        and len(onward) <= 2000
        and all("\x20" < c < "\x7f" for c in onward)
    )
    return onward if plain else "/"
