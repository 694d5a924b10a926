"""With everything that the portal's account owns in hand: no shell, no other host or port.

All attacks are made with stock clients from the portal's host, in both ways that the account
has to the gate: its tunnel's socket with the restricted key, and the control socket of the
portal's own connection. Each refusal stands beside what is allowed.
"""

from __future__ import annotations

import json
import socket
import time
import uuid

import pytest

from lib.protocol.messages import COMMAND
from tests.running import free_port
from tests.sites.lab import Lab
from tests.sites.standing import GATE_PORT, USER, Standing
from tests.sites.thief import ACCOUNT, ANSWERED, INFO, TUNNEL, WAYS, Thief
from tests.sites.trying import scan, scans

pytestmark = [pytest.mark.site]

SITE_HOSTS = ("nchc-jump", "nchc-login", "nchc-n1", "nchc-n2")
EVERY_WAY = pytest.mark.parametrize("way", WAYS)
SERVICES = (
    f"127.0.0.1:{GATE_PORT}",
    f"localhost:{GATE_PORT}",
    f"nchc-login:{GATE_PORT}",
    "127.0.0.1:22",
    "nchc-login:22",
    "nchc-jump:22",
    "nchc-login:6817",
    "nchc-n1:6818",
    "10.77.1.11:6818",
    "[::1]:22",
)


def own_address(site: Standing, lab: Lab) -> tuple[str, int]:
    """Where that notebook really listens, which nobody but the gate needs to know."""
    report = site.gate_home / "sessions" / lab.id / "control" / "endpoint.json"
    endpoint = json.loads(report.read_text())
    return endpoint["host"], endpoint["port"]


# --- commands ---------------------------------------------------------------------------


@EVERY_WAY
def test_a_verb_is_allowed_and_nothing_else_is_run(thief: Thief, way: str) -> None:
    assert thief.may(way)
    marker = thief.site.login.path("/tmp/thief-was-here")
    with thief.audited("exec"):
        for command in (
            "id",
            "/bin/sh -c 'touch /tmp/thief-was-here'",
            f"{INFO}; touch /tmp/thief-was-here",
            f"{INFO}\ntouch /tmp/thief-was-here",
            f"{COMMAND} info $(touch /tmp/thief-was-here)",
            f"{COMMAND}  info",
            f"{COMMAND} shell",
            "scenebridge-2 info",
            "scp -t /tmp",
            "internal-sftp",
        ):
            done = thief.ssh(way, "--", "gate", command)
            assert done.returncode != 0, command
            assert done.stdout == "", command
    assert not marker.exists()
    assert thief.may(way), "a refused command ended the connection"


@EVERY_WAY
def test_no_shell_with_or_without_a_terminal(thief: Thief, way: str) -> None:
    with thief.audited("shell"):
        done = thief.ssh(way, "-T", "--", "gate", data="id\n")
        assert "uid=" not in done.stdout
        assert done.returncode != 0
    with thief.audited("pty"):
        done = thief.ssh(way, "-tt", "--", "gate", data="id\n")
        assert "uid=" not in done.stdout
        assert done.returncode != 0
    assert thief.may(way)


@EVERY_WAY
def test_no_subsystem_no_copy_in_or_out(thief: Thief, way: str) -> None:
    with thief.audited("subsystem"):
        for name in ("sftp", "netconf"):
            assert thief.ssh(way, "-s", "--", "gate", name).returncode != 0
    stolen, planted = f"{thief.folder}/stolen", "/tmp/planted"
    options = thief.options(way)
    for old_protocol in ([], ["-O"]):
        got = thief.run(["scp", *options, *old_protocol, "gate:/etc/passwd", stolen])
        assert got.returncode != 0
        put = thief.run(["scp", *options, *old_protocol, thief.key, f"gate:{planted}"])
        assert put.returncode != 0
    done = thief.run(["sftp", *options, "gate"], f"get /etc/passwd {stolen}\n")
    assert done.returncode != 0
    assert not thief.host.path(stolen).exists()
    assert not thief.site.login.path(planted).exists()
    assert thief.may(way)


