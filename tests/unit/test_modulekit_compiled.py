"""The compile cache: private, wherever there is a place for it; and the command line's start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modulekit.cli import main, module_folder
from modulekit.compiled import choose_cache_folder
from modulekit.errors import UsageError


@pytest.fixture(autouse=True)
def _no_setting(monkeypatch, tmp_path):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def chosen() -> Path:
    choose_cache_folder()
    return Path(os.environ["NUMBA_CACHE_DIR"])


def test_the_users_cache_folder_is_made_private(tmp_path):
    assert chosen() == tmp_path / "cache" / "scenebridge" / "numba"
    assert chosen().stat().st_mode & 0o777 == 0o700


def test_a_setting_is_respected(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "mine"))
    assert chosen() == tmp_path / "mine"


def test_without_a_cache_folder_a_temporary_one_is_used(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = chosen()
    assert folder.name.startswith("scenebridge-numba-")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()


def test_a_folder_of_someone_else_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "getuid", lambda: 12_345)
    folder = chosen()
    assert tmp_path not in folder.parents
    folder.rmdir()


def test_there_is_no_such_module():
    with pytest.raises(UsageError, match="no module"):
        module_folder("modules.nothing")


@pytest.mark.parametrize("argv", [[], ["fly"], ["run"], ["run", "--input", "x"]])
def test_usage_errors_are_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main("modules.active_fire", argv)
    assert caught.value.code == 2
    assert "usage: python -m modules.active_fire" in capsys.readouterr().err


def test_info_prints_the_parameters(capsys):
    assert main("modules.active_fire", ["info"]) == 0
    assert '"strip_rows"' in capsys.readouterr().out
