"""What the gate lets through and what not, asked by the stock ssh, scp and sftp clients.

Each refusal has an allowed sibling (the control), so that a gate that refuses everything
fails too; and each refusal must be in the audit.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.protocol.messages import COMMAND, InfoRequest, JobKind, JobStatus, Verb
from tests.fakes.things import new_id
from tests.fixtures.gate_site import GateSite, running_site

HERE = "127.0.0.1"
INFO = f"{COMMAND} info"
TLS_HANDSHAKE = b"\x16"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GateSite]:
    yield from running_site(tmp_path_factory.mktemp("matrix"), light=True)


@pytest.fixture(scope="module")
def notebook(site: GateSite) -> JobStatus:
    return site.ready(site.submit(JobKind.SESSION).id)


@pytest.fixture
def other_port() -> Iterator[int]:
    """A live service of this computer that is none of the gate's business."""
    with socket.create_server((HERE, 0)) as server:
        stop = threading.Event()

        def greet() -> None:
            server.settimeout(0.1)
            while not stop.is_set():
                try:
                    conn, _ = server.accept()
                except TimeoutError:
                    continue
                with conn:
                    conn.sendall(b"SECRET SERVICE\n")

        thread = threading.Thread(target=greet)
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        thread.join()


def run(argv: list[str], data: bytes = b"{}\n") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, input=data, capture_output=True, timeout=300, check=False)


class Master:
    """A connection that stays open; `err` is what its client said."""

    def __init__(self, site: GateSite, *flags: str, user: str = "portal") -> None:
        self._argv = site.ssh("-N", *flags, "--", HERE, user=user)

    def __enter__(self) -> Master:
        self.process = subprocess.Popen(self._argv, stderr=subprocess.PIPE)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            _, err = self.process.communicate(timeout=3)
        except subprocess.TimeoutExpired:  # OpenSSH 9.2 may miss a signal just before it polls
            self.process.kill()
            _, err = self.process.communicate(timeout=300)
        self.err = err.decode()


def read_through(port: int, hello: bytes = b"") -> bytes:
    """What a local forward gives; b"" when it is closed at once."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            conn = socket.create_connection((HERE, port), timeout=300)
        except ConnectionRefusedError:
            time.sleep(0.05)
            continue
        with conn:
            try:
                conn.sendall(hello)
                return conn.recv(100)
            except (ConnectionResetError, BrokenPipeError):
                return b""
    raise AssertionError("ssh does not listen")


def client_hello() -> bytes:
    """The first bytes of a TLS client, which only a TLS server answers with a handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="x").do_handshake()
    return outgoing.read()


def free_port() -> int:
    with socket.create_server((HERE, 0)) as server:
        return int(server.getsockname()[1])


def allowed(site: GateSite) -> bool:
    """The control: the same client with the same key may ask for info."""
    return b'"ok":true' in run(site.ssh("--", HERE, INFO)).stdout


# --- commands -----------------------------------------------------------------------


def test_the_exact_command_is_allowed(site: GateSite) -> None:
    done = run(site.ssh("--", HERE, INFO))
    assert done.returncode == 0
    assert b'"cluster":"test"' in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        "id",
        "sh",
        f"{INFO}; id",
        f"{INFO} id",
        f" {INFO}",
        f"{INFO}\n id",
        f"{INFO} && id",
        f"{COMMAND}  info",
        f"{COMMAND} INFO",
        f"{COMMAND} shell",
        f"{COMMAND}",
        "scenebridge-2 info",
        "$(id)",
        "scp -f /etc/passwd",
        "/usr/lib/openssh/sftp-server",
        "internal-sftp",
    ],
)
def test_any_other_command_is_refused(site: GateSite, command: str) -> None:
    done = run(site.ssh("--", HERE, command))
    assert done.returncode == 255
    assert done.stdout == b""
    assert b"exec request failed" in done.stderr
    assert "exec" in site.refusals()


def test_a_shell_is_refused(site: GateSite) -> None:
    done = run(site.ssh("--", HERE))
    assert done.returncode == 255
    assert b"shell request failed" in done.stderr
    assert "shell" in site.refusals()


def test_a_terminal_is_refused(site: GateSite) -> None:
    done = run(site.ssh("-tt", "--", HERE, INFO))
    assert b"PTY allocation request failed" in done.stderr
    assert done.returncode == 255
    assert allowed(site)  # the verb itself, without a terminal
    assert "pty" in site.refusals()


