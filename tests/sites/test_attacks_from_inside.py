"""Hostile code in a notebook's container: what it sees, and what it cannot lead others to.

The thief runs it by the notebook's own kernel, through the gate. Inside the container
everything is allowed; nothing of it may reach the account, the node or other sessions.
"""

from __future__ import annotations

import httpx
import pytest

from tests.sites.lab import Lab
from tests.sites.standing import GATE_PORT, USER, Standing

pytestmark = [pytest.mark.site]

HOME = f"/home/{USER}"
#: What is mounted beside /proc and pieces of /dev. `/usr` and the project are this site's binds.
MOUNTED = {
    "/", "/dev", "/dev/shm", "/dev/mqueue", "/dev/pts", "/proc", "/tmp", "/session/work",
    "/etc/passwd", "/etc/group", "/etc/resolv.conf", "/etc/hosts", "/etc/localtime",
    "/usr", "/opt/scenebridge",
}  # fmt: skip
DEVICES = {f"/dev/{name}" for name in ("tty", "null", "zero", "random", "urandom", "full")}

LOOK = r"""
import glob, json, os
lines = [line.split() for line in open("/proc/self/mounts")]
mounts = [line[1] for line in lines]
writable = [line[1] for line in lines if "rw" in line[3].split(",")]
listed = {name: os.listdir(name) for name in
          ("/home", "/root", "/session", "/run", "/var/tmp", "/mnt", "/srv", "/tmp", "/media")
          if os.path.isdir(name)}
processes = [open(p).read().replace("\0", " ") for p in glob.glob("/proc/[0-9]*/cmdline")]
leads = []
for what in ("fd/*", "cwd", "root", "exe"):
    for link in glob.glob("/proc/[0-9]*/" + what):
        try:
            leads.append(os.readlink(link))
        except OSError:
            pass
print(json.dumps({
    "mounts": mounts, "writable": writable, "listed": listed, "processes": processes,
    "leads": sorted({x for x in leads if x.startswith("/")}),
    "passwd": open("/etc/passwd").read(), "env": dict(os.environ), "uid": os.getuid(),
}))
"""


@pytest.fixture(scope="module")
def seen(lab: Lab):
    return lab.value(LOOK)


# --- what is there ------------------------------------------------------------------------


def test_the_mounts_are_these_and_no_others(seen) -> None:
    mounts = {m for m in seen["mounts"] if not m.startswith("/opt/scenebridge/")}
    assert mounts <= MOUNTED | DEVICES, mounts - MOUNTED - DEVICES
    assert {"/session/work", "/tmp", "/usr"} <= mounts  # the sibling: these are


def test_only_the_session_s_own_folders_can_be_written(site: Standing, lab: Lab, seen) -> None:
    on_disk = {m for m in seen["writable"] if not m.startswith(("/dev", "/proc", "/etc/"))}
    assert on_disk == {"/session/work", "/tmp"}
    for path in ("/usr/bin/x", "/opt/scenebridge/x", "/etc/x", "/x", "/home/user-x", "/run/x"):
        said = lab.run(f"try: open({path!r}, 'w')\nexcept OSError as exc: print(exc.errno)")
        assert said.strip() in {"30", "13"}, (path, said)  # EROFS, EACCES
    lab.run("open('/session/work/mine', 'w').write('x')")
    assert (site.gate_home / "sessions" / lab.id / "work/mine").read_text() == "x"


def test_nothing_of_the_account_the_node_or_other_sessions(site: Standing, lab: Lab, seen) -> None:
    for node in site.nodes:
        node.run(["touch", "/tmp/of-the-node"])
    assert seen["uid"] == site.login.account(USER)[0]
    assert seen["listed"]["/session"] == ["work"]
    assert seen["listed"]["/home"] == seen["listed"]["/root"] == seen["listed"]["/run"] == []
    assert seen["listed"]["/var/tmp"] == []
    for path in (HOME, f"{HOME}/.scenebridge", "/session/control", "/home/images", "/run/munge"):
        assert not lab.value(f"import os, json; print(json.dumps(os.path.lexists({path!r})))")
    assert "of-the-node" not in lab.value("import os, json; print(json.dumps(os.listdir('/tmp')))")
    assert not [p for p in seen["processes"] if "lib.jobs" in p or "slurm" in p]
    inside = ("/dev", "/tmp", "/session/work", "/proc", "/usr", "/opt/scenebridge")
    assert all(lead == "/" or lead.startswith(inside) for lead in seen["leads"]), seen["leads"]
    for node in site.nodes:
        node.run(["rm", "/tmp/of-the-node"])


def test_the_list_of_accounts_is_not_the_node_s(site: Standing, seen) -> None:
    names = {line.split(":")[0] for line in seen["passwd"].splitlines() if line}
    assert names == {"root", USER}
    assert "u1002" in site.nodes[0].path("/etc/passwd").read_text()


