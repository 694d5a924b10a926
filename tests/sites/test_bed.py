"""The accounts, jobs and hosts of the bed are what docs/testbed.md says."""

import re
import socket
import subprocess
from pathlib import Path

import pytest

from testbed import BINDS, IMAGE, Bed, BedError, relay
from testbed.sites import every_site
from tests.sites.trying import (
    ECHO,
    JUMP,
    LOGIN,
    NODES,
    job_state,
    running,
    state_of,
    submit,
    until,
)

# --- accounts and ssh ----------------------------------------------------------------------


def test_the_administrator_comes_to_the_login_node_with_the_key_of_her_agent(bed):
    admin = bed.host("admin")
    done = admin.run(["ssh", "-A", "portal", "ssh", f"u1001@{LOGIN}", "hostname"], "ada")
    assert done.stdout.strip() == LOGIN
    through = admin.run(["ssh", "-J", f"u1001@{JUMP}", f"u1001@{LOGIN}", "hostname"], "ada")
    assert through.stdout.strip() == LOGIN


@pytest.mark.parametrize(
    ("source", "user", "target"),
    [
        ("admin", "ada", f"u1002@{LOGIN}"),  # her key is not authorised there
        ("portal", "ada", f"u1001@{LOGIN}"),  # no agent was forwarded
        ("portal", "mallory", f"u1001@{LOGIN}"),
        ("portal", "scenebridge", "ada@portal"),
    ],
)
def test_nobody_else_comes_in(bed, source, user, target):
    options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
    done = bed.host(source).run(["ssh", *options, target, "id"], user, check=False)
    assert done.returncode == 255
    assert "Permission denied" in done.stderr


def test_users_cannot_read_each_others_homes_or_the_agent(bed):
    for name, user, path in [
        (LOGIN, "u1001", bed.host(LOGIN).account("u1002")[1]),
        ("portal", "mallory", bed.host("portal").account("scenebridge")[1]),
    ]:
        assert bed.host(name).run(["ls", path], user, check=False).returncode != 0
        assert bed.host(name).run(["ls", path]).returncode == 0


def test_a_password_is_typed_at_a_real_terminal(bed):
    command = ["ssh", "-o", "PubkeyAuthentication=no", f"u1002@{JUMP}"]
    with bed.host("portal").terminal(command, "mallory") as terminal:
        terminal.read_until("password: ")
        terminal.send("wrong")
        terminal.read_until("Permission denied")
        terminal.read_until("password: ")
        terminal.send("taiwania-1002")
        terminal.read_until(r"\$ ")
        terminal.send("exit 7")
        assert terminal.wait() == 7
        assert "taiwania-1002" not in terminal.seen
    with bed.host("portal").terminal(["cat"], "mallory") as terminal, pytest.raises(BedError):
        terminal.read_until("never", timeout=0.5)
    until(lambda: ("cat",) not in running(bed.host("portal")), "it ended with its terminal")


# --- jobs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["u1001", "u1002"])
@pytest.mark.parametrize("partition", ["dev", "gpu"])
def test_jobs_run_as_who_submitted_them_with_the_gpus_asked_for(bed, user, partition):
    ask = "hostname; id -un; echo gpus=$CUDA_VISIBLE_DEVICES; pwd"
    options = ["--account=MST100", "-p", partition, "--gres=gpu:2", "-w", NODES[1]]
    done = bed.host(LOGIN).run(["srun", *options, "sh", "-c", ask], user)
    home = bed.host(LOGIN).account(user)[1]
    assert done.stdout.split() == [NODES[1], user, "gpus=0,1", home]


def test_a_third_gpu_of_a_node_is_refused(bed):
    with pytest.raises(BedError, match="not available"):
        submit(bed, "u1001", "--gres=gpu:3")


