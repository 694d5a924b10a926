"""Authentication: who is asking, by a sign-in or an access token, and who may come at all.

Refusal is the default: whatever is not a living sign-in or token of a known, unblocked
person who may come is nobody.
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from cachetools import TTLCache

from lib.auth.groups import OWNER, Membership
from lib.auth.links import SignInLinks
from lib.auth.logins import LOGIN_LIFETIME_S, Logins
from lib.auth.names import names_of
from lib.auth.tokens import AccessTokens
from lib.errors import NotFound, Refused, SignInEnded
from lib.model import User, UserId

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lib.model import JsonObject
    from lib.store import Store

#: What everybody is called counts for so long, seconds: it is asked for at each act.
_NAMES_COUNT_S = 5.0
_ENDED = "Your sign-in has ended. Sign in again; nothing was changed."


class Auth:
    """Safe to call from any thread and from several processes on one store.

    `links`, `logins` and `tokens` are the ways to be somebody.
    """

    def __init__(
        self,
        store: Store,
        membership: Membership | None = None,
        *,
        idle_s: float | None = None,
        sign_in_s: float = LOGIN_LIFETIME_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            idle_s: a sign-in that nobody uses ends after so long; None: never.
            sign_in_s: the longest life of a sign-in.
            clock: by which what is remembered here is forgotten, seconds.
        """
        self._people = store.people
        self._audit = store.audit
        self.membership = membership or Membership()
        self.links = SignInLinks(store)
        self.logins = Logins(
            store, lambda: self.membership, clock, idle_s=idle_s, lifetime_s=sign_in_s
        )
        self.tokens = AccessTokens(store, lambda: self.membership, clock)
        self._people.ensure_user(OWNER)
        self._names: TTLCache[None, Mapping[UserId, str]] = TTLCache(1, _NAMES_COUNT_S, clock)
        self._naming = threading.Lock()  # of them

    # --- signing in -----------------------------------------------------------

    def sign_in(self, key: str, client: str = "", browser: str = "") -> str:
        """Spend a link's key; the login cookie's value.

        Raises:
            Refused: the link is unknown, was used already or is too old.
        """
        try:
            user_id = self.links.spend(key)
        except Refused:
            self._note_stranger("sign-in", "", "", client)
            raise
        return self.logins.begin(user_id, "", client, browser)

    def admit(
        self,
        provider: str,
        subject: str,
        *,
        name: str,
        claims: JsonObject,
        issuer: str,
        client: str = "",
        browser: str = "",
    ) -> str:
        """Sign in whom a provider vouches for; the login cookie's value.

        The same subject of the same issuer is the same person; an e-mail address is not.

        Raises:
            Refused: they may not come, and why.
        """
        user_id = user_id_of(issuer, subject)
        kept = self.membership.kept_claims(provider, claims)
        account = self._people.came(
            user_id, name=name, provider=provider, subject=subject, claims=kept
        )
        if not self.membership.may_come(account):
            why = "blocked" if account.blocked else "not allowed by the settings"
            self._audit.write(user_id, "sign-in", "", result="refused", detail=why, client=client)
            raise Refused(
                "Your access to this portal was withdrawn. Ask its administrator."
                if account.blocked
                else "Your institute knows you, but you are not among those who may use this "
                "portal. Ask its administrator."
            )
        return self.logins.begin(user_id, provider, client, browser)

    def log_refusal(self, what: str, why: str, client: str) -> None:
        """Write down that nobody we know tried something."""
        self._note_stranger("stranger", what, why, client)

    def _note_stranger(self, action: str, what: str, why: str, client: str) -> None:
        self._audit.write("", action, what, result="refused", detail=why, client=client)

    # --- who is asking ----------------------------------------------------------

    def again(self, user: User) -> User:
        """Who speaks, as it is at this moment: groups, roles, and whether they still may.

        Raises:
            SignInEnded: the sign-in or token has ended since.
        """
        kind, _, ident = user.via.partition(":")
        now: User | None = None
        if kind == "login":
            login = self.logins.by_id(ident)
            now = login.user if login is not None else None
        elif kind == "token":
            now = self.tokens.by_id(ident)
        elif not user.via:  # our own code on this computer speaks in their name
            return user
        if now is None or now.id != user.id:
            raise SignInEnded(_ENDED)
        return replace(now, name=self.name_of(now.id), client=user.client)

    def groups_of(self, user_id: UserId) -> frozenset[str]:
        """The groups of anybody, at this moment; none of whom is not known."""
        try:
            return self.membership.user(self._people.account(user_id)).groups
        except NotFound:
            return frozenset()

    def name_of(self, user_id: UserId) -> str:
        """What anybody is called; the id of whom is not known."""
        name = self.names().get(user_id)
        if name is None and self._people.user(user_id) is not None:  # they came a moment ago
            name = self.names(anew=True).get(user_id)
        return str(user_id) if name is None else name

    def names(self, *, anew: bool = False) -> Mapping[UserId, str]:
        """What everybody is called, at most some seconds old."""
        with self._naming:
            known = None if anew else self._names.get(None)
            if known is None:
                known = self._names[None] = names_of(self._people.accounts())
            return known

    # --- ending -------------------------------------------------------------------

    def block(self, user_id: UserId, *, blocked: bool, by: User) -> None:
        """Take somebody's access away at once, or give it back.

        Raises:
            NotFound: there is no such person.
            Refused: they would lock themselves out.
        """
        if blocked and user_id in (by.id, OWNER.id):
            raise Refused("You cannot block yourself or the owner of this portal.")
        self._people.block(user_id, blocked=blocked)
        action = "block" if blocked else "unblock"
        self._audit.write(by.id, action, user_id, client=by.client, via=by.via)
        if blocked:
            self.logins.sign_out_everywhere(user_id, by=by)
            self.tokens.withdraw_all(user_id)


def user_id_of(issuer: str, subject: str) -> UserId:
    """The same for the same subject of the same issuer, for ever; says nothing of either."""
    return UserId("u-" + hashlib.sha256(f"{issuer}\0{subject}".encode()).hexdigest()[:20])
