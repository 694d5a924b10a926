"""Holding real answers of the API against docs/openapi.yaml."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import yaml

OPENAPI = Path(__file__).resolve().parents[2] / "docs" / "openapi.yaml"


@functools.cache
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(OPENAPI.read_text("utf-8"))
    return loaded


def check_value(schema: dict[str, Any], value: Any) -> None:
    """Raises jsonschema.ValidationError."""
    whole = {"allOf": [schema], "components": document()["components"]}
    jsonschema.Draft202012Validator(
        whole, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(value)


async def check(response: httpx.Response) -> None:
    """As an httpx hook: status, media type and content must be as described."""
    await response.aread()
    request = response.request
    if response.status_code == 405:
        return
    operation = _operation(request.method, request.url.path)
    described = operation["responses"].get(str(response.status_code))
    assert described is not None, (request.method, request.url.path, response.status_code)
    if "$ref" in described:
        described = document()["components"]["responses"][described["$ref"].rsplit("/", 1)[1]]
    for name, header in described.get("headers", {}).items():
        assert name in response.headers or not header.get("required"), name
    media = response.headers["content-type"].partition(";")[0]
    content = described["content"][media]
    if media.endswith("json"):
        value = json.loads(response.content, parse_constant=_no_constant)
        check_value(content["schema"], value)


def _no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is not JSON")


def _operation(method: str, path: str) -> dict[str, Any]:
    for template, item in document()["paths"].items():
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and method.lower() in item:
            found: dict[str, Any] = item[method.lower()]
            return found
    raise AssertionError(f"{method} {path} is not described")
