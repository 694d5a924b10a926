"""One login node for the tests that set up gates: it takes a while to make."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.errors import Unavailable
from lib.gate_deploy import wheels
from tests.login_node import LoginNode, admin, deploy, policy


@pytest.fixture(scope="session")
def packages() -> Path:
    """A folder with the wheels for this Python, as somebody without internet would bring."""
    target = wheels.Target((sys.version_info[0], sys.version_info[1]), os.uname().machine)
    try:
        wheels.wheels_for(target, None)
    except Unavailable as exc:
        pytest.skip(exc.message)
    return wheels.cache_folder() / target.tag


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LoginNode, dict[str, str]]]:
    """The login node of this worker, and the variables with which it is administered."""
    node = LoginNode(tmp_path_factory.mktemp("node"))
    try:
        yield node, node.start()
    finally:
        node.stop()


@pytest.fixture
def node(started: tuple[LoginNode, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> LoginNode:
    for name, value in started[1].items():
        monkeypatch.setenv(name, value)
    return started[0]


@pytest.fixture
def deployed(node: LoginNode, packages: Path) -> LoginNode:
    """That node with a gate that runs, of whatever version, with a policy for small jobs."""
    shutil.rmtree(node.gate / "local", ignore_errors=True)
    if not (node.gate / "policy.toml").exists():
        deploy(node, packages)
    text = policy(node)
    lines = (node.gate / "policy.toml").read_text().splitlines()
    if [line for line in lines if not line.startswith("#")] != text.splitlines():
        file = node.root / "new-policy.toml"
        file.write_text(text)
        admin(["gate", "policy", "nchc", "--set", str(file)])
    if not (node.gate / "gate.json").exists():
        admin(["gate", "start", "nchc"])
    return node
