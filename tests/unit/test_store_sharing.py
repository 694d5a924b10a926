"""Several opens of one store: in this process, and by others, at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lib.model import User, UserId
from lib.store import Store

PROJECT = Path(__file__).resolve().parents[2]
_OTHER = """
import sys
from pathlib import Path
from lib.model import User, UserId
from lib.store import Store
store = Store(Path(sys.argv[1]))
store.people.ensure_user(User(UserId(sys.argv[2]), "From another process"))
store.close()
"""


@pytest.mark.slow
def test_a_second_open_here_and_a_close_elsewhere_lose_nothing(tmp_path: Path) -> None:
    """A portal that opened its store twice kept a deleted WAL: it neither saw what other
    processes wrote, nor did they see what it wrote."""
    path = tmp_path / "portal.sqlite"
    ours = Store(path)
    ours.people.ensure_user(User(UserId("before"), "Before"))
    Store(path).close()
    for other in ("first", "second"):
        command = [sys.executable, "-c", _OTHER, str(path), other]
        subprocess.run(command, cwd=PROJECT, check=True, timeout=300)
        assert ours.people.user(UserId(other)) is not None
    ours.people.ensure_user(User(UserId("after"), "After"))
    ours.close()
    again = Store(path)
    assert again.people.user(UserId("after")) is not None
    again.close()


def test_a_new_store_is_private(tmp_path: Path) -> None:
    path = tmp_path / "portal.sqlite"
    Store(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
