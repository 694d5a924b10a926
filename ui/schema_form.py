"""A form made from a module's JSON Schema.

Understood of draft 2020-12: properties of type string, number, integer, boolean, enum,
array of enum, with title, description, default, minimum, maximum, exclusiveMinimum,
exclusiveMaximum, multipleOf, minLength, maxLength. Everything else is asked for as JSON text.
Each field says its range and takes whatever is typed, numbers as text: a widget for numbers
keeps the value of before where the new one is out of range. Whether a value may be is judged
by the portal alone, by the check that its API makes too.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from lib.model import JsonObject, JsonValue, json_list, json_number, json_object
from ui.text import md

Schema = JsonObject
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE | re.ASCII)
#: More digits are no number that anybody means.
_LONGEST_NUMBER = 40


@dataclass(frozen=True, slots=True)
class FormValues:
    """What the user gave: all values, those unlike the default, what cannot be a value at all,
    and the given ones that no field here can show."""

    values: dict[str, JsonValue]
    changed: dict[str, JsonValue]
    problems: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def show(schema: Schema, given: JsonObject, *, key: str) -> FormValues:
    """Draw one field per property of `schema`, filled with `given` or the defaults."""
    values: dict[str, JsonValue] = {}
    changed: dict[str, JsonValue] = {}
    problems: list[str] = []
    left_out = [name for name in given if name not in properties(schema)]
    for name, spec in properties(schema).items():
        default = spec.get("default")
        start = given.get(name, default)
        if not can_show(spec, start):
            left_out.append(str(spec.get("title") or name))
            start = default
        try:
            value = _ask(name, spec, start, f"{key}-{name}")
        except ValueError as exc:
            problems.append(f"{spec.get('title') or name}: {exc}")
            continue
        if value is None:
            continue
        values[name] = value
        if value != default:
            changed[name] = value
    return FormValues(values, changed, tuple(problems), tuple(left_out))


def properties(schema: Schema) -> dict[str, Schema]:
    """The properties that a form can ask for."""
    found = schema.get("properties")
    if not isinstance(found, Mapping):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, Mapping)}


def can_show(spec: Schema, value: JsonValue) -> bool:
    """Whether the field of this property can show `value`, for example one from a link."""
    kind = kind_of(spec)
    if value is None or kind == "json":
        return True
    if kind == "enum":
        return value in json_list(spec["enum"])
    if kind == "choices":
        return isinstance(value, list) and all(v in _listed(spec) for v in value)
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "string":
        return isinstance(value, str)
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def kind_of(spec: Schema) -> str:
    """enum, boolean, integer, number, string, choices or json."""
    if isinstance(spec.get("enum"), list):
        return "enum"
    kind = spec.get("type")
    if isinstance(kind, list):
        left = [k for k in kind if k != "null"]
        kind = left[0] if len(left) == 1 else None
    if kind == "array":
        items = spec.get("items")
        listed = isinstance(items, Mapping) and isinstance(items.get("enum"), list)
        return "choices" if listed else "json"
    return str(kind) if kind in ("boolean", "integer", "number", "string") else "json"


def range_text(spec: Schema) -> str:
    """What a number or text may be, in words; empty where it may be anything."""
    kind = kind_of(spec)
    if kind in ("integer", "number"):
        return _number_range(spec)
    if kind == "string":
        shortest, longest = _number_of(spec, "minLength"), _number_of(spec, "maxLength")
        between = _between(shortest, longest)
        return f"{between} characters" if between else ""
    return ""


def _number_range(spec: Schema) -> str:
    low, high = _number_of(spec, "minimum"), _number_of(spec, "maximum")
    above, below = _number_of(spec, "exclusiveMinimum"), _number_of(spec, "exclusiveMaximum")
    step = _number_of(spec, "multipleOf")
    parts = (
        _between(low, high),
        "" if above is None else f"more than {as_text(above)}",
        "" if below is None else f"less than {as_text(below)}",
        "" if step is None else f"a multiple of {as_text(step)}",
    )
    return ", ".join(part for part in parts if part)


def _between(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{as_text(low)} to {as_text(high)}"
    if low is not None:
        return f"at least {as_text(low)}"
    return "" if high is None else f"at most {as_text(high)}"


def as_text(value: float) -> str:
    """A number as one types it."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return str(value)


