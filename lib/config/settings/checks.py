"""Reading single values of `settings.toml` strictly. Errors name the key and the file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lib.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
_HOST = re.compile(r"(?=.{1,253}(?::|$))[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::\d{1,5})?")


def whole(value: object, lowest: int, highest: int, where: str) -> int:
    """A whole number in a range."""
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise InvalidInput(f"{where} must be a whole number from {lowest} to {highest}.")
    return value


def text(value: object, where: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{where} must be a text.")
    return value.strip()


def name(value: object, where: str) -> str:
    """An id: it stands in addresses and in other settings."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InvalidInput(
            f"{where} must be an id of at most 32 small letters, digits and hyphens."
        )
    return value


def host(value: object, where: str) -> str:
    """A host name, with a port where one is needed."""
    if not isinstance(value, str) or not _HOST.fullmatch(value):
        raise InvalidInput(f"{where} must be a host name such as notebooks.example.org.")
    return value


def origin(value: object, where: str) -> str:
    """Scheme, host and port of the portal's pages; https unless it is this computer."""
    parts = urlsplit(value) if isinstance(value, str) else urlsplit("")
    if (
        parts.scheme not in ("http", "https")
        or not parts.netloc
        or parts.netloc != (parts.netloc.lower())
        or f"{parts.scheme}://{parts.netloc}" != value
        or parts.username is not None
    ):
        raise InvalidInput(f"{where} must be an origin such as https://portal.example.org.")
    if parts.scheme == "http" and not is_loopback_name(parts.hostname or ""):
        raise InvalidInput(f"{where} must begin with https: sign-ins need an encrypted connection.")
    return f"{parts.scheme}://{parts.netloc}"


def is_loopback_name(host_name: str) -> bool:
    """Whether browsers of this computer alone mean it, and trust it without TLS."""
    return host_name in LOOPBACK_NAMES or host_name.endswith(".localhost")


def fields(value: object, allowed: Collection[str], where: str) -> Mapping[str, object]:
    """A table that holds nothing but these keys."""
    if not isinstance(value, dict):
        raise InvalidInput(f"{where} must be a table.")
    for key in value:
        if key not in allowed:
            raise InvalidInput(
                f"{where} has an unknown setting {key!r:.60}. It may hold: {', '.join(allowed)}."
            )
    return value


def listed(value: object, where: str) -> list[object]:
    """A list."""
    if not isinstance(value, list):
        raise InvalidInput(f"{where} must be a list.")
    return value
