"""One-time sign-in links, by which the owner of a portal comes in without a provider."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lib.auth.groups import OWNER
from lib.auth.secret import digest, new_secret
from lib.errors import Refused

if TYPE_CHECKING:
    from lib.model import UserId
    from lib.store import Store

LINK_LIFETIME_S = 30 * 60


class SignInLinks:
    """`Auth.links`."""

    def __init__(self, store: Store) -> None:
        self._people = store.people
        self._audit = store.audit

    def new(self, origin: str, *, via: str = "") -> str:
        """An address that signs one browser in as the owner, once, within half an hour."""
        key = new_secret()
        self._people.add_link(digest(key), OWNER.id, time.time() + LINK_LIFETIME_S)
        self._audit.write(OWNER.id, "link-made", "", via=via)
        return f"{origin}/signin?key={key}"

    def spend(self, key: str) -> UserId:
        """Whom this key lets in, this once.

        Raises:
            Refused: the link is unknown, was used already or is too old.
        """
        user_id = self._people.use_link(digest(key))
        if user_id is None:
            raise Refused(
                "This sign-in link was used already or is too old. "
                "Get a new one with: python admin.py link"
            )
        return user_id