@pytest.mark.parametrize("flag", ["-oSetEnv=LD_PRELOAD=/tmp/x.so", "-oSendEnv=HOME"])
def test_environment_is_refused(site: GateSite, flag: str) -> None:
    done = run(site.ssh(flag, "--", HERE, INFO))
    assert b'"ok":true' in done.stdout
    assert "env" in site.refusals()
    environ = Path(f"/proc/{site.process.pid}/environ")
    if environ.exists():
        assert b"/tmp/x.so" not in environ.read_bytes()


def test_subsystems_are_refused(site: GateSite) -> None:
    for name in ("sftp", "netconf"):
        done = run(site.ssh("-s", "--", HERE, name))
        assert done.returncode == 255
        assert b"subsystem request failed" in done.stderr
    assert "subsystem" in site.refusals()


@pytest.mark.parametrize("legacy", [[], ["-O"]])
def test_scp_is_refused(site: GateSite, tmp_path: Path, legacy: list[str]) -> None:
    flags = [*site.ssh_options(), "-P", str(site.port), *legacy]
    got = run(["scp", *flags, f"portal@{HERE}:/etc/passwd", str(tmp_path / "stolen")])
    assert got.returncode != 0
    assert not (tmp_path / "stolen").exists()
    (tmp_path / "mine").write_text("x")
    put = run(["scp", *flags, str(tmp_path / "mine"), f"portal@{HERE}:{tmp_path}/planted"])
    assert put.returncode != 0
    assert not (tmp_path / "planted").exists()


def test_sftp_is_refused(site: GateSite, tmp_path: Path) -> None:
    flags = [*site.ssh_options(), "-P", str(site.port)]
    done = run(["sftp", *flags, f"portal@{HERE}"], b"get /etc/passwd\n")
    assert done.returncode != 0
    assert b"root:" not in done.stdout


# --- agent, X11, tun ---------------------------------------------------------------


def test_a_forwarded_agent_is_refused(site: GateSite, tmp_path: Path) -> None:
    agent = tmp_path / "agent.sock"
    with subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL
    ) as process:
        while not agent.exists():
            time.sleep(0.02)
        env = {**os.environ, "SSH_AUTH_SOCK": str(agent)}
        options = [o for o in site.ssh_options() if "IdentityAgent" not in o]
        done = subprocess.run(
            site.ssh("-A", "--", HERE, INFO, options=options),
            input=b"{}\n", capture_output=True, timeout=300, env=env, check=False,
        )  # fmt: skip
        process.terminate()
    assert b'"ok":true' in done.stdout
    assert "agent" in site.refusals()


def test_x11_is_refused(site: GateSite, tmp_path: Path) -> None:
    xauth = tmp_path / "xauth"
    xauth.write_text("#!/bin/sh\necho ':7 MIT-MAGIC-COOKIE-1 00112233445566778899aabbccddeeff'\n")
    xauth.chmod(0o755)
    done = subprocess.run(
        site.ssh("-Y", f"-oXAuthLocation={xauth}", "--", HERE, INFO),
        input=b"{}\n", capture_output=True, timeout=300, check=False,
        env={**os.environ, "DISPLAY": f"{HERE}:7.0"},
    )  # fmt: skip
    assert b'"ok":true' in done.stdout
    assert "x11" in site.refusals()


def test_a_network_device_is_refused(site: GateSite) -> None:
    done = run(site.ssh("-oExitOnForwardFailure=yes", "-w", "any:any", "-N", "--", HERE))
    assert done.returncode != 0
    assert allowed(site)


# --- forwards to the gate's side -----------------------------------------------------


def test_a_live_notebook_is_reached_by_its_symbolic_name(
    site: GateSite, notebook: JobStatus
) -> None:
    port = free_port()
    with Master(site, "-L", f"{HERE}:{port}:s-{notebook.id}:1"):
        assert read_through(port, client_hello())[:1] == TLS_HANDSHAKE


def refused_forward(site: GateSite, target: str) -> None:
    port = free_port()
    with Master(site, "-L", f"{HERE}:{port}:{target}") as master:
        assert read_through(port, b"x\n") == b""
    assert "administratively prohibited" in master.err or "connect failed" in master.err
    assert "forward" in site.refusals()


def test_a_live_port_of_the_login_node_is_refused(site: GateSite, other_port: int) -> None:
    assert read_through(other_port) == b"SECRET SERVICE\n"  # it is there
    for host in (HERE, "localhost", "0.0.0.0", "[::1]", socket.gethostname()):
        refused_forward(site, f"{host}:{other_port}")


