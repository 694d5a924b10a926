"""JSON Schema validators (draft 2020-12), imported without what start-up cannot afford."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib.model import JsonObject, JsonValue

# Where they are installed (JupyterLab brings them), jsonschema 4.26 builds the grammar of the
# first when imported, and with the second a library of dates: more than half of the portal's
# start. They check IRIs and durations, in formats that nobody asks to be checked.
_SPARED = {"rfc3987_syntax", "isoduration"} - sys.modules.keys()
for name in _SPARED:
    sys.modules[name] = None  # type: ignore[assignment]
try:
    import jsonschema
finally:
    for name in _SPARED:
        del sys.modules[name]


def schema_fault(schema: JsonObject) -> str | None:
    """Why this is no JSON Schema, or None."""
    try:
        jsonschema.Draft202012Validator.check_schema(dict(schema))
    except jsonschema.SchemaError as exc:
        return exc.message[:200]
    return None


def faults(schema: JsonObject, value: JsonValue) -> list[tuple[str, str]]:
    """(dotted path, what is wrong there) of every violation."""
    validator = jsonschema.Draft202012Validator(dict(schema))
    found = sorted(validator.iter_errors(value), key=lambda e: [str(p) for p in e.path])
    return [(".".join(str(p) for p in e.path), _said(e)) for e in found]


_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}


def _said(fault: jsonschema.ValidationError) -> str:
    """In the words of the fields where a type is wrong, else in jsonschema's."""
    kind = _KINDS.get(str(fault.validator_value))
    if fault.validator == "type" and kind:
        return f"{json.dumps(fault.instance, ensure_ascii=False)[:60]} is not {kind}"
    return fault.message[:200]
