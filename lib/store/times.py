"""Unix seconds in the tables and on the wire, aware UTC datetimes in the model."""

from __future__ import annotations

from datetime import datetime, timezone

#: 1900-01-01 and 2200-01-01 UTC. What is decoded is far within; a store that an older
#: version wrote may hold any number, and its row must still be shown, and ended.
_FIRST, _LAST = -2_208_988_800.0, 7_258_118_400.0


def to_datetime(seconds: float) -> datetime:
    """The nearest moment that can be shown, for a number that is none."""
    return datetime.fromtimestamp(max(_FIRST, min(_LAST, seconds)), timezone.utc)


def maybe_datetime(seconds: float | None) -> datetime | None:
    return None if seconds is None else to_datetime(seconds)