def test_the_notebooks_own_address_is_refused(site: GateSite, notebook: JobStatus) -> None:
    endpoint = (site.control(notebook.id) / "endpoint.json").read_text()
    port = int(endpoint.split('"port": ')[1].split(",")[0])
    refused_forward(site, f"{HERE}:{port}")


def test_the_gates_own_port_is_refused(site: GateSite) -> None:
    refused_forward(site, f"{HERE}:{site.port}")


def test_a_wrong_port_or_name_of_a_session_is_refused(site: GateSite, notebook: JobStatus) -> None:
    ended = site.submit(JobKind.RUN)
    site.ended(ended.id)
    for target in (
        f"s-{notebook.id}:2",
        f"s-{notebook.id}:22",
        f"{notebook.id}:1",
        f"s-{notebook.id.upper()}:1",
        f"s-{notebook.id}x:1",
        f"s-{new_id()}:1",
        f"s-{ended.id}:1",
    ):
        refused_forward(site, target)


def test_a_unix_socket_of_the_login_node_is_refused(site: GateSite, tmp_path: Path) -> None:
    path = tmp_path / "service.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        port = free_port()
        with Master(site, "-L", f"{HERE}:{port}:{path}"):
            assert read_through(port) == b""
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_socks_proxy_reaches_nothing(site: GateSite, other_port: int) -> None:
    port = free_port()
    with Master(site, "-D", f"{HERE}:{port}"):
        request = b"\x04\x01" + other_port.to_bytes(2, "big") + b"\x7f\0\0\1\0"
        assert b"SECRET" not in read_through(port, request)
    assert "forward" in site.refusals()


def test_stdio_forwarding_reaches_only_notebooks(
    site: GateSite, notebook: JobStatus, other_port: int
) -> None:
    refused = run(site.ssh("-W", f"{HERE}:{other_port}", "--", HERE), b"")
    assert b"SECRET" not in refused.stdout
    assert refused.returncode != 0
    reached = run(site.ssh("-W", f"s-{notebook.id}:1", "--", HERE), client_hello())
    assert reached.stdout[:1] == TLS_HANDSHAKE


@pytest.mark.parametrize("target", ["127.0.0.1:{port}", "0.0.0.0:{port}", "{path}"])
def test_listening_on_the_login_node_is_refused(
    site: GateSite, tmp_path: Path, target: str
) -> None:
    port = free_port()
    where = target.format(port=port, path=tmp_path / "listen.sock")
    flags = ["-oExitOnForwardFailure=yes", "-R", f"{where}:{HERE}:9"]
    done = run(site.ssh("-N", *flags, "--", HERE))
    assert done.returncode == 255
    assert b"remote port forwarding failed" in done.stderr
    assert not (tmp_path / "listen.sock").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HERE, port), timeout=2).close()
    assert {"remote-forward", "remote-socket"} & site.refusals()


def test_refusals_do_not_end_a_connection_with_notebooks(
    site: GateSite, notebook: JobStatus, other_port: int
) -> None:
    """One master carries everything: a refused channel must not take the others along."""
    good, bad = free_port(), free_port()
    forwards = ["-L", f"{HERE}:{good}:s-{notebook.id}:1", "-L", f"{HERE}:{bad}:{HERE}:{other_port}"]
    with Master(site, *forwards) as master:
        for _ in range(20):
            assert read_through(bad, b"x") == b""
        assert read_through(good, client_hello())[:1] == TLS_HANDSHAKE
        assert master.process.poll() is None


def test_the_audit_names_sessions_and_owners_and_no_secrets(
    site: GateSite, notebook: JobStatus
) -> None:
    site.ask(Verb.INFO, InfoRequest())
    submitted = [line for line in site.audit() if line["event"] == "submitted"]
    assert {"ada"} == {line["owner"] for line in submitted}
    assert notebook.id in {line["session"] for line in submitted}
    text = (site.home / "audit.jsonl").read_text()
    assert notebook.endpoint is not None
    for secret in (notebook.endpoint.token, "PRIVATE KEY"):
        assert secret not in text
    assert (site.home / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_folders_and_secrets_are_private(site: GateSite, notebook: JobStatus) -> None:
    assert site.home.stat().st_mode & 0o777 == 0o700
    for path in site.control(notebook.id).iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