def test_environment_agent_and_display_do_not_come_along(thief: Thief) -> None:
    """By a connection of one's own: a master passes on only what it was itself told to."""
    way = TUNNEL
    agent = f"{thief.folder}/agent"
    thief.host.run(["rm", "-f", agent])
    started = thief.run(["ssh-agent", "-a", agent]).stdout
    xauth = f"{thief.folder}/xauth"
    thief.run(["tee", xauth], "#!/bin/sh\necho ':7 MIT-MAGIC-COOKIE-1 " + "ab" * 16 + "'\n")
    thief.run(["chmod", "755", xauth])
    env = {"SSH_AUTH_SOCK": agent, "DISPLAY": "127.0.0.1:7.0", "LD_PRELOAD": "/no/x.so"}
    try:
        with thief.audited("env"):
            done = thief.ssh(way, "-oSendEnv=LD_*", "--", "gate", INFO, env=env)
            assert '"ok":true' in done.stdout
        with thief.audited("agent"):
            thief.ssh(way, "-oForwardAgent=yes", "--", "gate", INFO, env=env)
        with thief.audited("x11"):
            thief.ssh(way, "-Y", f"-oXAuthLocation={xauth}", "--", "gate", INFO, env=env)
    finally:
        pid = started.partition("SSH_AGENT_PID=")[2].partition(";")[0]
        thief.run(["kill", pid])
    gate = json.loads((thief.site.gate_home / "gate.json").read_text())["pid"]
    assert b"x.so" not in thief.site.login.path(f"/proc/{gate}/environ").read_bytes()


# --- forwards ---------------------------------------------------------------------------


@EVERY_WAY
def test_a_live_notebook_is_reached_by_its_name_and_its_token(
    thief: Thief, lab: Lab, way: str
) -> None:
    """The allowed sibling of the forwards below; and here the token matters, too."""
    assert thief.reach(way, f"s-{lab.id}:1")[0][:1] == ANSWERED
    with thief.local(way, f"s-{lab.id}:1") as path:
        through = Lab(lab.id, path, lab.secrets, lab.private)
        with through.http() as client:
            assert client.get("/api/status").status_code == 200
        with through.http(headers={}) as client:
            assert client.get("/api/status").status_code == 403


@EVERY_WAY
def test_no_other_host_or_port_is_reached(site: Standing, thief: Thief, lab: Lab, way: str) -> None:
    host, port = own_address(site, lab)
    for target in ("nchc-login:22", "nchc-jump:22", "nchc-login:6817", "nchc-n1:6818"):
        name, _, number = target.partition(":")
        site.login.connect(name, int(number)).close()  # it is there
    site.login.connect(host, port).close()
    targets = (
        *SERVICES,
        f"{host}:{port}",
        f"nchc-n1:{port}",
        f"10.77.0.3:{site.port}",
        f"s-{lab.id}:2",
        f"s-{lab.id}:{port}",
        f"{lab.id}:1",
        f"s-{lab.id.upper()}:1",
        f"s-{lab.id}.:1",
        f"s-{uuid.uuid4()}:1",
    )
    for target in targets:
        with thief.audited("forward"):
            answer, said = thief.reach(way, target)
        assert answer == b"", target
        assert "prohibited" in said or "failed" in said, (target, said)
    assert thief.reach(way, f"s-{lab.id}:1")[0][:1] == ANSWERED


@EVERY_WAY
def test_no_socket_of_the_login_node_is_reached(site: Standing, thief: Thief, way: str) -> None:
    munge = "/run/munge/munge.socket.2"
    assert site.login.path(munge).is_socket()
    with thief.audited("socket"), thief.local(way, munge) as path:
        assert read_from(path) == b""
    assert thief.may(way)


@EVERY_WAY
def test_a_socks_proxy_reaches_nothing(thief: Thief, way: str) -> None:
    port = free_port()
    ask = b"\x04\x01" + (22).to_bytes(2, "big") + bytes([10, 77, 1, 2]) + b"\0"
    with thief.audited("forward"), thief.forward(way, "-D", f"127.0.0.1:{port}") as process:
        answer = read_from((thief, port), ask)
    assert b"SSH-" not in answer, process
    assert thief.may(way)