def test_users_see_the_queue_and_the_partitions(bed):
    job = submit(bed, "u1001")
    try:
        queue = bed.host(LOGIN).run(["squeue", "-h", "-o", "%i %u"], "u1002").stdout
        assert f"{job} u1001" in queue.splitlines()
        asked = bed.host(LOGIN).run(["sinfo", "-h", "-o", "%R|%F|%C|%G|%l"], "u1002").stdout
        assert re.findall(r"^(\w+)\|.*\|gpu:2\|(.*)$", asked, re.M) == [
            ("dev", "1:00:00"),
            ("gpu", "1-00:00:00"),
        ]
        # Somebody else's job is not theirs to end.
        refused = bed.host(LOGIN).run(["scancel", job], "u1002", check=False)
        assert "Access" in refused.stderr or refused.returncode
        assert job_state(bed, job) in {"PENDING", "RUNNING"}
    finally:
        bed.host(LOGIN).run(["scancel", job])


def test_home_is_one_for_the_site_and_tmp_is_not(bed):
    login, node = bed.host(LOGIN), bed.host(NODES[0])
    login.run(["sh", "-c", "echo seen > ~/shared; echo seen > /tmp/private"], "u1001")
    assert node.run(["sh", "-c", "cat ~/shared"], "u1001").stdout == "seen\n"
    assert not node.path("/tmp/private").exists()
    assert node.run(["sh", "-c", "cat ~/shared"], "u1002", check=False).returncode != 0


def test_the_image_runs_the_project_s_python_on_a_node(bed):
    binds = ",".join(f"{place}:{place}:ro" for place in BINDS)
    python = "/opt/scenebridge/.venv/bin/python"
    code = "import os, asyncssh, numpy, sys; print(os.getuid(), sys.prefix)"
    container = ["apptainer", "-q", "exec", "--containall", "--bind", binds, IMAGE]
    done = bed.host(LOGIN).run(["srun", *container, python, "-c", code], "u1002")
    assert done.stdout.split() == ["21002", "/opt/scenebridge/.venv"]


@pytest.mark.parametrize(("name", "user"), [("portal", "scenebridge"), (NODES[0], "u1002")])
def test_the_project_can_be_run_and_not_changed(bed, name, user):
    host, place = bed.host(name), "/opt/scenebridge"
    python = f"{place}/.venv/bin/python"
    done = host.run([python, "-c", "import lib.model; print(lib.model.__file__)"], user,
                    env={"PYTHONPATH": place})  # fmt: skip
    assert done.stdout.strip() == f"{place}/lib/model/__init__.py"
    said = host.run([f"{place}/.venv/bin/pip", "--version"], user).stdout
    assert f"from {place}/.venv/lib" in said
    for target in ("new", "lib/new", ".venv/new", ".venv/bin/new", ".venv/lib/new"):
        refused = host.run(["touch", f"{place}/{target}"], check=False)
        assert "Read-only file system" in refused.stderr, target


@pytest.mark.parametrize("linked", [True, False])
def test_a_checkout_in_a_closed_folder_is_shown_with_the_system_s_python(bed, tmp_path, linked):
    closed = tmp_path / "closed"
    checkout = closed / "checkout"
    for folder in (closed, checkout):
        folder.mkdir(mode=0o700 if folder == closed else 0o755)
    venv = closed / "environment" if linked else checkout / ".venv"
    made = ["/usr/bin/python3", "-m", "venv", "--without-pip", str(venv)]
    subprocess.run(made, check=True)
    if linked:
        (checkout / ".venv").symlink_to(venv)
    program = venv / "bin" / "program"
    program.write_text(f"#!{venv}/bin/python\nimport own, sys\nprint(own.word, sys.prefix)\n")
    program.chmod(0o755)
    (checkout / "own.py").write_text("word = 'first'\n")
    (checkout / ".git").mkdir()
    portal = [site for site in every_site() if site.name == "portal"]
    small = Bed(tmp_path / "state", sites=portal, checkout=checkout)
    try:
        small.up()
        place = "/opt/scenebridge"
        env = {"PYTHONPATH": place, "PYTHONDONTWRITEBYTECODE": "1"}
        done = small.host("portal").run([f"{place}/.venv/bin/program"], "mallory", env=env)
        assert done.stdout == f"first {place}/.venv\n"
        assert not small.host("portal").path(f"{place}/.git").exists()
    finally:
        small.down()


