"""What `./test fast` leaves out is marked by what it uses."""

import subprocess
import sys

import pytest

from tests.conftest import HERE, STARTS
from tests.isolation import PROJECT


@pytest.mark.parametrize("name", STARTS)
def test_what_starts_programs_is_there(name):
    assert (HERE / name).is_file()


@pytest.mark.parametrize(
    ("file", "mark"),
    [
        ("security/test_page_takeover.py", "portal"),  # has a fixture of a conftest
        ("contract/test_tunnel_ssh.py", "portal"),  # imports what starts an sshd
        ("e2e/test_service.py", "portal"),
        ("pages/test_keyboard.py", "browser"),
    ],
)
def test_nobody_has_to_remember(file, mark):
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-q"]
    command += ["--collect-only", "-m", f"not {mark}", f"tests/{file}"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 5, done.stdout + done.stderr  # none is left
    assert "deselected" in done.stdout
