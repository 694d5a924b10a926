"""Unix seconds in the tables and on the wire, aware UTC datetimes in the model."""

from __future__ import annotations

from datetime import datetime, timezone


def to_datetime(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def maybe_datetime(seconds: float | None) -> datetime | None:
    return None if seconds is None else to_datetime(seconds)