def test_the_machine_s_own_files_are_not_on_the_hosts(bed):
    marker = Path.home() / ".testbed-marker"
    marker.write_text("of the machine")
    try:
        assert not bed.host("portal").path(marker).exists()
    finally:
        marker.unlink()
    bed.host("portal").run(["sh", "-c", "echo x > /etc/testbed-marker"])
    assert bed.host("portal").path("/etc/testbed-marker").exists()
    assert not Path("/etc/testbed-marker").exists()
    assert not bed.host(LOGIN).path("/etc/testbed-marker").exists()


# --- faults --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_node_that_dies_fails_its_job_and_comes_back_idle(bed):
    node = bed.host(NODES[0])
    job = submit(bed, "u1001", "--no-requeue", "-w", node.name)
    until(lambda: job_state(bed, job) == "RUNNING", "the job runs")
    pid = node.pid
    node.kill()
    try:
        assert not node.pid
        until(lambda: not Path(f"/proc/{pid}").exists(), "its process 1 is collected")
        with pytest.raises(BedError, match="is off"):
            node.run(["true"])
        until(lambda: job_state(bed, job) == "NODE_FAIL", "the loss is seen")
        until(
            lambda: state_of(bed, node.name).startswith("down"),
            "the node is down",
            lambda: bed.host(LOGIN).run(["scontrol", "show", "node", node.name]).stdout,
        )
        assert state_of(bed, NODES[1]) == "idle"
    finally:
        node.start()
    assert state_of(bed, node.name) == "idle"
    done = bed.host(LOGIN).run(["srun", "-w", node.name, "hostname"], "u1001")
    assert done.stdout.strip() == node.name


def test_a_host_keeps_its_disk_and_loses_its_memory_when_it_is_powered_off(bed):
    jump = bed.host(JUMP)
    key = jump.path("/etc/ssh/ssh_host_ed25519_key.pub").read_text()
    jump.run(["touch", "/var/lib/kept", "/tmp/lost", "/run/lost"])
    with bed.host("portal").connect(JUMP, 22) as line:
        assert line.makefile("rb").readline().startswith(b"SSH-")
        jump.kill()
        line.settimeout(1)
        # The far end has gone without a word.
        with pytest.raises(TimeoutError):
            line.recv(1)
    with pytest.raises(OSError, match=r"timed out|[Nn]o route"):
        bed.host("portal").connect(JUMP, 22, timeout=1)
    jump.start()
    bed.host("portal").connect(JUMP, 22).close()
    assert jump.path("/var/lib/kept").exists()
    assert not jump.path("/tmp/lost").exists()
    assert not jump.path("/run/lost").exists()
    assert jump.path("/etc/ssh/ssh_host_ed25519_key.pub").read_text() == key


# --- the interface -------------------------------------------------------------------------


def test_programs_get_input_environment_groups_and_an_end(bed):
    portal = bed.host("portal")
    done = portal.run(["sh", "-c", "cat; echo $X $HOME $USER; id -G; pwd"], "mallory",
                      env={"X": "y"}, input="in\n")  # fmt: skip
    home = portal.account("mallory")[1]
    assert done.stdout == f"in\ny {home} mallory\n2003\n{home}\n"
    caps = portal.run(["grep", "CapEff", "/proc/self/status"], "mallory").stdout
    assert int(caps.split()[1], 16) == 0
    with pytest.raises(BedError, match="ended with 3: why"):
        portal.run(["sh", "-c", "echo why >&2; exit 3"], "mallory")
    with pytest.raises(BedError, match="no user"):
        portal.run(["true"], "u1001")
    with pytest.raises(subprocess.TimeoutExpired):
        portal.run(["sh", "-c", "sleep 60; true"], timeout=0.5)
    until(lambda: ("sleep", "60") not in running(portal), "the program's own child ended too")


def test_a_relay_leads_to_the_host_s_own_loopback(bed, open_port):
    port = open_port("portal", "scenebridge")
    with relay(bed.host("portal"), port) as here:
        assert here == port
        socket.create_connection(("127.0.0.1", here), 5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
    echo = "/usr/bin/python3", "-c", ECHO
    with bed.host("portal").popen(echo, stdout=-1, text=True) as server:
        port = int(server.stdout.readline())
        with relay(bed.host("portal"), port) as here, \
                socket.create_connection(("127.0.0.1", here), 5) as line:  # fmt: skip
            line.sendall(b"abc")
            assert line.recv(9) == b"cba"
            assert line.recv(9) == b""
