"""Settings of who may sign in: identity providers, groups, administrators.

    [[provider]]
    id = "aist"
    title = "AIST"
    issuer = "https://id.aist.example"
    client_id = "scenebridge"

    [[group]]
    id = "forest"
    title = "Forest monitoring"
    members = [{ provider = "aist", claim = "groups", value = "forest" }]
    leads = [{ provider = "aist", claim = "email", value = "kato@aist.example" }]

    administrators = [{ provider = "aist", claim = "groups", value = "portal-admins" }]

A rule holds for somebody of that provider whose claim is the value, or a list with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lib.config.settings.checks import fields, is_loopback_name, listed, name, text, whole
from lib.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROVIDER = (
    "id", "title", "issuer", "client_id", "client_secret_file", "scope", "allow",
    "clock_skew_s",
)  # fmt: skip
_GROUP = ("id", "title", "members", "leads")
_RULE = ("provider", "claim", "value")
DEFAULT_SCOPE = "openid profile email"


@dataclass(frozen=True, slots=True)
class Rule:
    """Holds for who comes from `provider` with `value` in `claim`."""

    provider: str
    claim: str
    value: str


@dataclass(frozen=True, slots=True)
class Provider:
    """One OpenID Connect provider.

    Args:
        issuer: exactly as the provider's own metadata and tokens write it.
        client_secret_file: None means `DATA/secrets/oidc-ID`.
        scope: asked for at sign-in.
        allow: where not empty, one of these must hold for who signs in.
        clock_skew_s: how far its clock and ours may be apart.
    """

    id: str
    title: str
    issuer: str
    client_id: str
    client_secret_file: Path | None = None
    scope: str = DEFAULT_SCOPE
    allow: tuple[Rule, ...] = ()
    clock_skew_s: int = 60


@dataclass(frozen=True, slots=True)
class Group:
    """People who work together; leads see each member's work and may stop it."""

    id: str
    title: str
    members: tuple[Rule, ...] = field(default=())
    leads: tuple[Rule, ...] = field(default=())


def providers(value: object, where: str) -> tuple[Provider, ...]:
    """Raises InvalidInput."""
    found = tuple(_provider(v, f"[[provider]] {i} of {where}") for i, v in _numbered(value, where))
    _once((p.id for p in found), "providers", where)
    return found


def groups(value: object, where: str) -> tuple[Group, ...]:
    """Raises InvalidInput."""
    found = tuple(_group(v, f"[[group]] {i} of {where}") for i, v in _numbered(value, where))
    _once((g.id for g in found), "groups", where)
    return found


def rules(value: object, where: str) -> tuple[Rule, ...]:
    """Raises InvalidInput."""
    return tuple(_rule(v, where) for v in listed(value, where))


def check_rules(found: Iterable[Rule], known: Iterable[Provider], where: str) -> None:
    """Every rule names a provider that there is. Raises InvalidInput."""
    ids = {provider.id for provider in known}
    for rule in found:
        if rule.provider not in ids:
            raise InvalidInput(
                f"A rule in {where} names the provider {rule.provider!r}, which is not there. "
                f"There are: {', '.join(sorted(ids)) or 'none'}."
            )


def _provider(value: object, where: str) -> Provider:
    table = fields(value, _PROVIDER, where)
    provider_id = name(table.get("id"), f"id in {where}")
    secret_file = table.get("client_secret_file")
    return Provider(
        id=provider_id,
        title=text(table.get("title", provider_id), f"title in {where}"),
        issuer=_issuer(table.get("issuer"), f"issuer in {where}"),
        client_id=text(table.get("client_id"), f"client_id in {where}"),
        client_secret_file=(
            None
            if secret_file is None
            else Path(text(secret_file, f"client_secret_file in {where}"))
        ),
        scope=_scope(table.get("scope", DEFAULT_SCOPE), f"scope in {where}"),
        allow=rules(
            [{"provider": provider_id, **_table(v, where)} for v in listed(
                table.get("allow", []), f"allow in {where}")],
            f"allow in {where}",
        ),
        clock_skew_s=whole(table.get("clock_skew_s", 60), 0, 600, f"clock_skew_s in {where}"),
    )  # fmt: skip


def _group(value: object, where: str) -> Group:
    table = fields(value, _GROUP, where)
    group_id = name(table.get("id"), f"id in {where}")
    return Group(
        group_id,
        text(table.get("title", group_id), f"title in {where}"),
        rules(table.get("members", []), f"members in {where}"),
        rules(table.get("leads", []), f"leads in {where}"),
    )


def _rule(value: object, where: str) -> Rule:
    table = fields(value, _RULE, where)
    return Rule(
        name(table.get("provider"), f"provider in {where}"),
        text(table.get("claim"), f"claim in {where}"),
        text(table.get("value"), f"value in {where}"),
    )


def _issuer(value: object, where: str) -> str:
    address = text(value, where)
    parts = urlsplit(address)
    encrypted = parts.scheme == "https"
    if not (encrypted or (parts.scheme == "http" and is_loopback_name(parts.hostname or ""))):
        raise InvalidInput(f"{where} must be an https address.")
    if not parts.netloc or parts.query or parts.fragment:
        raise InvalidInput(f"{where} must be the issuer's address and nothing behind it.")
    return address


def _scope(value: object, where: str) -> str:
    scope = text(value, where)
    if "openid" not in scope.split():
        raise InvalidInput(f"{where} must contain openid.")
    return scope


def _table(value: object, where: str) -> dict[str, object]:
    return dict(fields(value, ("claim", "value"), where))


def _numbered(value: object, where: str) -> Iterable[tuple[int, object]]:
    return enumerate(listed(value, where), start=1)


def _once(ids: Iterable[str], what: str, where: str) -> None:
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise InvalidInput(f"{where} has two {what} with the id {one!r}.")
        seen.add(one)
