"""What somebody may see and do about their own sign-ins and access tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.auth.authorization import Access, Act
from lib.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lib.auth import Auth
    from lib.model import AccessToken, SignIn, TokenScope, User

DAY_S = 86400.0


class MyAccount:
    """`Portal.my_account`. A program with a token cannot use it: it is for browsers."""

    def __init__(self, auth: Auth, access: Access) -> None:
        self._auth = auth
        self._access = access

    def logins(self, user: User) -> tuple[SignIn, ...]:
        """Where the user is signed in, newest first."""
        self._access.require(user, Act.ACCOUNT)
        return self._auth.logins.of(user.id)

    def sign_out(self, user: User) -> None:
        """End the sign-in that speaks; its open pages and notebooks close within a second."""
        kind, _, login_id = user.via.partition(":")
        with self._access.attempted(user, "sign-out", login_id) as act:
            now = act.require(Act.ACCOUNT)
            if kind != "login":
                raise Refused("Only a browser that is signed in can sign out.")
            self._auth.logins.sign_out_one(now.id, login_id, by=now)

    def end_login(self, user: User, login_id: str) -> None:
        """End one of the user's sign-ins. Raises NotFound."""
        with self._access.attempted(user, "sign-out", login_id) as act:
            now = act.require(Act.ACCOUNT)
            self._auth.logins.sign_out_one(now.id, login_id, by=now)

    def sign_out_everywhere(self, user: User) -> int:
        """End all sign-ins of the user, this one too; how many there were."""
        with self._access.attempted(user, "sign-out-everywhere", user.id) as act:
            now = act.require(Act.ACCOUNT)
            return self._auth.logins.sign_out_everywhere(now.id, by=now)

    def tokens(self, user: User) -> tuple[AccessToken, ...]:
        """The user's access tokens, newest first; without their secrets."""
        self._access.require(user, Act.ACCOUNT)
        return self._auth.tokens.of(user.id)

    def new_token(self, user: User, name: str, scopes: Iterable[TokenScope], days: int) -> str:
        """A token, to be shown this once.

        Raises:
            InvalidInput: no name, no scope, or not 1 to 366 days.
            Refused: there are too many.
        """
        with self._access.attempted(user, "token-made") as act:
            now = act.require(Act.ACCOUNT)
            return self._auth.tokens.new(name, user=now, scopes=scopes, lifetime_s=days * DAY_S)

    def withdraw_token(self, user: User, token_id: str) -> None:
        """From now on it counts no more. Raises NotFound."""
        with self._access.attempted(user, "token-withdrawn", token_id) as act:
            now = act.require(Act.ACCOUNT)
            self._auth.tokens.withdraw(now.id, token_id, by=now)
