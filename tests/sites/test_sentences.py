"""What is wrong is said in a sentence that helps, and each time it is caused for real."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import httpx
import pytest

from testbed.hosts import Host
from testbed.places import IMAGE
from testbed.terminal import Terminal
from tests.sites import faults
from tests.sites.faults import mends, unreachable
from tests.sites.standing import (
    ADMIN,
    CLUSTER,
    CLUSTER_FILE,
    GATE_PORT,
    SITE_FOLDER,
    USER,
    Standing,
)

pytestmark = [pytest.mark.site, pytest.mark.timeout(180)]

TRIAL = "trial"
UP = ("tunnel", "up", TRIAL, "--person", "owner")
KEY = "/home/ada/.ssh/id_ed25519"


@pytest.fixture(scope="module")
def api(faulty: Standing) -> Iterator[httpx.Client]:
    with faulty.api() as client:
        yield client


@pytest.fixture(scope="module")
def ada(site: Standing) -> Iterator[Terminal]:
    """Ada on the portal host, with her agent."""
    with site.ada() as terminal:
        yield terminal


@pytest.fixture
def trial(site: Standing) -> Iterator[Callable[..., None]]:
    """Writes the file of a second cluster, which is the first one by another name."""
    file = f"{SITE_FOLDER}/clusters/{TRIAL}.toml"

    def write(more: str = "", **changes: str) -> None:
        text = CLUSTER_FILE.format(
            **{
                "id": TRIAL,
                "user": USER,
                "login_key": host_key(site, "nchc-login"),
                "jump_key": host_key(site, "nchc-jump"),
                "port": GATE_PORT,
                "host_key": site.host_key,
                "home": f".scenebridge/{TRIAL}",
                **changes,
            }
        )
        site.portal.run(["tee", file], input=text + more)

    write()
    yield write
    site.portal.run(["rm", "-f", file])


def host_key(site: Standing, name: str) -> str:
    public = site.bed.host(name).run(["cat", "/etc/ssh/ssh_host_ed25519_key.pub"]).stdout
    return " ".join(public.split()[:2])


# --- host keys --------------------------------------------------------------------------------


@contextlib.contextmanager
def another_host_key(host: Host) -> Iterator[None]:
    """What was pinned is not what sshd has now."""
    key, kept = "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/kept"
    reload = ["sh", "-c", "kill -HUP $(cat /run/sshd.pid)"]
    host.run(["cp", "-p", key, kept])
    host.run(["rm", key])
    host.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{key}.other"])
    host.run(["mv", f"{key}.other", key])
    host.run(reload)
    try:
        yield
    finally:
        host.run(["mv", kept, key])
        host.run(["rm", f"{key}.other.pub"])
        host.run(reload)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nchc-login", "login node of cluster trial (nchc-login, port 22)"),
        ("nchc-jump", "jump host of cluster trial (nchc-jump, port 22)"),
    ],
)
@pytest.mark.usefixtures("trial")
def test_a_changed_host_key(site: Standing, ada: Terminal, name: str, said: str) -> None:
    with another_host_key(site.bed.host(name)):
        for command in (UP, ("gate", "status", TRIAL)):
            told = site.types(ada, *command)
            assert f"The host key of the {said} is not one that is pinned in" in told, told
            assert "Somebody may be posing as it, or its operators changed the key" in told
            assert "[code 0]" not in told


def test_a_wrong_host_key(site: Standing, ada: Terminal, trial: Callable[..., None]) -> None:
    trial(login_key=host_key(site, "nchc-jump"))
    told = site.types(ada, *UP)
    assert "The host key of the login node of cluster trial" in told, told


def test_a_changed_host_key_of_the_gate(site: Standing, api: httpx.Client, ada: Terminal) -> None:
    """Its card sends nobody to pin whatever answers there now."""
    key = f"{site.gate_home}/host_key"
    site.types(ada, "gate", "stop", CLUSTER)
    folder = site.gate_home.relative_to(site.login.path("/"))
    key = f"/{folder}/host_key"
    site.login.run(["mv", key, f"{key}.kept"])
    site.login.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], USER)
    try:
        site.types(ada, "gate", "start", CLUSTER)
        card = unreachable(api, "The host key of cluster nchc is not the one that was pinned")
        assert "Was the gate set up again?" in mends(card), card["mend"]
        assert "pin nothing" in mends(card)
    finally:
        site.types(ada, "gate", "stop", CLUSTER)
        site.login.run(["mv", f"{key}.kept", key])
        site.login.run(["rm", "-f", f"{key}.pub"])
        site.types(ada, "gate", "start", CLUSTER)
    site.reachable()


# --- what ada signs in with -------------------------------------------------------------------


def without_terminal(site: Standing, agent: str, *command: str) -> str:
    """Ada runs a command on the portal host from a script of hers."""
    ssh = ["ssh", "-A" if agent else "-a", "-T", "portal", *ADMIN, *command]
    env = {"SSH_AUTH_SOCK": agent} if agent else {}
    done = site.bed.host("admin").run(ssh, "ada", env, check=False)
    return f"{done.stdout}{done.stderr}[code {done.returncode}]"


@contextlib.contextmanager
def agent(site: Standing, *add: str) -> Iterator[str]:
    """An agent of ada's with what `ssh-add` was told; its socket."""
    admin, socket = site.bed.host("admin"), "/run/ada/other"
    started = admin.run(["ssh-agent", "-a", socket, "-s"], "ada").stdout
    pid = started.partition("SSH_AGENT_PID=")[2].partition(";")[0]
    try:
        admin.run(["ssh-add", "-q", *add], "ada", {"SSH_AUTH_SOCK": socket})
        yield socket
    finally:
        admin.run(["kill", pid])


