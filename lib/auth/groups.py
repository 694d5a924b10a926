"""What somebody is here: groups and roles, read from their provider's claims by the
settings of the moment. A group that the settings no longer name gives nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.config.settings.people import Group, Provider, Rule
from lib.model import JsonObject, JsonValue, TokenScope, User, UserId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lib.config.settings import Settings
    from lib.store.people import Account

#: Who uses the one-time links of the portal's own computer: the one person of a portal
#: without a provider, and whoever looks after one with providers.
OWNER = User(UserId("owner"), "Owner of this portal", administrator=True)


class Membership:
    """Rules over accounts. Without a provider only `OWNER` may come."""

    def __init__(
        self,
        providers: Iterable[Provider] = (),
        groups: Iterable[Group] = (),
        administrators: Iterable[Rule] = (),
    ) -> None:
        self._providers = {provider.id: provider for provider in providers}
        self._groups = tuple(groups)
        self._administrators = tuple(administrators)

    @staticmethod
    def of(settings: Settings) -> Membership:
        """As the settings say."""
        return Membership(settings.provider, settings.group, settings.administrators)

    @property
    def groups(self) -> Mapping[str, str]:
        """Title of every group that there is, by id."""
        return {group.id: group.title for group in self._groups}

    @property
    def one_person(self) -> bool:
        """Whether nobody but `OWNER` can come."""
        return not self._providers

    def may_come(self, account: Account) -> bool:
        """Whether this account may sign in, by the settings of the moment."""
        if account.blocked:
            return False
        if not account.provider:
            return account.id == OWNER.id
        provider = self._providers.get(account.provider)
        if provider is None:
            return False
        return not provider.allow or _any(provider.allow, account.provider, account.claims)

    def user(
        self,
        account: Account,
        *,
        scopes: frozenset[TokenScope] | None = None,
        via: str = "",
        client: str = "",
    ) -> User:
        """The account as a user, with groups and roles."""
        who, claims = account.provider, account.claims
        leads = frozenset(g.id for g in self._groups if _any(g.leads, who, claims))
        members = frozenset(g.id for g in self._groups if _any(g.members, who, claims))
        return User(
            account.id,
            account.name,
            groups=members | leads,
            leads=leads,
            administrator=account.id == OWNER.id or _any(self._administrators, who, claims),
            scopes=scopes,
            via=via,
            client=client,
        )

    def admitted(
        self,
        account: Account,
        *,
        scopes: frozenset[TokenScope] | None = None,
        via: str = "",
        client: str = "",
    ) -> User | None:
        """The account as a user, while it may come."""
        if not self.may_come(account):
            return None
        return self.user(account, scopes=scopes, via=via, client=client)

    def claims_of(self, provider: str) -> frozenset[str]:
        """The claims that the rules about people of this provider read."""
        rules = [*self._administrators]
        for group in self._groups:
            rules += [*group.members, *group.leads]
        if provider in self._providers:
            rules += self._providers[provider].allow
        names = {rule.claim for rule in rules if rule.provider == provider}
        return frozenset(names | ({"email_verified"} if "email" in names else set()))

    def kept_claims(self, provider: str, claims: JsonObject) -> dict[str, JsonValue]:
        """Those claims that any rule reads; the others are nobody's business here."""
        names = self.claims_of(provider) | {"email", "email_verified"}
        return {name: claims[name] for name in names if name in claims}


def _any(rules: Iterable[Rule], provider: str, claims: JsonObject) -> bool:
    return any(rule.provider == provider and _holds(rule, claims) for rule in rules)


def _holds(rule: Rule, claims: JsonObject) -> bool:
    if rule.claim == "email" and claims.get("email_verified") is not True:
        return False  # anybody may write any address there
    said = claims.get(rule.claim)
    return rule.value in said if isinstance(said, list) else said == rule.value
