"""Who gets in at the gate's door, and how many: asked by the stock ssh client."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from pathlib import Path

import asyncssh
import pytest

from lib.gate.ssh_server import (
    MAX_COMMANDS,
    MAX_CONNECTIONS,
    MAX_URGENT,
    MAX_WAITING,
    key_exchanges,
)
from lib.protocol import ssh_algorithms
from lib.protocol.codec import encode
from lib.protocol.messages import (
    COMMAND,
    CancelRequest,
    InfoRequest,
    LogKind,
    LogRequest,
    Verb,
    WatchRequest,
)
from tests.fakes.things import new_id
from tests.fixtures.gate_site import ROOT, GateSite, running_site
from tests.security.test_gate_matrix import HERE, INFO, allowed, run

PARTS = ("kex", "key", "enc", "mac")


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


# --- what the connection is made of -------------------------------------------------

#: What clients offer by themselves: key exchanges, ciphers, MACs, types of host keys.
OLD_CLIENTS = {
    "OpenSSH 7.4, RHEL 7": (
        "curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384,"
        "ecdh-sha2-nistp521,diffie-hellman-group-exchange-sha256,diffie-hellman-group16-sha512,"
        "diffie-hellman-group18-sha512,diffie-hellman-group-exchange-sha1,"
        "diffie-hellman-group14-sha256,diffie-hellman-group14-sha1",
        "chacha20-poly1305@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr,aes128-gcm@openssh.com,"
        "aes256-gcm@openssh.com,aes128-cbc,aes192-cbc,aes256-cbc",
        "umac-64-etm@openssh.com,hmac-sha2-256-etm@openssh.com,hmac-sha1",
        "ecdsa-sha2-nistp256,ssh-ed25519,rsa-sha2-512,ssh-rsa",
    ),
    "OpenSSH 7.9, Debian 10": (
        "curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,"
        "diffie-hellman-group-exchange-sha256,diffie-hellman-group14-sha1",
        "chacha20-poly1305@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr,aes128-gcm@openssh.com,"
        "aes256-gcm@openssh.com",
        "umac-64-etm@openssh.com,hmac-sha2-256-etm@openssh.com,hmac-sha1",
        "ecdsa-sha2-nistp256,ssh-ed25519,rsa-sha2-512,ssh-rsa",
    ),
    "OpenSSH 8.0 with RHEL 8's policy FUTURE": (
        "curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,"
        "diffie-hellman-group-exchange-sha256,diffie-hellman-group16-sha512",
        "aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr",
        "hmac-sha2-256-etm@openssh.com,umac-128-etm@openssh.com,hmac-sha2-512-etm@openssh.com",
        "ecdsa-sha2-nistp384,ssh-ed25519,rsa-sha2-512",
    ),
}


@pytest.mark.parametrize("client", OLD_CLIENTS)
def test_what_old_clients_offer_is_enough(site: GateSite, client: str) -> None:
    names = ("KexAlgorithms", "Ciphers", "MACs", "HostKeyAlgorithms")
    offers = zip(names, OLD_CLIENTS[client], strict=True)
    done = run(site.ssh(*(f"-o{name}={offer}" for name, offer in offers), "--", HERE, INFO))
    assert done.returncode == 0, done.stderr


def known_to_ssh(what: str) -> list[str]:
    return run(["ssh", "-Q", what]).stdout.decode().split()


@pytest.mark.parametrize(
    ("what", "option", "ours", "said"),
    [
        ("kex", "KexAlgorithms", ssh_algorithms.KEY_EXCHANGES, b"no matching key exchange"),
        ("cipher", "Ciphers", ssh_algorithms.CIPHERS, b"no matching cipher"),
        ("HostKeyAlgorithms", "HostKeyAlgorithms", ssh_algorithms.KEY_TYPES, b"no matching host"),
    ],
)
def test_a_client_forced_to_anything_else_does_not_connect(
    site: GateSite, what: str, option: str, ours: tuple[str, ...], said: bytes
) -> None:
    known = known_to_ssh(what)
    for name in known:
        done = run(site.ssh(f"-o{option}={name}", "--", HERE, INFO))
        if name not in ours:
            assert done.returncode == 255, name
            assert said in done.stderr, name
        elif name not in ssh_algorithms.HYBRIDS or name in key_exchanges():
            assert done.returncode == 0, (name, done.stderr)
    assert set(known) & set(ours)
    assert len(set(known) - set(ours)) > 5


def test_ssh_audit_finds_our_lists_and_nothing_that_is_not_explained(site: GateSite) -> None:
    """It reads what is offered on the wire; how fast one may connect is not asked here."""
    argv = [sys.executable, "-m", "ssh_audit", "-j", "--skip-rate-test"]
    found = json.loads(run([*argv, "-p", str(site.port), HERE]).stdout)
    pseudo = {"ext-info-s", "kex-strict-s-v00@openssh.com"}
    offered = {part: [each["algorithm"] for each in found[part]] for part in PARTS}
    assert set(offered["kex"]) - pseudo == set(key_exchanges())
    assert pseudo <= set(offered["kex"])
    assert "mlkem768x25519-sha256" in offered["kex"]
    assert offered["enc"] == list(ssh_algorithms.CIPHERS)
    assert offered["mac"] == list(ssh_algorithms.MACS)
    assert offered["key"] == list(ssh_algorithms.KEY_TYPES)
    assert found["compression"] == ["none"]

    explained = (ROOT / "docs" / "security.md").read_text("utf-8")
    assert found["cves"] == []
    assert found["additional_notes"] == [""] or not any(found["additional_notes"])
    for part in PARTS:
        for each in found[part]:
            assert "fail" not in each.get("notes", {}), each
            for warning in each.get("notes", {}).get("warn", []):
                assert f"“{warning}”" in explained, each


# --- too much -----------------------------------------------------------------------


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-nothing-follows\r\n"])
def test_connections_that_prove_nothing_give_way_to_whoever_comes(
    site: GateSite, greeting: bytes
) -> None:
    idle = [_taken(site, greeting) for _ in range(2 * MAX_WAITING)]
    try:
        assert allowed(site)  # while they are open, and in time
        assert all(_is_closed(conn) for conn in idle[:MAX_WAITING])
    finally:
        for conn in idle:
            conn.close()
    assert "connection" in site.refusals()


def _taken(site: GateSite, greeting: bytes) -> socket.socket:
    """A connection that the gate has greeted."""
    conn = socket.create_connection((HERE, site.port), timeout=300)
    assert conn.recv(1000).startswith(b"SSH-2.0-")
    conn.sendall(greeting)
    return conn


def _is_closed(conn: socket.socket) -> bool:
    conn.setblocking(False)
    try:
        while conn.recv(1000):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def _closed(conn: socket.socket) -> bool:
    try:
        while conn.recv(1000):
            pass
    except ConnectionResetError:
        pass
    return True


def _connected(site: GateSite) -> AbstractAsyncContextManager[asyncssh.SSHClientConnection]:
    return asyncssh.connect(
        HERE,
        site.port,
        config=None,
        username="portal",
        client_keys=[str(site.key)],
        known_hosts=None,
        agent_path=None,
    )


async def _ask(conn: asyncssh.SSHClientConnection, verb: Verb, request: object) -> bytes:
    asked = await conn.create_process(f"{COMMAND} {verb}", encoding=None)
    with suppress(BrokenPipeError):  # a gate that is busy answers at once
        asked.stdin.write(encode(request))
    return bytes(await asked.stdout.readline())


async def test_idle_connections_with_the_key_give_way_to_whoever_comes(site: GateSite) -> None:
    async with AsyncExitStack() as stack:
        idle = [
            await stack.enter_async_context(_connected(site)) for _ in range(MAX_CONNECTIONS + 1)
        ]
        assert b'"ok":true' in await _ask(idle[-1], Verb.INFO, InfoRequest())
        await idle[0].wait_closed()
        assert not idle[-1].is_closed()


async def test_one_connection_with_all_places_for_commands_keeps_nobody_out(
    site: GateSite,
) -> None:
    nobodys = new_id()
    async with _connected(site) as greedy, _connected(site) as other:
        for _ in range(MAX_COMMANDS):
            watch = await greedy.create_process(f"{COMMAND} watch", encoding=None)
            watch.stdin.write(encode(WatchRequest({})))
            assert b"jobs" in await watch.stdout.readline()
        refused = await _ask(greedy, Verb.LOG, LogRequest(nobodys, LogKind.JOB))
        assert b"Try again in a moment" in refused
        for conn in (greedy, other):
            assert b'"ok":true' in await _ask(conn, Verb.INFO, InfoRequest())
            assert b"not-found" in await _ask(conn, Verb.CANCEL, CancelRequest(nobodys))
        answered = await _ask(other, Verb.LOG, LogRequest(nobodys, LogKind.JOB))
        assert b"not-found" in answered
    assert "command" in site.refusals()


@pytest.mark.parametrize(("verb", "places"), [("log", MAX_COMMANDS), ("cancel", MAX_URGENT)])
async def test_commands_that_ask_nothing_give_way_to_those_that_do(
    site: GateSite, verb: str, places: int
) -> None:
    async with _connected(site) as conn:
        for _ in range(places):
            await conn.create_process(f"{COMMAND} {verb}", encoding=None)
        assert b'"ok":true' in await _ask(conn, Verb.INFO, InfoRequest())
        answered = await _ask(conn, Verb.LOG, LogRequest(new_id(), LogKind.JOB))
        assert b"not-found" in answered
        assert b"not-found" in await _ask(conn, Verb.CANCEL, CancelRequest(new_id()))


def test_a_silent_connection_ends_after_the_grace_time(site: GateSite) -> None:
    with socket.create_connection((HERE, site.port), timeout=300) as conn:
        began = time.monotonic()
        _closed(conn)
        assert time.monotonic() - began > 5
