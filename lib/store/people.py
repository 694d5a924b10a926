"""Users and their ways in. Only hashes of secrets come here (see `lib.auth`).

What a user may do is not kept: their provider's claims are, and `lib.auth.groups` reads
them by the settings of the moment.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import Engine, and_, bindparam, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from lib.errors import NotFound
from lib.model import AccessToken, SignIn, TokenScope, User, UserId
from lib.store import rows
from lib.store.database import transaction
from lib.store.tables import api_tokens, logins, sign_in_links, users

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from sqlalchemy import ColumnElement, RowMapping, Select, Table

    from lib.model import JsonValue


@dataclass(frozen=True, slots=True)
class Account:
    """A user as the store knows them."""

    id: UserId
    name: str
    provider: str
    claims: Mapping[str, JsonValue] = field(repr=False)
    created_at: datetime
    seen_at: datetime | None
    blocked: bool


@dataclass(frozen=True, slots=True)
class LivingLogin:
    """A sign-in that counts at this moment, and whose it is."""

    id: str
    account: Account
    seen_at: float


@dataclass(frozen=True, slots=True)
class LivingToken:
    """An access token that counts at this moment, and whose it is."""

    id: str
    account: Account
    scopes: frozenset[TokenScope]


class People:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- users ------------------------------------------------------------

    def ensure_user(self, user: User) -> None:
        """Idempotent."""
        values = {"id": user.id, "name": user.name, "created_at": time.time()}
        with transaction(self._engine) as connection:
            connection.execute(upsert(users).values(values).on_conflict_do_nothing())

    def came(
        self,
        user_id: UserId,
        *,
        name: str,
        provider: str,
        subject: str,
        claims: Mapping[str, JsonValue],
    ) -> Account:
        """What a provider says of somebody who signs in; the newest word counts."""
        now = time.time()
        said = {"name": name, "claims": dict(claims), "seen_at": now}
        row = {"id": user_id, "provider": provider, "subject": subject, "created_at": now, **said}
        statement = upsert(users).values(row)
        with transaction(self._engine) as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=said))
        return self.account(user_id)

    def user(self, user_id: UserId) -> User | None:
        """The user's id and name alone."""
        try:
            account = self.account(user_id)
        except NotFound:
            return None
        return User(account.id, account.name)

    def account(self, user_id: UserId) -> Account:
        """Raises NotFound."""
        with self._engine.connect() as connection:
            row = connection.execute(_ACCOUNT, {"key": user_id}).mappings().first()
        if row is None:
            raise NotFound(f"There is no person {user_id!r:.80} in this portal.")
        return _account(row)

    def accounts(self) -> tuple[Account, ...]:
        """Everybody, by name."""
        with self._engine.connect() as connection:
            found = connection.execute(select(users).order_by(func.lower(users.c.name)))
            return tuple(rows.each(found.mappings(), _account))

    def block(self, user_id: UserId, *, blocked: bool) -> None:
        """Whether no sign-in and no token of theirs counts any more. Raises NotFound."""
        self.account(user_id)
        moment = time.time() if blocked else None
        with transaction(self._engine) as connection:
            connection.execute(update(users).where(users.c.id == user_id).values(blocked_at=moment))

    # --- one-time links -----------------------------------------------------

    def add_link(self, digest: str, user_id: UserId, expires_at: float) -> None:
        with transaction(self._engine) as connection:
            connection.execute(
                insert(sign_in_links).values(hash=digest, user_id=user_id, expires_at=expires_at)
            )

    def use_link(self, digest: str) -> UserId | None:
        """Spend a one-time link; None where it is unknown, spent or too old."""
        now = time.time()
        with transaction(self._engine) as connection:
            owner = connection.execute(
                update(sign_in_links)
                .where(
                    sign_in_links.c.hash == digest,
                    sign_in_links.c.used_at.is_(None),
                    sign_in_links.c.expires_at > now,
                )
                .values(used_at=now)
                .returning(sign_in_links.c.user_id)
            ).scalar()
        return None if owner is None else UserId(owner)

    # --- sign-ins -------------------------------------------------------------

    def add_login(
        self,
        login_id: str,
        digest: str,
        user_id: UserId,
        expires_at: float,
        *,
        provider: str = "",
        client: str = "",
        browser: str = "",
    ) -> None:
        now = time.time()
        with transaction(self._engine) as connection:
            connection.execute(
                insert(logins).values(
                    id=login_id,
                    hash=digest,
                    user_id=user_id,
                    created_at=now,
                    seen_at=now,
                    expires_at=expires_at,
                    provider=provider,
                    client=client[:100],
                    browser=browser[:200],
                )
            )

    def login_by_hash(self, digest: str, *, idle_s: float | None = None) -> LivingLogin | None:
        """The living sign-in of this secret: not expired, withdrawn, idle or blocked."""
        return self._login(_BY_HASH, digest, idle_s)

    def login_by_id(self, login_id: str, *, idle_s: float | None = None) -> LivingLogin | None:
        return self._login(_BY_ID, login_id, idle_s)

    def living(self, login_ids: Iterable[str], *, idle_s: float | None = None) -> frozenset[str]:
        """Those of these sign-ins that count at this moment. One query."""
        query = (
            select(logins.c.id)
            .join(users, users.c.id == logins.c.user_id)
            .where(logins.c.id.in_(list(login_ids)), _LIVES)
        )
        with self._engine.connect() as connection:
            return frozenset(connection.execute(query, _moments(idle_s)).scalars())

    def _login(
        self, query: Select[tuple[object, ...]], key: str, idle_s: float | None
    ) -> LivingLogin | None:
        with self._engine.connect() as connection:
            row = connection.execute(query, {"key": key, **_moments(idle_s)}).mappings().first()
        if row is None:
            return None
        return LivingLogin(
            rows.text(row, "login_id"), _account(row), rows.number(row, "login_seen")
        )

    def logins_of(self, user_id: UserId, *, idle_s: float | None = None) -> tuple[SignIn, ...]:
        """The user's living sign-ins, newest first."""
        query = (
            select(logins)
            .join(users, users.c.id == logins.c.user_id)
            .where(logins.c.user_id == user_id, _LIVES)
            .order_by(logins.c.created_at.desc())
        )
        with self._engine.connect() as connection:
            found = connection.execute(query, _moments(idle_s)).mappings()
            return tuple(rows.each(found, _sign_in))

    def login_counts(self, *, idle_s: float | None = None) -> dict[UserId, int]:
        """How many living sign-ins everybody has."""
        query = (
            select(logins.c.user_id, func.count())
            .join(users, users.c.id == logins.c.user_id)
            .where(_LIVES)
            .group_by(logins.c.user_id)
        )
        with self._engine.connect() as connection:
            counts = connection.execute(query, _moments(idle_s)).all()
        return {UserId(user): count for user, count in counts}

    def login_seen(self, login_id: str) -> None:
        """Somebody acted: the idle time starts again. A dead sign-in stays dead."""
        now = time.time()
        with transaction(self._engine) as connection:
            owner = connection.execute(
                update(logins)
                .where(logins.c.id == login_id, logins.c.revoked_at.is_(None))
                .values(seen_at=now)
                .returning(logins.c.user_id)
            ).scalar()
            if owner is not None:
                connection.execute(update(users).where(users.c.id == owner).values(seen_at=now))

    def revoke_login(self, login_id: str) -> None:
        self._revoke(logins, logins.c.id == login_id)

    def revoke_logins_of(self, user_id: UserId) -> frozenset[str]:
        """Withdraw all sign-ins of a user; their ids."""
        return self._revoke(logins, logins.c.user_id == user_id)

    # --- tokens -----------------------------------------------------------------

    def add_token(
        self,
        token_id: str,
        digest: str,
        user_id: UserId,
        name: str,
        expires_at: float,
        *,
        scopes: Iterable[TokenScope] = tuple(TokenScope),
    ) -> None:
        with transaction(self._engine) as connection:
            connection.execute(
                insert(api_tokens).values(
                    id=token_id,
                    hash=digest,
                    user_id=user_id,
                    name=name,
                    created_at=time.time(),
                    expires_at=expires_at,
                    scopes=" ".join(sorted(scope.value for scope in scopes)),
                )
            )

    def token_by_hash(self, digest: str) -> LivingToken | None:
        return self._token(_TOKEN_BY_HASH, digest)

    def token_by_id(self, token_id: str) -> LivingToken | None:
        return self._token(_TOKEN_BY_ID, token_id)

    def _token(self, query: Select[tuple[object, ...]], key: str) -> LivingToken | None:
        with self._engine.connect() as connection:
            values = {"key": key, "now": time.time()}
            row = connection.execute(query, values).mappings().first()
        if row is None:
            return None
        scopes = _scopes(rows.text(row, "scopes"))
        return LivingToken(rows.text(row, "token_id"), _account(row), scopes)

    def tokens_of(self, user_id: UserId) -> tuple[AccessToken, ...]:
        """The user's tokens that still count, newest first."""
        query = (
            select(api_tokens)
            .where(
                api_tokens.c.user_id == user_id,
                api_tokens.c.revoked_at.is_(None),
                api_tokens.c.expires_at > time.time(),
            )
            .order_by(api_tokens.c.created_at.desc())
        )
        with self._engine.connect() as connection:
            return tuple(rows.each(connection.execute(query).mappings(), _token))

    def token_used(self, token_id: str) -> None:
        with transaction(self._engine) as connection:
            connection.execute(
                update(api_tokens).where(api_tokens.c.id == token_id).values(used_at=time.time())
            )

    def revoke_token(self, token_id: str, *, of: UserId | None = None) -> bool:
        """Withdraw a token, where `of` is given only of that user; whether it was there."""
        condition = api_tokens.c.id == token_id
        if of is not None:
            condition = and_(condition, api_tokens.c.user_id == of)
        return bool(self._revoke(api_tokens, condition))

    def revoke_tokens_of(self, user_id: UserId) -> frozenset[str]:
        """Withdraw all tokens of a user; their ids."""
        return self._revoke(api_tokens, api_tokens.c.user_id == user_id)

    def _revoke(self, table: Table, condition: ColumnElement[bool]) -> frozenset[str]:
        with transaction(self._engine) as connection:
            return frozenset(
                connection.execute(
                    update(table)
                    .where(condition, table.c.revoked_at.is_(None))
                    .values(revoked_at=time.time())
                    .returning(table.c.id)
                ).scalars()
            )


