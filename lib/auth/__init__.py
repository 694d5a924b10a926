"""Who is asking, and who may do what: providers, sign-ins, access tokens, groups, the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.auth.authentication import Auth
from lib.auth.groups import OWNER, Membership
from lib.auth.links import LINK_LIFETIME_S
from lib.auth.logins import CLIENT_HEADER, COOKIE, LOGIN_HEADER, Login
from lib.auth.tokens import LONGEST_TOKEN_S, TOKEN_LIFETIME_S

if TYPE_CHECKING:
    from lib.config.settings import Settings
    from lib.store import Store

__all__ = [
    "CLIENT_HEADER",
    "COOKIE",
    "LINK_LIFETIME_S",
    "LOGIN_HEADER",
    "LONGEST_TOKEN_S",
    "OWNER",
    "TOKEN_LIFETIME_S",
    "Auth",
    "Login",
    "Membership",
    "auth_of",
]


def auth_of(settings: Settings, store: Store) -> Auth:
    """The registry of a portal with these settings: who may come, and for how long."""
    return Auth(
        store, Membership.of(settings), idle_s=settings.idle_s, sign_in_s=settings.sign_in_s
    )
