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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from lib.model import JsonObject, JsonValue, json_list, json_number, json_object
from ui.text import md

Schema = JsonObject


@dataclass(frozen=True, slots=True)
class FormValues:
    """What the user gave: all values, those unlike the default, and what is wrong."""

    values: dict[str, JsonValue]
    changed: dict[str, JsonValue]
    problems: tuple[str, ...]


def show(schema: Schema, given: JsonObject, *, key: str) -> FormValues:
    """Draw one field per property of `schema`, filled with `given` or the defaults."""
    values: dict[str, JsonValue] = {}
    changed: dict[str, JsonValue] = {}
    problems: list[str] = []
    required = set(json_list(schema.get("required") or ()))
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
    return {k: v for k, v in found.items() if isinstance(v, Mapping)}


def fits(spec: Schema, value: JsonValue) -> bool:
    """Whether a field of this kind can show `value`, for example one from a link."""
    if "enum" in spec:
        return value in json_list(spec["enum"])
    kind = kind_of(spec)
    if kind == "choices":
        return isinstance(value, list) and all(v in _listed(spec) for v in value)
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
    low, high = _number_of(spec, "minimum"), _number_of(spec, "maximum")
    above, below = _number_of(spec, "exclusiveMinimum"), _number_of(spec, "exclusiveMaximum")
    return low if above is None else above + step, high if below is None else below - step


def _number_of(spec: Schema, key: str) -> float | None:
    value = spec.get(key)
    return None if value is None else json_number(value)


def _listed(spec: Schema) -> Sequence[JsonValue]:
    """What each item of a "choices" may be."""
    return json_list(json_object(spec["items"])["enum"])


def _step_of(spec: Schema) -> float:
    if "multipleOf" in spec:
        return float(json_number(spec["multipleOf"]))
    scale = json_number(spec.get("default") or spec.get("maximum") or 1)
    return 10.0 ** (math.floor(math.log10(abs(scale) or 1)) - 1)


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
    label = md(str(schema.get("title") or name))
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


def _integer(field: _Field) -> JsonValue:
    low, high = limits(field.schema, "integer")
    return st.number_input(
        field.label,
        min_value=None if low is None else math.ceil(low),
        max_value=None if high is None else math.floor(high),
        value=None if field.start is None else int(json_number(field.start)),
        step=int(_number_of(field.schema, "multipleOf") or 1),
        key=field.key,
        help=field.help,
    )


def _number(field: _Field) -> JsonValue:
    low, high = limits(field.schema, "number")
    step = _step_of(field.schema)
    return st.number_input(
        field.label,
        min_value=None if low is None else float(low),
        max_value=None if high is None else float(high),
        value=None if field.start is None else float(json_number(field.start)),
        step=step,
        format=f"%.{max(0, min(10, -math.floor(math.log10(step)) + 1))}f",
        key=field.key,
        help=field.help,
    )


def _string(field: _Field) -> JsonValue:
    longest, shortest = (_number_of(field.schema, key) for key in ("maxLength", "minLength"))
    value = st.text_input(
        field.label,
        str(field.start or ""),
        max_chars=None if longest is None else int(longest),
        key=field.key,
        help=field.help,
    )
    if shortest is not None and len(value) < shortest:
        raise ValueError(f"give at least {shortest:g} characters.")
    pattern = field.schema.get("pattern")
    if isinstance(pattern, str) and value and not re.search(pattern, value):
        raise ValueError(f"must match the pattern {pattern}")
    return value


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
    "integer": _integer,
    "number": _number,
    "string": _string,
    "json": _json,
}
