"""docs/openapi.yaml is valid and names exactly the routes of the API."""

from __future__ import annotations

import yaml

from lib.web import api
from tests.fakes.described import OPENAPI, document


def test_the_document_is_valid() -> None:
    from openapi_spec_validator import validate  # takes long to import

    validate(yaml.safe_load(OPENAPI.read_text("utf-8")))


def test_it_names_exactly_the_routes() -> None:
    routes = {
        (method, route.path)
        for route in api.routes()
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {
        (method.upper(), path)
        for path, item in document()["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert routes == described


def test_every_operation_names_its_errors() -> None:
    for path, item in document()["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            answers = set(operation["responses"])
            assert path == "/healthz" or "401" in answers, (method, path)
            if "{" in path:
                assert "404" in answers, (method, path)
            if "requestBody" in operation:
                assert {"201", "403", "404", "422", "503"} <= answers, (method, path)


def test_every_example_keeps_its_schema() -> None:
    from tests.fakes.described import check_value

    answers = document()["components"]["responses"].values()
    bodies = document()["components"]["requestBodies"].values()
    checked = 0
    for part in (*answers, *bodies):
        for content in part["content"].values():
            if "example" in content:
                check_value(content["schema"], content["example"])
                checked += 1
    assert checked >= 6