#: The one meaning of a sign-in that counts; to be asked with `_moments`.
_LIVES = and_(
    logins.c.revoked_at.is_(None),
    logins.c.expires_at > bindparam("now"),
    logins.c.seen_at > bindparam("idle_since"),
    users.c.blocked_at.is_(None),
)
#: Every question of a page and every request begins with one of these: made once.
_LOGINS = (
    select(logins.c.id.label("login_id"), logins.c.seen_at.label("login_seen"), users)
    .join(users, users.c.id == logins.c.user_id)
    .where(_LIVES)
)
_BY_HASH = _LOGINS.where(logins.c.hash == bindparam("key"))
_BY_ID = _LOGINS.where(logins.c.id == bindparam("key"))
_TOKENS = (
    select(api_tokens.c.id.label("token_id"), api_tokens.c.scopes, users)
    .join(users, users.c.id == api_tokens.c.user_id)
    .where(
        api_tokens.c.revoked_at.is_(None),
        api_tokens.c.expires_at > bindparam("now"),
        users.c.blocked_at.is_(None),
    )
)
_TOKEN_BY_HASH = _TOKENS.where(api_tokens.c.hash == bindparam("key"))
_TOKEN_BY_ID = _TOKENS.where(api_tokens.c.id == bindparam("key"))
_ACCOUNT = select(users).where(users.c.id == bindparam("key"))


