"""Typed readers of the columns of a row.

A column of another type than its table says is a fault of the database: TypeError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from lib.store.times import to_datetime

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Column, RowMapping

    from lib.model import JsonValue

    Key = str | Column[str]

_T = TypeVar("_T")


def text(row: RowMapping, key: Key) -> str:
    return _typed(row[key], str, key)


def maybe_text(row: RowMapping, key: Key) -> str | None:
    return None if row[key] is None else text(row, key)


def whole(row: RowMapping, key: Key) -> int:
    return _typed(row[key], int, key)


def number(row: RowMapping, key: Key) -> float:
    value: object = row[key]
    return float(value) if isinstance(value, int) else _typed(value, float, key)


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
