"""What people are called: one name for each, wherever they are shown."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lib.model import UserId
    from lib.store.people import Account


def names_of(accounts: Iterable[Account]) -> dict[UserId, str]:
    """The name that each goes by, of everybody that the portal knows.

    It is the name that their provider tells; where two could be taken for each other, with the
    one that they sign in with.
    """
    everybody = tuple(accounts)
    told = {a.id: a.name if a.name.strip() else sign_in_name(a) for a in everybody}
    alike = Counter(_look(name) for name in told.values())
    return {
        a.id: told[a.id] if alike[_look(told[a.id])] == 1 else f"{told[a.id]} ({sign_in_name(a)})"
        for a in everybody
    }


def sign_in_name(account: Account) -> str:
    """What tells this account from all others, in words where there are any.

    An e-mail address counts where its provider has proved it: anybody could state another's.
    """
    email = account.claims.get("email")
    if not account.provider:
        return "this portal's computer"
    if isinstance(email, str) and email and account.claims.get("email_verified") is True:
        return f"{email}, {account.provider}"
    return f"{account.id}, {account.provider}"


def _look(name: str) -> str:
    """The same for names that people would take for one."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())
