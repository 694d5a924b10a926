"""The type of parsed JSON, and checked reading of it, for the edges where it comes in.

TOML is read by the same words; the dates that it also has are no `JsonValue`, and whoever
reads a text, number, list or table refuses them as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Only to be read: a list of texts is a list of JSON, which `list[JsonValue]` would deny.
    JsonValue = None | bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"]
else:
    # `typing.get_type_hints` (lib.protocol.codec) meets a plain type here, not a recursion.
    JsonValue = object

JsonObject = Mapping[str, JsonValue]


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
