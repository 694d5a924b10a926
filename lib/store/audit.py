"""The portal's append-only audit log: who did what to what, with which result."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Engine, insert, select

from lib.store.database import transaction
from lib.store.tables import audit
from lib.store.times import to_datetime

if TYPE_CHECKING:
    from lib.model import UserId


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line. `result` is "ok" or an error's code."""

    time: datetime
    user: str
    action: str
    object: str
    result: str
    detail: str
    client: str


class Audit:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def write(
        self,
        user: UserId | str,
        action: str,
        object_id: str,
        *,
        result: str = "ok",
        detail: str = "",
        client: str = "",
    ) -> None:
        """Append one line. `detail` must hold no secret."""
        with transaction(self._engine) as connection:
            connection.execute(
                insert(audit).values(
                    time=time.time(),
                    user_id=str(user),
                    action=action,
                    object=object_id[:200],
                    result=result,
                    detail=detail[:1000],
                    client=client[:100],
                )
            )

    def latest(self, limit: int = 100) -> tuple[AuditEntry, ...]:
        """Newest first."""
        query = select(audit).order_by(audit.c.id.desc()).limit(limit)
        with self._engine.connect() as connection:
            return tuple(
                AuditEntry(
                    to_datetime(row.time),
                    row.user_id,
                    row.action,
                    row.object,
                    row.result,
                    row.detail,
                    row.client,
                )
                for row in connection.execute(query)
            )