def _moments(idle_s: float | None) -> dict[str, float]:
    """What `_LIVES` is asked with; None: nothing ends by idle time."""
    now = time.time()
    return {"now": now, "idle_since": -1.0 if idle_s is None else now - idle_s}


def _account(row: RowMapping) -> Account:
    return Account(
        UserId(rows.text(row, "id")),
        rows.text(row, "name"),
        rows.text(row, "provider"),
        {} if row["claims"] is None else rows.table(row, "claims"),
        rows.moment(row, "created_at"),
        rows.maybe_moment(row, "seen_at"),
        row["blocked_at"] is not None,
    )


def _sign_in(row: RowMapping) -> SignIn:
    return SignIn(
        rows.text(row, "id"),
        rows.text(row, "provider"),
        rows.text(row, "client"),
        rows.text(row, "browser"),
        rows.moment(row, "created_at"),
        rows.moment(row, "seen_at"),
        rows.moment(row, "expires_at"),
    )


def _scopes(text: str) -> frozenset[TokenScope]:
    known = {scope.value for scope in TokenScope}
    return frozenset(TokenScope(word) for word in text.split() if word in known)


def _token(row: RowMapping) -> AccessToken:
    return AccessToken(
        rows.text(row, "id"),
        rows.text(row, "name"),
        _scopes(rows.text(row, "scopes")),
        rows.moment(row, "created_at"),
        rows.moment(row, "expires_at"),
        rows.maybe_moment(row, "used_at"),
    )