def _number_of(spec: Schema, key: str) -> float | None:
    value = spec.get(key)
    return None if value is None else json_number(value)


def _listed(spec: Schema) -> Sequence[JsonValue]:
    """What each item of a "choices" may be."""
    return json_list(json_object(spec["items"])["enum"])


@dataclass(frozen=True, slots=True)
class _Field:
    """A property to ask for; `start` is the JSON value that its widget begins with."""

    schema: Schema
    label: str
    help: str | None
    start: JsonValue
    key: str


def _ask(name: str, schema: Schema, start: JsonValue, key: str) -> JsonValue:
    """Draw the widget of one property; its value. Raises ValueError: what was typed is wrong."""
    text = schema.get("description")
    title, bounds = str(schema.get("title") or name), range_text(schema)
    label = f"{md(title)} ({bounds})" if bounds else md(title)
    field = _Field(schema, label, md(str(text)) if text else None, start, key)
    return _WIDGETS[kind_of(schema)](field)


def _enum(field: _Field) -> JsonValue:
    options = list(json_list(field.schema["enum"]))
    at = options.index(field.start) if field.start in options else 0
    return st.selectbox(
        field.label, options, index=at, key=field.key, help=field.help, format_func=_option
    )


def _option(value: object) -> str:
    return str(value).replace("_", " ").replace("-", " ") if isinstance(value, str) else str(value)


def _choices(field: _Field) -> JsonValue:
    options = list(_listed(field.schema))
    return st.multiselect(
        field.label,
        options,
        json_list(field.start or []),
        key=field.key,
        help=field.help,
        format_func=_option,
    )


def _boolean(field: _Field) -> JsonValue:
    return st.toggle(field.label, bool(field.start), key=field.key, help=field.help)


def _number(field: _Field) -> JsonValue:
    """What is no number stays text, and so is refused by the schema."""
    default = field.schema.get("default")
    typed = st.text_input(
        field.label,
        "" if field.start is None else _shown(field.start),
        key=field.key,
        help=field.help,
        placeholder="None" if default is None else f"{_shown(default)}, the default",
    )
    return number_of(typed)


def _shown(value: JsonValue) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return as_text(json_number(value)) if number else str(value)


def number_of(typed: str) -> int | float | str | None:
    """The number that was typed, also in full-width digits; None for nothing at all."""
    plain = unicodedata.normalize("NFKC", typed).replace("\N{MINUS SIGN}", "-").strip()
    if len(plain) > _LONGEST_NUMBER or not _NUMBER.fullmatch(plain):
        return typed.strip() or None
    number = float(plain)
    if not math.isfinite(number):
        return typed.strip()
    if plain.lstrip("+-").isdecimal():
        return int(plain)
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def _string(field: _Field) -> JsonValue:
    typed = st.text_input(field.label, str(field.start or ""), key=field.key, help=field.help)
    return typed if typed or field.schema.get("default") is not None else None


def _json(field: _Field) -> JsonValue:
    shown = "" if field.start is None else json.dumps(field.start)
    value = st.text_area(f"{field.label} (JSON)", shown, key=field.key, help=field.help, height=80)
    if not value.strip():
        return None
    try:
        found: JsonValue = json.loads(value)
    except ValueError as exc:
        raise ValueError("this is not JSON.") from exc
    return found


_WIDGETS: Mapping[str, Callable[[_Field], JsonValue]] = {
    "enum": _enum,
    "choices": _choices,
    "boolean": _boolean,
    "integer": _number,
    "number": _number,
    "string": _string,
    "json": _json,
}
