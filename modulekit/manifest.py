"""`module.toml`: what a module is, needs and accepts; and its parameters."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from modulekit.errors import UsageError
from modulekit.files import read_json
from modulekit.json_value import JsonObject, JsonValue, json_object

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same code under its name before Python 3.11
    import tomli as tomllib


@dataclass(frozen=True)
class Need:
    """Bands (`eo:common_name`) and processing levels that a module needs of one platform."""

    platform: str
    bands: tuple[str, ...]
    levels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """The part of `module.toml` that a run needs. `params_schema` is a JSON Schema."""

    id: str
    version: str
    title: str
    classes: Mapping[str, str]
    needs: tuple[Need, ...]
    score_meaning: str
    params_schema: JsonObject = field(repr=False)

    def need_of(self, platform: str) -> Need | None:
        """What is needed of `platform` ("landsat-8"), or None if it is not supported."""
        return next((n for n in self.needs if n.platform == platform), None)


def read_manifest(folder: Path) -> Manifest:
    """Read `folder/module.toml`.

    Raises:
        UsageError: the file is missing, no TOML, or lacks a required key.
    """
    path = folder / "module.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return Manifest(
            id=data["id"],
            version=data["version"],
            title=data["title"],
            classes=dict(data["classes"]),
            needs=tuple(
                Need(n["platform"], tuple(n["bands"]), tuple(n.get("levels", ())))
                for n in data["needs"]
            ),
            score_meaning=data["score_meaning"],
            params_schema=data["params"],
        )
    except OSError as exc:
        raise UsageError(f"module.toml cannot be read ({exc.strerror}).") from exc
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as exc:
        raise UsageError(f"module.toml of {folder.name} is not valid: {exc}.") from exc


def read_params(manifest: Manifest, path: Path | None) -> dict[str, JsonValue]:
    """The parameters of `path` with the schema's defaults for what it leaves out.

    Raises:
        UsageError: the file is no JSON object or breaks the schema; the message names
            the parameter.
    """
    given = {} if path is None else read_json(path)
    return check_params(manifest, given)


def check_params(manifest: Manifest, given: JsonValue) -> dict[str, JsonValue]:
    """Validate `given` against the module's schema and fill in the defaults."""
    jsonschema = _import_jsonschema()
    schema = dict(manifest.params_schema)
    validator = jsonschema.Draft202012Validator(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(given))
    if error is not None:
        where = ".".join(str(p) for p in error.absolute_path)
        name = f"The parameter {where}" if where else "The parameters"
        raise UsageError(f"{name} cannot be used: {error.message[:300]}.")
    described = {k: json_object(v) for k, v in json_object(schema.get("properties", {})).items()}
    defaults = {k: v["default"] for k, v in described.items() if "default" in v}
    return {**defaults, **json_object(given)}


def _import_jsonschema() -> ModuleType:
    """jsonschema without its optional check of IRIs, which no parameter needs.

    Where rfc3987_syntax is installed (JupyterLab brings it), importing jsonschema 4.26
    builds its grammar: 1.4 s at the start of every run.
    """
    optional = "rfc3987_syntax"
    spared = optional not in sys.modules
    if spared:
        sys.modules[optional] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("jsonschema")
    finally:
        if spared:
            del sys.modules[optional]
