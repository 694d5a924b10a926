"""What the security officer of a site may rely on: who did what, how much, and how to stop it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from lib.errors import Refused
from lib.model import EndReason
from lib.protocol.messages import CancelRequest, InfoRequest, Verb
from tests.running import wait_for
from tests.sites.faults import mends, unreachable
from tests.sites.lab import Lab
from tests.sites.standing import CLUSTER, GATE_HOME, TUNNELS, USER, Standing, launch
from tests.sites.test_attacks_by_verbs import data, request
from tests.sites.thief import ANSWERED, CONTROL, INFO, TUNNEL, Thief

pytestmark = [pytest.mark.site]
__all__ = ["data"]  # the folder of scenes, as a fixture here too

STOP_FILE = "/etc/scenebridge.stop"
LIMITS = {"max_live = 8": "max_live = 5\nmax_live_per_user = 2\nmax_gpus = 2\nmax_gpu_hours = 1"}


def set_policy(site: Standing, text: str) -> None:
    """Ada edits it on the cluster, as the only way there is."""
    site.portal.path("/home/ada/policy-officer.toml").write_text(text)
    with site.ada() as terminal:
        said = site.types(
            terminal, "gate", "policy", CLUSTER, "--set", "/home/ada/policy-officer.toml"
        )
    assert "[code 0]" in said, said


@pytest.fixture(scope="module")
def strict(site: Standing, thief: Thief) -> Iterator[None]:
    """Tight caps, and a kill switch of the site's operators."""
    text = site.policy()
    for old, new in LIMITS.items():
        assert old in text
        text = text.replace(old, new)
    set_policy(site, text.replace("[listen]", f'stop_files = ["{STOP_FILE}"]\n\n[listen]', 1))
    wait_for("the gate", lambda: thief.may(CONTROL))
    yield
    site.login.run(["rm", "-f", STOP_FILE])
    set_policy(site, site.policy())
    wait_for("the gate", lambda: thief.may(CONTROL))


# --- who did what -----------------------------------------------------------------------


def test_every_act_is_attributed_on_the_cluster(site: Standing, thief: Thief, lab: Lab) -> None:
    """In the scheduler's books and in the gate's audit: owner, session, and the job's number."""
    job = thief.jobs()[lab.id]
    shown = site.login.run(["scontrol", "-o", "show", "job", job.job]).stdout
    assert f"JobName=sb-{lab.id}-" in shown
    assert f"UserId={USER}(" in shown
    assert f"Comment=SceneBridge session {lab.id} for owner" in shown
    assert thief.reach(TUNNEL, f"s-{lab.id}:1")[0][:1] == ANSWERED
    ours = [line for line in thief.audit() if line.get("session") == lab.id]
    by_event = {line["event"]: line for line in ours}
    assert {"submitted", "forwarded"} <= by_event.keys()
    assert by_event["submitted"]["job"] == job.job
    assert by_event["submitted"]["owner"] == by_event["forwarded"]["owner"] == "owner"
    assert by_event["submitted"]["module"].startswith("active-fire ")
    assert all(abs(line["time"] - time.time()) < 86_400 for line in ours)


def test_the_audit_only_grows_and_holds_no_secret(site: Standing, thief: Thief, lab: Lab) -> None:
    audit = site.gate_home / "audit.jsonl"
    before = audit.read_bytes()
    assert audit.stat().st_mode & 0o777 == 0o600
    thief.ssh(TUNNEL, "--", "gate", f"id {uuid4()}")  # nobody has asked that before
    after = audit.read_bytes()
    assert after.startswith(before)
    assert len(after) > len(before)
    for secret in (lab.secrets.token, "PRIVATE KEY", "BEGIN CERTIFICATE"):
        assert secret.encode() not in after


def test_the_portal_s_host_knows_who_opened_the_tunnel_for_whom_until_when(
    site: Standing,
) -> None:
    folder = site.portal.path(f"{TUNNELS}/ada")
    record = json.loads((folder / f"{CLUSTER}.json").read_text())
    assert record["account"] == "ada"
    assert record["person"] == "owner"
    assert 0 < record["until"] - record["opened_at"] <= 7 * 86_400 + 5
    acts = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    assert acts, "no act was written down"


# --- how much ---------------------------------------------------------------------------


def refused(thief: Thief, match: str, **changes) -> None:
    with thief.audited("submit"), pytest.raises(Refused, match=match):
        thief.ask(Verb.SUBMIT, request(**changes))


