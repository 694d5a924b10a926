"""Who may come in: providers, and groups that somebody can be in."""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING

from lib.auth.authorization import EVERYONE
from lib.auth.oidc import SignInProviders
from lib.doctor.check import Check
from lib.errors import SceneBridgeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.config.offerings import Offerings
    from lib.config.settings import Provider, Settings

_LIMIT_S = 10.0


def checks(chosen: Settings, offerings: Offerings) -> Iterator[Check]:
    """What the settings alone can say."""
    yield groups(chosen, offerings)
    if not chosen.single_user:
        yield embedded(offerings)


def groups(chosen: Settings, offerings: Offerings) -> Check:
    """Groups that are named but not there, or that nobody can be in."""
    known = {group.id for group in chosen.group}
    wrong = [
        f"{what} is for the group {name!r}, which the settings do not have"
        for what, named in (
            *((f"the cluster {c.id}", c.groups) for c in offerings.clusters.values()),
            *((f"the collection {c}", readers) for c, readers in offerings.readers.items()),
        )
        for name in named
        if name != EVERYONE and name not in known
    ]
    if wrong and chosen.single_user:
        return Check(
            "groups", False, f"{'; '.join(wrong)}, and a portal of one person cannot have: write "
            '"everyone" into its file instead',
        )  # fmt: skip
    if wrong:
        return Check("groups", False, f"{'; '.join(wrong)}: add a [[group]], or change catalogs/")
    empty = [group.id for group in chosen.group if not group.members and not group.leads]
    if empty:
        return Check(
            "groups", False,
            f"nobody can be in {', '.join(empty)}: give each [[group]] rules for its members",
        )  # fmt: skip
    return Check("groups", True, f"{len(known)}, and all that are named are there")


def embedded(offerings: Offerings) -> Check:
    """Jobs on the portal's own computer run without isolation, as the portal's account."""
    open_here = [c.id for c in offerings.clusters.values() if c.embedded and c.groups]
    if open_here:
        return Check(
            "own computer", False,
            f"whoever may start work on {', '.join(open_here)} can read the portal's secrets: "
            "take embedded_groups out of the settings",
        )  # fmt: skip
    return Check("own computer", True, "nobody may start work on the portal's computer")


def providers(chosen: Settings) -> Iterator[Check]:
    """Each provider: the portal's secret for it, and whether it could be used now."""
    for provider in chosen.provider:
        yield client_secret(chosen, provider)
    yield from asyncio.run(_ask_all(chosen))


def client_secret(chosen: Settings, provider: Provider) -> Check:
    """A file of the portal's account alone."""
    name = f"secret for {provider.id}"
    file = chosen.client_secret_file(provider)
    try:
        chosen.client_secret(provider)
    except SceneBridgeError:
        return Check(
            name, False,
            f"{file} is not there, empty, or cannot be read: write the client secret that "
            f"{provider.title} gave you into it, mode 0600",
        )  # fmt: skip
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        return Check(name, False, f"others may read {file}: chmod 600, and let {provider.title} "
                     "make a new secret")  # fmt: skip
    return Check(name, True, f"{file} is private")


async def _ask_all(chosen: Settings) -> list[Check]:
    # The secret is looked at above; here it would only hide what else is wrong.
    asked = SignInProviders(chosen.provider, lambda _: "-", limit_s=_LIMIT_S)
    return list(await asyncio.gather(*(_ask(asked, p) for p in chosen.provider)))


async def _ask(asked: SignInProviders, provider: Provider) -> Check:
    name = f"provider {provider.id}"
    try:
        return Check(name, True, await asked.check(provider.id))
    except SceneBridgeError as exc:
        cause = exc.__cause__
        why = f" ({type(cause).__name__}: {str(cause)[:200]})" if cause else ""
        address = f"{provider.issuer.rstrip('/')}/.well-known/openid-configuration"
        return Check(name, False, f"{exc.message}{why}: look at {address}")
