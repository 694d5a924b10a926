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


@dataclass(frozen=True, slots=True)
class Filled:
    """What the user gave: all values, those unlike the default, and what is wrong."""

    values: dict[str, Any]
    changed: dict[str, Any]
    problems: tuple[str, ...]


def show(schema: Mapping[str, Any], given: Mapping[str, Any], *, key: str) -> Filled:
    """Draw one field per property of `schema`, filled with `given` or the defaults."""
    values: dict[str, Any] = {}
    changed: dict[str, Any] = {}
    problems: list[str] = []
    required = set(schema.get("required") or ())
    for name, spec in properties(schema).items():
        default = spec.get("default")
        start = given[name] if name in given and fits(spec, given[name]) else default
        try:
            value = _field(name, spec, start, f"{key}-{name}")
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
    return Filled(values, changed, tuple(problems))


def properties(schema: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The properties that a form can ask for."""
    found = schema.get("properties")
    if not isinstance(found, Mapping):
        return {}
    return {str(k): v for k, v in found.items() if isinstance(v, Mapping)}


def fits(spec: Mapping[str, Any], value: Any) -> bool:
    """Whether a field of this kind can show `value`, for example one from a link."""
    if "enum" in spec:
        return value in spec["enum"]
    kind = kind_of(spec)
    if kind == "choices":
        return isinstance(value, list) and all(v in spec["items"]["enum"] for v in value)
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("integer", "number"):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        low, high = limits(spec, kind)
        return (
            number
            and (kind == "number" or float(value).is_integer())
            and (low is None or value >= low)
            and (high is None or value <= high)
        )
    return isinstance(value, str) if kind == "string" else True


def kind_of(spec: Mapping[str, Any]) -> str:
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


def limits(spec: Mapping[str, Any], kind: str) -> tuple[float | None, float | None]:
    """Lowest and highest value that may be typed; exclusive limits are moved inwards."""
    step = 1 if kind == "integer" else _fine(spec)
    low, high = spec.get("minimum"), spec.get("maximum")
    if "exclusiveMinimum" in spec:
        low = spec["exclusiveMinimum"] + step
    if "exclusiveMaximum" in spec:
        high = spec["exclusiveMaximum"] - step
    return low, high


def _fine(spec: Mapping[str, Any]) -> float:
    if "multipleOf" in spec:
        return float(spec["multipleOf"])
    scale = spec.get("default") or spec.get("maximum") or 1
    return 10.0 ** (math.floor(math.log10(abs(float(scale)) or 1)) - 1)


def _field(name: str, spec: Mapping[str, Any], start: Any, key: str) -> Any:
    label = md(spec.get("title") or name)
    text = spec.get("description")
    return _FIELDS[kind_of(spec)](spec, label, md(text) if text else None, start, key)


def _enum(spec: Mapping[str, Any], label: str, text: str | None, start: Any, key: str) -> Any:
    options = list(spec["enum"])
    at = options.index(start) if start in options else 0
    return st.selectbox(label, options, index=at, key=key, help=text, format_func=_option)


def _option(value: Any) -> str:
    return str(value).replace("_", " ").replace("-", " ") if isinstance(value, str) else str(value)


def _choices(spec: Mapping[str, Any], label: str, text: str | None, start: Any, key: str) -> Any:
    options = list(spec["items"]["enum"])
    return st.multiselect(label, options, start or [], key=key, help=text, format_func=_option)


def _boolean(_spec: Mapping[str, Any], label: str, text: str | None, start: Any, key: str) -> Any:
    return st.toggle(label, bool(start), key=key, help=text)


def _integer(spec: Mapping[str, Any], label: str, text: str | None, start: Any, key: str) -> Any:
    low, high = limits(spec, "integer")
    return st.number_input(
        label,
        min_value=None if low is None else math.ceil(low),
        max_value=None if high is None else math.floor(high),
        value=None if start is None else int(start),
        step=int(spec.get("multipleOf") or 1),
        key=key,
        help=text,
    )


def _number(spec: Mapping[str, Any], label: str, text: str | None, start: Any, key: str) -> Any:
    low, high = limits(spec, "number")
    step = _fine(spec)
    return st.number_input(
        label,
        min_value=None if low is None else float(low),
        max_value=None if high is None else float(high),
        value=None if start is None else float(start),
        step=step,
        format=f"%.{max(0, min(10, -math.floor(math.log10(step)) + 1))}f",
        key=key,
        help=text,
    )


def _string(spec: Mapping[str, Any], label: str, text: str | None, start: Any, key: str) -> Any:
    value = st.text_input(label, start or "", max_chars=spec.get("maxLength"), key=key, help=text)
    if len(value) < spec.get("minLength", 0):
        raise ValueError(f"give at least {spec['minLength']} characters.")
    pattern = spec.get("pattern")
    if pattern and value and not re.search(pattern, value):
        raise ValueError(f"must match the pattern {pattern}")
    return value


def _json(_spec: Mapping[str, Any], label: str, text: str | None, start: Any, key: str) -> Any:
    shown = "" if start is None else json.dumps(start)
    value = st.text_area(f"{label} (JSON)", shown, key=key, help=text, height=80)
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except ValueError as exc:
        raise ValueError("this is not JSON.") from exc


_Field = Callable[[Mapping[str, Any], str, "str | None", Any, str], Any]
_FIELDS: Mapping[str, _Field] = {
    "enum": _enum,
    "choices": _choices,
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "string": _string,
    "json": _json,
}
