"""Typed readers of the columns of a row.

A column of another type than its table says is a fault of the database: TypeError. What a
gate or module said is bounded before it is written, but an older version wrote what it was
told: numbers and texts that are out of bounds are read as ones that can be shown. In a list, a
row that cannot be read costs itself alone (`each`).
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, TypeVar

from lib.model import StrEnum
from lib.store.times import to_datetime

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy import Column, MappingResult, RowMapping

    from lib.model import JsonValue

    Key = str | Column[str]

_T = TypeVar("_T")
_E = TypeVar("_E", bound=StrEnum)
_LONGEST_TEXT = 20_000
_log = logging.getLogger(__name__)
_MOST_NOTED = 1000
_noted: set[str] = set()


def each(rows: MappingResult, make: Callable[[RowMapping], _T]) -> list[_T]:
    """What `make` makes of each row. One that holds something else than its table says is left
    out, and logged once."""
    found: list[_T] = []
    while True:
        row: RowMapping | None = None
        try:
            row = rows.fetchone()
            if row is None:
                return found
            found.append(make(row))
        except (TypeError, ValueError) as exc:  # of the columns' types, or of `make`
            which = dict(row).get("id", "") if row is not None else ""
            fault = f"A row {which} of the store cannot be read and is left out: {exc}"[:500]
            if fault not in _noted and len(_noted) < _MOST_NOTED:
                _noted.add(fault)
                _log.error("%s", fault)


def text(row: RowMapping, key: Key) -> str:
    return _typed(row[key], str, key)[:_LONGEST_TEXT]


def maybe_text(row: RowMapping, key: Key) -> str | None:
    return None if row[key] is None else text(row, key)


def maybe_word(row: RowMapping, key: Key, kind: type[_E]) -> _E | None:
    """None also for a word that only another version knows."""
    try:
        return kind(row[key])
    except ValueError:
        return None


def whole(row: RowMapping, key: Key) -> int:
    return _typed(row[key], int, key)


def number(row: RowMapping, key: Key) -> float:
    value: object = row[key]
    found = float(value) if isinstance(value, int) else _typed(value, float, key)
    return max(-sys.float_info.max, min(sys.float_info.max, found))


def flag(row: RowMapping, key: Key) -> bool:
    return _typed(row[key], bool, key)


def moment(row: RowMapping, key: Key) -> datetime:
    return to_datetime(number(row, key))


def maybe_moment(row: RowMapping, key: Key) -> datetime | None:
    return None if row[key] is None else moment(row, key)


def table(row: RowMapping, key: Key) -> dict[str, JsonValue]:
    """A JSON object."""
    found: dict[str, JsonValue] = _typed(row[key], dict, key)
    return found


def texts(row: RowMapping, key: Key) -> tuple[str, ...]:
    """A JSON list of text."""
    found: list[object] = _typed(row[key], list, key)
    return tuple(_typed(item, str, key) for item in found)


def _typed(value: object, kind: type[_T], key: Key) -> _T:
    if not isinstance(value, kind):
        raise TypeError(f"The column {key} holds {type(value).__name__}, not {kind.__name__}.")
    return value
