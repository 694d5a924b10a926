"""Outer tunnels with real OpenSSH, a real agent, and real accounts on the portal host."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lib.model import Seal, TunnelState
from lib.tunnels.outer.records import find, is_open
from tests.sshd import SSHD, new_key
from tests.tunnel_site import (
    ADMIN,
    CLUSTER,
    OTHER_ADMIN,
    PORTAL,
    PROJECT,
    STRANGER,
    Gate,
    Site,
    eventually,
    processes,
    python_for_all,
    through,
)


pytestmark = [
    pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="no OpenSSH"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as several accounts"),
    pytest.mark.skipif(PROJECT.stat().st_uid != 0, reason="the project is not root's"),
]


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="sb-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        found = python_for_all(Path(name))
        if not found:
            pytest.skip("other accounts cannot run the project's Python")
        yield found


@pytest.fixture
def site(python: str) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="sb-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        site = Site(folder, python)
        site.login.authorized(site.public)
        site.jump.authorized(site.public)
        site.login.start()
        yield site
        site.close()
        eventually(lambda: not processes(name))


def test_open_use_close(site: Site) -> None:
    site.agent.add(site.key)
    done = site.up()
    assert done.returncode == 0, done.stderr
    print(done.stdout, done.stderr)
    assert "You may log out now" in done.stdout
