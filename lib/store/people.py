"""Users and their ways in. Only hashes of secrets come here (see `lib.auth`)."""

from __future__ import annotations

import time

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from lib.model import User, UserId
from lib.store.database import transaction
from lib.store.tables import api_tokens, logins, sign_in_links, users


class People:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ensure_user(self, user: User) -> None:
        """Idempotent."""
        values = {"id": user.id, "name": user.name, "created_at": time.time()}
        with transaction(self._engine) as connection:
            connection.execute(upsert(users).values(values).on_conflict_do_nothing())

    def user(self, user_id: UserId) -> User | None:
        with self._engine.connect() as connection:
            row = connection.execute(select(users).where(users.c.id == user_id)).first()
        return User(UserId(row.id), row.name) if row else None

    def add_link(self, digest: str, user_id: UserId, expires_at: float) -> None:
        with transaction(self._engine) as connection:
            connection.execute(
                insert(sign_in_links).values(hash=digest, user_id=user_id, expires_at=expires_at)
            )

    def use_link(self, digest: str) -> UserId | None:
        """Spend a one-time link; None where it is unknown, spent or too old."""
        now = time.time()
        with transaction(self._engine) as connection:
            row = connection.execute(
                update(sign_in_links)
                .where(
                    sign_in_links.c.hash == digest,
                    sign_in_links.c.used_at.is_(None),
                    sign_in_links.c.expires_at > now,
                )
                .values(used_at=now)
                .returning(sign_in_links.c.user_id)
            ).first()
        return UserId(row.user_id) if row else None

    def add_login(self, login_id: str, digest: str, user_id: UserId, expires_at: float) -> None:
        with transaction(self._engine) as connection:
            connection.execute(
                insert(logins).values(
                    id=login_id,
                    hash=digest,
                    user_id=user_id,
                    created_at=time.time(),
                    expires_at=expires_at,
                )
            )

    def login_by_hash(self, digest: str) -> tuple[str, User] | None:
        """(login id, user) of a living login."""
        return self._login(logins.c.hash == digest)

    def login_by_id(self, login_id: str) -> tuple[str, User] | None:
        return self._login(logins.c.id == login_id)

    def _login(self, condition: object) -> tuple[str, User] | None:
        query = (
            select(logins.c.id.label("login_id"), users.c.id, users.c.name)
            .join(users, users.c.id == logins.c.user_id)
            .where(
                condition,  # type: ignore[arg-type]
                logins.c.revoked_at.is_(None),
                logins.c.expires_at > time.time(),
            )
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return (row.login_id, User(UserId(row.id), row.name)) if row else None

    def revoke_login(self, login_id: str) -> None:
        with transaction(self._engine) as connection:
            connection.execute(
                update(logins).where(logins.c.id == login_id).values(revoked_at=time.time())
            )

    def add_token(
        self, token_id: str, digest: str, user_id: UserId, name: str, expires_at: float
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
                )
            )

    def revoke_token(self, token_id: str) -> None:
        with transaction(self._engine) as connection:
            connection.execute(
                update(api_tokens).where(api_tokens.c.id == token_id).values(revoked_at=time.time())
            )

    def user_of_token(self, digest: str) -> User | None:
        query = (
            select(users.c.id, users.c.name)
            .join(api_tokens, users.c.id == api_tokens.c.user_id)
            .where(
                api_tokens.c.hash == digest,
                api_tokens.c.revoked_at.is_(None),
                api_tokens.c.expires_at > time.time(),
            )
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return User(UserId(row.id), row.name) if row else None
