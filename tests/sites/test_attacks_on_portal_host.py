"""The portal's account, and another one, against what the administrator and root left there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.places import PROJECT
from tests.running import wait_for
from tests.sites.standing import ADMIN, CLUSTER, DATA, PYTHON, SITE_FOLDER, TUNNELS, Standing
from tests.sites.thief import ACCOUNT, TUNNEL, Thief

pytestmark = [pytest.mark.site]

BOTH = pytest.mark.parametrize("account", [ACCOUNT, "mallory"])
#: argv: pid. Attaches to it as a debugger does and lets it go again.
TRACE = """
import ctypes, os, sys
libc, pid = ctypes.CDLL(None, use_errno=True), int(sys.argv[1])
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long
if libc.ptrace(16, pid, None, None):  # PTRACE_ATTACH
    sys.exit(os.strerror(ctypes.get_errno()))
os.waitpid(pid, 0x40000000)  # __WALL
libc.ptrace(17, pid, None, None)  # PTRACE_DETACH
"""
CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


def of_ada(site: Standing) -> list[int]:
    """The processes of her tunnel."""
    found = [p.pid for p in site.portal.processes() if p.user == "ada"]
    assert len(found) >= 2, "no tunnel"
    return found


@BOTH
def test_nobody_reads_or_traces_the_administrator_s_processes(
    site: Standing, thief: Thief, account: str
) -> None:
    for pid in of_ada(site):
        for name in ("environ", "mem", "maps", "fd/3", "root/etc/passwd", "cwd/x"):
            done = site.portal.run(["cat", f"/proc/{pid}/{name}"], account, check=False)
            assert "Permission denied" in done.stderr, (pid, name, done)
        done = site.portal.run(["python3", "-c", TRACE, str(pid)], account, check=False)
        assert "not permitted" in done.stderr, (pid, done)
        assert site.portal.run(["kill", str(pid)], account, check=False).returncode != 0
        # The allowed siblings: she and root.
        assert site.portal.run(["cat", f"/proc/{pid}/environ"], "root").stdout
        site.portal.run(["python3", "-c", TRACE, str(pid)])
    assert thief.may(TUNNEL), "the tunnel did not survive"


@BOTH
@pytest.mark.parametrize(
    "path",
    [
        f"{SITE_FOLDER}/clusters/{CLUSTER}.toml",
        f"{SITE_FOLDER}/clusters/mine.toml",
        f"{SITE_FOLDER}/mine",
        f"{PROJECT}/admin.py",
        f"{PROJECT}/lib/tunnels/outer/opening.py",
        f"{PROJECT}/lib/gate/ssh_server.py",
        f"{PROJECT}/catalogs/clusters/mine.toml",
        PYTHON,
        f"{TUNNELS}/ada/{CLUSTER}.json",
        f"{TUNNELS}/ada/audit.jsonl",
        f"{TUNNELS}/mine",
        "/home/ada/.ssh/authorized_keys",
        "/home/ada/.bashrc",
        "/etc/ssh/ssh_known_hosts",
    ],
)
def test_what_the_administrator_runs_and_trusts_is_not_theirs_to_change(
    site: Standing, account: str, path: str
) -> None:
    before = _content(site.portal.path(path))
    for argv in (
        ["sh", "-c", 'echo x >> "$1"', "sh", path],
        ["rm", "-f", path],
        ["mv", path, f"{path}.old"],
        ["chmod", "777", path],
        ["ln", "-sfn", "/tmp/x", path],
    ):
        done = site.portal.run(argv, account, check=False)
        assert done.returncode != 0 or _content(site.portal.path(path)) == before, argv
    assert _content(site.portal.path(path)) == before


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def test_the_administrator_s_agent_is_hers_while_she_is_logged_in(
    site: Standing, thief: Thief
) -> None:
    """Root can use it; that is why destination-constrained keys are recommended."""
    with site.ada():
        [agent] = [
            f"/tmp/{p.parent.name}/{p.name}" for p in site.portal.path("/tmp").glob("ssh-*/*")
        ]
        env = {"SSH_AUTH_SOCK": agent}
        for account in (ACCOUNT, "mallory"):
            done = site.portal.run(["ssh-add", "-l"], account, env, check=False)
            assert "Permission denied" in done.stderr, account
        assert "ED25519" in site.portal.run(["ssh-add", "-l"], "ada", env).stdout
    tmp = site.portal.path("/tmp")
    wait_for("it goes with her", lambda: not list(tmp.glob("ssh-*")))


@pytest.mark.parametrize("where", ["file", "folder"])
def test_the_administrator_is_warned_off_a_cluster_file_that_others_can_change(
    site: Standing, thief: Thief, where: str
) -> None:
    file = f"{SITE_FOLDER}/clusters/{CLUSTER}.toml"
    path, mode = (file, "644") if where == "file" else (f"{SITE_FOLDER}/clusters", "755")
    site.portal.run(["chown", ACCOUNT, path])
    try:
        with site.ada() as terminal:
            said = site.types(terminal, "tunnel", "up", CLUSTER, "--person", "owner")
        assert "[code 0]" not in said
        assert path in said
        assert ACCOUNT in said or "change" in said
    finally:
        site.portal.run(["chown", "root", path])
        site.portal.run(["chmod", mode, path])
    assert thief.may(TUNNEL)  # the one that was open is not touched


def test_the_administrator_s_commands_are_refused_in_the_portal_s_account(
    site: Standing, thief: Thief
) -> None:
    before = site.portal.path(thief.socket).stat().st_ino
    for command in (
        ["tunnel", "up", CLUSTER, "--person", "owner"],
        ["tunnel", "admit", ACCOUNT],
        ["gate", "deploy", CLUSTER, "--portal-key", f"{thief.key}.pub"],
        ["gate", "policy", CLUSTER, "--get"],
        ["gate", "stop", CLUSTER],
    ):
        done = thief.run([*ADMIN, *command])
        assert done.returncode != 0, command
        said = done.stdout + done.stderr
        assert "portal" in said or "root" in said, (command, said)
    thief.run([*ADMIN, "tunnel", "down", CLUSTER])
    assert site.portal.path(thief.socket).stat().st_ino == before
    assert thief.may(TUNNEL)


def test_the_tunnel_s_socket_is_used_by_the_portal_s_group_alone(
    site: Standing, thief: Thief
) -> None:
    connect = ["python3", "-c", CONNECT, thief.socket]
    assert site.portal.run(connect, ACCOUNT, check=False).returncode == 0
    assert site.portal.run(connect, "mallory", check=False).returncode != 0


def test_another_account_reads_nothing_of_the_portal(site: Standing, thief: Thief) -> None:
    """Neither the tunnel's record, the key, the database, nor a control or notebook socket."""
    runtime = str(Path(thief.control).parent)
    for path in (
        f"{TUNNELS}/ada/{CLUSTER}.json",
        thief.key,
        f"{DATA}/portal.sqlite",
        f"{DATA}/portal.json",
        thief.known,
    ):
        assert thief.run(["test", "-r", path]).returncode == 0, path  # it is there
        done = site.portal.run(["cat", path], "mallory", check=False)
        assert "Permission denied" in done.stderr, path
    for folder in (f"{TUNNELS}/ada", runtime, DATA):
        assert thief.run(["ls", folder]).returncode == 0
        done = site.portal.run(["ls", folder], "mallory", check=False)
        assert "Permission denied" in done.stderr, folder
    mux = ["ssh", *thief.options("control"), "-O", "check", "--", "gate"]
    assert site.portal.run(mux, ACCOUNT, check=False).returncode == 0
    assert site.portal.run(mux, "mallory", check=False).returncode != 0
    assert json.loads(thief.run(["cat", f"{TUNNELS}/ada/{CLUSTER}.json"]).stdout)["person"]
