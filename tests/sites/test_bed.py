"""What the other tests of sites rely on: the bed is what docs/testbed.md says."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from testbed import BINDS, IMAGE, Bed, BedError, relay
from testbed.sites import every_site

PROJECT = Path(__file__).resolve().parents[2]
JUMP, LOGIN, NODES = "nchc-jump", "nchc-login", ("nchc-n1", "nchc-n2")
OUTSIDE = ("portal", "admin")

#: argv: address, then port ranges "1-1024". Prints the ports that accept a connection.
SCAN = r"""
import errno, select, socket, sys, time
address, ports = sys.argv[1], []
for word in sys.argv[2:]:
    first, _, last = word.partition("-")
    ports += range(int(first), int(last or first) + 1)
found = []
for start in range(0, len(ports), 800):
    poll, waiting = select.epoll(), {}
    for port in ports[start:start + 800]:
        s = socket.socket()
        s.setblocking(False)
        code = s.connect_ex((address, port))
        if code == errno.EINPROGRESS:
            waiting[s.fileno()] = (s, port)
            poll.register(s, select.EPOLLOUT)
        elif code == 0:
            found.append(port)
    end = time.monotonic() + 1.5
    while waiting and time.monotonic() < end:
        for fd, _ in poll.poll(0.1):
            s, port = waiting.pop(fd)
            if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                found.append(port)
            poll.unregister(fd)
            s.close()
