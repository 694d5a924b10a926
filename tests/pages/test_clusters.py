"""Clusters: state, tunnel, gate, queues, modules, right to launch, and what to do."""

from __future__ import annotations

import dataclasses
import time
from datetime import datetime, timedelta, timezone

import pytest

from lib.auth import OWNER
from lib.config.offerings import LeftOut
from lib.model import (
    Cluster,
    ClusterId,
    Fault,
    Reachability,
    Resources,
    Seal,
    SessionState,
    Tunnel,
    TunnelState,
)
from lib.protocol.codec import decode
from lib.protocol.messages import GateInfo, JobStatus, WatchMessage
from lib.reconciler.cluster import ClusterHealth
from lib.reconciler.states import session_change
from lib.store.changes import SessionChange
from tests.fakes import lying_gate as lying
from tests.fakes.tunnels import write_record
from tests.pages.sample_portal import FAR, all_html
from ui import launch_form, queues
from ui.text import now

DAY = 86400


def silent(site, fault=Fault.OTHER):
    site.reconciler.fault = fault
    (site.folder / "far-is-silent").touch()


def commands(app):
    return [code.value for code in app.code]


def test_a_card_says_all_that_is_known(open_page, site, monkeypatch):
    began = datetime.fromtimestamp(site.reconciler.began, timezone.utc)
    monkeypatch.setattr("ui.cluster_card.now", lambda: began)
    until = site.reconciler.began + 7 * 86400 - 1
    write_record(site.tunnels, FAR, person=OWNER.id, until=until)
    app = open_page("clusters")
    text = all_html(app)
    for says in (
        "<h2>Far cluster</h2>", "Institute of Tests · far", "can be asked", "for 1 min 30 s",
        "Opened by ada for Owner of this portal", "leads to u1001@login.far.example",
        "Sealed: The key that opened it can forward to the gate and run nothing", "in 6 d 23 h",
        "version 0.1.0 on login1 as u1001", "scheduler slurm, runtime apptainer; 1 of 4 places",
        "Small: 1 core, 2 GB, at most 4 hours", "Active fire 1.0.0",
        "not installed there", "The image of ships is missing.", "you may start work here",
        '<th scope="row">gpu</th><td>3 of 10</td><td>120 of 400</td><td>24 of 80</td>',
        "<td>7</td><td>2 days</td>", "<td>none</td><td>0</td><td>not known</td>",
        "Queues of Far cluster, 12 s ago", "None is needed: it is the portal&#x27;s own computer.",
    ):  # fmt: skip
        assert says in text, says
    assert commands(app) == []


def test_it_is_for_everybody_and_says_to_whom_it_belongs(open_page, site):
    app = open_page("clusters", who=site.person("user"))
    text = all_html(app)
    assert "The tunnel to Far cluster belongs to Owner of this portal, who alone starts" in text
    assert "not for you" in text
    assert "u1001" not in text
    assert "login1" not in text


def test_the_members_of_the_group_that_it_belongs_to_may(open_page, site):
    write_record(site.tunnels, FAR, group="fires")
    text = all_html(open_page("clusters", who=site.person("user")))
    assert "Opened by ada for the group Forest fires" in text
    assert "not for you" not in text
    other = all_html(open_page("clusters", who=site.person("other")))
    assert "belongs to the group Forest fires. You are not in it." in other


@pytest.mark.parametrize(
    ("seal", "says"),
    [
        (Seal.UNSEALED, "Unsealed: The key that opened it can also run commands"),
        (Seal.UNKNOWN, "Not tested: Whether the key that opened it can run anything"),
    ],
)
def test_what_an_unsealed_tunnel_means(open_page, site, seal, says):
    write_record(site.tunnels, FAR, person="owner", seal=seal)
    assert says in all_html(open_page("clusters"))


