"""Settings are read strictly, and each is documented."""

import os
import re
from pathlib import Path

import pytest

from lib import settings
from lib.errors import InvalidInput
from lib.settings import KEYS, NotebookOrigin

PROJECT = Path(__file__).resolve().parents[2]


def write(data: Path, text: str) -> Path:
    (data / "settings.toml").write_text(text)
    return data


def test_without_a_file_everything_is_default(tmp_path):
    loaded = settings.load(tmp_path / "not-there")
    assert loaded.port == 8501
    assert loaded.origin == "http://localhost:8501"
    assert loaded.notebooks is NotebookOrigin.HOST
    assert not (tmp_path / "not-there").exists()


def test_every_key_is_read(tmp_path):
    text = """
        port = 9000
        notebooks = "port"
        notebook_port = 9001
        notebook_ports = [9100, 9110]
        keep_days = 3
        slots = 5
    """
    loaded = settings.load(write(tmp_path, text))
    assert {key: getattr(loaded, key) for key in KEYS} == {
        "port": 9000,
        "notebooks": NotebookOrigin.PORT,
        "notebook_port": 9001,
        "notebook_ports": (9100, 9110),
        "keep_days": 3,
        "slots": 5,
    }


def test_the_notebooks_port_follows_the_portals(tmp_path):
    assert settings.load(tmp_path).port_of_notebooks == 8502
    assert settings.load(tmp_path, port=9001).port_of_notebooks == 9002
    write(tmp_path, "notebook_port = 9500")
    assert settings.load(tmp_path).port_of_notebooks == 9500
    for port in (9500, 65535):
        write(tmp_path, f"notebook_port = {9500 if port == 9500 else 0}")
        with pytest.raises(InvalidInput, match="notebook_port"):
            settings.load(tmp_path, port=port)


def test_the_argument_wins_over_the_file(tmp_path):
    write(tmp_path, "port = 9000")
    assert settings.load(tmp_path, port=9001).port == 9001


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "unknown setting 'prot'"),
        ("port = 80", "port in .* from 1024 to 65535"),
        ('port = "8501"', "port in .* whole number"),
        ("port = true", "port in .* whole number"),
        ('notebooks = "path"', '"host" or "port"'),
        ("notebook_port = 80", "notebook_port in .* from 1024 to 65535"),
        ("notebook_port = false", "notebook_port in .* whole number"),
        ("notebook_ports = 9000", "first and the last port"),
        ("notebook_ports = [9000]", "first and the last port"),
        ("notebook_ports = [9001, 9000]", "smaller port"),
        ("keep_days = 0", "keep_days in .* from 1 to 3650"),
        ("slots = -1", "slots in .* from 0 to 1024"),
        ("port =", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, said):
    with pytest.raises(InvalidInput, match=said):
        settings.load(write(tmp_path, text))


def test_a_wrong_port_argument_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="--port must be a whole number"):
        settings.load(tmp_path, port=99999)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "settings.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="cannot be read"):
        settings.load(tmp_path)


def test_the_process_takes_its_data_folder_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "_current", None)
    monkeypatch.setitem(os.environ, "SCENEBRIDGE_DATA", str(tmp_path))
    assert settings.current().data == tmp_path.resolve()
    assert settings.current() is settings.current()


def test_every_key_is_documented_with_its_default():
    page = (PROJECT / "docs" / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", page, re.MULTILINE))
    assert set(rows) == set(KEYS)
    default = settings.load(Path("/nonexistent"))
    for key, shown in rows.items():
        value = getattr(default, key)
        assert shown == (str(list(value)) if isinstance(value, tuple) else repr_toml(value)), key


def repr_toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def test_the_example_in_the_documentation_is_valid(tmp_path):
    page = (PROJECT / "docs" / "settings.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert settings.load(write(tmp_path, example)).keep_days == 30
