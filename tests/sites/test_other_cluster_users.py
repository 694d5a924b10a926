"""Another user of the same cluster, with an ordinary account on its login node and nodes.

u1002 shares the computers, the scheduler and the network with u1001, whose account the gate
and the notebooks run in. Each attempt stands beside the same by u1001.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from lib.errors import ProtocolError
from lib.notebook_proxy.upstream import Upstream
from testbed.hosts import Host
from tests.running import wait_for
from tests.sites.faults import Breakable, unreachable
from tests.sites.lab import Lab
from tests.sites.standing import CLUSTER, GATE_HOME, GATE_PORT, USER, Standing, launch
from tests.sites.thief import ANSWERED, TUNNEL, Thief

pytestmark = [pytest.mark.site]

OTHER = "u1002"
HOME = f"/home/{USER}"
GREET = """
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 300)
s.settimeout(300)
try:
    print(s.recv(100))
except ConnectionResetError:
    print(b"")
"""
#: argv: host port [cert key]. Prints what the notebook answers to an HTTPS request.
ASK = """
import socket, ssl, sys
c = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE
if sys.argv[3:]:
    c.load_cert_chain(*sys.argv[3:5])
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
try:
    s = c.wrap_socket(s)
    s.sendall(b"GET /api/status HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n")
    print("answer", s.recv(100))
except (ssl.SSLError, OSError) as exc:
    print("none", exc)
"""
#: argv: host port cert key. Answers every request as a notebook would; prints what it was sent.
POSE = """
import socket, ssl, sys, time
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
c.load_cert_chain(sys.argv[3], sys.argv[4])
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
while True:
    try:
        s.bind((sys.argv[1], int(sys.argv[2])))
        break
    except OSError:
        time.sleep(0.2)
s.listen(50)
print("listening", flush=True)
while True:
    raw, _ = s.accept()
    raw.settimeout(5)
    try:
        line = c.wrap_socket(raw, server_side=True)
        print("got", line.recv(5000), flush=True)
        line.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
        line.close()
    except (ssl.SSLError, OSError) as exc:
        print("failed", exc, flush=True)
"""
FLOOD = """
import socket, sys, time
made, held = 0, []
try:
    while True:
        try:
            held.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2))
            made += 1
            if made == 20:
                print("it floods", flush=True)
            held[-1].sendall(b"SSH-2.0-x\\r\\n")
        except OSError:
            pass
        held = held[-300:]
        time.sleep(0.005)  # two hundred a second, on a computer that others use too
except KeyboardInterrupt:
    print(made)
"""


def place(site: Standing, lab: Lab) -> tuple[Host, str, int]:
    """The node that the notebook runs on, and its address there."""
    control = site.gate_home / "sessions" / lab.id / "control"
    record = json.loads((control / "record.json").read_text())
    node = next(n for n in site.nodes if n.machine.links["nchc"] == record["host"])
    return node, record["host"], record["port"]


def certificate(host: Host, user: str) -> tuple[str, str]:
    """A certificate of one's own, as everybody can make one."""
    folder = f"/tmp/own-{user}"
    host.run(["install", "-d", "-m", "700", "-o", user, folder])
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x"]
    host.run([*made, "-keyout", f"{folder}/key", "-out", f"{folder}/cert"], user)
    return f"{folder}/cert", f"{folder}/key"


# --- files and arguments ------------------------------------------------------------------


@pytest.fixture
def open_home(site: Standing) -> Iterator[None]:
    """As on clusters where home folders may be passed through."""
    site.login.run(["chmod", "711", HOME])
    yield
    site.login.run(["chmod", "700", HOME])


@pytest.mark.usefixtures("open_home")
def test_neither_token_nor_keys_nor_files_can_be_read(site: Standing, lab: Lab) -> None:
    gate, session = f"{HOME}/{GATE_HOME}", f"{HOME}/{GATE_HOME}/sessions/{lab.id}"
    control = [f"{session}/control/{name}" for name in
               ("token", "server.key", "client.key", "spec.json", "record.json", "endpoint.json",
                "job.log", "notebook.log")]  # fmt: skip
    for path in (f"{gate}/host_key", f"{gate}/policy.toml", f"{gate}/audit.jsonl", *control,
                 "/".join((session, "work", "active-fire.ipynb"))):  # fmt: skip
        for host in (site.login, *site.nodes):
            assert host.run(["test", "-r", path], USER, check=False).returncode == 0, path
            done = host.run(["cat", path], OTHER, check=False)
            assert "Permission denied" in done.stderr, (host.name, path)
    for folder in (gate, session, f"{session}/work", f"{session}/control"):
        for act in (["ls", folder], ["touch", f"{folder}/x"], ["ln", "-s", "/", f"{folder}/x"]):
            done = site.login.run(act, OTHER, check=False)
            assert "Permission denied" in done.stderr, act


