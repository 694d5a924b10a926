"""What stock ssh does with our configuration, what it says, and what a sealed key can do."""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.config.clusters import ClusterEntry, GatePlace, SshHost
from lib.errors import ClusterUnreachable, InvalidInput, Refused, SceneBridgeError
from lib.model import ClusterId, Seal
from lib.tunnels.outer import admin_ssh, seal
from lib.tunnels.outer.agent import AgentState, agent_state
from lib.tunnels.outer.ssh_errors import reason
from tests.folders import short_folder
from tests.sshd import HERE, SSHD, Account, SshAgent, Sshd, free_port, new_key

pytestmark = pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="no OpenSSH")
ME = Account(pwd.getpwuid(os.geteuid()).pw_name)


class Way:
    """A login node, a jump host, and the caller's own agent with one key that both admit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.login, self.jump = Sshd(folder / "login"), Sshd(folder / "jump")
        self.key = folder / "key"
        self.public = new_key(self.key)
        self.agent = SshAgent(ME, folder / "agent")
        self.gate = free_port()
        self.login_keys, self.jump_keys = (self.login.host_key,), (self.jump.host_key,)

    def start(self) -> None:
        self.agent.add(self.key)
        for server in (self.login, self.jump):
            server.authorized(self.public)
            server.start()

    def entry(self, *, jump: bool, login_port: int = 0, jump_port: int = 0) -> ClusterEntry:
        me = self.login.user
        return ClusterEntry(
            ClusterId("nchc"), "T", "", False, ("forest",),
            SshHost(HERE, login_port or self.login.port, me, self.login_keys),
            SshHost(HERE, jump_port or self.jump.port, "", self.jump_keys) if jump else None,
            GatePlace(self.gate, "", "", ".scenebridge"),
            self.folder / "nchc.toml",
        )  # fmt: skip

    def config(self, entry: ClusterEntry) -> Path:
        return admin_ssh.write_config(entry, self.folder, prompts=False)

    def ask(self, entry: ClusterEntry, command: str = "cat") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            admin_ssh.command(self.config(entry), command),
            env=admin_ssh.environment(), input="hello",
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    def fault(self, entry: ClusterEntry) -> SceneBridgeError:
        done = self.ask(entry)
        assert done.returncode == 255, done
        return reason(done.stderr, entry)

    def stop(self) -> None:
        self.login.stop()
        self.jump.stop()
        self.agent.stop()


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    with short_folder() as folder:
        way = Way(folder)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(way.agent.socket))
        try:
            way.start()
            yield way
        finally:
            way.stop()


@pytest.mark.parametrize("host", [admin_ssh.LOGIN, admin_ssh.JUMP])
def test_what_ssh_makes_of_the_configuration(way: Way, host: str) -> None:
    argv = ["ssh", "-G", "-F", str(way.config(way.entry(jump=True))), "--", host]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    got = dict(line.split(" ", 1) for line in lines if " " in line)
    wanted = {
        "stricthostkeychecking": "true", "updatehostkeys": "false", "verifyhostkeydns": "false",
        "globalknownhostsfile": "none", "forwardagent": "no", "forwardx11": "no",
        "permitlocalcommand": "no", "controlmaster": "false", "identityfile": "none",
        "canonicalizehostname": "false", "batchmode": "yes", "connecttimeout": "20",
        "serveraliveinterval": "15", "serveralivecountmax": "3", "requesttty": "false",
        "hostkeyalias": f"scenebridge-nchc-{host}", "tunnel": "false",
        "userknownhostsfile": str(way.folder / "known_hosts"),
        "preferredauthentications": "publickey,keyboard-interactive,password",
    }  # fmt: skip
    assert {name: got.get(name) for name in wanted} == wanted
    assert "controlpath" not in got
    assert got.get("proxyjump") == ("jump" if host == admin_ssh.LOGIN else None)
    assert got["ciphers"].startswith("aes128-gcm@openssh.com,aes256-gcm@openssh.com,")


@pytest.mark.parametrize("jump", [False, True])
def test_commands_get_stdin_and_give_stdout_alone(way: Way, jump: bool) -> None:
    done = way.ask(way.entry(jump=jump), "cat; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "hello", "")


def test_keys_on_the_disk_are_not_used(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    home = way.folder / "home"
    (home / ".ssh").mkdir(parents=True)
    shutil.copy(way.key, home / ".ssh" / "id_ed25519")
    monkeypatch.setenv("HOME", str(home))
    way.agent.clear()
    assert isinstance(way.fault(way.entry(jump=False)), Refused)
    way.agent.add(way.key)
    assert way.ask(way.entry(jump=False)).stdout == "hello"


@pytest.mark.parametrize("jump", [False, True])
@pytest.mark.parametrize("wrong", ["changed", "other type"])
def test_host_keys(way: Way, jump: bool, wrong: str) -> None:
    host = "jump host" if jump else "login node"
    key = new_key(way.folder / "other")
    if wrong == "other type":
        argv = ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(way.folder / "ecdsa")]
        subprocess.run(argv, check=True)
        key = " ".join((way.folder / "ecdsa.pub").read_text().split()[:2])
    if jump:
        way.jump_keys = (key,)
    else:
        way.login_keys = (key,)
    found = way.fault(way.entry(jump=jump))
    assert isinstance(found, Refused)
    assert f"The host key of the {host} of cluster nchc" in found.message
    assert "nchc.toml" in found.message
    way.login_keys = (key, way.login.host_key)
    way.jump_keys = (key, way.jump.host_key)
    assert way.ask(way.entry(jump=jump)).stdout == "hello"


def test_the_key_is_not_admitted(way: Way) -> None:
    way.login.authorized()
    assert "The login node of cluster nchc" in way.fault(way.entry(jump=True)).message
    way.login.authorized(way.public)
    way.jump.authorized()
    found = way.fault(way.entry(jump=True))
    assert "The jump host of cluster nchc" in found.message
    assert "accepted none of your keys" in found.message


def test_too_many_keys(way: Way) -> None:
    way.agent.clear()
    for n in range(7):
        new_key(way.folder / f"k{n}")
        way.agent.add(way.folder / f"k{n}")
    found = way.fault(way.entry(jump=False))
    assert "gave up after too many keys" in found.message
    assert "`ssh-add -D`" in found.message


def test_one_of_many_keys_can_be_chosen(way: Way) -> None:
    way.agent.clear()
    for n in range(7):
        new_key(way.folder / f"k{n}")
        way.agent.add(way.folder / f"k{n}")
    way.agent.add(way.key)
    config = admin_ssh.write_config(
        way.entry(jump=False), way.folder, key=way.public, prompts=False
    )
    argv = admin_ssh.command(config, "echo hello")
    done = subprocess.run(argv, env=admin_ssh.environment(), capture_output=True, text=True)
    assert done.stdout == "hello\n"


@pytest.mark.parametrize("host", ["login node", "jump host"])
def test_nobody_listens(way: Way, host: str) -> None:
    port = free_port()
    entry = way.entry(jump=host == "jump host", login_port=port, jump_port=port)
    found = way.fault(entry)
    assert isinstance(found, ClusterUnreachable)
    assert f"No ssh server runs at the {host} of cluster nchc (127.0.0.1, port {port})" in str(
        found
    )


def test_the_login_node_behind_a_jump_host_does_not_listen(way: Way) -> None:
    port = free_port()
    found = way.fault(way.entry(jump=True, login_port=port))
    assert f"the login node of cluster nchc (127.0.0.1, port {port})" in found.message


def test_the_jump_host_lets_nobody_on(way: Way) -> None:
    way.jump.stop()
    way.jump.start("AllowTcpForwarding no")
    found = way.fault(way.entry(jump=True))
    assert isinstance(found, Refused)
    assert "does not let you go on to its login node" in found.message


def test_a_host_that_says_nothing(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        admin_ssh, "_COMMON", admin_ssh._COMMON.replace("ConnectTimeout 20", "ConnectTimeout 1")
    )
    with socket.create_server((HERE, 0)) as silent:
        found = way.fault(way.entry(jump=False, login_port=silent.getsockname()[1]))
    assert isinstance(found, ClusterUnreachable)
    assert "does not answer" in found.message


def test_agent_states(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_state()
    assert agent.state is AgentState.KEYS
    assert [key.rsplit(" ", 1)[0] for key in agent.keys] == [way.public]
    way.agent.clear()
    assert agent_state().state is AgentState.EMPTY
    monkeypatch.delenv("SSH_AUTH_SOCK")
    assert agent_state().state is AgentState.NONE
    with pytest.raises(Refused, match="ssh-add -t 1h -h PORTAL"):
        agent_state().require()


@pytest.mark.parametrize("ways", [("jump",), ("login",), ("jump", "login")], ids=" ".join)
def test_a_forwarded_agent_whose_key_is_bound_to_the_way(way: Way, ways: tuple[str, ...]) -> None:
    """What `ADVICE` says: -h PORTAL -h 'PORTAL>JUMP-HOST' -h 'PORTAL>LOGIN-NODE'."""
    portal = Sshd(way.folder / "portal")
    portal.authorized(way.public)
    try:
        portal.start()
        known = way.folder / "known"
        hosts = {"portal": portal, "jump": way.jump, "login": way.login}
        known.write_text("".join(f"{name} {host.host_key}\n" for name, host in hosts.items()))
        way.agent.clear()
        hops = [word for host in ways for word in ("-h", f"portal>{host}")]
        way.agent.add(way.key, "-t", "60", "-H", str(known), "-h", "portal", *hops)
        inner = admin_ssh.command(way.config(way.entry(jump=True)), "echo there")
        argv = [
            *("ssh", "-F", "/dev/null", "-A", "-p", str(portal.port), "-o", "BatchMode=yes"),
            *("-o", f"UserKnownHostsFile={known}", "-o", "HostKeyAlias=portal", "--", HERE),
            f"ssh-add -L; {shlex.join(inner)}",
        ]
        done = subprocess.run(argv, env=admin_ssh.environment(), capture_output=True, text=True)
    finally:
        portal.stop()
    assert way.public in done.stdout
    assert ("there" in done.stdout) == (len(ways) == 2), done
    if len(ways) == 1:
        host = "jump host" if ways == ("login",) else "login node"
        assert f"The {host} of" in reason(done.stderr, way.entry(jump=True)).message


def test_folders_that_ssh_would_misread_are_refused(way: Way) -> None:
    for name in ("a b", "a%b", "a${HOME}", 'a"b'):
        with pytest.raises(InvalidInput, match="ssh cannot read"):
            admin_ssh.write_config(way.entry(jump=True), way.folder / name)


def test_no_account_no_call(way: Way) -> None:
    entry = way.entry(jump=False)
    with pytest.raises(InvalidInput, match="not the name of an account"):
        admin_ssh.write_config(entry, way.folder, user="-oProxyCommand=id")


# --- the seal ------------------------------------------------------------------------------


def tried(way: Way) -> seal.SealResult:
    return seal.try_key(way.config(way.entry(jump=True)), agent_state().keys, way.gate)


def test_an_ordinary_key_can_do_everything(way: Way) -> None:
    found = tried(way)
    assert found.seal is Seal.UNSEALED
    for what in ("run commands", "listen on its ports", "write files", "reach other ports"):
        assert what in found.note
    assert seal.sealed_line(f"{way.public} key", way.gate) in found.note


def test_the_line_that_is_printed_seals_the_key(way: Way) -> None:
    way.login.authorized(tried(way).note.split("authorized_keys as: ")[1])
    found = tried(way)
    assert (found.seal, found.note) == (Seal.SEALED, "")


@pytest.mark.parametrize(
    ("options", "can"),
    [
        ('restrict,command="/bin/false",port-forwarding,permitlisten="127.0.0.1:1"',
         "reach other ports and hosts from there"),
        ('restrict,command="/bin/false",port-forwarding,permitopen="127.0.0.1:1"',
         "listen on its ports"),
        ('restrict,port-forwarding,permitopen="127.0.0.1:1",permitlisten="127.0.0.1:1"',
         "run commands and read and write files"),
        ('restrict,command="internal-sftp",port-forwarding,permitopen="127.0.0.1:1",'
         'permitlisten="127.0.0.1:1"', "read and write files"),
    ],
)  # fmt: skip
def test_half_a_seal_is_none(way: Way, options: str, can: str) -> None:
    way.login.authorized(f"{options} {way.public}")
    found = tried(way)
    assert found.seal is Seal.UNSEALED
    assert f" may {can}. To seal" in found.note


def test_what_cannot_be_tried_is_not_sealed(way: Way) -> None:
    way.login.stop()
    assert tried(way).seal is Seal.UNKNOWN
    way.login.start()
    way.login.authorized()
    assert tried(way).seal is Seal.UNKNOWN


@pytest.mark.parametrize("sealed", [False, True])
def test_a_sealed_key_reaches_no_unix_socket_of_the_login_node(way: Way, sealed: bool) -> None:
    """Such as its session bus, which would start programs. The test has no attempt for it,
    because sshd holds these sockets to permitopen too."""
    if sealed:
        way.login.authorized(seal.sealed_line(way.public, way.gate))
    target, local = way.folder / "bus", way.folder / "local"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(target))
        server.listen()

        def serve() -> None:
            conn, _ = server.accept()
            with conn, contextlib.suppress(OSError):
                conn.sendall(b"bus")

        threading.Thread(target=serve, daemon=True).start()
        config = way.config(way.entry(jump=False))
        argv = [
            *admin_ssh.connection(config),
            "-N",
            "-L",
            f"{local}:{target}",
            "--",
            admin_ssh.LOGIN,
        ]
        process = subprocess.Popen(argv, env=admin_ssh.environment(), stdin=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            deadline = time.monotonic() + 300
            while not local.exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(0.2)
            with socket.socket(socket.AF_UNIX) as conn:
                conn.settimeout(300)
                conn.connect(str(local))
                assert conn.recv(10) == (b"" if sealed else b"bus")
        finally:
            process.kill()  # ssh may miss a SIGTERM that comes as a channel ends
            process.wait(timeout=300)
            if sealed:  # let the thread go
                with socket.socket(socket.AF_UNIX) as conn:
                    conn.connect(str(target))