print(*found)
"""
LISTEN = """
import socket, sys
s = socket.create_server(("0.0.0.0", 0), backlog=50)
print(s.getsockname()[1], flush=True)
sys.stdin.read()
"""

#: Sends back, backwards, what one connection says first.
ECHO = """
import socket
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
c, _ = s.accept()
c.sendall(c.recv(99)[::-1])
"""


def scan(host, address, ports) -> set[int]:
    words = [str(word) for word in ports]
    done = host.run(["/usr/bin/python3", "-c", SCAN, address, *words], timeout=100)
    return {int(word) for word in done.stdout.split()}


def listening(host) -> set[int]:
    """Ports that the host has open, by its kernel."""
    # /proc/net is of who reads it; the host's own view is that of its process 1.
    lines = Path(f"/proc/{host.pid}/net/tcp").read_text().splitlines()[1:]
    return {int(line.split()[1].split(":")[1], 16) for line in lines if line.split()[3] == "0A"}


def running(host) -> list[tuple[str, ...]]:
    return [process.argv for process in host.processes()]


def until(true, timeout, what):
    end = time.monotonic() + timeout
    while not (value := true()):
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(0.2)
    return value


@pytest.fixture
def open_port(bed):
    """Starts a listener on every address of a host, as an ordinary user; gives its port."""
    started = []

    def start(name, user) -> int:
        program = bed.host(name).popen(
            ["/usr/bin/python3", "-c", LISTEN],
            user,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(program)
        return int(program.stdout.readline())

    yield start
    for program in started:
        program.kill()
        program.communicate(timeout=10)


def state_of(bed, node) -> str:
    asked = bed.host(LOGIN).run(["sinfo", "-h", "-N", "-n", node, "-p", "dev", "-o", "%T"])
    return asked.stdout.strip()


def submit(bed, user, *options, script="#!/bin/sh\nsleep 60\n") -> str:
    argv = ["sbatch", "--parsable", "-o", "/dev/null", *options]
    return bed.host(LOGIN).run(argv, user, input=script).stdout.strip()


def job_state(bed, job) -> str:
    shown = bed.host(LOGIN).run(["scontrol", "-o", "show", "job", job]).stdout
    return re.search(r"JobState=(\w+)", shown)[1]


# --- the firewall ------------------------------------------------------------------------


@pytest.mark.parametrize("target", [JUMP, LOGIN])
@pytest.mark.parametrize("source", OUTSIDE)
def test_from_outside_only_ssh_of_jump_and_login_is_reached(bed, open_port, source, target):
    more = open_port(target, "u1001")
    there = bed.host(target)
    assert {22, more} <= listening(there)
    wan = there.machine.links["wan"]
    ports = ["1-1024", more, *sorted(listening(there))]
    assert scan(bed.host(source), wan, ports) == {22}
    # The port is open to whom it is for: the firewall is what keeps others away.
    assert more in scan(bed.host(NODES[0]), there.machine.links["nchc"], [more])


@pytest.mark.parametrize("target", [JUMP, LOGIN, *NODES])
@pytest.mark.parametrize("source", OUTSIDE)
def test_no_way_leads_from_outside_into_the_site_s_own_network(bed, open_port, source, target):
    port = open_port(target, "u1001")
    outside, address = bed.host(source), bed.host(target).machine.links["nchc"]
    assert scan(outside, address, ["1-200", port, 6817, 6818]) == set()
    # Not even for somebody who is root there and sends packets to the hosts with two links.
    for gateway in (JUMP, LOGIN):
        route = [f"{address}/32", "via", bed.host(gateway).machine.links["wan"]]
        outside.run(["ip", "route", "add", *route])
        try:
            found = scan(outside, address, ["1-200", port, 6817, 6818])
        finally:
            outside.run(["ip", "route", "del", *route])
        # An address of the gateway itself is answered by the gateway: by its sshd alone.
        assert found == ({22} if gateway == target else set())
    assert port in scan(bed.host(LOGIN), address, [port])


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("target", OUTSIDE)
def test_compute_nodes_reach_nothing_outside(bed, open_port, node, target):
    port = open_port(target, "ada")
    address = bed.host(target).machine.links["wan"]
    here = bed.host(node)
    assert scan(here, address, ["1-200", port]) == set()
    for gateway in (JUMP, LOGIN):
        inner = bed.host(gateway).machine.links["nchc"]
        here.run(["ip", "route", "add", f"{address}/32", "via", inner])
        try:
            assert scan(here, address, [22, 443, port]) == set()
        finally:
            here.run(["ip", "route", "del", f"{address}/32"])


def test_the_login_node_reaches_the_portal_but_nobody_the_administrators_computer(bed, open_port):
    portal, admin = open_port("portal", "ada"), open_port("admin", "ada")
    for source in (LOGIN, JUMP):
        assert scan(bed.host(source), bed.host("portal").machine.links["wan"], [portal])
    for source in (LOGIN, JUMP, "portal"):
        assert not scan(bed.host(source), bed.host("admin").machine.links["wan"], [admin])


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
    until(lambda: ("cat",) not in running(bed.host("portal")), 5, "it ended with its terminal")


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
    assert done.stdout.strip() == f"{place}/lib/model.py"
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
    marker = Path("/root/.testbed-marker")
    marker.write_text("of the machine")
    try:
        assert not bed.host("portal").path("/root/.testbed-marker").exists()
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
    until(lambda: job_state(bed, job) == "RUNNING", 15, "the job runs")
    pid = node.pid
    node.kill()
    try:
        assert not node.pid
        until(lambda: not Path(f"/proc/{pid}").exists(), 5, "its process 1 is collected")
        with pytest.raises(BedError, match="is off"):
            node.run(["true"])
        until(lambda: job_state(bed, job) == "NODE_FAIL", 70, "the loss is seen")
        until(lambda: state_of(bed, node.name).startswith("down"), 15, "the node is down")
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


@pytest.mark.parametrize("link", [LOGIN, f"{LOGIN}:wan"])
def test_a_cut_link_carries_nothing_until_it_is_healed(bed, link):
    portal, login = bed.host("portal"), bed.host(LOGIN)
    login_inner = login.machine.links["nchc"]
    portal.connect(LOGIN, 22).close()
    bed.cut(link)
    try:
        with pytest.raises(OSError, match=r"timed out|[Nn]o route"):
            portal.connect(LOGIN, 22, timeout=1)
        inside = scan(bed.host(NODES[0]), login_inner, [6817])
        assert inside == ({6817} if link.endswith(":wan") else set())
    finally:
        bed.heal(link)
    portal.connect(LOGIN, 22).close()
    until(lambda: scan(bed.host(NODES[0]), login_inner, [6817]), 10, "the inner link is back")


def test_a_link_that_is_not_there_cannot_be_cut(bed):
    for wrong in ("portal:nchc", "nowhere", "nchc-n1:wan"):
        with pytest.raises(BedError, match=r"no link|no host"):
            bed.cut(wrong)


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
    until(lambda: ("sleep", "60") not in running(portal), 5, "the program's own child ended too")


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


# --- up and down ----------------------------------------------------------------------------


def command(state, *words, **options):
    argv = [sys.executable, "-m", "testbed", "--state", str(state), *words]
    return subprocess.Popen(
        argv, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def finish(program) -> str:
    out, _ = program.communicate(timeout=90)
    return out


def namespaces() -> dict[str, set[int]]:
    """Every network, mount and pid namespace that a process of the machine is in -> pids."""
    found: dict[str, set[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            for kind in ("net", "mnt", "pid"):
                try:
                    found.setdefault(str((entry / "ns" / kind).readlink()), set()).add(
                        int(entry.name)
                    )
                except OSError:
                    continue
    return found


def around() -> dict[str, object]:
    """What a bed could leave behind on the machine itself."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    return {
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "links": sorted(line.split(":")[1] for line in links.stdout.splitlines()),
        "named namespaces": subprocess.run(["ip", "netns"], capture_output=True).stdout,
    }