def test_the_notebook_s_folder_on_its_node_is_closed(site: Standing, lab: Lab) -> None:
    node, _, _ = place(site, lab)
    [scratch] = [f"/tmp/{p.name}" for p in node.path("/tmp").glob(f"sb-{lab.id[:8]}-*")]
    assert node.run(["ls", scratch], USER).stdout
    for act in (["ls", scratch], ["touch", f"{scratch}/x"], ["mv", scratch, "/tmp/x"]):
        done = node.run(act, OTHER, check=False)
        assert "denied" in done.stderr or "not permitted" in done.stderr, act


def test_no_secret_in_what_everybody_sees(site: Standing, thief: Thief, lab: Lab) -> None:
    """Arguments of all processes on all hosts, and the scheduler's books."""
    control = site.gate_home / "sessions" / lab.id / "control"
    secrets = [(control / "token").read_text().strip(), lab.secrets.token]
    for name in ("server.key", "client.key"):
        secrets += [s for s in (control / name).read_text().split() if len(s) > 40]
    secrets += [s for s in (site.gate_home / "host_key").read_text().split() if len(s) > 40]
    assert all(len(secret) > 20 for secret in secrets)
    seen = ""
    for host in (site.login, *site.nodes):
        read = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/comm | tr '\\0' ' '"
        seen += host.run(["sh", "-c", read], OTHER, check=False).stdout
    job = thief.jobs()[lab.id].job
    seen += site.login.run(["scontrol", "show", "job", job], OTHER).stdout
    seen += site.login.run(["squeue", "-o", "%all"], OTHER).stdout
    assert "lib.jobs.session" in seen  # the sibling: the notebook's processes are seen
    assert lab.id in seen
    assert not [secret for secret in secrets if secret in seen]
    node, _, _ = place(site, lab)
    of_user = [p.pid for p in node.processes() if p.user == USER]
    assert of_user
    for pid in of_user:
        done = node.run(["cat", f"/proc/{pid}/environ"], OTHER, check=False)
        assert "Permission denied" in done.stderr


# --- ports ----------------------------------------------------------------------------------


def test_the_gate_s_port_drops_other_accounts_before_it_says_a_word(
    site: Standing, thief: Thief
) -> None:
    greet = ["python3", "-c", GREET, str(GATE_PORT)]
    with thief.audited("connection"):
        assert site.login.run(greet, OTHER).stdout.strip() == "b''"
    assert "SSH-2.0-SceneBridge" in site.login.run(greet, USER).stdout


def test_the_notebook_s_port_lets_nobody_in_without_its_certificate(
    site: Standing, lab: Lab
) -> None:
    node, address, port = place(site, lab)
    control = f"{HOME}/{GATE_HOME}/sessions/{lab.id}/control"
    for host in (node, site.login):
        ask = ["python3", "-c", ASK, address, str(port)]
        assert "HTTP" not in host.run(ask, OTHER).stdout
        assert "HTTP" not in host.run([*ask, *certificate(host, OTHER)], OTHER).stdout
        pair = [f"{control}/client.crt", f"{control}/client.key"]
        assert "answer b'HTTP/1" in host.run([*ask, *pair], USER).stdout  # the sibling
        host.run(["rm", "-rf", f"/tmp/own-{OTHER}"])


def test_kernels_have_no_ports(site: Standing, lab: Lab) -> None:
    """The relay's port is all that u1001 listens on, on a node with a kernel that runs."""
    assert lab.run("print('a kernel')") == "a kernel\n"
    node, _, port = place(site, lab)
    assert _listening(site, node) == {port}
    # ipykernel had one for what forked processes print; that still comes, by a UNIX socket.
    child = "import os, time\npid = os.fork()\nif not pid: print('of a child'); os._exit(0)\n"
    assert "of a child" in lab.run(child + "os.waitpid(pid, 0); time.sleep(2)")