def test_a_closed_tunnel_says_why_and_what_its_administrator_runs(open_page, site):
    silent(site)
    write_record(
        site.tunnels, FAR, group="fires", state=TunnelState.CLOSED, closed_at=time.time() - 60,
        reason="The login node was restarted.",
    )  # fmt: skip
    app = open_page("clusters")
    text = all_html(app)
    assert "cannot be asked" in text
    assert "The tunnel that ada opened is closed. The login node was restarted." in text
    assert "The administrator who opened it (ada)" in text
    assert commands(app) == ["python admin.py tunnel up far --group fires"]


def test_a_tunnel_whose_time_is_over_is_closed(open_page, site):
    silent(site)
    write_record(site.tunnels, FAR, person="owner", until=time.time() - 1)
    app = open_page("clusters")
    assert "Its time is over." in all_html(app)
    assert commands(app) == ["python admin.py tunnel up far --person owner"]


def test_a_tunnel_whose_supervisor_is_gone_is_closed(open_page, site):
    silent(site)
    write_record(site.tunnels, FAR, person="owner", start=1.0)
    assert "It has ended without saying why." in all_html(open_page("clusters"))


def test_a_tunnel_that_was_never_opened(open_page, site):
    silent(site)
    (site.tunnels / "ada" / "far.json").unlink()
    app = open_page("clusters")
    assert "never opened" in all_html(app)
    assert "for you, once its tunnel is open" in all_html(app)
    assert "not for you" not in all_html(app)
    assert "An administrator of the portal&#x27;s computer" in all_html(app)
    assert commands(app) == ["python admin.py tunnel up far --group GROUP"]


def test_one_that_is_left_out_says_why_and_to_administrators_where(open_page, site):
    offerings = site.portal._offerings
    entry = offerings.clusters[FAR]
    fault = "/etc/scenebridge/clusters/far.toml cannot be read: Invalid value (at line 3, column 9)"
    offerings.clusters = {c: e for c, e in offerings.clusters.items() if c != FAR}
    offerings.left_out = {FAR: LeftOut(entry, "Its file cannot be taken.", fault)}
    text = all_html(open_page("clusters"))
    for says in ("<h2>Far cluster</h2>", "not configured", "Its file cannot be taken.", "line 3"):
        assert says in text, says
    app = open_page("clusters", who=site.person("user"))
    assert "Its file cannot be taken." in all_html(app)
    assert "/etc/scenebridge" not in all_html(app)
    assert commands(app) == ["python admin.py doctor"]


@pytest.mark.parametrize(
    ("fault", "who", "runs"),
    [
        (Fault.GATE, "The administrator who opened the tunnel (ada)", "gate start far"),
        (
            Fault.KEY_REFUSED,
            "The administrator who opened the tunnel (ada)",
            "gate deploy far --portal-key KEY",
        ),
        (Fault.HOST_KEY, "Whoever looks after the cluster&#x27;s gate", "gate status far"),
        (Fault.KEY, "Whoever looks after this portal", "doctor"),
        (Fault.SOCKET, "The administrator who opened the tunnel (ada)", "tunnel status far"),
        (Fault.OTHER, "The administrator who opened the tunnel (ada)", "gate status far"),
        (Fault.SCHEDULER, "The help desk of Institute of Tests", ""),
    ],
)
def test_each_fault_names_who_and_what(open_page, site, fault, who, runs):
    silent(site, fault)
    app = open_page("clusters")
    assert who in all_html(app)
    assert (commands(app)[-1:] or [""])[0] == (f"python admin.py {runs}" if runs else "")


def test_hostile_words_of_gates_and_records_stay_words(open_page, site):
    silent(site)
    bad = "<img src=x onerror=alert(1)>"
    write_record(site.tunnels, FAR, account="ada", group=bad, login_node=bad, reason=bad,
                 state=TunnelState.CLOSED)  # fmt: skip
    assert "<img" not in all_html(open_page("clusters"))


# --- what other pages say of it -----------------------------------------------------------