def test_no_secret_in_a_kernel_s_environment(seen) -> None:
    assert not [k for k in seen["env"] if "TOKEN" in k or k.startswith(("SLURM", "SSH", "MUNGE"))]
    assert seen["env"]["HOME"] == "/tmp"


# --- what it can start ---------------------------------------------------------------------

SLURM = r"""
import json, os, subprocess
with open("/tmp/slurm.conf", "w") as file:
    file.write("ClusterName=nchc\nSlurmctldHost=nchc-login(10.77.1.2)\nAuthType=%s\n"
               "CredType=cred/munge\nNodeName=nchc-n1\nPartitionName=dev Nodes=ALL\n")
def run(*argv):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300,
                              env={**os.environ, "SLURM_CONF": "/tmp/slurm.conf"})
    except OSError as exc:
        return [127, str(exc)]
    return [done.returncode, done.stdout + done.stderr]
print(json.dumps([run("sbatch", "--wrap", "id"), run("srun", "id"), run("scancel", "-u", "u1001"),
                  run("munge", "-n")]))
"""


@pytest.mark.parametrize("auth", ["auth/munge", "auth/none"])
def test_no_job_is_submitted_from_inside(site: Standing, lab: Lab, auth: str) -> None:
    """The programs are there (this site binds /usr) and the controller can be reached: what
    is missing is anything to prove who asks."""
    newest = _newest_job(site)
    for code, said in lab.value(SLURM % auth, timeout_s=300):
        assert code != 0, said
    assert _newest_job(site) == newest
    # The sibling: the same from the node itself, outside.
    site.nodes[0].run(["sbatch", "--wrap", "true", "--output=/dev/null"], USER)
    assert _newest_job(site) > newest
    assert lab.run("print('still here')") == "still here\n"


def _newest_job(site: Standing) -> int:
    shown = site.login.run(["squeue", "-h", "-t", "all", "-o", "%A"]).stdout
    return max(int(job) for job in shown.split())


def test_no_way_out_by_ssh_su_or_another_container(lab: Lab) -> None:
    said = lab.value(
        r"""
import json, subprocess
free = ["-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null"]
out = []
for argv in (["ssh", *free, "u1001@10.77.1.2", "id"], ["ssh", *free, "u1001@10.77.1.12", "id"],
             ["su", "-c", "id"], ["sudo", "-n", "id"], ["apptainer", "exec", "/", "id"],
             ["unshare", "-Urm", "sh", "-c", "mount --bind / /tmp/r; ls /tmp/r/home/u1001"],
             ["nsenter", "-t", "1", "-a", "ls", "/home/u1001"], ["mknod", "/tmp/d", "b", "8", "0"]):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
        out.append([argv[0], done.returncode, done.stdout])
    except OSError as exc:
        out.append([argv[0], 127, ""])
print(json.dumps(out))
""",
        timeout_s=300,
    )
    for program, code, out in said:
        assert code != 0, (program, out)
        assert "uid=" not in out, program


def test_the_network_is_the_node_s_and_the_gate_is_not_in_it(site: Standing, lab: Lab) -> None:
    """Egress is the site's to restrict: what the node reaches, the container reaches."""
    reached = {}
    for host, port in (
        ("10.77.1.2", 22), ("10.77.1.2", 6817), ("10.77.1.2", GATE_PORT),
        ("127.0.0.1", GATE_PORT), ("10.77.0.3", site.port),
    ):  # fmt: skip
        said = lab.run(
            "import socket\n"
            f"try: socket.create_connection(({host!r}, {port}), 3); print('open')\n"
            "except OSError: print('closed')"
        )
        reached[host, port] = said.strip()
    assert reached == {
        ("10.77.1.2", 22): "open",
        ("10.77.1.2", 6817): "open",
        ("10.77.1.2", GATE_PORT): "closed",
        ("127.0.0.1", GATE_PORT): "closed",
        ("10.77.0.3", site.port): "closed",
    }


def test_a_socket_of_the_node_in_place_of_the_notebook_s_is_not_reached(
    site: Standing, lab: Lab
) -> None:
    """The relay runs outside, as the account: it must not connect where a link points."""
    munge = "/run/munge/munge.socket.2"
    assert all(node.path(munge).is_socket() for node in site.nodes)
    lab.run(
        "import os; os.rename('/tmp/jupyter.sock', '/tmp/aside'); "
        f"os.symlink({munge!r}, '/tmp/jupyter.sock')"
    )
    try:
        with lab.http() as client, pytest.raises(httpx.TransportError):
            client.get("/api/status")
    finally:
        # No request gets in any more; the folder's own place on the node is used.
        [scratch] = [p for node in site.nodes for p in node.path("/tmp").glob(f"sb-{lab.id[:8]}-*")]
        (scratch / "jupyter.sock").unlink()
        (scratch / "aside").rename(scratch / "jupyter.sock")
    with lab.http() as client:
        assert client.get("/api/status").status_code == 200
