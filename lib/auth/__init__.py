"""Who is asking: providers, sign-ins, access tokens, groups.

Refusal is the default: whatever is not a living sign-in or token of a known, unblocked
person who may come is nobody.
"""

from lib.auth.groups import OWNER, Membership
from lib.auth.registry import (
    CLIENT_HEADER,
    COOKIE,
    LINK_LIFETIME_S,
    LOGIN_HEADER,
    LONGEST_TOKEN_S,
    TOKEN_LIFETIME_S,
    Auth,
    Login,
)

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
]
