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
st.session_state["left_out"] = filled.left_out
"""
    app = AppTest.from_string(script, default_timeout=300).run()
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
    app.text_input[0].set_value("5")
    app.toggle[0].set_value(False)
    app.run()
    values, changed, problems = filled(app)
    assert changed == {"whole": 5, "flag": False}
    assert values == {**DEFAULTS, **changed}
    assert not problems


def test_given_values_fill_it_and_those_that_no_field_can_show_are_named():
    given = {
        "whole": 99,
        "real": 0.5,
        "flag": "yes",
        "one": "a-b",
        "some": ["z"],
        "word": 3,
        "x": 1,
    }
    app = form(ALL, given)
    assert filled(app)[1] == {"whole": 99, "real": 0.5, "one": "a-b"}
    assert app.session_state["left_out"] == ("x", "flag", "word", "some")


def test_titles_and_descriptions_are_shown_as_text():
    app = form({"n": {"type": "integer", "title": "A *b*", "description": "[x](y)", "default": 1}})
    assert app.text_input[0].label == r"A \*b\*"
    assert app.text_input[0].help == r"\[x\]\(y\)"


@pytest.mark.parametrize("kind", ["integer", "number"])
@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("5000", 5000),
        ("-1", -1),
        (" 7 ", 7),
        ("7.25", 7.25),
        ("0.1234567", 0.1234567),
        ("1e3", 1000),
        ("\uff11\uff12", 12),
        ("\u22123", -3),
        ("12abc", "12abc"),
        ("1,000", "1,000"),
        ("1_000", "1_000"),
        ("1e999", "1e999"),
        ("nan", "nan"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_field_of_numbers_gives_what_was_typed_and_nothing_else(kind, typed, value):
    spec = {"type": kind, "minimum": 2, "maximum": 1000, "default": 8}
    app = form({"n": spec})
    app.text_input[0].set_value(typed).run()
    assert filled(app)[:2] == ({"n": value}, {"n": value})
    assert type(filled(app)[0]["n"]) is type(value)


def test_an_empty_field_of_numbers_is_the_default_that_stands_in_it():
    app = form({"n": {"type": "number", "default": 8}, "m": {"type": "integer"}})
    app.text_input[0].set_value("").run()
    assert filled(app) == ({}, {}, ())
    assert [field.placeholder for field in app.text_input] == ["8, the default", "None"]


def test_what_is_no_json_is_said():
    app = form({"p": {"type": "object", "title": "Thing"}})
    app.text_area[0].set_value("{").run()
    assert filled(app)[2] == ("Thing: this is not JSON.",)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"type": "integer", "minimum": 2, "maximum": 1000}, "2 to 1000"),
        ({"type": "number", "minimum": 0.1, "maximum": 1.0}, "0.1 to 1"),
        ({"type": "number", "minimum": 0}, "at least 0"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 4}, "at most 4, more than 0"),
        ({"type": "number", "exclusiveMaximum": 1}, "less than 1"),
        ({"type": "integer", "multipleOf": 5}, "a multiple of 5"),
        ({"type": "string", "minLength": 2, "maxLength": 9}, "2 to 9 characters"),
        ({"type": "string"}, ""),
        ({"type": "integer"}, ""),
        ({"type": "boolean"}, ""),
    ],
)
def test_a_field_says_its_range(spec, said):
    assert schema_form.range_text(spec) == said
    app = form({"n": {**spec, "title": "Thing"}})
    (field,) = [*app.text_input, *app.toggle]
    assert field.label == (f"Thing ({said})" if said else "Thing")


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
