"""The ssh command lines: what they always carry, and the names they refuse."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from lib.errors import InvalidInput
from lib.model import ClusterId, SessionId
from lib.protocol import ssh_algorithms
from lib.protocol.messages import Verb
from lib.tunnels import ssh_errors, ssh_options
from lib.tunnels.gate_address import SocketAddress, TcpAddress
from lib.tunnels.ssh_options import ConnectionFiles

SESSION = SessionId("0f0e0d0c-0b0a-0908-0706-050403020100")
FILES = ConnectionFiles(ClusterId("abci"), Path("/run/sb"))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1Tq5F0Zl2m3mVdXq9cFhE4zJcTz3J8mTgK6v1A0xYz"


def options(argv: list[str]) -> dict[str, str]:
    pairs = [argv[i + 1] for i, word in enumerate(argv) if word == "-o"]
    return dict(pair.split("=", 1) for pair in pairs)


def test_master_trusts_one_host_key_and_shows_one_key() -> None:
    argv = ssh_options.master(FILES, TcpAddress("127.0.0.1", 2222), Path("/keys/abci"))
    assert argv[:3] == ["ssh", "-F", "/dev/null"]
    assert argv[-4:] == ["-p", "2222", "--", "127.0.0.1"]
    given = options(argv)
    assert given["StrictHostKeyChecking"] == "yes"
    assert given["GlobalKnownHostsFile"] == "/dev/null"
    assert given["HostKeyAlias"] == "scenebridge-abci"
    assert given["UpdateHostKeys"] == "no"
    assert given["IdentitiesOnly"] == "yes"
    assert given["IdentityAgent"] == "none"
    assert given["BatchMode"] == "yes"
    assert given["ForwardAgent"] == "no"
    assert given["PreferredAuthentications"] == "publickey"
    assert given["StreamLocalBindMask"] == "0177"
    assert given["LogLevel"] == "INFO", "a gate that closes at once would not be told of"
    assert given["Ciphers"] == ",".join(ssh_algorithms.CIPHERS)
    assert given["MACs"] == ",".join(ssh_algorithms.MACS)
    assert given["HostKeyAlgorithms"] == "ssh-ed25519"


@pytest.mark.parametrize(
    ("known", "hybrids"),
    [
        ([], ()),
        (["ecdh-sha2-nistp256"], ()),
        (["mlkem768x25519-sha256"], ("mlkem768x25519-sha256",)),
    ],
)
def test_hybrids_are_asked_for_where_ssh_knows_them(known: list[str], hybrids: list[str]) -> None:
    argv = ssh_options.master(FILES, TcpAddress("127.0.0.1", 2222), Path("/keys/abci"), known)
    assert options(argv)["KexAlgorithms"].split(",") == [
        *hybrids,
        *("curve25519-sha256", "curve25519-sha256@libssh.org"),
    ]


def test_this_computer_s_ssh_takes_the_lists_as_they_are() -> None:
    known = subprocess.run(ssh_options.KNOWN_KEY_EXCHANGES, capture_output=True, text=True).stdout
    address = TcpAddress("127.0.0.1", 2222)
    argv = ssh_options.master(FILES, address, Path("/keys/abci"), known.split())
    said = subprocess.run([*argv[:1], "-G", *argv[1:]], capture_output=True, text=True, check=True)
    taken = dict(line.partition(" ")[::2] for line in said.stdout.splitlines())
    for name in ("KexAlgorithms", "Ciphers", "MACs", "HostKeyAlgorithms"):
        assert taken[name.lower()] == options(argv)[name]


@pytest.mark.parametrize(
    "argv",
    [
        ssh_options.verb(FILES, Verb.INFO),
        ssh_options.control(FILES, "check"),
        ssh_options.forward(FILES, "forward", SESSION),
        ssh_options.forward(FILES, "cancel", SESSION),
    ],
)
def test_nothing_connects_around_the_master(argv: list[str]) -> None:
    assert options(argv)["ControlMaster"] == "no"
    assert options(argv)["ProxyCommand"] == "exit 255"
    assert argv[argv.index("-S") + 1] == "/run/sb/abci.ctl"
    assert argv[argv.index("--") + 1] == "scenebridge-abci"


def test_verb_is_the_whole_command() -> None:
    assert ssh_options.verb(FILES, Verb.WATCH)[-1] == "scenebridge-1 watch"


def test_forward_names_the_session_only() -> None:
    argv = ssh_options.forward(FILES, "forward", SESSION)
    assert argv[argv.index("-L") + 1] == (
        f"/run/sb/f/{SESSION.replace('-', '')}.sock:s-{SESSION}:1"
    )


def test_socket_reach_passes_the_descriptor() -> None:
    path = "/run/sb/it's 100%/t.sock"
    argv = ssh_options.master(FILES, SocketAddress(Path(path)), Path("/keys/50%"))
    given = options(argv)
    assert given["ProxyUseFdpass"] == "yes"
    assert shlex.split(given["ProxyCommand"].replace("%%", "%"))[-1] == path
    assert argv[argv.index("-i") + 1] == "/keys/50%%"


@pytest.mark.parametrize("name", ["", "A", "-o", "a b", "../x", "a" * 41, "a\n"])
def test_cluster_names_that_ssh_could_misread_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        ConnectionFiles(ClusterId(name), Path("/run/sb"))


@pytest.mark.parametrize("folder", ["run", "/run/a b", "/run/%h", "/run/a:b", "/" + "r" * 80])
def test_runtime_folders_that_cannot_hold_sockets_are_refused(folder: str) -> None:
    with pytest.raises(InvalidInput):
        ConnectionFiles(ClusterId("abci"), Path(folder))


@pytest.mark.parametrize(
    "address",
    [
        TcpAddress("-oProxyCommand=id", 22),
        TcpAddress("", 22),
        TcpAddress("a b", 22),
        TcpAddress("localhost", 0),
        TcpAddress("localhost", 70000),
        SocketAddress(Path("/run/a\nb")),
    ],
)
def test_addresses_that_ssh_could_misread_are_refused(address: TcpAddress | SocketAddress) -> None:
    with pytest.raises(InvalidInput):
        ssh_options.master(FILES, address, Path("/keys/abci"))


@pytest.mark.parametrize("key", ["/keys/${HOME}", '/keys/"x', "/keys/a\nb"])
def test_key_paths_that_ssh_would_expand_are_refused(key: str) -> None:
    with pytest.raises(InvalidInput):
        ssh_options.master(FILES, TcpAddress("localhost", 22), Path(key))


def test_host_key_becomes_one_line() -> None:
    line = ssh_options.known_hosts_line(ClusterId("abci"), f"{KEY} gate@login\n")
    assert line == f"scenebridge-abci {KEY}\n"


@pytest.mark.parametrize("key", ["", "ssh-ed25519", "* " + KEY, KEY + "\nevil " + KEY, "@x " + KEY])
def test_host_keys_that_are_none_are_refused(key: str) -> None:
    with pytest.raises(InvalidInput):
        ssh_options.known_hosts_line(ClusterId("abci"), key)


@pytest.mark.parametrize(
    ("stderr", "told"),
    [
        ("@@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@@\nHost key verification failed.",
         "host key"),
        ("portal@127.0.0.1: Permission denied (publickey).", "refused the portal's key"),
        ("ssh: connect to host 127.0.0.1 port 1: Connection refused", "is not running"),
        ("ssh: connect to host 10.0.0.1 port 1: Connection timed out", "does not answer"),
        ("tunnel socket: Connection refused\nproxy dialer did not pass back a connection",
         "tunnel to cluster abci is not open"),
        ("tunnel socket: Permission denied\nproxy dialer did not", "tunnel to cluster abci"),
        ("kex_exchange_identification: Connection closed by remote host", "is not running"),
        ("banner exchange: Connection to /x/ada/abci.sock port 0: Broken pipe", "is not running"),
        ("something \x1b[31mnew", "ssh said: something ?[31mnew"),
        ("", "was lost."),
    ],
)  # fmt: skip
def test_reasons_are_plain_sentences(stderr: str, told: str) -> None:
    error = ssh_errors.unreachable(ClusterId("abci"), stderr)
    assert told in error.message
    assert error.transient
