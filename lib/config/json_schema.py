"""JSON Schema validators (draft 2020-12), imported without what start-up cannot afford."""

from __future__ import annotations

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


def first_fault(schema: JsonObject, value: JsonValue) -> tuple[str, str] | None:
    """(dotted path, what is wrong there) of the first violation, or None."""
    validator = jsonschema.Draft202012Validator(dict(schema))
    faults = sorted(validator.iter_errors(value), key=lambda e: list(e.path))
    if not faults:
        return None
    return ".".join(str(p) for p in faults[0].path), faults[0].message[:200]
