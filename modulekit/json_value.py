"""The type of parsed JSON, and checked reading of it (`lib.model.json_value` has the same)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

#: Only to be read: a list of texts is a list of JSON, which `list[JsonValue]` would deny.
JsonValue: TypeAlias = (
    "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)
JsonObject: TypeAlias = "Mapping[str, JsonValue]"


def json_object(value: JsonValue) -> JsonObject:
    """The value, which is an object. Raises `TypeError` where it is none."""
    if not isinstance(value, Mapping):
        raise TypeError(f"an object is expected, not {value!r:.60}")
    return value


def json_list(value: JsonValue) -> Sequence[JsonValue]:
    """The value, which is a list. Raises `TypeError` where it is none."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"a list is expected, not {value!r:.60}")
    return value


def json_text(value: JsonValue) -> str:
    """The value, which is a text. Raises `TypeError` where it is none."""
    if not isinstance(value, str):
        raise TypeError(f"a text is expected, not {value!r:.60}")
    return value


def json_number(value: JsonValue) -> float:
    """The value, which is a number. Raises `TypeError` where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"a number is expected, not {value!r:.60}")
    return value
