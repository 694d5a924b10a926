"""Who gets in at the gate's door, and how many: asked by the stock ssh client."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.gate_site import GateSite, running_site
from tests.running import wait_for
from tests.security.test_gate_matrix import HERE, INFO, allowed, run


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GateSite]:
    yield from running_site(tmp_path_factory.mktemp("entry"), light=True)


def test_another_key_is_refused(site: GateSite, tmp_path: Path) -> None:
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    options = [str(key) if o == str(site.key) else o for o in site.ssh_options()]
    done = run(site.ssh("--", HERE, INFO, options=options))
    assert done.returncode == 255
    assert b"Permission denied (publickey)" in done.stderr
    assert "key" in site.refusals()
    assert allowed(site)


@pytest.mark.parametrize("user", ["root", "Portal", "portal ", "git"])
def test_another_user_name_is_refused(site: GateSite, user: str) -> None:
    done = run(site.ssh("--", HERE, INFO, user=user))
    assert done.returncode == 255
    assert b"Permission denied" in done.stderr
    assert "user" in site.refusals()


def test_only_public_keys_are_accepted_as_proof(site: GateSite) -> None:
    flags = ["-oPubkeyAuthentication=no", "-oPreferredAuthentications=password,none"]
    done = run(site.ssh(*flags, "--", HERE, INFO))
    assert done.returncode == 255
    assert b"Permission denied (publickey)." in done.stderr


def test_another_host_key_is_noticed(site: GateSite, tmp_path: Path) -> None:
    """The client's pin works: a gate with another key is not spoken to."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True
    )
    (tmp_path / "pinned").write_text(f"gate {(tmp_path / 'other.pub').read_text()}")
    pin = f"-oUserKnownHostsFile={tmp_path / 'pinned'}"
    known = [o for o in site.ssh_options() if "UserKnownHostsFile" not in o]
    done = run(site.ssh("--", HERE, INFO, options=[*known, pin]))
    assert done.returncode == 255
    assert b"Host key verification failed" in done.stderr
    assert allowed(site)


@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"])
def test_aes_gcm_is_spoken(site: GateSite, cipher: str) -> None:
    assert run(site.ssh("-c", cipher, "--", HERE, INFO)).returncode == 0


def test_slow_and_weak_ciphers_are_not_spoken(site: GateSite) -> None:
    for cipher in ("chacha20-poly1305@openssh.com", "aes128-ctr"):
        done = run(site.ssh("-c", cipher, "--", HERE, INFO))
        assert done.returncode == 255
        assert b"no matching cipher" in done.stderr


# --- too much -----------------------------------------------------------------------


def test_silent_connections_do_not_lock_the_gate(site: GateSite) -> None:

    def turned_away() -> int:
        return [line.get("what") for line in site.audit()].count("connection")

    before = turned_away()
    idle = [socket.create_connection((HERE, site.port), timeout=100) for _ in range(60)]
    try:
        wait_for("most to be turned away", lambda: turned_away() >= before + 40)
        assert all(_closed(conn) for conn in idle[-40:])
    finally:
        for conn in idle:
            conn.close()
    wait_for("the gate to let somebody in", lambda: allowed(site))


def _closed(conn: socket.socket) -> bool:
    try:
        while conn.recv(1000):
            pass
    except ConnectionResetError:
        pass
    return True


def test_a_silent_connection_ends_after_the_grace_time(site: GateSite) -> None:
    with socket.create_connection((HERE, site.port), timeout=100) as conn:
        began = time.monotonic()
        _closed(conn)
        assert time.monotonic() - began > 5
