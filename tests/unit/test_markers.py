"""What `./test fast` leaves out is marked by what it uses."""

import subprocess
import sys

import pytest

from tests.conftest import HERE, STARTS, ByFile
from tests.isolation import PROJECT
from tools.bootstrap import COMMANDS, NEVER_FAST


@pytest.mark.parametrize("name", STARTS)
def test_what_starts_programs_is_there(name):
    assert (HERE / name).is_file()


#: A file for each way in which a test may use what starts programs, and what `fast` never imports.
USERS = (
    "tests/security/test_page_takeover.py",  # has a fixture of a conftest
    "tests/contract/test_tunnel_ssh.py",  # imports what starts an sshd
    *NEVER_FAST,
)


@pytest.mark.slow
def test_nobody_has_to_remember():
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-q"]
    command += ["--collect-only", "-m", "not portal and not browser"]
    command += USERS
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 5, done.stdout + done.stderr  # none is left
    assert "deselected" in done.stdout


@pytest.mark.parametrize("mark", ["portal", "browser", "slow"])
def test_the_marks_of_fast_are_known(pytestconfig, mark):
    assert any(line.startswith(f"{mark}:") for line in pytestconfig.getini("markers"))
    assert f"not {mark}" in COMMANDS["fast"][-1]


def test_files_that_look_at_the_served_portal_go_to_one_worker():
    scope_of = object.__new__(ByFile)._split_scope
    assert scope_of("tests/pages/test_axe.py::a") == scope_of("tests/pages/test_browser.py::b")
    assert scope_of("tests/pages/test_work.py::a") == "tests/pages/test_work.py"
