"""People and what they may be."""

from __future__ import annotations

from dataclasses import dataclass, field

from lib.model.ids import StrEnum, UserId


class Role(StrEnum):
    """What somebody is in the portal as a whole."""

    USER = "user"
    LEAD = "group lead"
    ADMINISTRATOR = "administrator"


class TokenScope(StrEnum):
    """What an access token may be used for; a browser's sign-in may do everything."""

    READ = "read"
    LAUNCH = "launch"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who is signed in, or in whose name a program acts.

    Args:
        groups: ids of the groups that they belong to; `leads` are among them.
        administrator: may administer the portal.
        scopes: what the access token allows; None for a sign-in.
        via: which sign-in ("login:ID") or token ("token:ID") speaks; empty for code of
            our own on the portal's computer. No secret.
        client: the network address that asks; empty where none does.
    """

    id: UserId
    name: str
    groups: frozenset[str] = frozenset()
    leads: frozenset[str] = frozenset()
    administrator: bool = False
    scopes: frozenset[TokenScope] | None = field(default=None, compare=False)
    via: str = field(default="", compare=False)
    client: str = field(default="", compare=False)

    @property
    def role(self) -> Role:
        """The highest that they have."""
        if self.administrator:
            return Role.ADMINISTRATOR
        return Role.LEAD if self.leads else Role.USER
