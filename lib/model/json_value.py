"""The type of parsed JSON, for the edges where it comes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
else:
    # `typing.get_type_hints` (lib.protocol.codec) meets a plain type here, not a recursion.
    JsonValue = object
