"""What ssh says of outer tunnels, their seal, and whom the files that run may belong to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lib.config.clusters import ClusterEntry, GatePlace, SshHost
from lib.errors import ClusterUnreachable, InvalidInput, Refused
from lib.model import ClusterId, Seal
from lib.tunnels.outer import admin_ssh, admission, opening
from lib.tunnels.outer.admin_ssh import JUMP, LOGIN
from lib.tunnels.outer.agent import Agent, AgentState
from lib.tunnels.outer.ssh_errors import Loss, SshFault, fault_of, loss_of, lost, reason
from lib.tunnels.outer.supervisor import StartReply

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGhNeL9crdmxRnDtzEgJt80gorOj7Tz4T6n0UhLxQPR"


def entry(user: str = "u1001") -> ClusterEntry:
    return ClusterEntry(
        ClusterId("nchc"), "T", "", False, (), SshHost("login.example", 22, user, (KEY,)),
        SshHost("jump.example", 22, "", (KEY,)), GatePlace(22022, "", "", ".scenebridge"),
        Path("/etc/scenebridge/clusters/nchc.toml"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "loss"),
    [
        ("Timeout, server login.example not responding.", Loss.NO_ANSWER),
        ("client_loop: send disconnect: Connection timed out", Loss.NO_ANSWER),
        ("Connection to login.example closed by remote host.", Loss.CLOSED),
        ("client_loop: send disconnect: Broken pipe", Loss.CLOSED),
        ("Read from remote host login.example: Connection reset by peer", Loss.CLOSED),
        # Two ssh speak where there is a jump host.
        ("Timeout, server jump.example not responding.\n"
         "client_loop: send disconnect: Broken pipe", Loss.NO_ANSWER),
        ("", Loss.SSH_ENDED),
        # Of a forward that found no gate, perhaps long before.
        ("channel 1: open failed: connect failed: Connection refused", Loss.SSH_ENDED),
        ("something new", Loss.OTHER),
    ],
)  # fmt: skip
def test_why_a_connection_ended(said: str, loss: Loss) -> None:
    noisy = f"{said}\nTransferred: sent 1, received 2 bytes\nKilled by signal 15."
    assert loss_of(noisy) is loss


def test_each_loss_has_a_sentence_of_its_own() -> None:
    said = ["Timeout, server x", "Broken pipe", "", "something new"]
    assert {loss_of(words) for words in said} == set(Loss)
    assert len({lost(words) for words in said}) == len(Loss)
    assert "something new" in lost(said[-1])


FAULTS = [
    ("No ED25519 host key is known for login.example and you have requested strict checking.\n"
     "Host key verification failed.", Refused, SshFault.HOST_KEY, LOGIN),
    ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", Refused, SshFault.HOST_KEY, LOGIN),
    ("sign_and_send_pubkey: signing failed for ED25519 \"k\" from agent: agent refused "
     "operation\nada@login.example: Permission denied (publickey).",
     Refused, SshFault.AGENT_REFUSED, LOGIN),
    ("Received disconnect from 192.0.2.1 port 22:2: Too many authentication failures",
     Refused, SshFault.TOO_MANY_KEYS, LOGIN),
    ("ada@login.example: Permission denied (publickey).", Refused, SshFault.NOT_ACCEPTED, LOGIN),
    ("unix_listener: cannot bind to path /x: No space left on device\n"
     "Could not request local forwarding.", Refused, SshFault.SOCKET, None),
    ("channel 2: open failed: administratively prohibited: open failed",
     Refused, SshFault.FORWARD_REFUSED, LOGIN),
    ("channel 0: open failed: administratively prohibited: open failed\n"
     "stdio forwarding failed\nConnection closed by UNKNOWN port 65535",
     Refused, SshFault.JUMP_REFUSED, JUMP),
    ("Unable to negotiate with 192.0.2.1 port 22: no matching host key type found.",
     Refused, SshFault.NOTHING_IN_COMMON, LOGIN),
    ("ssh: Could not resolve hostname jump.example: Name or service not known\n"
     "Connection closed by UNKNOWN port 65535", ClusterUnreachable, SshFault.UNKNOWN_NAME, JUMP),
    ("client_loop: send disconnect: Broken pipe", ClusterUnreachable, SshFault.LOST, LOGIN),
    ("ssh: connect to host login.example port 22: Connection timed out",
     ClusterUnreachable, SshFault.NO_ANSWER, LOGIN),
    ("ssh: connect to host jump.example port 22: No route to host\n"
     "kex_exchange_identification: Connection closed by remote host\n"
     "Connection closed by UNKNOWN port 65535", ClusterUnreachable, SshFault.NO_ANSWER, JUMP),
    ("ssh: connect to host login.example port 22: Connection refused",
     ClusterUnreachable, SshFault.NO_SERVER, LOGIN),
    ("Connection closed by 192.0.2.1 port 22", ClusterUnreachable, SshFault.CLOSED, LOGIN),
    ("command-line: line 0: Bad configuration option: x", Refused, SshFault.OLD_SSH, None),
    ("Bad\x1b[31m news", ClusterUnreachable, SshFault.OTHER, LOGIN),
    ("", ClusterUnreachable, SshFault.OTHER, LOGIN),
]  # fmt: skip


@pytest.mark.parametrize(("said", "kind", "fault", "named"), FAULTS)
def test_what_ssh_says(said: str, kind: type, fault: SshFault, named: str | None) -> None:
    """Its class, what it means, and the host that the sentence names (None: this one)."""
    error = reason(said, entry())
    assert type(error) is kind
    assert fault_of(said) is fault
    for host, kind_of_host in ((LOGIN, "login node"), (JUMP, "jump host")):
        assert (f"he {kind_of_host} of cluster nchc" in error.message) == (host == named)
    assert error.message.isprintable()


def test_each_fault_is_tried() -> None:
    assert {fault for _, _, fault, _ in FAULTS} == set(SshFault)


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


def test_what_links_lead_to_is_looked_at_at_each_level(tmp_path: Path) -> None:
    """Below a linked folder, through a linked file, and above the folder that a link leads to."""
    inner, above = tmp_path / "real" / "inner", tmp_path / "elsewhere"
    inner.mkdir(parents=True)
    above.mkdir()
    for name in ("a.py", "b.py"):
        (inner / name).touch()
    (above / "c.py").touch()
    (inner / "c.py").symlink_to(above / "c.py")
    (tmp_path / "link").symlink_to("real/inner")
    files = [tmp_path / "link" / name for name in ("a.py", "b.py", "c.py")]
    admission.require_safe(files)
    for folder, seen_through in (
        (inner, files),
        (tmp_path / "real", files),
        (above, [files[2]]),
    ):
        folder.chmod(0o777)
        for path in seen_through:
            with pytest.raises(Refused, match=f"{folder.name} could be changed by others"):
                admission.require_safe([path])
        with pytest.raises(Refused, match=f"{folder.name} could be changed by others"):
            admission.require_safe(files)
        folder.chmod(0o755)


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