@pytest.mark.usefixtures("trial")
def test_no_agent(site: Standing) -> None:
    told = without_terminal(site, "", *UP)
    assert "No agent was forwarded to this host." in told, told
    assert "ssh-add -t 1h -h PORTAL" in told
    assert "[code 0]" not in told


@pytest.mark.usefixtures("trial")
def test_an_agent_without_the_key(site: Standing) -> None:
    admin = site.bed.host("admin")
    admin.run(["rm", "-f", "/home/ada/other", "/home/ada/other.pub"])
    admin.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/home/ada/other"], "ada")
    with agent(site, "/home/ada/other") as socket:
        told = without_terminal(site, socket, *UP)
    assert "accepted none of your keys" in told, told
    assert "jump host of cluster trial (nchc-jump, port 22)" in told
    assert "[code 0]" not in told


@pytest.mark.usefixtures("trial")
def test_a_constrained_key_goes_where_it_may_and_nowhere_else(site: Standing) -> None:
    way = ["-h", "portal", "-h", "portal>nchc-jump"]
    with agent(site, *way, KEY) as socket:
        told = without_terminal(site, socket, *UP)
    assert "login node of cluster trial (nchc-login, port 22)" in told, told
    assert "ssh-add -h" in told
    assert "[code 0]" not in told
    with agent(site, *way, "-h", "portal>nchc-login", KEY) as socket:
        told = without_terminal(site, socket, *UP)
        assert "The tunnel to cluster trial is open until" in told, told
        assert "is closed" in without_terminal(site, socket, "tunnel", "down", TRIAL)


@pytest.mark.usefixtures("trial")
def test_a_password_is_typed_where_there_is_no_agent(site: Standing) -> None:
    ssh = ["ssh", "-a", "-t", "portal", *ADMIN, *UP]
    password = next(p.password for p in site.login.site.people if p.name == USER)
    with site.bed.host("admin").terminal(ssh, "ada") as terminal:
        terminal.read_until("ssh may ask you for a password now", 30)
        for _ in range(3):
            terminal.read_until(f"{USER}@scenebridge-{TRIAL}-jump's password: ", 30)
            terminal.send("wrong")
        terminal.read_until("accepted none of your keys and passwords", 30)
        assert terminal.wait(20) != 0
    with site.bed.host("admin").terminal(ssh, "ada") as terminal:
        for host in ("jump", "login"):
            terminal.read_until(f"{USER}@scenebridge-{TRIAL}-{host}'s password: ", 30)
            terminal.send(password)
        terminal.read_until("The tunnel to cluster trial is open until", 40)
        terminal.read_until("opened with a typed password", 10)
        assert terminal.wait(20) == 0
        assert password not in terminal.seen
    assert "is closed" in without_terminal(site, "", "tunnel", "down", TRIAL)


# --- the login node ---------------------------------------------------------------------------

_ELSE = """
import socket
with socket.create_server(("127.0.0.1", {port})) as server:
    print("listens", flush=True)
    while True:
        near, _ = server.accept()
        near.sendall(b"220 another program\\r\\n")
        near.close()
"""