@pytest.mark.usefixtures("strict")
def test_caps_hold_against_whoever_has_the_portal_s_key(thief: Thief, lab: Lab) -> None:
    """Live jobs of one person and of all, GPUs, and GPU hours of a month; `lab` is one of five."""
    assert thief.ask(Verb.INFO, InfoRequest())[0].live == 1
    site = thief.site
    site.login.run(["scontrol", "update", "PartitionName=dev", "State=DOWN"])
    site.login.run(["scontrol", "update", "PartitionName=gpu", "State=DOWN"])  # all shall wait
    made = []

    def take(**changes) -> None:
        asked = request(**changes)
        thief.ask(Verb.SUBMIT, asked)
        made.append(asked.id)

    try:
        take(owner="one", preset="gpu")
        refused(thief, "GPU hours", owner="two", preset="gpu", walltime_s=3600)
        take(owner="one", preset="gpu")
        refused(thief, "your jobs", owner="one")
        refused(thief, "GPUs", owner="two", preset="gpu")
        take(owner="two")
        take(owner="three")
        refused(thief, "jobs are live", owner="four")
        assert thief.ask(Verb.INFO, InfoRequest())[0].live == 5
    finally:
        for job_id in made:
            thief.ask(Verb.CANCEL, CancelRequest(job_id))
        site.login.run(["scontrol", "update", "PartitionName=dev", "State=UP"])
        site.login.run(["scontrol", "update", "PartitionName=gpu", "State=UP"])
    for job_id in made:
        thief.ended(job_id)
    take(owner="one")  # there is room again
    thief.ask(Verb.CANCEL, CancelRequest(made[-1]))
    thief.ended(made[-1])


# --- how to stop it ------------------------------------------------------------------------


@pytest.mark.usefixtures("strict")
def test_one_file_ends_the_gate_and_all_that_it_started(empty_site: Standing, thief: Thief) -> None:
    """The site's operators make it, and do not need us. (The account's own, and that no gate starts
    while one is there: `contract/test_gate_control.py`.)"""
    site = empty_site
    with site.api() as api:
        job = launch(api, site)["id"]
        scheduled = thief.jobs()[job].job
    site.login.run(["touch", STOP_FILE])
    try:
        wait_for("no gate", lambda: not gates(site))
        wait_for("no job", lambda: _state(site, scheduled) not in ("RUNNING", "COMPLETING"))
        assert not thief.may(TUNNEL)
    finally:
        site.login.run(["rm", "-f", STOP_FILE])
        with site.ada() as terminal:
            started = site.types(terminal, "gate", "start", CLUSTER)
    assert "[code 0]" in started
    wait_for("the gate", lambda: thief.may(CONTROL))
    ended = thief.ended(job)
    assert ended.end_reason in (EndReason.STOPPED, EndReason.CANCELLED)
    assert "kill switch" in ended.reason
    events = [line["event"] for line in thief.audit()]
    assert "kill-switch" in events


def gates(site: Standing) -> list[int]:
    return [p.pid for p in site.login.processes() if "lib.gate" in p.argv and "serve" in p.argv]


def _state(site: Standing, job: str) -> str:
    return site.login.run(["squeue", "-h", "-j", job, "-t", "all", "-o", "%T"]).stdout.strip()


def test_without_the_tunnel_the_portal_reaches_nothing(site: Standing, thief: Thief) -> None:
    """The administrator closes it: what they opened is all that there is."""
    assert thief.may(TUNNEL)
    said = site.close_tunnel()
    assert "[code 0]" in said
    try:
        assert not thief.may(TUNNEL)
        wait_for("the master's end", lambda: not thief.may(CONTROL))
    finally:
        site.open_tunnel()
    assert thief.may(TUNNEL)
    wait_for("the portal's own connection", lambda: thief.may(CONTROL))


def test_a_new_key_of_the_portal_s_locks_the_old_one_out(site: Standing, thief: Thief) -> None:
    """Rotation: a new pair, deployed by the administrator; copies of the old are worth nothing."""
    old = f"{thief.folder}/old"
    thief.run(["cp", thief.key, old])
    thief.run(["rm", thief.key, f"{thief.key}.pub"])
    key = site.portal_key()
    with site.ada() as terminal:
        told = ("gate", "deploy", CLUSTER, "--portal-key", key, "--wheels", "/home/ada/wheels")
        said = site.types(terminal, *told, timeout_s=300)
    assert "[code 0]" in said, said
    wait_for("the new key", lambda: thief.may(TUNNEL))
    options = [old if word == thief.key else word for word in thief.options(TUNNEL)]
    with thief.audited("key"):
        done = thief.run(["ssh", *options, "--", "gate", "scenebridge-1 info"], "{}\n")
    assert done.returncode == 255
    assert "Permission denied" in done.stderr
    wait_for("the portal's own connection", lambda: thief.may(CONTROL))


