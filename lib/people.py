"""What the portal knows of people, their sign-ins and tokens, and tells them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from lib.model import StrEnum, TokenScope, User


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
