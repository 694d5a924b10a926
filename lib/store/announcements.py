"""Announcements: what administrators tell everybody."""

from __future__ import annotations

import time

from sqlalchemy import Engine, RowMapping, insert, select, update

from lib.errors import NotFound
from lib.model import Announcement, AnnouncementKind
from lib.store import rows
from lib.store.database import transaction
from lib.store.tables import announcements


class Announcements:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def current(self) -> tuple[Announcement, ...]:
        """Those that have not run out, oldest first."""
        query = (
            select(announcements)
            .where(announcements.c.until > time.time())
            .order_by(announcements.c.id)
        )
        with self._engine.connect() as connection:
            return tuple(rows.each(connection.execute(query).mappings(), _announcement))

    def add(self, text: str, kind: AnnouncementKind, until: float) -> int:
        """From now on; its id."""
        values = {"text": text, "kind": kind.value, "since": time.time(), "until": until}
        with transaction(self._engine) as connection:
            done = connection.execute(insert(announcements).values(values))
        (number,) = done.inserted_primary_key or (0,)
        return int(number)

    def end(self, announcement_id: int) -> None:
        """From now on it is not shown. Raises NotFound."""
        now = time.time()
        with transaction(self._engine) as connection:
            done = connection.execute(
                update(announcements)
                .where(announcements.c.id == announcement_id, announcements.c.until > now)
                .values(until=now)
            )
        if done.rowcount != 1:
            raise NotFound("This announcement has ended already.")


def _announcement(row: RowMapping) -> Announcement:
    return Announcement(
        rows.whole(row, "id"),
        rows.text(row, "text"),
        AnnouncementKind(rows.text(row, "kind")),
        rows.moment(row, "since"),
        rows.moment(row, "until"),
    )
