"""A form made from a module's JSON Schema.

Understood of draft 2020-12: properties of type string, number, integer, boolean, enum,
array of enum, with title, description, default, minimum, maximum, exclusiveMinimum,
exclusiveMaximum, multipleOf, minLength, maxLength, pattern. Everything else is asked for
as JSON text. What the form cannot judge, the portal does before anything is started.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from ui.text import md

#: A JSON Schema: JSON of any shape.
Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FormValues:
    """What the user gave: all values, those unlike the default, and what is wrong."""

    values: dict[str, object]
    changed: dict[str, object]
    problems: tuple[str, ...]


def show(schema: Schema, given: Mapping[str, object], *, key: str) -> FormValues:
    """Draw one field per property of `schema`, filled with `given` or the defaults."""
    values: dict[str, object] = {}
    changed: dict[str, object] = {}
    problems: list[str] = []
    required = set(schema.get("required") or ())
    for name, spec in properties(schema).items():
        default = spec.get("default")
        start = given[name] if name in given and fits(spec, given[name]) else default
        try:
            value = _ask(name, spec, start, f"{key}-{name}")
        except ValueError as exc:
            problems.append(f"{spec.get('title') or name}: {exc}")
            continue
        if value is None:
            if name in required:
                problems.append(f"{spec.get('title') or name} is needed.")
            continue
        values[name] = value
        if value != default:
            changed[name] = value
    return FormValues(values, changed, tuple(problems))


def properties(schema: Schema) -> dict[str, Schema]:
    """The properties that a form can ask for."""
    found = schema.get("properties")
    if not isinstance(found, Mapping):
        return {}
    return {str(k): v for k, v in found.items() if isinstance(v, Mapping)}


def fits(spec: Schema, value: object) -> bool:
    """Whether a field of this kind can show `value`, for example one from a link."""
    if "enum" in spec:
        return value in spec["enum"]
    kind = kind_of(spec)
    if kind == "choices":
        return isinstance(value, list) and all(v in spec["items"]["enum"] for v in value)
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("integer", "number"):
        low, high = limits(spec, kind)
        return (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and (kind == "number" or float(value).is_integer())
            and (low is None or value >= low)
            and (high is None or value <= high)
        )
    return isinstance(value, str) if kind == "string" else True


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


def limits(spec: Schema, kind: str) -> tuple[float | None, float | None]:
    """Lowest and highest value that may be typed; exclusive limits are moved inwards."""
    step = 1 if kind == "integer" else _step_of(spec)
    low, high = spec.get("minimum"), spec.get("maximum")
    if "exclusiveMinimum" in spec:
        low = spec["exclusiveMinimum"] + step
    if "exclusiveMaximum" in spec:
        high = spec["exclusiveMaximum"] - step
    return low, high


def _step_of(spec: Schema) -> float:
    if "multipleOf" in spec:
        return float(spec["multipleOf"])
    scale = spec.get("default") or spec.get("maximum") or 1
    return 10.0 ** (math.floor(math.log10(abs(float(scale)) or 1)) - 1)


@dataclass(frozen=True, slots=True)
class _Field:
    """A property to ask for; `start` is the JSON value that its widget begins with."""

    schema: Schema
    label: str
    help: str | None
    start: Any
    key: str


def _ask(name: str, schema: Schema, start: object, key: str) -> object:
    """Draw the widget of one property; its value. Raises ValueError: what was typed is wrong."""
    text = schema.get("description")
    label = md(schema.get("title") or name)
    field = _Field(schema, label, md(text) if text else None, start, key)
    return _WIDGETS[kind_of(schema)](field)


def _enum(field: _Field) -> object:
    options = list(field.schema["enum"])
    at = options.index(field.start) if field.start in options else 0
    return st.selectbox(
        field.label, options, index=at, key=field.key, help=field.help, format_func=_option
    )


def _option(value: object) -> str:
    return str(value).replace("_", " ").replace("-", " ") if isinstance(value, str) else str(value)


def _choices(field: _Field) -> object:
    options = list(field.schema["items"]["enum"])
    return st.multiselect(
        field.label, options, field.start or [], key=field.key, help=field.help, format_func=_option
    )


def _boolean(field: _Field) -> object:
    return st.toggle(field.label, bool(field.start), key=field.key, help=field.help)


def _integer(field: _Field) -> object:
    low, high = limits(field.schema, "integer")
    return st.number_input(
        field.label,
        min_value=None if low is None else math.ceil(low),
        max_value=None if high is None else math.floor(high),
        value=None if field.start is None else int(field.start),
        step=int(field.schema.get("multipleOf") or 1),
        key=field.key,
        help=field.help,
    )


def _number(field: _Field) -> object:
    low, high = limits(field.schema, "number")
    step = _step_of(field.schema)
    return st.number_input(
        field.label,
        min_value=None if low is None else float(low),
        max_value=None if high is None else float(high),
        value=None if field.start is None else float(field.start),
        step=step,
        format=f"%.{max(0, min(10, -math.floor(math.log10(step)) + 1))}f",
        key=field.key,
        help=field.help,
    )


def _string(field: _Field) -> object:
    value = st.text_input(
        field.label,
        field.start or "",
        max_chars=field.schema.get("maxLength"),
        key=field.key,
        help=field.help,
    )
    if len(value) < field.schema.get("minLength", 0):
        raise ValueError(f"give at least {field.schema['minLength']} characters.")
    pattern = field.schema.get("pattern")
    if pattern and value and not re.search(pattern, value):
        raise ValueError(f"must match the pattern {pattern}")
    return value


def _json(field: _Field) -> object:
    shown = "" if field.start is None else json.dumps(field.start)
    value = st.text_area(f"{field.label} (JSON)", shown, key=field.key, help=field.help, height=80)
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except ValueError as exc:
        raise ValueError("this is not JSON.") from exc


_WIDGETS: Mapping[str, Callable[[_Field], object]] = {
    "enum": _enum,
    "choices": _choices,
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "string": _string,
    "json": _json,
}
