"""Who is asking: one-time sign-in links, logins (a cookie), API tokens.

Without an identity provider the portal serves one person, whose one-time link `./run`
prints. Secrets are random, leave this module once, and are stored as SHA-256 only.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from lib.errors import Refused
from lib.model import User, UserId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lib.store import Store

COOKIE = "scenebridge-login"
LINK_LIFETIME_S = 30 * 60
LOGIN_LIFETIME_S = 30 * 24 * 3600
TOKEN_LIFETIME_S = 365 * 24 * 3600
TOKEN_PREFIX = "sbt_"  # noqa: S105 - a mark for secret scanners, not a secret

#: The one person of a portal without an identity provider.
OWNER = User(UserId("owner"), "Owner of this portal")


@dataclass(frozen=True, slots=True)
class Login:
    """A browser that signed in. `id` is no secret."""

    id: str
    user: User


class Auth:
    def __init__(self, store: Store) -> None:
        self._people = store.people
        self._audit = store.audit
        self._people.ensure_user(OWNER)

    def new_sign_in_link(self, origin: str) -> str:
        """An address that signs one browser in, once, within half an hour."""
        key = secrets.token_urlsafe(32)
        self._people.add_link(_digest(key), OWNER.id, time.time() + LINK_LIFETIME_S)
        return f"{origin}/signin?key={key}"

    def sign_in(self, key: str, client: str = "") -> str:
        """Spend a link's key; the login cookie's value.

        Raises:
            Refused: the link is unknown, was used already or is too old.
        """
        user_id = self._people.use_link(_digest(key))
        if user_id is None:
            self._audit.write("", "sign-in", "", result="refused", client=client)
            raise Refused(
                "This sign-in link was used already or is too old. "
                "Get a new one with: python admin.py link"
            )
        secret = secrets.token_urlsafe(32)
        login_id = secrets.token_hex(8)
        self._people.add_login(login_id, _digest(secret), user_id, time.time() + LOGIN_LIFETIME_S)
        self._audit.write(user_id, "sign-in", login_id, client=client)
        return secret

    def login_of_secret(self, secret: str) -> Login | None:
        """The living login whose cookie value this is."""
        found = self._people.login_by_hash(_digest(secret)) if secret else None
        return Login(*found) if found else None

    def login_of_cookies(self, cookies: Mapping[str, str]) -> Login | None:
        return self.login_of_secret(cookies.get(COOKIE, ""))

    def login_of_header(self, cookie_header: str) -> Login | None:
        """From a raw Cookie header; two cookies of our name are refused."""
        values = [
            value
            for name, _, value in (part.strip().partition("=") for part in cookie_header.split(";"))
            if name == COOKIE
        ]
        if len(values) != 1:
            return None
        try:
            morsel = SimpleCookie(f"{COOKIE}={values[0]}").get(COOKIE)
        except CookieError:
            return None
        return self.login_of_secret(morsel.value) if morsel else None

    def login(self, login_id: str) -> Login | None:
        """The login with this id, while it lives."""
        found = self._people.login_by_id(login_id)
        return Login(*found) if found else None

    def sign_out(self, login: Login) -> None:
        self._people.revoke_login(login.id)
        self._audit.write(login.user.id, "sign-out", login.id)

    def new_token(self, name: str) -> str:
        """A token for programs, valid for a year."""
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        token_id = secrets.token_hex(8)
        expires = time.time() + TOKEN_LIFETIME_S
        self._people.add_token(token_id, _digest(token), OWNER.id, name, expires)
        self._audit.write(OWNER.id, "token-made", token_id, detail=name)
        return token

    def user_of_token(self, token: str) -> User | None:
        if not token.startswith(TOKEN_PREFIX):
            return None
        return self._people.user_of_token(_digest(token))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
