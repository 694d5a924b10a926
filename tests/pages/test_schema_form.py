"""A form from a JSON Schema, under Streamlit's own runner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from ui import schema_form

ROOT = Path(__file__).resolve().parents[2]


def form(properties, given=None, required=()):
    schema = {"type": "object", "properties": properties, "required": list(required)}
    script = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
import streamlit as st
from ui import schema_form
filled = schema_form.show(
    json.loads({json.dumps(schema)!r}), json.loads({json.dumps(given or {})!r}), key="f"
)
st.session_state["filled"] = (filled.values, filled.changed, filled.problems)
"""
    app = AppTest.from_string(script, default_timeout=20).run()
    assert not app.exception
    return app


def filled(app):
    return app.session_state["filled"]


ALL = {
    "whole": {"type": "integer", "minimum": 1, "maximum": 9, "default": 3},
    "real": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.25},
    "flag": {"type": "boolean", "default": True},
    "word": {"type": "string", "default": "abc", "maxLength": 5},
    "one": {"enum": ["a-b", "c"], "default": "c"},
    "some": {"type": "array", "items": {"enum": ["x", "y"]}, "default": ["y"]},
    "any": {"type": "object", "default": {"k": 1}},
}
DEFAULTS = {
    "whole": 3,
    "real": 0.25,
    "flag": True,
    "word": "abc",
    "one": "c",
    "some": ["y"],
    "any": {"k": 1},
}


def test_untouched_it_gives_the_defaults():
    assert filled(form(ALL)) == (DEFAULTS, {}, ())


def test_what_is_changed_is_told_apart():
    app = form(ALL)
    app.number_input[0].set_value(5)
    app.toggle[0].set_value(False)
    app.run()
    values, changed, problems = filled(app)
    assert changed == {"whole": 5, "flag": False}
    assert values == {**DEFAULTS, **changed}
    assert not problems


def test_given_values_fill_it_and_those_that_do_not_fit_are_left_out():
    given = {"whole": 99, "real": 0.5, "flag": "yes", "one": "a-b", "some": ["z"], "word": 3}
    assert filled(form(ALL, given))[1] == {"real": 0.5, "one": "a-b"}


def test_titles_and_descriptions_are_shown_as_text():
    app = form({"n": {"type": "integer", "title": "A *b*", "description": "[x](y)", "default": 1}})
    assert app.number_input[0].label == r"A \*b\*"
    assert app.number_input[0].help == r"\[x\]\(y\)"


@pytest.mark.parametrize(
    ("spec", "text", "problem"),
    [
        ({"type": "object"}, "{", "this is not JSON"),
        ({"type": "string", "minLength": 2}, "a", "at least 2"),
        ({"type": "string", "pattern": "^[0-9]+$"}, "a", "must match"),
    ],
)
def test_what_is_wrong_is_said(spec, text, problem):
    app = form({"p": {**spec, "title": "Thing"}})
    field = app.text_area[0] if spec["type"] == "object" else app.text_input[0]
    field.set_value(text).run()
    assert filled(app)[2][0].startswith("Thing")
    assert problem in filled(app)[2][0]


def test_a_needed_field_that_is_empty_is_said():
    assert filled(form({"n": {"type": "integer"}}, required=["n"]))[2] == ("n is needed.",)


def test_limits_reach_the_field():
    app = form({"n": {"type": "integer", "exclusiveMinimum": 0, "maximum": 4, "default": 2}})
    assert (app.number_input[0].min, app.number_input[0].max) == (1, 4)


@pytest.mark.parametrize("name", ["active_fire", "offshore_objects"])
def test_the_modules_of_the_project_have_a_form(name):
    import tomllib

    path = ROOT / "modules" / name / "module.toml"
    if not path.is_file():
        pytest.skip(f"there is no module {name}")
    schema = tomllib.loads(path.read_text())["params"]
    values, changed, problems = filled(form(schema["properties"]))
    assert not changed
    assert not problems
    assert set(values) == set(schema["properties"])


def test_a_schema_without_properties_has_no_fields():
    assert schema_form.properties({"properties": 3}) == {}