def test_a_card_on_work_says_who_can_mend_it_and_until_when_the_job_goes_on(open_page, site):
    silent(site)
    write_record(site.tunnels, FAR, person="owner", state=TunnelState.CLOSED, reason="Cut.")
    ends = datetime(2031, 5, 6, 7, 8, tzinfo=timezone.utc)
    site.add_session(["LC08_A"], SessionState.READY, cluster=FAR, ends_at=ends.timestamp())
    text = all_html(open_page("work"))
    assert "Far cluster cannot be asked since" in text
    assert "The tunnel that ada opened is closed. Cut. ada can open it again." in text
    assert "The administrator who opened it (ada) can mend it: the Clusters page" in text
    assert "The job goes on there until 2031-05-06 07:08 UTC." in text


def test_what_waits_says_when_it_is_expected_to_start(open_page, site):
    soon = (datetime.now(timezone.utc) + timedelta(seconds=725)).timestamp()
    waiting = site.add_session(
        ["LC08_A"], SessionState.QUEUED, reason="7 jobs are before it.", starts_at=soon
    )
    text = all_html(open_page("work"))
    assert "7 jobs are before it. It is expected to start about 2" in text
    assert "(in 12 min)." in text
    site.store.work.update_session(waiting.id, SessionChange(starts_at=time.time() - 5))
    assert "It is expected to start at any moment." in all_html(open_page("work"))


def cluster(**tunnel):
    made = Tunnel(FAR, TunnelState.OPEN, **tunnel)
    return Cluster(ClusterId("far"), "Far", "", Reachability.REACHABLE, tunnel=made)


def test_the_launch_form_warns_when_the_tunnel_closes_first():
    time_ = now()
    far = cluster(until=time_ + timedelta(hours=1))
    said = launch_form.tunnel_warning(far, Resources("small", 7200), time_)
    assert "The tunnel to Far closes at" in said
    assert "in 1 h 00 min" in said
    assert launch_form.tunnel_warning(far, Resources("small", 3600), time_) == ""
    assert launch_form.tunnel_warning(cluster(), Resources("small", 7200), time_) == ""


def test_the_launch_form_says_what_is_free(open_page, site):
    app = open_page(scene=["LC08_A"])
    said = " ".join(c for radio in app.radio for c in radio.proto.captions)
    assert "cpu\\: 41 of 200 nodes free; gpu\\: 3 of 10 nodes and 24 of 80 GPUs free" in said


def test_one_queue_needs_no_name(site):
    far = site.portal.all_clusters(site.asking)[1]
    assert queues.free(dataclasses.replace(far, load=far.load[:1])) == (
        "3 of 10 nodes and 24 of 80 GPUs free"
    )
    assert queues.free(dataclasses.replace(far, load=())) == ""


@pytest.mark.parametrize("high", [False, True], ids=["low", "high"])
@pytest.mark.parametrize("page", ["clusters", "work", "explore", "administration"])
def test_the_pages_bear_whatever_a_gate_may_say(open_page, site, monkeypatch, page, high):
    """All that passes the codec, at its edges (tests/security/test_lying_gate.py has the rest)."""
    said = lying.at_the_edge(lying.gate_info(), GateInfo, high=high)
    said["modules"] = [{"id": "active-fire", "version": "1.0.0"}]
    info = decode(GateInfo, lying.line(said))
    monkeypatch.setattr(
        site.reconciler, "health", lambda _: ClusterHealth(True, time.time(), "", info)
    )
    for state in ("queued", "running", "ended"):
        session = site.add_session(["LC08_A"], SessionState.SUBMITTED, cluster=FAR)
        told = lying.at_the_edge(lying.job_status(session.id), JobStatus, high=high)
        (status,) = decode(
            WatchMessage,
            lying.line(lying.watch_message({**told, "kind": "session", "state": state})),
        ).jobs
        site.store.work.update_session(session.id, session_change(status, connected=False))
    app = open_page(page, **({"scene": ["LC08_A"]} if page == "explore" else {}))
    assert "Far cluster" in all_html(app) or page != "clusters"