def _listening(site: Standing, node: Host) -> set[int]:
    uid, found = str(site.login.account(USER)[0]), set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{node.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[7] == uid and (fields[3] == "0A" or table.startswith("udp")):
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


def test_a_flood_of_connections_does_not_keep_the_portal_out(site: Standing, thief: Thief) -> None:
    flood = site.login.popen(
        ["python3", "-c", FLOOD, str(GATE_PORT)], OTHER,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert flood.stdout is not None
        assert flood.stdout.readline() == "it floods\n"
        for _ in range(3):
            assert thief.may("control")
            assert thief.may(TUNNEL)  # a new connection, too
        assert flood.poll() is None, "the flood was over before"
    finally:
        flood.send_signal(signal.SIGINT)  # it says how many it made
        out, err = flood.communicate(timeout=300)
    assert int(out) > 50, err
    assert thief.refusals("connection"), "equal ones are counted"


# --- posing as somebody -----------------------------------------------------------------------


@contextmanager
def impostor(node: Host, address: str, port: int) -> Iterator[list[str]]:
    """u1002 answers at a notebook's address; what it was sent is in the list."""
    pair = certificate(node, OTHER)
    log = node.path("/tmp/impostor.log")
    with log.open("w") as out:
        process = node.popen(
            ["python3", "-c", POSE, address, str(port), *pair], OTHER,
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    heard: list[str] = []
    try:
        wait_for("the impostor", lambda: "listening" in log.read_text())
        yield heard
    finally:
        process.kill()
        process.wait(300)
        heard += log.read_text().splitlines()
        node.run(["rm", "-rf", f"/tmp/own-{OTHER}", "/tmp/impostor.log"])


@pytest.fixture
def no_rest(site: Standing) -> Iterator[None]:
    """The kernel keeps a port that was used from others for a minute: an impostor waits."""
    for node in site.nodes:
        node.run(["sysctl", "-qw", "net.ipv4.tcp_max_tw_buckets=0"])
    yield
    for node in site.nodes:
        node.run(["sysctl", "-qw", "net.ipv4.tcp_max_tw_buckets=4096"])


@pytest.mark.usefixtures("no_rest")
def test_nobody_is_led_to_an_ended_notebook_s_port(site: Standing, thief: Thief, tmp_path) -> None:
    with site.api() as api:
        session = launch(api, site)["id"]
        job = thief.jobs()[session]
        lab = Lab(session, tmp_path / "none", job.endpoint, tmp_path)
        node, address, port = place(site, lab)
        assert thief.reach(TUNNEL, f"s-{session}:1")[0][:1] == ANSWERED
        api.delete(f"/api/sessions/{session}").raise_for_status()
        thief.ended(session)
        with impostor(node, address, port) as heard:
            site.login.connect(address, port).close()  # it is there
            with thief.audited("forward"):
                assert thief.reach(TUNNEL, f"s-{session}:1")[0] == b""
            found = api.get(f"/api/sessions/{session}").json()
            assert found["state"] == "ENDED"
    assert not [line for line in heard if line.startswith("got")]


@pytest.mark.usefixtures("no_rest")
def test_an_impostor_is_recognised_while_the_gate_still_takes_it_for_the_notebook(
    site: Standing, thief: Thief, tmp_path
) -> None:
    """The script is killed while the scheduler is silent: the gate cannot know. The pinned
    certificate does, and the token is never sent."""
    with site.api() as api:
        session = launch(api, site)["id"]
        job = thief.jobs()[session]
        with thief.local(TUNNEL, f"s-{session}:1") as socket:
            lab = Lab(session, socket, job.endpoint, tmp_path)
            assert asyncio.run(_probe(lab)) == ""
            node, address, port = place(site, lab)
            site.login.run(["pkill", "-STOP", "slurmctld"])
            try:
                node.run(["pkill", "-KILL", "-f", f"lib.jobs.session.*{session}"])
                wait_for("the port", lambda: port not in _listening(site, node))
                with impostor(node, address, port) as heard:
                    # The gate lets it through: a handshake comes back, with another's name.
                    assert thief.reach(TUNNEL, f"s-{session}:1")[0][:1] == ANSWERED
                    with lab.http() as client, pytest.raises(httpx.ConnectError, match="CERT"):
                        client.get("/api/status")
                    assert "not the notebook" in asyncio.run(_probe(lab))
            finally:
                site.login.run(["pkill", "-CONT", "slurmctld"])
        thief.ended(session)
        # The script could not tidy up.
        node.run(["sh", "-c", 'rm -r /tmp/sb-"$1"-*', "sh", session[:8]])
    assert [line for line in heard if line.startswith("failed")], heard
    assert not [line for line in heard if line.startswith("got")], heard
    assert lab.secrets.token not in "\n".join(heard)


async def _probe(lab: Lab) -> str:
    """As the portal's proxy asks; "" where the notebook answers."""
    upstream = Upstream(lab.socket, lab.secrets)
    try:
        await upstream.probe()
    except ProtocolError as exc:
        return exc.message
    finally:
        await upstream.aclose()
    return ""


def test_a_job_of_the_same_name_is_not_taken_for_ours(
    site: Breakable, thief: Thief, lab: Lab
) -> None:
    """Names are no secret on a cluster; only jobs of the gate's own account count."""
    control = site.gate_home / "sessions" / lab.id / "control"
    record = json.loads((control / "record.json").read_text())
    made = ["sbatch", "--parsable", f"--job-name={record['name']}", "--output=/dev/null"]
    made += [f"--comment=SceneBridge session {lab.id} for owner", "--wrap", "sleep 100"]
    other = site.login.run(made, OTHER).stdout.strip()
    try:
        site.asked_again()
        assert json.loads((control / "record.json").read_text())["job"] == record["job"]
        assert not [e for e in thief.audit() if e["event"] == "duplicate"]
        show = ["squeue", "-h", "-j", other, "-o", "%T %u"]
        assert site.login.run(show).stdout.split() == ["RUNNING", OTHER]
        assert thief.reach(TUNNEL, f"s-{lab.id}:1")[0][:1] == ANSWERED
    finally:
        site.login.run(["scancel", other], OTHER)


def test_nobody_else_ends_or_enters_our_job(site: Standing, thief: Thief, lab: Lab) -> None:
    job = thief.jobs()[lab.id].job
    assert site.login.run(["scancel", job], OTHER, check=False).returncode != 0
    step = ["srun", f"--jobid={job}", "--overlap", "id"]
    done = site.login.run(step, OTHER, check=False)
    assert done.returncode != 0
    assert "uid=" not in done.stdout
    change = ["scontrol", "update", f"JobId={job}", "TimeLimit=1"]
    assert site.login.run(change, OTHER, check=False).returncode != 0
    assert lab.run("print('still here')") == "still here\n"


def test_nobody_poses_as_the_gate_while_it_is_down(site: Standing, thief: Thief) -> None:
    """The tunnel leads to whoever has the port; the pinned host key says that it is another."""
    folder, port = "/tmp/own-gate", str(GATE_PORT)
    with site.ada() as terminal:
        assert "[code 0]" in site.types(terminal, "gate", "stop", CLUSTER)
    site.login.run(["install", "-d", "-m", "700", "-o", OTHER, folder])
    site.login.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/key"], OTHER)
    sshd = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", f"{folder}/key", "-p", port]
    sshd += ["-oListenAddress=127.0.0.1", "-oUsePAM=no", f"-oPidFile={folder}/pid"]
    posing = site.login.popen(sshd, OTHER, stderr=subprocess.PIPE, text=True)
    try:
        wait_for("the other", lambda: "OpenSSH" in _greeting(site))
        done = thief.ssh(TUNNEL, "--", "gate", "scenebridge-1 info")
        assert done.returncode == 255
        assert "Host key verification failed" in done.stderr
        with site.api() as api:  # the portal itself tries as well, and says so
            unreachable(api, "host key")
        assert not thief.may("control")
    finally:
        posing.terminate()
        _, heard = posing.communicate(timeout=300)
        site.login.run(["rm", "-rf", folder])
        with site.ada() as terminal:
            assert "[code 0]" in site.types(terminal, "gate", "start", CLUSTER)
    assert "Connection closed" in heard or "Connection reset" in heard, heard
    assert "userauth" not in heard
    assert "publickey" not in heard
    wait_for("the gate", lambda: thief.may("control"))


def _greeting(site: Standing) -> str:
    greet = ["python3", "-c", GREET, str(GATE_PORT)]
    return site.login.run(greet, USER, check=False).stdout