def test_the_gate_s_port_is_taken(
    site: Standing, api: httpx.Client, ada: Terminal, trial: Callable[..., None]
) -> None:
    trial(home=f".scenebridge/{CLUSTER}")
    assert "is stopped. " in site.types(ada, "gate", "stop", CLUSTER)
    python = ["/usr/bin/python3", "-c", _ELSE.format(port=GATE_PORT)]
    with site.login.popen(python, "u1002", stdout=-1, text=True) as taker:
        try:
            assert taker.stdout is not None
            assert taker.stdout.readline()
            told = site.types(ada, "gate", "start", CLUSTER)
            assert f"Port {GATE_PORT} of nchc-login is taken by another program" in told, told
            assert "[code 0]" not in told
            told = site.types(ada, *UP)
            assert f"At port {GATE_PORT} of the login node another program answers" in told
            assert "220 another program" in told
            site.types(ada, "tunnel", "down", TRIAL)
            unreachable(api, "gate of cluster nchc is not running")
        finally:
            taker.kill()
    assert "runs" in site.types(ada, "gate", "start", CLUSTER)
    site.reachable()


def test_no_suitable_python(site: Standing, ada: Terminal, trial: Callable[..., None]) -> None:
    """As where Python is a module that has to be loaded."""
    trial(more='python = "/bin/false"\n')
    bashrc = site.login.path(f"/home/{USER}/.bashrc")
    before = bashrc.read_text()
    bashrc.write_text(f"PATH=/nowhere\n{before}")
    try:
        told = site.types(ada, "gate", "status", TRIAL)
    finally:
        bashrc.write_text(before)
    assert "No Python 3.10 or newer was found on the login node of cluster trial" in told, told
    assert "python in [gate] of the cluster file" in told
    assert "[code 0]" not in told


# --- jobs -------------------------------------------------------------------------------------


def test_a_queue_that_slurm_refuses(faulty: Standing, api: httpx.Client) -> None:
    session = faults.begin(api, resources={"preset": "nowhere", "walltime_s": 600})
    end = faults.ended(api, session)
    assert end["end_reason"] == "refused", end
    assert "The cluster does not take the job. Slurm says: " in end["reason"]
    assert "nowhere" in end["reason"] or "invalid partition" in end["reason"]
    assert faults.jobs_of(faulty, session) == []


def test_a_job_that_ends_before_it_is_ready(faulty: Standing, api: httpx.Client) -> None:
    """The containers' program does not work on the nodes; what it said is told."""
    with contextlib.ExitStack() as stack:
        for node in faulty.nodes:
            spoil_apptainer(node)
            stack.callback(node.run, ["umount", "/usr/bin/apptainer"])
        session = faults.begin(api)
        end = faults.ended(api, session)
    assert end["end_reason"] == "failed to start", end
    assert "The notebook server ended with code 255 while it was starting." in end["reason"]
    assert "FATAL: no user namespaces on this node" in end["reason"]
    assert len(faults.jobs_of(faulty, session)) == 1


def spoil_apptainer(node: Host) -> None:
    script = "#!/bin/sh\necho 'FATAL: no user namespaces on this node' >&2\nexit 255\n"
    node.run(["tee", "/run/spoilt"], input=script)
    node.run(["chmod", "755", "/run/spoilt"])
    node.run(["mount", "--bind", "/run/spoilt", "/usr/bin/apptainer"])


def _missing(site: Standing) -> None:
    site.login.run(["mv", IMAGE, f"{IMAGE}.kept"])


def _other(site: Standing) -> None:
    site.login.run(["cp", "-p", IMAGE, f"{IMAGE}.kept"])
    site.login.run(["sh", "-c", f"echo more >>{IMAGE}"])


@pytest.mark.parametrize(("spoil", "words"), [(_missing, "is missing"), (_other, "checksum")])
def test_an_image_that_is_not_there_or_another(
    faulty: Standing, api: httpx.Client, spoil: Callable[[Standing], None], words: str
) -> None:
    spoil(faulty)
    try:
        end = faults.ended(api, faults.begin(api))
        assert end["end_reason"] == "refused", end
        assert "image" in end["reason"]
        assert words in end["reason"]
        assert IMAGE in end["reason"]
    finally:
        faulty.login.run(["mv", f"{IMAGE}.kept", IMAGE])
