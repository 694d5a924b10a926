"""Loopback connections of other accounts are told from our own (Linux)."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from lib.gate.peer_account import is_own_account

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc/net/tcp")


def test_our_own_connection_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        conn, peer = server.accept()
        with conn:
            assert is_own_account(peer, conn.getsockname())
            uid = os.getuid()
            monkeypatch.setattr(os, "getuid", lambda: uid + 1)
            assert not is_own_account(peer, conn.getsockname())


def test_a_peer_that_the_system_does_not_know_is_not_ours() -> None:
    assert not is_own_account(("127.0.0.1", 1), ("127.0.0.1", 2))
    assert not is_own_account(("192.0.2.1", 4000), ("127.0.0.1", 2))
