"""Strict parsing of configuration tables: unknown keys, wrong types and ranges are errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from lib.errors import InvalidInput

T = TypeVar("T")

_NAMES = {
    str: "text",
    int: "a whole number",
    list: "a list",
    dict: "a table",
    bool: "true or false",
}


class ConfigTable:
    """One table of a configuration file; every key must be asked for before `close`.

    All errors are `InvalidInput` that name the key as a person would find it.
    """

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, Mapping):
            raise InvalidInput(f"{where} must be a table.")
        self._data = data
        self._where = where
        self._asked: set[str] = set()

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The value of `key`, or `default`; without a default the key is needed."""
        self._asked.add(key)
        if key not in self._data:
            if default is None:
                raise InvalidInput(f"{self._where} lacks the key {key!r}.")
            return default
        value = self._data[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InvalidInput(f"{self._where}: {key} must be {_NAMES[kind]}.")
        return value

    def whole(self, key: str, default: int | None = None, *, low: int = 0, high: int) -> int:
        """A whole number, `low` <= value <= `high`."""
        value = self.get(key, int, default)
        if not low <= value <= high:
            raise InvalidInput(f"{self._where}: {key} must be between {low} and {high}.")
        return value

    def number(self, key: str, default: float, *, low: float, high: float) -> float:
        """A number, `low` <= value <= `high`; 2 and 2.0 are the same."""
        self._asked.add(key)
        value = self._data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidInput(f"{self._where}: {key} must be a number.")
        if not low <= value <= high:
            raise InvalidInput(f"{self._where}: {key} must be between {low:g} and {high:g}.")
        return float(value)

    def text(self, key: str, default: str | None = None, *, like: re.Pattern[str]) -> str:
        """Text that matches `like` as a whole."""
        value = self.get(key, str, default)
        if like.fullmatch(value) is None:
            raise InvalidInput(f"{self._where}: {key} = {value!r:.80} is not allowed.")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty when absent."""
        values = self.get(key, list, [])
        if not all(isinstance(v, str) for v in values):
            raise InvalidInput(f"{self._where}: {key} must be a list of texts.")
        return tuple(values)

    def table(self, key: str) -> ConfigTable:
        """A table in this table; empty when absent."""
        return ConfigTable(self.get(key, dict, {}), f"{self._where} [{key}]")

    def tables(self, key: str) -> list[ConfigTable]:
        """A list of tables; empty when absent."""
        found = self.get(key, list, [])
        return [
            ConfigTable(v, f"{self._where} [[{key}]] number {i + 1}") for i, v in enumerate(found)
        ]

    def close(self) -> None:
        """Refuse keys that nobody asked for."""
        unknown = sorted(set(self._data) - self._asked)
        if unknown:
            raise InvalidInput(f"{self._where} has an unknown key {unknown[0]!r:.60}.")