@EVERY_WAY
def test_nothing_listens_on_the_login_node_for_the_thief(
    site: Standing, thief: Thief, way: str
) -> None:
    port = free_port()
    with thief.audited("remote-forward"):
        for where in (f"127.0.0.1:{port}", f"0.0.0.0:{port}", "127.0.0.1:0"):
            with thief.forward(way, "-R", f"{where}:127.0.0.1:{site.port}") as process:
                assert process.wait(300) != 0
    with pytest.raises(ConnectionRefusedError):
        site.login.connect("127.0.0.1", port)
    planted = f"/home/{USER}/planted.sock"
    asked = f"{planted}:127.0.0.1:{site.port}"
    with thief.audited("remote-socket"), thief.forward(way, "-R", asked) as process:
        assert process.wait(300) != 0
    assert not site.login.path(planted).exists()
    assert thief.may(way)


def test_no_network_device_even_for_root_of_the_portal_s_host(thief: Thief) -> None:
    """Only root can make the near end, so it is root who asks here."""
    argv = ["ssh", *thief.options(TUNNEL), "-oExitOnForwardFailure=yes", "-w", "any:any", "-N"]
    with thief.audited("tun"):
        done = thief.host.run([*argv, "--", "gate"], timeout=300, check=False)
    assert done.returncode != 0
    assert thief.may(TUNNEL)


def read_from(where, hello: bytes = b"x\n") -> bytes:
    """What a forward gives; b"" when it is closed at once."""
    if isinstance(where, tuple):
        thief, port = where
        for _ in range(100):
            try:
                line = thief.host.connect("127.0.0.1", port)
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
    else:
        line = socket.socket(socket.AF_UNIX)
        line.connect(str(where))
    with line:
        line.settimeout(300)
        try:
            line.sendall(hello)
            return line.recv(100)
        except (ConnectionResetError, BrokenPipeError):
            return b""


# --- past the gate ----------------------------------------------------------------------


@pytest.mark.parametrize("account", [ACCOUNT, "ada", "mallory", "root"])
def test_the_restricted_key_opens_nothing_but_the_gate(thief: Thief, account: str) -> None:
    """Neither login node nor jump host takes it, whoever has a copy."""
    folder = f"/tmp/copy-{account}"
    thief.host.run(["install", "-d", "-m", "700", "-o", account, folder])
    thief.host.run(["install", "-m", "600", "-o", account, thief.key, f"{folder}/key"])
    options = ["-F", "/dev/null", "-i", f"{folder}/key", "-oIdentitiesOnly=yes"]
    options += ["-oIdentityAgent=none", "-oBatchMode=yes", "-oConnectTimeout=10"]
    try:
        for host in ("nchc-login", "nchc-jump"):
            for user in (USER, "u1002", "root", "portal"):
                argv = ["ssh", *options, "-l", user, host, "id"]
                done = thief.host.run(argv, account, check=False)
                assert done.returncode == 255, (host, user)
                assert "Permission denied" in done.stderr, (host, user, done.stderr)
    finally:
        thief.host.run(["rm", "-rf", folder])
    assert thief.may(TUNNEL)


def test_no_other_port_of_the_site_answers_the_portal_s_host(
    site: Standing, thief: Thief, lab: Lab
) -> None:
    host, port = own_address(site, lab)
    ports = ["1-1100", "6817-6819", str(GATE_PORT), str(port), "8888-8890"]
    inner = {machine: site.bed.host(machine).machine.links["nchc"] for machine in SITE_HOSTS}
    assert port in scan(site.login, host, ports)
    assert 6817 in scan(site.login, inner["nchc-login"], ports)
    outer = [site.bed.host(name).machine.links["wan"] for name in ("nchc-login", "nchc-jump")]
    found = scans(thief.host, dict.fromkeys([*outer, *inner.values()], ports))
    answered = {address: open_ for address, open_ in found.items() if open_}
    assert answered == {address: {22} for address in outer}
