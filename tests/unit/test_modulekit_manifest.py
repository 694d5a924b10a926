"""`module.toml` and parameters."""

from __future__ import annotations

import sys

import pytest

from modulekit.errors import UsageError
from modulekit.manifest import check_params, read_manifest, read_params

TOML = """
id = "m"
version = "1.2.3"
title = "M"
score_meaning = "How sure it is."
[classes]
a = "A thing"
[[needs]]
platform = "landsat-8"
bands = ["red"]
levels = ["L1TP"]
[[needs]]
platform = "formosat-2"
bands = ["nir"]
[params]
type = "object"
additionalProperties = false
[params.properties.size]
type = "integer"
minimum = 1
default = 7
[params.properties.name]
type = "string"
default = "x"
"""


@pytest.fixture
def manifest(tmp_path):
    (tmp_path / "module.toml").write_text(TOML)
    return read_manifest(tmp_path)


def test_needs(manifest):
    assert (manifest.id, manifest.version) == ("m", "1.2.3")
    assert manifest.need_of("landsat-8").levels == ("L1TP",)
    assert manifest.need_of("formosat-2").levels == ()
    assert manifest.need_of("sentinel-2a") is None


def test_defaults_fill_what_is_not_given(manifest, tmp_path):
    assert read_params(manifest, None) == {"size": 7, "name": "x"}
    (tmp_path / "p.json").write_text('{"size": 9}')
    assert read_params(manifest, tmp_path / "p.json") == {"size": 9, "name": "x"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"size": 0}, "parameter size cannot be used"),
        ({"size": "7"}, "parameter size cannot be used"),
        ({"size": True}, "parameter size cannot be used"),
        ({"colour": 1}, "'colour' was unexpected"),
        ([], "parameters cannot be used"),
        (None, "parameters cannot be used"),
    ],
)
def test_what_breaks_the_schema_is_refused(manifest, given, words):
    with pytest.raises(UsageError, match=words):
        check_params(manifest, given)


def test_a_parameter_file_that_is_no_json(manifest, tmp_path):
    (tmp_path / "p.json").write_text("{'size': 9}")
    with pytest.raises(UsageError, match=r"p\.json is not JSON"):
        read_params(manifest, tmp_path / "p.json")
    with pytest.raises(UsageError, match="cannot be read"):
        read_params(manifest, tmp_path / "none.json")


@pytest.mark.parametrize("text", ["", "id = ", 'id = "m"\nversion = "1"', "needs = 3"])
def test_a_broken_manifest_is_named(tmp_path, text):
    (tmp_path / "module.toml").write_text(text)
    with pytest.raises(UsageError, match="is not valid"):
        read_manifest(tmp_path)


def test_a_missing_manifest(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_manifest(tmp_path)


def test_checking_leaves_no_trace_in_the_interpreter(manifest):
    check_params(manifest, {})
    assert sys.modules.get("rfc3987_syntax", "absent") is not None