def left_of(state, before) -> list[str]:
    """Processes of the bed in `state`, by their argv or by a namespace that is new."""
    left = []
    for name, pids in namespaces().items():
        if name not in before:
            for pid in pids:
                try:
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                except OSError:
                    continue
                left.append(f"{name} {pid} {' '.join(words)}")
    return [line for line in left if str(state) in line or "slurm" in line or "sshd" in line]


@pytest.mark.slow
def test_two_beds_stand_side_by_side_and_down_leaves_nothing(bed, tmp_path):
    state = tmp_path / "second"
    sites = [
        replace(site, machines=tuple(
            replace(machine, open_to=(JUMP,)) if machine.name == LOGIN else machine
            for machine in site.machines
        ))
        for site in every_site()
    ]  # fmt: skip
    known, before = namespaces(), around()
    second = Bed(state, sites=sites)
    try:
        assert second.up()
        assert not second.up()
        assert around() == before, "the machine's own network and mounts are not touched"
        # This one's login node is open to its jump host only, as ABCI's is.
        portal = second.host("portal")
        wan = second.host(LOGIN).machine.links["wan"]
        assert scan(portal, wan, [22]) == set()
        assert scan(second.host(JUMP), wan, ["1-100"]) == {22}
        argv = ["ssh", "-J", f"u1001@{JUMP}", f"u1001@{LOGIN}", "hostname"]
        assert second.host("admin").run(argv, "ada").stdout.strip() == LOGIN
        # What happens in one is not seen in the other.
        job = submit(second, "u1001")
        assert bed.host(LOGIN).run(["squeue", "-h", "-u", "u1001"]).stdout == ""
        assert job in second.host(LOGIN).run(["squeue", "-h", "-o", "%i"]).stdout
        pids = {second.pid, *(host.pid for host in second.hosts.values())}
        assert left_of(state, known), "this test sees the processes of a bed"
    finally:
        assert second.down()
    assert not second.down()
    assert around() == before
    assert left_of(state, known) == []
    # Whoever is process 1 of the machine collects the bed's.
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10, "all is collected")
    assert not state.exists()
    assert bed.complete
    bed.host(LOGIN).run(["srun", "true"], "u1001")


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.15, 0.5, 0.9, 1.4, 2.0])
def test_an_up_that_was_killed_half_way_is_cleaned_by_down(bed, tmp_path, after):
    state = tmp_path / "half"
    known, before = namespaces(), around()
    up = command(state, "up", start_new_session=True)
    time.sleep(after)
    os.killpg(up.pid, signal.SIGKILL)
    finish(up)
    down = command(state, "down")
    assert "The test-bed is down" in finish(down)
    assert down.returncode == 0
    assert not state.exists()
    assert around() == before
    assert left_of(state, known) == []


@pytest.mark.slow
def test_the_command_line_says_what_is_so(bed, tmp_path):
    state = tmp_path / "third"
    assert "is down" in finish(command(state, "status"))
    assert "is down; bring it up" in finish(command(state, "start", "portal"))
    assert "may not have" in finish(command(f"{state},x", "up"))
    try:
        # Whatever the umask of who brings it up.
        up = command(state, "up", umask=0o077)
        assert re.search(r"is up \(\d+\.\d s\)", finish(up))
        assert "up already" in finish(command(state, "up"))
        said = finish(command(state, "status"))
        assert "The test-bed is up" in said
        assert re.search(r"scenebridge.sif sha256 [0-9a-f]{64}", said)
        assert finish(command(state, "shell", LOGIN, "--user", "u1001", "--", "id", "-un")) == (
            "u1001\n"
        )
        assert finish(command(state, "kill", "portal")) == ""
        status = command(state, "status")
        assert re.search(r"portal +off", finish(status))
        assert status.returncode == 1
        assert "is off" in finish(command(state, "shell", "portal", "--", "id"))
        assert "is up" in finish(command(state, "up"))
        assert re.search(r"portal +pid", finish(command(state, "status")))
        assert "no host nowhere" in finish(command(state, "shell", "nowhere"))
    finally:
        finish(command(state, "down"))
    assert not state.exists()


def test_others_than_root_are_told_so(tmp_path):
    if os.geteuid():
        pytest.skip("it needs root to become somebody else")
    code = "import sys, os; os.setgid(65534); os.setuid(65534); sys.path.insert(0, '.');" \
           "from testbed.__main__ import main; sys.exit(main(['up']))"  # fmt: skip
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "needs root" in done.stderr