def test_a_new_host_key_of_the_gate_is_refused_until_root_pins_it(
    site: Standing, thief: Thief, tmp_path: Path
) -> None:
    """Rotation: the account removes the old one, the administrator deploys, root pins."""
    with site.api() as api:
        session = launch(api, site)
    job = thief.jobs()[session["id"]]

    def through_a_tunnel(code: str) -> str:
        with thief.local(TUNNEL, f"s-{job.id}:1") as socket:
            lab.socket = socket
            return lab.run(code).strip()

    lab = Lab(job.id, tmp_path, job.endpoint, tmp_path)
    through_a_tunnel("kept = 'two keys long'")
    site.login.run(["rm", f"/home/{USER}/{GATE_HOME}/host_key"], USER)
    with site.ada() as terminal:
        said = site.types(
            terminal, "gate", "deploy", CLUSTER, "--wheels", "/home/ada/wheels", timeout_s=120
        )
    found = re.search(r'host_key = "(ssh-ed25519 \S+)"', said)
    assert found, said
    assert found[1] != site.host_key
    refused = thief.ssh(TUNNEL, "--", "gate", INFO)
    assert refused.returncode == 255
    assert "Host key verification failed" in refused.stderr
    with site.api() as api:  # its card sends nobody to pin whatever answers there now
        assert "Whoever looks after the cluster's gate" in mends(unreachable(api, "host key"))
    site.host_key = found[1]
    site.write_cluster_file()
    site.stop_portal()
    site.start_portal()
    wait_for("the portal's own connection", lambda: thief.may(CONTROL))
    assert thief.may(TUNNEL)
    assert through_a_tunnel("print(kept)") == "two keys long"
    with site.api() as api:
        api.delete(f"/api/sessions/{job.id}").raise_for_status()
    thief.ended(job.id)


SEAL = (
    'restrict,port-forwarding,permitopen="127.0.0.1:22022",permitlisten="127.0.0.1:1",'
    'command="/bin/false" '
)


@pytest.mark.parametrize("seal", [SEAL, ""], ids=["sealed", "unsealed"])
def test_a_sealed_key_carries_the_gate_s_port_and_nothing_else(site: Standing, seal: str) -> None:
    """Even where root of the portal's host has the key itself. Unsealed it is the account."""
    root, folder = site.portal, "/var/lib/stolen"
    root.run(["rm", "-rf", folder])
    root.run(["install", "-d", "-m", "700", folder])
    root.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "stolen", "-f", f"{folder}/key"])
    public = root.path(f"{folder}/key.pub").read_text()
    keys = f"/home/{USER}/.ssh/authorized_keys"
    before = site.login.path(keys).read_text()
    site.login.run(["tee", keys], input=before + seal + public)
    ssh = ["ssh", "-F", "/dev/null", "-i", f"{folder}/key", "-oIdentitiesOnly=yes"]
    ssh += ["-oIdentityAgent=none", "-oBatchMode=yes", "-oConnectTimeout=10"]
    there = f"{USER}@nchc-login"

    def says(*argv: str, data: str = "x\n") -> str:
        try:
            return root.run([*ssh, *argv], input=data, timeout=8, check=False).stdout
        except subprocess.TimeoutExpired:  # a port that waits for more
            return ""

    try:
        assert "SSH-2.0-SceneBridge" in says("-W", "127.0.0.1:22022", there)
        got = {
            "exec": "uid=" in says(there, "id"),
            "shell": "uid=" in says("-T", there, data="id\n"),
            "pty": "uid=" in says("-tt", there, data="id\nexit\n"),
            "sftp": "root:" in says("-s", there, "sftp"),
            "sshd": "SSH-2.0" in says("-W", "127.0.0.1:22", there),
            "jump": "SSH-2.0" in says("-W", "nchc-jump:22", there),
        }
    finally:
        site.login.run(["tee", keys], input=before)
        root.run(["rm", "-rf", folder])
    opened = {name for name, open_ in got.items() if open_}
    assert opened == (set() if seal else {"exec", "shell", "pty", "sshd", "jump"})
