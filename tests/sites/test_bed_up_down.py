"""A bed comes up beside others, is mended, and leaves nothing when it goes down."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from testbed import Bed
from testbed.sites import every_site
from tests.running import NO_TLS, free_port
from tests.sites.trying import JUMP, LOGIN, scan, submit, until

PROJECT = Path(__file__).resolve().parents[2]


def command(state, *words, **options):
    argv = [sys.executable, "-m", "testbed", "--state", str(state), *words]
    return subprocess.Popen(
        argv, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def finish(program) -> str:
    out, _ = program.communicate(timeout=300)
    return out


def around() -> dict[str, object]:
    """What a bed could leave behind on the machine itself."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    return {
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "links": sorted(line.split(":")[1] for line in links.stdout.splitlines()),
        "named namespaces": subprocess.run(["ip", "netns"], capture_output=True).stdout,
    }


def left_of(state) -> list[str]:
    """Processes of the bed in `state`, by their argv or by the disks that they see: another bed
    may change beside it."""
    left = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode().replace("\0", " ")
                mounts = (entry / "mountinfo").read_text()
            except OSError:
                continue
            if f"{state}/" in f"{words}/{mounts}" or f"{state} " in words:
                left.append(f"{entry.name} {words}")
    return left


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
    before = around()
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
        assert left_of(state), "this test sees the processes of a bed"
    finally:
        assert second.down()
    assert not second.down()
    assert around() == before
    assert left_of(state) == []
    # Whoever is process 1 of the machine collects the bed's.
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "all is collected")
    assert not state.exists()
    assert bed.complete
    bed.host(LOGIN).run(["srun", "true"], "u1001")


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.15, 0.5, 0.9, 1.4, 2.0])
def test_an_up_that_was_killed_half_way_is_cleaned_by_down(bed, tmp_path, after):
    state = tmp_path / "half"
    before = around()
    up = command(state, "up", start_new_session=True)
    time.sleep(after)
    os.killpg(up.pid, signal.SIGKILL)
    finish(up)
    down = command(state, "down")
    assert "The test-bed is down" in finish(down)
    assert down.returncode == 0
    assert not state.exists()
    assert around() == before
    assert left_of(state) == []


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


@pytest.mark.slow
def test_one_command_shows_a_portal_to_a_browser_here_and_leaves_nothing(bed, tmp_path):
    """What it prints signs in, the cluster can be asked, and Ctrl-C ends all of it."""
    state, port = tmp_path / "shown", free_port()
    before = around()
    program = command(state, "portal", "--port", str(port))
    said = []
    try:
        for line in program.stdout:
            said.append(line)
            if line.startswith("Ctrl-C ends it"):
                break
        text = "".join(said)
        (link,) = re.findall(rf"  (http://localhost:{port}/signin\?key=\S+)", text)
        (again,) = re.findall(r"  python3 (-m testbed .*)", text)
        with httpx.Client(verify=NO_TLS, timeout=300) as browser:
            signed_in = browser.get(link)
            assert signed_in.status_code == 303
            cookie, _, _ = signed_in.headers["set-cookie"].partition(";")
            asked = f"http://localhost:{port}/api/clusters"
            (cluster,) = browser.get(asked, headers={"cookie": cookie}).json()
            assert (cluster["id"], cluster["reachability"]) == ("nchc", "REACHABLE")
        done = subprocess.run(
            [sys.executable, *again.split()], cwd=PROJECT, capture_output=True, text=True,
            timeout=300, check=True,
        )  # fmt: skip
        assert f"http://localhost:{port}/signin?key=" in done.stdout
    finally:
        program.send_signal(signal.SIGINT)
        said.append(finish(program))
    assert program.returncode == 0, "".join(said)
    assert "nothing of it is left" in said[-1]
    assert left_of(state) == []
    assert around() == before
