"""JSON Schema validators (draft 2020-12), imported without what start-up cannot afford."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib.model import JsonObject, JsonValue

# Where rfc3987_syntax is installed (JupyterLab brings it), jsonschema 4.26 builds its
# grammar when imported: more than half of the portal's start. No parameter is an IRI.
_SPARED = "rfc3987_syntax" not in sys.modules
if _SPARED:
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
try:
    import jsonschema
finally:
    if _SPARED:
        del sys.modules["rfc3987_syntax"]


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
