"""People and what they may be; their sign-ins and tokens; what they are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

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


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody the portal knows, as an administrator sees them.

    `provider` is empty for whoever uses the one-time links of the portal's computer.
    """

    user: User
    provider: str
    email: str
    created_at: datetime
    seen_at: datetime | None
    blocked: bool
    logins: int


@dataclass(frozen=True, slots=True)
class SignIn:
    """One browser in which somebody is signed in. `id` is no secret."""

    id: str
    provider: str
    client: str
    browser: str
    created_at: datetime
    seen_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A personal access token for the API, without its secret."""

    id: str
    name: str
    scopes: frozenset[TokenScope]
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


class AnnouncementKind(StrEnum):
    INFO = "info"
    WARNING = "warn"


@dataclass(frozen=True, slots=True)
class Announcement:
    """What an administrator tells everybody, on every page until `until`."""

    id: int
    text: str
    kind: AnnouncementKind
    since: datetime
    until: datetime
