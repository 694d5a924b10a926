"""Sentences about tunnels, and whom their files may belong to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lib.config.clusters import ClusterEntry, GatePlace, SshHost
from lib.errors import ClusterUnreachable, InvalidInput, Refused
from lib.model import ClusterId, Seal
from lib.tunnels.outer import admin_ssh, admission, opening
from lib.tunnels.outer.agent import Agent, AgentState
from lib.tunnels.outer.ssh_errors import lost, reason
from lib.tunnels.outer.supervisor import StartReply

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGhNeL9crdmxRnDtzEgJt80gorOj7Tz4T6n0UhLxQPR"


def entry(user: str = "u1001") -> ClusterEntry:
    return ClusterEntry(
        ClusterId("nchc"), "T", "", False, (), SshHost("login.example", 22, user, (KEY,)),
        SshHost("jump.example", 22, "", (KEY,)), GatePlace(22022, "", "", ".scenebridge"),
        Path("/etc/scenebridge/clusters/nchc.toml"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("Timeout, server login.example not responding.", "did not answer any more"),
        ("Connection to login.example closed by remote host.", "closed the connection"),
        ("client_loop: send disconnect: Broken pipe", "closed the connection"),
        # Two ssh speak where there is a jump host.
        ("Timeout, server jump.example not responding.\n"
         "client_loop: send disconnect: Broken pipe", "did not answer any more"),
        ("", "without saying why"),
        # Of a forward that found no gate, perhaps long before.
        ("channel 1: open failed: connect failed: Connection refused", "without saying why"),
        ("something new", "Its ssh ended: something new"),
    ],
)  # fmt: skip
def test_why_a_connection_ended(said: str, why: str) -> None:
    assert why in lost(f"{said}\nTransferred: sent 1, received 2 bytes\nKilled by signal 15.")


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("sign_and_send_pubkey: signing failed for ED25519 \"k\" from agent: agent refused "
         "operation\nada@login.example: Permission denied (publickey).",
         Refused, "Your agent refused to sign for the login node"),
        ("ssh: connect to host login.example port 22: Connection timed out",
         ClusterUnreachable, "The login node of cluster nchc (login.example, port 22) does not"),
        ("ssh: connect to host jump.example port 22: No route to host\n"
         "kex_exchange_identification: Connection closed by remote host\n"
         "Connection closed by UNKNOWN port 65535", ClusterUnreachable, "The jump host"),
        ("ssh: Could not resolve hostname jump.example: Name or service not known\n"
         "Connection closed by UNKNOWN port 65535", ClusterUnreachable, "the jump host"),
        ("Unable to negotiate with 192.0.2.1 port 22: no matching host key type found.",
         Refused, "no cipher or key type in common"),
        ("unix_listener: cannot bind to path /x: No space left on device\n"
         "Could not request local forwarding.", Refused, "socket could not be made"),
        ("Bad\x1b[31m news", ClusterUnreachable, "ended: Bad?[31m news"),
    ],
)  # fmt: skip
def test_what_ssh_says_in_plain_words(said: str, kind: type, words: str) -> None:
    error = reason(said, entry())
    assert isinstance(error, kind)
    assert words in error.message


@pytest.mark.parametrize(("prompts", "timeout_s"), [(True, 300), (False, 20)])
def test_a_password_may_be_typed_slowly_at_the_jump_host(
    tmp_path: Path, *, prompts: bool, timeout_s: int
) -> None:
    """ssh to the login node waits behind it, and counts that time as its own."""
    text = admin_ssh.config_text(entry(), known_hosts=tmp_path / "known_hosts", prompts=prompts)
    login = text.partition(f"Host {admin_ssh.JUMP}\n")[0] + text.partition("Host *\n")[2]
    first = next(line for line in login.splitlines() if "ConnectTimeout" in line)
    assert first.split() == ["ConnectTimeout", str(timeout_s)]


def test_the_account_is_that_of_the_command_or_the_file(tmp_path: Path) -> None:
    known = tmp_path / "known"
    text = admin_ssh.config_text(entry(), user="ada", known_hosts=known)
    assert text.count("  User ada\n") == 2
    assert admin_ssh.config_text(entry(), known_hosts=known).count("  User u1001\n") == 2
    with pytest.raises(InvalidInput, match="Which account on cluster nchc"):
        admin_ssh.config_text(entry(user=""), known_hosts=known)
    here = ClusterEntry(ClusterId("here"), "T", "", True)
    with pytest.raises(InvalidInput, match="is this computer"):
        admin_ssh.config_text(here, known_hosts=known)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('Authenticated to a ([192.0.2.1]:22) using "keyboard-interactive".', Seal.UNSEALED),
        ('Authenticated to a (via proxy) using "password".', Seal.UNSEALED),
        ('Authenticated using "publickey" with partial success.\n'
         'Authenticated to a ([192.0.2.1]:22) using "keyboard-interactive".', Seal.UNKNOWN),
        ('Authenticated using "password" with partial success.\n'
         'Authenticated to a (via proxy) using "keyboard-interactive".', Seal.UNSEALED),
        ("", Seal.UNSEALED),
    ],
)  # fmt: skip
def test_what_is_known_of_the_seal_without_trying(said: str, found: Seal, tmp_path: Path) -> None:
    """None of these makes a connection: it would ask for a second code."""
    agent = Agent(AgentState.KEYS, (KEY,))
    result = opening._seal(StartReply(True, said), tmp_path / "none", agent, 1, print)
    assert result.seal is found
    assert result.note


@pytest.mark.parametrize(
    ("mode", "safe"), [(0o644, True), (0o600, True), (0o646, False), (0o777, False)]
)
def test_files_that_others_can_change(tmp_path: Path, mode: int, safe: bool) -> None:
    file = tmp_path / "code.py"
    file.touch()
    file.chmod(mode)
    link = tmp_path / "link.py"
    link.symlink_to(file)
    for path in (file, link):
        if safe:
            admission.require_safe([path])
        else:
            with pytest.raises(Refused, match=r"code\.py could be changed by others"):
                admission.require_safe([path])


def test_folders_that_others_can_change(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "code.py").touch()
    folder.chmod(0o777)
    with pytest.raises(Refused, match="open could be changed by others"):
        admission.require_safe([folder / "code.py"])
    folder.chmod(0o1777)  # as /tmp
    admission.require_safe([folder / "code.py"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_other_accounts_and_groups(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.touch()
    os.chown(file, 0, 8)
    file.chmod(0o664)
    with pytest.raises(Refused, match="could be changed by others"):
        admission.require_safe([file])
    file.chmod(0o644)
    admission.require_safe([file])
    os.chown(file, 8, 8)
    with pytest.raises(Refused, match="could be changed by mail"):
        admission.require_safe([file])


def test_the_code_that_runs_is_looked_at() -> None:
    files = {file.name for file in admission.code_files()}
    assert {"admission.py", "clusters.py", "__init__.py"} <= files
