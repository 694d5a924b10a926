"""Outer tunnels with real OpenSSH, a real agent, and real accounts on the portal host."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lib.model import Seal, TunnelState
from lib.tunnels.outer.records import find, is_open
from lib.tunnels.outer.seal import sealed_line
from tests.folders import processes, short_folder
from tests.sshd import new_key
from tests.tunnel_site import (
    ADMIN,
    CLUSTER,
    NEEDS,
    OTHER_ADMIN,
    PORTAL,
    PROJECT,
    STRANGER,
    Gate,
    Site,
    eventually,
    python_for_all,
    through,
)

pytestmark = NEEDS


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    with python_for_all() as found:
        yield found


@pytest.fixture
def site(python: str) -> Iterator[Site]:
    with short_folder() as folder:
        folder.chmod(0o755)
        site = Site(folder, python)
        site.login.authorized(sealed_line(site.public, site.gate.port))
        site.jump.authorized(site.public)
        try:
            site.login.start()
            yield site
        finally:
            site.close()


def audit(site: Site) -> list[str]:
    text = (site.place.folder / "audit.jsonl").read_text()
    return [json.loads(line)["event"] for line in text.splitlines()]


# --- what an open tunnel is ---------------------------------------------------------------


def test_opened_used_by_the_portal_alone_and_closed(site: Site) -> None:
    site.agent.add(site.key)
    done = site.up()
    assert done.returncode == 0, done.stderr
    assert "for group forest" in done.stdout
    assert "Sealed: its key can do nothing" in done.stdout
    assert "You may log out now" in done.stdout

    path = site.place.socket
    assert through(path, PORTAL) == "SSH-2.0-SceneBridge\nhello\n"
    assert "PermissionError" in through(path, STRANGER)
    assert "PermissionError" in through(path, OTHER_ADMIN)
    assert stat.S_IMODE(path.lstat().st_mode) == 0o660
    record_file = site.place.record.stat()
    assert stat.S_IMODE(record_file.st_mode) == 0o640
    assert (record_file.st_uid, record_file.st_gid) == (ADMIN.uid, PORTAL.gid)
    for words in (
        ["rm", "-f", str(path)],
        ["mv", str(path), f"{path}.x"],
        ["touch", str(site.place.folder / "x")],
        ["sh", "-c", f"echo >> {site.place.record}"],
        ["sh", "-c", f"echo >> {site.place.folder / 'audit.jsonl'}"],
        ["mkdir", str(site.tunnels / "mine")],
    ):
        assert PORTAL.run(words).returncode != 0, words
    assert PORTAL.run(["cat", str(site.place.record)]).returncode == 0
    assert STRANGER.run(["cat", str(site.place.record)]).returncode != 0

    tunnel, socket = find(site.tunnels, CLUSTER)
    assert (tunnel.state, tunnel.account, tunnel.group) == (TunnelState.OPEN, "games", "forest")
    assert (tunnel.seal, tunnel.login_node) == (Seal.SEALED, f"{site.login.user}@127.0.0.1")
    assert socket == path

    done = site.admin("down", CLUSTER)
    assert (done.returncode, done.stdout) == (0, "The tunnel to cluster nchc is closed.\n")
    assert not path.exists()
    assert not processes(str(path))
    assert find(site.tunnels, CLUSTER)[0].reason == "games closed it."
    done = site.admin("down", CLUSTER)
    assert (done.returncode, done.stdout) == (0, "No tunnel to cluster nchc is open.\n")
    assert audit(site) == ["up", "closed"]
    left = {p.name for p in site.place.folder.iterdir()}
    assert left == {"nchc.json", "audit.jsonl", "nchc.lock"}


def test_keeps_no_agent_and_no_control_socket(site: Site) -> None:
    site.agent.add(site.key)
    assert site.up().returncode == 0
    supervisor = psutil.Process(site.record().pid)
    (ssh,) = supervisor.children()
    assert supervisor.username() == ssh.username() == ADMIN.name
    assert "SSH_AUTH_SOCK" not in supervisor.environ()
    assert supervisor.terminal() is None
    assert {c.laddr for c in ssh.net_connections("unix")} == {str(site.place.socket)}
    assert not {"-M", "-S", "-A", "-f"} & set(ssh.cmdline())
    site.agent.stop()  # as the forwarded one is gone when its owner logs out
    assert through(site.place.socket, PORTAL).endswith("hello\n")
    memory = supervisor.memory_info().rss
    assert memory < 80e6, memory


def test_one_tunnel_to_a_cluster(site: Site) -> None:
    site.agent.add(site.key)
    assert site.up().returncode == 0
    pid = site.record().pid
    done = site.up()
    assert done.returncode == 1
    assert "You have a tunnel to cluster nchc open already" in done.stderr
    done = site.up(account=OTHER_ADMIN)
    assert done.returncode == 1
    assert "games has a tunnel to cluster nchc open already" in done.stderr
    done = site.admin("down", CLUSTER, account=OTHER_ADMIN)
    assert done.returncode == 1
    assert "The tunnel to cluster nchc is games's" in done.stderr
    assert site.status(OTHER_ADMIN) == {"cluster": CLUSTER, "state": "open", "account": "games"}
    assert site.record().pid == pid
    assert is_open(site.place, site.record())
    status = site.status(PORTAL)
    assert (status["state"], status["group"], status["seal"]) == ("open", "forest", "sealed")


def test_a_portal_that_sees_no_other_processes_knows_it_is_open(site: Site) -> None:
    """As its service has it (ProtectProc=invisible)."""
    script = (
        f"import sys; sys.path.insert(0, {str(PROJECT)!r}); from pathlib import Path;"
        "from lib.tunnels.outer.records import find;"
        "print(find(Path(sys.argv[1]), 'nchc')[0].state)"
    )
    argv = [site.python, "-c", script, str(site.tunnels)]

    def seen() -> str:
        done = PORTAL.run(argv, proc="hidepid=invisible")
        return done.stdout + done.stderr

    site.agent.add(site.key)
    assert site.up().returncode == 0
    assert seen() == "open\n"
    assert PORTAL.run(["ls", f"/proc/{site.record().pid}"], proc="hidepid=invisible").returncode
    psutil.Process(site.record().pid).kill()
    eventually(lambda: seen() == "closed\n")


# --- how it ends --------------------------------------------------------------------------


def test_its_time_ends(site: Site) -> None:
    site.agent.add(site.key)
    assert site.up("--hours", "0.0014").returncode == 0
    eventually(lambda: not is_open(site.place, site.record()))
    eventually(lambda: not processes(str(site.place.socket)))
    assert site.record().reason == "Its time is over."
    assert not site.place.socket.exists()


def test_the_connection_is_lost(site: Site) -> None:
    site.agent.add(site.key)
    assert site.up().returncode == 0
    site.login.stop()
    eventually(lambda: site.record().state is TunnelState.CLOSED)
    assert site.record().reason == "The login node, or what lies between, closed the connection."
    assert not site.place.socket.exists()
    assert site.status()["state"] == "closed"


def test_its_ssh_is_killed(site: Site) -> None:
    site.agent.add(site.key)
    assert site.up().returncode == 0
    psutil.Process(site.record().pid).children()[0].kill()
    eventually(lambda: site.record().state is TunnelState.CLOSED)
    assert "without saying why" in site.record().reason


def test_its_supervisor_is_killed(site: Site) -> None:
    """Through a jump host: the kernel ends ssh, and with it the ssh of the jump host."""
    site.jump.start()
    site.describe(jump=True)
    site.agent.add(site.key)
    done = site.up()
    assert done.returncode == 0, done.stderr
    assert through(site.place.socket, PORTAL).endswith("hello\n")
    supervisor = psutil.Process(site.record().pid)
    below = supervisor.children(recursive=True)
    assert len(below) >= 2
    supervisor.kill()
    _gone, alive = psutil.wait_procs(below, timeout=300)
    assert not alive
    assert site.status()["state"] == "closed"
    assert site.up().returncode == 0
    assert audit(site) == ["up", "closed", "up"]


def test_signals_close_it_cleanly(site: Site) -> None:
    site.agent.add(site.key)
    assert site.up().returncode == 0
    os.kill(site.record().pid, signal.SIGHUP)
    os.kill(site.record().pid, signal.SIGTERM)
    eventually(lambda: site.record().state is TunnelState.CLOSED)
    assert "shuts down" in site.record().reason


# --- who may, and with what ----------------------------------------------------------------


def test_only_admitted_accounts_open_tunnels(site: Site) -> None:
    site.agent.add(site.key)
    done = site.up(account=STRANGER)
    assert done.returncode == 1
    assert "root on this host runs `admin.py tunnel admit news`" in done.stderr
    done = site.up(account=PORTAL)
    assert done.returncode == 1
    assert "This account belongs to the portal's group" in done.stderr
    own = [site.python, *site.command("up", CLUSTER, "--person", "me")[1:]]
    env = {"PATH": os.defpath, **site.environment()}
    done = subprocess.run(own, env=env, capture_output=True, text=True, cwd="/")
    assert done.returncode == 1
    assert "not by root" in done.stderr
    site.place.folder.chmod(0o2770)
    done = site.up()
    assert done.returncode == 1
    assert "is not as it must be" in done.stderr


def test_files_that_others_can_change_are_refused(site: Site) -> None:
    site.agent.add(site.key)
    os.chown(site.file, PORTAL.uid, PORTAL.gid)
    done = site.up()
    assert done.returncode == 1
    assert "nchc.toml could be changed by mail" in done.stderr
    os.chown(site.file, 0, 0)
    site.file.parent.chmod(0o777)
    done = site.up()
    assert done.returncode == 1
    assert "clusters could be changed by others" in done.stderr
    site.file.parent.chmod(0o755)
    assert site.up().returncode == 0


def test_agents_that_cannot_help(site: Site) -> None:
    done = site.up(agent=False)
    assert done.returncode == 1
    assert "No agent was forwarded" in done.stderr
    done = site.up()
    assert done.returncode == 1
    assert "holds no key that may be used" in done.stderr
    other = site.folder / "other"
    new_key(other)
    site.agent.add(other)
    done = site.up()
    assert done.returncode == 1
    assert "accepted none of your keys" in done.stderr
    site.agent.add(site.key)
    assert site.up("--key", "nothing").returncode == 1
    done = site.up("--key", "key")
    assert done.returncode == 0, done.stderr
    assert not processes("sb-none")


def test_a_key_constrained_to_the_way_through_the_jump_host(site: Site) -> None:
    """As `ssh-add -h jump -h login`: the agent signs for those two hosts and no other."""
    site.jump.start()
    site.describe(jump=True)
    known = site.folder / "known"
    known.write_text(f"jump {site.jump.host_key}\nlogin {site.login.host_key}\n")
    known.chmod(0o644)
    site.agent.add(site.key, "-H", str(known), "-h", "jump")
    done = site.up()
    assert done.returncode == 1
    assert "The login node of cluster nchc" in done.stderr
    assert "`ssh-add -h` must be allowed for this way" in done.stderr
    site.agent.clear()
    site.agent.add(site.key, "-t", "60", "-H", str(known), "-h", "jump", "-h", "login")
    done = site.up()
    assert done.returncode == 0, done.stderr
    assert through(site.place.socket, PORTAL).endswith("hello\n")


# --- what is at the other end --------------------------------------------------------------


def test_a_gate_that_does_not_answer_is_told(site: Site) -> None:
    site.agent.add(site.key)
    site.gate.stop()
    done = site.up()
    assert done.returncode == 0, done.stderr
    assert "The gate does not answer: start it with `admin.py gate start nchc`" in done.stdout
    assert is_open(site.place, site.record())


def test_another_program_at_the_port_is_told(site: Site) -> None:
    site.agent.add(site.key)
    port = site.gate.port
    site.gate.stop()
    site.gate = Gate(b"220 mail\r\n", port)
    done = site.up()
    assert done.returncode == 0, done.stderr
    assert f"At port {port} of the login node another program answers (220 mail)" in done.stdout


def test_a_key_that_may_not_forward_to_the_gate(site: Site) -> None:
    site.agent.add(site.key)
    site.login.authorized(sealed_line(site.public, 1))
    done = site.up()
    assert done.returncode == 1
    assert "does not let this key forward to the port of the gate" in done.stderr
    assert not site.place.socket.exists()
    assert site.place.read() is None


# --- root's part ---------------------------------------------------------------------------


def test_admit(site: Site) -> None:
    def admit(account: str, group: str = PORTAL.name) -> subprocess.CompletedProcess[str]:
        words = ("admit", account, "--portal-group", group)
        env = {"PATH": os.defpath, **site.environment(agent=False)}
        return subprocess.run(
            site.command(*words), env=env, capture_output=True, text=True, cwd="/"
        )

    site.tunnels.joinpath(ADMIN.name).rmdir()
    assert admit(ADMIN.name).returncode == 0
    assert admit(ADMIN.name).returncode == 0
    status = site.place.folder.stat()
    assert stat.S_IMODE(status.st_mode) == 0o2750
    assert (status.st_uid, status.st_gid) == (ADMIN.uid, PORTAL.gid)
    assert "belongs to the portal's group" in admit(PORTAL.name).stderr
    assert "no account nobody-here" in admit("nobody-here").stderr
    assert "--portal-group" in admit(ADMIN.name, "no-group").stderr
    assert "neither root's" in admit("root").stderr
    done = site.admin("admit", STRANGER.name)
    assert done.returncode == 1
    assert "Only root admits" in done.stderr
    (site.tunnels / STRANGER.name).symlink_to("/tmp")
    assert admit(STRANGER.name).returncode == 1
    assert Path("/tmp").stat().st_uid == 0
