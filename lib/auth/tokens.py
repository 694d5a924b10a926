"""Access tokens of programs: bearer tokens with scopes, that expire or are withdrawn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lib.auth.groups import OWNER
from lib.auth.limits import OncePer
from lib.auth.secret import digest, new_id, new_secret
from lib.errors import InvalidInput, NotFound, Refused
from lib.model import TokenScope, User, UserId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lib.auth.groups import Membership
    from lib.model import AccessToken
    from lib.store import Store
    from lib.store.people import LivingToken

TOKEN_PREFIX = "sbt_"  # noqa: S105 - a mark for secret scanners, not a secret
TOKEN_LIFETIME_S = 90 * 24 * 3600.0
LONGEST_TOKEN_S = 366 * 24 * 3600.0
MOST_TOKENS = 50
_USE_NOTED_EVERY_S = 60.0


class AccessTokens:
    """`Auth.tokens`. Safe to call from any thread.

    Args:
        membership: by which rules somebody may come; asked for at each question.
    """

    def __init__(
        self, store: Store, membership: Callable[[], Membership], clock: Callable[[], float]
    ) -> None:
        self._people = store.people
        self._audit = store.audit
        self._membership = membership
        self._used = OncePer(_USE_NOTED_EVERY_S, clock)

    # --- who is asking ----------------------------------------------------------

    def user_of(self, token: str, client: str = "") -> User | None:
        """Whose access token this is, with its scopes, while it counts. Asking is using it."""
        if not token.startswith(TOKEN_PREFIX):
            return None
        found = self._people.token_by_hash(digest(token))
        user = self._user(found, client)
        if found is not None and user is not None and self._used.due(found.id):
            self._people.token_used(found.id)
        return user

    def by_id(self, token_id: str) -> User | None:
        """Who speaks by the token with this id, while it counts."""
        return self._user(self._people.token_by_id(token_id), "")

    def _user(self, found: LivingToken | None, client: str) -> User | None:
        if found is None:
            return None
        return self._membership().admitted(
            found.account, scopes=found.scopes, via=f"token:{found.id}", client=client
        )

    # --- making and withdrawing ---------------------------------------------------

    def new(
        self,
        name: str,
        *,
        user: User = OWNER,
        scopes: Iterable[TokenScope] = tuple(TokenScope),
        lifetime_s: float = TOKEN_LIFETIME_S,
    ) -> str:
        """A token for programs.

        Raises:
            InvalidInput: no name, no scope, or a lifetime that is not allowed.
            Refused: they have too many.
        """
        chosen = frozenset(scopes)
        if not name.strip() or len(name) > 100:
            raise InvalidInput("Give the token a name of at most 100 characters.")
        if not chosen:
            raise InvalidInput("Choose what the token may be used for.")
        if not 0 < lifetime_s <= LONGEST_TOKEN_S:
            raise InvalidInput("A token lives for at least a moment and at most a year.")
        if len(self._people.tokens_of(user.id)) >= MOST_TOKENS:
            raise Refused(f"You have {MOST_TOKENS} tokens already. Withdraw one first.")
        token, token_id = TOKEN_PREFIX + new_secret(), new_id()
        expires = time.time() + lifetime_s
        self._people.add_token(
            token_id, digest(token), user.id, name.strip(), expires, scopes=chosen
        )
        said = f"{name.strip()}: {' '.join(sorted(chosen))}"
        self._audit.write(
            user.id, "token-made", token_id, detail=said, client=user.client, via=user.via
        )
        return token

    def of(self, user_id: UserId) -> tuple[AccessToken, ...]:
        """The tokens of somebody that still count, newest first."""
        return self._people.tokens_of(user_id)

    def withdraw(self, user_id: UserId, token_id: str, *, by: User) -> None:
        """From now on this token of that user counts no more. Raises NotFound."""
        if not self._people.revoke_token(token_id, of=user_id):
            raise NotFound("This token was withdrawn already.")
        self._audit.write(by.id, "token-withdrawn", token_id, client=by.client, via=by.via)

    def withdraw_all(self, user_id: UserId) -> None:
        """As part of what is written down by who does it."""
        self._people.revoke_tokens_of(user_id)
