"""The administrator's ways into a cluster that need whole hosts: changed keys, an agent that is
forwarded and constrained, a typed password. Each refusal names the host that it is of.

What ssh says of each fault, and whom the sentence names: `unit/test_tunnels_outer.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from testbed.hosts import Host
from tests.sites.standing import ADMIN, CLUSTER_FILE, GATE_PORT, SITE_FOLDER, USER, Standing

pytestmark = [pytest.mark.site]

TRIAL = "trial"
UP = ("tunnel", "up", TRIAL, "--person", "owner")
LOGIN, JUMP = (f"{kind} of cluster {TRIAL}" for kind in ("login node", "jump host"))


@pytest.fixture(scope="module", autouse=True)
def trial(site: Standing) -> Iterator[None]:
    """The file of a second cluster, which is the first one by another name."""
    file = f"{SITE_FOLDER}/clusters/{TRIAL}.toml"
    text = CLUSTER_FILE.format(
        id=TRIAL,
        user=USER,
        login_key=site.host_key_of("nchc-login"),
        jump_key=site.host_key_of("nchc-jump"),
        port=GATE_PORT,
        host_key=site.host_key,
        home=f".scenebridge/{TRIAL}",
    )
    site.portal.run(["tee", file], input=text)
    yield
    site.portal.run(["rm", "-f", file])


def refused(said: str, host: str) -> bool:
    """Whether the command ended with an error that names that host and no other."""
    named = [kind for kind in (LOGIN, JUMP) if kind in said]
    return "[code 1]" in said and named == [host]


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


def test_a_changed_host_key_is_told_of_the_host_that_has_it(site: Standing) -> None:
    with site.ada() as terminal:
        for name, host in (("nchc-login", LOGIN), ("nchc-jump", JUMP)):
            with another_host_key(site.bed.host(name)):
                said = site.types(terminal, *UP)
            assert refused(said, host), said
            assert "host_keys" in said


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


def test_a_constrained_key_goes_where_it_may_and_nowhere_else(site: Standing) -> None:
    way, key = ["-h", "portal", "-h", "portal>nchc-jump"], "/home/ada/.ssh/id_ed25519"
    with agent(site, *way, key) as socket:
        said = without_terminal(site, socket, *UP)
        assert refused(said, LOGIN), said
    with agent(site, *way, "-h", "portal>nchc-login", key) as socket:
        assert "[code 0]" in (said := without_terminal(site, socket, *UP)), said
        said = without_terminal(site, socket, "tunnel", "down", TRIAL)
        assert "[code 0]" in said, said


def test_a_password_is_typed_where_there_is_no_agent(site: Standing) -> None:
    """At both hosts; it stays in no record and on no screen."""
    ssh = ["ssh", "-a", "-t", "portal", *ADMIN, *UP]
    password = next(p.password for p in site.login.site.people if p.name == USER)
    with site.bed.host("admin").terminal(ssh, "ada") as terminal:
        for host in ("jump", "login"):
            terminal.read_until(f"{USER}@scenebridge-{TRIAL}-{host}'s password: ")
            terminal.send(password)
        assert terminal.wait(300) == 0, terminal.seen
        assert password not in terminal.seen
    said = without_terminal(site, "", "tunnel", "down", TRIAL)
    assert "[code 0]" in said, said
