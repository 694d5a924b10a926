"""`users list|sign-out|block|unblock`, `token`, `tokens list|withdraw`.

Whoever is signed out or blocked here loses open pages and notebooks of a running portal
within seconds: it asks the store again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.auth import TOKEN_LIFETIME_S
from lib.cli.output import Commands, Output, command, moment, table
from lib.cli.store_access import BY, auth_on
from lib.model import JsonValue, TokenScope, UserId
from lib.portal.admin import people_of

if TYPE_CHECKING:
    import argparse

    from lib.model import Person

_DAY_S = 86400.0


def add_to(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add all of them."""
    group = commands.add_parser("users", help="the people of this portal")
    part = group.add_subparsers(metavar="COMMAND", required=True)
    command(part, "list", _list, common, "List everybody who has ever signed in, by name.")
    for name, run, about in (
        ("sign-out", _sign_out, "End all sign-ins of somebody; their work goes on."),
        ("block", _block, "Take somebody's access away at once; their work goes on."),
        ("unblock", _unblock, "Let somebody in again who was blocked."),
    ):
        command(part, name, run, common, about).add_argument("user", metavar="ID")
    token = command(commands, "token", _token, common, "Print a new token for the HTTP API.")
    token.add_argument("--name", default="admin.py", help="what it is for")
    token.add_argument(
        "--scope",
        action="append",
        choices=[scope.value for scope in TokenScope],
        help="what it may be used for; may be given again (default: everything)",
    )
    token.add_argument(
        "--days", type=int, default=round(TOKEN_LIFETIME_S / _DAY_S), help="1 to 366 (default: 90)"
    )
    group = commands.add_parser("tokens", help="the tokens of this portal's owner")
    part = group.add_subparsers(metavar="COMMAND", required=True)
    command(part, "list", _tokens, common, "List them, newest first, without their secrets.")
    withdraw = command(part, "withdraw", _withdraw, common, "From now on they count no more.")
    withdraw.add_argument("tokens", metavar="ID", nargs="+")


def _list(options: argparse.Namespace) -> Output:
    with auth_on(options) as (store, auth):
        people = people_of(store, auth)
    rows = [
        (
            p.user.id,
            p.user.name,
            p.provider or "-",
            ",".join(sorted(p.user.groups)) or "-",
            p.user.role.value,
            p.logins,
            moment(p.seen_at),
            "blocked" if p.blocked else "",
        )
        for p in people
    ]
    head = ("ID", "NAME", "PROVIDER", "GROUPS", "ROLE", "SIGN-INS", "LAST SEEN (UTC)", "")
    return Output([_brief(p) for p in people], table(head, rows))


def _sign_out(options: argparse.Namespace) -> Output:
    with auth_on(options) as (store, auth):
        account = store.people.account(UserId(options.user))
        ended = auth.logins.sign_out_everywhere(account.id, by=BY)
    return Output(
        {"id": account.id, "ended": ended}, f"{auth.name_of(account.id)}: {ended} sign-ins ended."
    )


def _block(options: argparse.Namespace) -> Output:
    return _set_blocked(options, blocked=True)


def _unblock(options: argparse.Namespace) -> Output:
    return _set_blocked(options, blocked=False)


def _set_blocked(options: argparse.Namespace, *, blocked: bool) -> Output:
    with auth_on(options) as (store, auth):
        account = store.people.account(UserId(options.user))
        auth.block(account.id, blocked=blocked, by=BY)
        name = auth.name_of(account.id)
    said = (
        "is blocked: sign-ins and tokens have ended. Work goes on; to end it: admin.py sessions"
        if blocked
        else "may sign in again. Tokens that were withdrawn stay so"
    )
    return Output({"id": account.id, "blocked": blocked}, f"{name} {said}.")


def _token(options: argparse.Namespace) -> Output:
    scopes = [TokenScope(scope) for scope in options.scope or TokenScope]
    with auth_on(options) as (_, auth):
        token = auth.tokens.new(
            options.name, user=BY, scopes=scopes, lifetime_s=options.days * _DAY_S
        )
    return Output({"token": token}, token)


def _tokens(options: argparse.Namespace) -> Output:
    with auth_on(options) as (_, auth):
        tokens = auth.tokens.of(BY.id)
    rows = [
        (t.id, t.name, " ".join(sorted(t.scopes)), moment(t.expires_at), moment(t.used_at))
        for t in tokens
    ]
    text = table(("ID", "NAME", "SCOPES", "UNTIL (UTC)", "LAST USED (UTC)"), rows)
    value = [
        {
            "id": t.id,
            "name": t.name,
            "scopes": sorted(t.scopes),
            "created_at": t.created_at.isoformat(),
            "expires_at": t.expires_at.isoformat(),
            "used_at": t.used_at.isoformat() if t.used_at else None,
        }
        for t in tokens
    ]
    return Output(value, text if rows else "There are no tokens.")


def _withdraw(options: argparse.Namespace) -> Output:
    with auth_on(options) as (_, auth):
        for token in options.tokens:
            auth.tokens.withdraw(BY.id, token, by=BY)
    lines = "\n".join(f"Withdrawn {token}" for token in options.tokens)
    return Output({"withdrawn": options.tokens}, lines)


def _brief(person: Person) -> dict[str, JsonValue]:
    return {
        "id": person.user.id,
        "name": person.user.name,
        "provider": person.provider,
        "email": person.email,
        "groups": sorted(person.user.groups),
        "leads": sorted(person.user.leads),
        "role": person.user.role.value,
        "sign_ins": person.logins,
        "created_at": person.created_at.isoformat(),
        "seen_at": person.seen_at.isoformat() if person.seen_at else None,
        "blocked": person.blocked,
    }
