"""Isolation of the tests: neither they nor what they start read the machine's own files."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

from lib.config.runtime_dir import runtime_path
from lib.config.settings import DATA_VARIABLE
from lib.config.site_paths import site_folder, tunnel_folder
from tests.isolation import CACHE, PROJECT, variables

#: They name the programs of the machine or what the test that needs them sets itself.
OTHERS = {"PATH"}


def test_the_folders_of_a_site_are_those_of_the_run(tmp_path):
    folder = Path(os.environ["HOME"]).parent
    places = [site_folder(), tunnel_folder(), Path.home(), runtime_path(tmp_path)]
    places.append(Path(os.environ[DATA_VARIABLE]))
    for place in places:
        assert place.is_relative_to(folder), place
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_child_processes_inherit_it():
    code = (
        "from lib.config.site_paths import site_folder, tunnel_folder; from pathlib import Path;"
        "print(site_folder(), tunnel_folder(), Path.home())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(site_folder()), str(tunnel_folder()), str(Path.home())]


def test_every_place_outside_that_a_variable_moves_is_moved(tmp_path):
    """Where the code has an absolute path in default of a variable, tests set the variable."""
    default = re.compile(r"""environ\.get\(\s*["'](\w+)["'],\s*["']/""")
    sources = [file for top in ("lib", "modulekit") for file in (PROJECT / top).rglob("*.py")]
    found = {name for file in sources for name in default.findall(file.read_text("utf-8"))}
    assert {"SCENEBRIDGE_SITE", "SCENEBRIDGE_TUNNELS"} <= found
    assert found - OTHERS <= set(variables(tmp_path))


def test_package_managers_keep_the_account_s_settings(tmp_path):
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    (tmp_path / ".config" / "pip" / "pip.conf").touch()
    found = variables(tmp_path / "run", {"HOME": str(tmp_path), "NPM_CONFIG_CACHE": "/kept"})
    assert found["PIP_CONFIG_FILE"] == str(tmp_path / ".config" / "pip" / "pip.conf")
    assert found["NPM_CONFIG_CACHE"] == "/kept"
    assert Path(found["NUMBA_CACHE_DIR"]).is_relative_to(CACHE)
