"""Whatever fails between a user and their notebook: where the job lives on, the same kernel with
its variables comes back; where it does not, its true end is told; and never are there two jobs.

One notebook comes through all the faults of this file that its job survives.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from testbed.hosts import Process
from testbed.places import PROJECT
from tests.chromium import fresh_context
from tests.e2e.test_main_job import run_in_console
from tests.running import wait_for
from tests.sites import faults
from tests.sites.faults import Breakable, mends, ready, unreachable
from tests.sites.kernels import Notebook
from tests.sites.standing import CLUSTER, Standing, begin

pytestmark = [pytest.mark.site]

_LINE = "nchc-jump:wan"
UP = f"python admin.py tunnel up {CLUSTER} --person owner"


@pytest.fixture(scope="module")
def api(site: Standing) -> Iterator[httpx.Client]:
    with site.api() as client:
        yield client


@pytest.fixture(scope="module")
def minute(api: httpx.Client) -> str:
    """A session that has one minute, begun before all others: its id."""
    return begin(api, resources={"preset": "minute", "walltime_s": 60})


@pytest.fixture(scope="module")
def notebook(site: Standing, api: httpx.Client, minute: str) -> Iterator[Notebook]:
    """The notebook of this file; its kernel remembers a word."""
    session = begin(api)
    ready(api, session)
    yield Notebook(site, session)
    api.delete(f"/api/sessions/{session}").raise_for_status()
    faults.ended(api, session)


@pytest.fixture
def alive(site: Standing, api: httpx.Client, notebook: Notebook) -> Iterator[Notebook]:
    """That notebook before and after a fault: the same kernel, with one job."""
    ready(api, notebook.session)
    wait_for("the notebook", notebook.answers)
    notebook.same_kernel()
    before = faults.session(api, notebook.session)
    yield notebook
    after = ready(api, notebook.session)
    wait_for("the notebook", notebook.answers)
    notebook.same_kernel()
    assert after["job"] == before["job"]
    assert abs(faults.moment(after["ends_at"]) - faults.moment(before["ends_at"])) < 5
    assert faults.jobs_of(site, notebook.session) == [f"JobId={before['job']}"]


def goes_on(api: httpx.Client, notebook: Notebook) -> dict[str, Any]:
    """The session's card while the cluster cannot be asked: nothing is hidden or ended."""
    card = faults.session(api, notebook.session)
    assert (card["state"], card["reachability"]) == ("READY", "UNKNOWN"), card
    assert faults.moment(card["ends_at"]) > time.time()
    return card


# --- the portal and its connection ------------------------------------------------------------


def test_a_killed_portal_comes_back_to_its_notebooks(
    site: Standing, api: httpx.Client, alive: Notebook
) -> None:
    """One that was just asked for is not forgotten either, and not submitted twice."""
    before = [process.pid for process in faults.master(site)]
    asked = begin(api)
    site.kill_portal()
    assert [process.pid for process in faults.master(site)] == before
    site.start_portal()
    ready(api, alive.session)
    assert [process.pid for process in faults.master(site)] == before, "not adopted"
    alive.enter()  # its process was the portal's: a browser comes in again by the portal
    ready(api, asked)
    assert len(faults.jobs_of(site, asked)) == 1
    api.delete(f"/api/sessions/{asked}").raise_for_status()


def test_a_killed_connection_is_made_again(
    site: Standing, api: httpx.Client, alive: Notebook
) -> None:
    before = faults.master(site)
    faults.signal(site.portal, "KILL", before)
    wait_for("another", lambda: (now := faults.master(site)) and now[0].pid != before[0].pid)
    ready(api, alive.session)


# --- the gate ---------------------------------------------------------------------------------


def test_a_killed_gate_is_told_of_and_started_again(
    site: Standing, api: httpx.Client, alive: Notebook, browser: Browser
) -> None:
    """Also on the card that its owner sees."""
    begun = time.time()
    try:
        faults.signal(site.login, "KILL", faults.gate(site))
        card = unreachable(api, "gate", "is not running", since=begun)
        assert mends(card) == (
            f"The administrator who opened the tunnel (ada): python admin.py gate start {CLUSTER}"
        )
        known = goes_on(api, alive)
        with fresh_context(browser) as context:
            page = context.new_page()
            page.goto(faults.sign_in_link(site))
            page.goto(f"{site.origin}/work")
            shown = page.locator(f".st-key-card-{alive.session} .sb-problem")
            expect(shown).to_contain_text("cannot be asked since")
            expect(shown).to_contain_text("is not running")
            expect(shown).to_contain_text(
                "The administrator who opened the tunnel (ada) can mend it"
            )
            until = datetime.fromisoformat(known["ends_at"]).strftime("%H:%M")
            expect(shown).to_contain_text(re.compile(f"The job goes on there until .*{until}"))
    finally:
        with site.ada() as terminal:
            assert "runs" in site.types(terminal, "gate", "start", CLUSTER)


def test_a_gate_is_stopped_and_started(site: Standing, api: httpx.Client, alive: Notebook) -> None:
    begun = time.time()
    with site.ada() as terminal:
        try:
            said = site.types(terminal, "gate", "stop", CLUSTER)
            assert "is stopped" in said
            unreachable(api, "gate", "is not running", since=begun)
            goes_on(api, alive)
        finally:
            said = site.types(terminal, "gate", "start", CLUSTER)
        assert "runs" in said, said


def test_a_gate_is_upgraded_under_a_notebook(
    site: Standing, api: httpx.Client, alive: Notebook
) -> None:
    """To a later version and back again. (One that does not come up: `contract/
    test_gate_deploy.py`.)"""
    before = faults.running_code(site)
    with site.ada() as terminal:

        def upgrade(tree: str | Path) -> str:
            command = ("gate", "upgrade", CLUSTER, "--wheels", "/home/ada/wheels")
            return site.types(terminal, *command, timeout_s=300, tree=tree)

        newer = faults.other_version(site, "newer", version="9.9.9")
        assert "[code 0]" in (said := upgrade(newer)), said
        assert faults.running_code(site).startswith("9.9.9-")
        wait_for("9.9.9", lambda: faults.cluster(api)["gate_version"] == "9.9.9")
        ready(api, alive.session)
        wait_for("the notebook", alive.answers)
        alive.same_kernel()
        assert "[code 0]" in (said := upgrade(PROJECT)), said
    assert faults.running_code(site) == before


# --- the tunnel -------------------------------------------------------------------------------


def _ssh(site: Standing) -> None:
    faults.signal(site.portal, "KILL", faults.outer(site))


def _supervisor(site: Standing) -> None:
    faults.signal(site.portal, "KILL", faults.supervisor(site))
    wait_for("ssh ends with it", lambda: not faults.outer(site))


def _ada(site: Standing) -> None:
    assert "is closed" in site.close_tunnel()


def _its_time(site: Standing) -> None:
    site.close_tunnel()
    site.open_tunnel("--person", "owner", "--hours", "0.001")


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (_ssh, "somebody on this host may have ended it"),
        (_supervisor, "It has ended without saying why."),
        (_ada, "ada closed it."),
        (_its_time, "Its time is over."),
    ],
)
def test_a_tunnel_that_ended_is_told_of_and_opened_again(
    site: Standing, api: httpx.Client, alive: Notebook, end: Any, said: str
) -> None:
    begun = time.time()
    try:
        end(site)
        card = unreachable(api, "The tunnel that ada opened is closed.", said, since=begun)
        assert mends(card) == f"The administrator who opened it (ada): {UP}"
        assert card["tunnel"]["state"] == "closed"
        goes_on(api, alive)
    finally:
        site.open_tunnel()


_LINES = 150


def test_a_cut_of_the_line_loses_no_line_of_a_cell(
    site: Standing, api: httpx.Client, alive: Notebook, browser: Browser
) -> None:
    """Longer than anything in between bears: the connections of ada and of the portal both end.
    The browser's own does not."""
    closed: list[str] = []
    with fresh_context(browser) as context:
        page = context.new_page()
        page.on("websocket", lambda ws: ws.on("close", lambda ended: closed.append(ended.url)))
        page.goto(faults.sign_in_link(site))
        page.goto(f"{site.origin}/open/{alive.session}")
        expect(page.locator(".jp-Notebook").first).to_be_visible()
        # One line of text: the editor would indent what follows a block.
        line = "print('line', n, flush=True) or time.sleep(0.1)"
        run_in_console(page, f"import time; [{line} for n in range({_LINES})];", "line 3\n")
        printed = page.locator(".jp-OutputArea-output", has_text="line 3\n").first
        site.bed.cut(_LINE)
        try:
            wait_for(
                "both connections to end", lambda: not faults.outer(site) + faults.master(site)
            )
        finally:
            site.bed.heal(_LINE)
            site.open_tunnel()
        expect(printed).to_contain_text(f"line {_LINES - 1}")
        lines = printed.inner_text().rstrip("\n").split("\n")
        assert lines == [f"line {n}" for n in range(_LINES)]
        assert not [url for url in closed if "/channels" in url]


# --- the scheduler ----------------------------------------------------------------------------


def test_a_submit_without_an_answer_that_was_accepted_is_one_job(
    site: Standing, api: httpx.Client
) -> None:
    """One hangs beyond its time, one ends with an error: both had been taken."""
    asked = []
    for how in ("hang", "fail"):
        with faults.sbatch(site, how) as done:
            asked.append(begin(api))
            wait_for(f"sbatch to {how}", done)
    for session in asked:
        ready(api, session)
        assert len(faults.jobs_of(site, session)) == 1
        api.delete(f"/api/sessions/{session}").raise_for_status()
    for session in asked:
        assert faults.ended(api, session)["end_reason"] == "stopped"
        assert len(faults.jobs_of(site, session)) == 1


def test_what_the_site_does_to_a_job_is_told(site: Standing, api: httpx.Client) -> None:
    """Its queue is down, it is held, cancelled while it waits, cancelled while it runs."""
    root = site.login.run
    root(["scontrol", "update", "partitionname=dev", "state=down"])
    try:
        held, unwanted = begin(api), begin(api)
        for session in (held, unwanted):
            faults.says(api, session, "QUEUED", "The queue is down")
        job = faults.session(api, held)["job"]
        root(["scontrol", "hold", job])
        faults.says(api, held, "QUEUED", "held by the cluster's administrators")
        root(["scancel", faults.session(api, unwanted)["job"]])
        end = faults.ended(api, unwanted)
        assert end["end_reason"] == "cancelled while queued", end
        assert "on the cluster" in end["reason"], end
    finally:
        root(["scontrol", "update", "partitionname=dev", "state=up"])
    root(["scontrol", "release", job])
    ready(api, held)
    root(["scancel", job])
    end = faults.ended(api, held)
    assert end["end_reason"] == "stopped", end
    assert "on the cluster" in end["reason"], "as if its owner had stopped it"
    assert len(faults.jobs_of(site, held)) == 1


def test_a_silent_scheduler_ends_nothing_and_submits_nothing_twice(
    site: Breakable, api: httpx.Client, alive: Notebook
) -> None:
    """For longer than the gate looks for a job that is missing from an answer. Meanwhile the
    connection hangs, and is made anew for the notebooks."""
    slurmctld = faults.processes(site.login, "slurm", "slurmctld")
    begun = time.time()
    with faults.stopped(site.login, slurmctld):
        at_once = begin(api)
        card = unreachable(api, "The scheduler of the cluster does not answer", since=begun)
        assert mends(card).startswith("The help desk of NCHC: ")
        goes_on(api, alive)
        alive.same_kernel()
        later = begin(api)

        hung = faults.master(site)
        with faults.stopped(site.portal, hung):
            wait_for("another connection", lambda: not _same(faults.master(site), hung))
        wait_for("the notebook", alive.answers)
        alive.same_kernel()
        unreachable(api, "The scheduler of the cluster does not answer", since=begun)
        assert not faults.session(api, later)["job"]
        site.asked_again()  # each time in vain, for as long as `gone_after_s`
    for session in (at_once, later):
        ready(api, session, timeout_s=300)
        assert len(faults.jobs_of(site, session)) == 1
        api.delete(f"/api/sessions/{session}").raise_for_status()


def test_a_job_that_outgrows_its_memory_ends_of_that(
    site: Standing, api: httpx.Client, alive: Notebook
) -> None:
    """Another notebook is not touched, nor by a restart of Slurm."""
    faults.restart_slurm(site)
    session = begin(api, resources={"preset": "little", "walltime_s": 600})
    ready(api, session)
    grow = "import threading\ndef grow():\n    global x\n    x = bytearray(700 << 20)\n"
    Notebook(site, session).run(f"{grow}threading.Timer(0.5, grow).start()")
    end = faults.ended(api, session)
    assert end["end_reason"] == "out of memory", end
    assert "more memory than it was given" in end["reason"]
    assert len(faults.jobs_of(site, session)) == 1
    alive.same_kernel()


def test_a_job_that_ends_before_it_is_ready(site: Standing, api: httpx.Client) -> None:
    """The containers' program does not work on the nodes; what it said is told."""
    said = "no user namespaces on this node"
    with contextlib.ExitStack() as stack:
        for node in site.nodes:
            faults.spoil_apptainer(node, f"FATAL: {said}")
            stack.callback(node.run, ["umount", "/usr/bin/apptainer"])
        session = begin(api)
        end = faults.ended(api, session)
    assert end["end_reason"] == "failed to start", end
    assert said in end["reason"]
    assert len(faults.jobs_of(site, session)) == 1


def test_a_full_disk_is_told_and_the_job_waits_for_room(
    site: Standing, api: httpx.Client, alive: Notebook
) -> None:
    with faults.full_disk(site):
        session = begin(api)
        faults.says(api, session, "NEW", "cannot be stored on the cluster: No space left on device")
        alive.same_kernel()
        assert faults.cluster(api)["reachability"] == "REACHABLE"
    ready(api, session)
    assert len(faults.jobs_of(site, session)) == 1
    api.delete(f"/api/sessions/{session}").raise_for_status()


def _same(one: list[Process], other: list[Process]) -> bool:
    return not one or one[0].pid == other[0].pid


# --- hosts ------------------------------------------------------------------------------------


def test_the_truth_is_told_of_what_happened_while_nobody_could_ask(
    site: Standing, api: httpx.Client, alive: Notebook, minute: str
) -> None:
    """The jump host dies; then a node, and the time of a job is over. Ada opens the tunnel."""
    mine = faults.node_of(site, alive.session)
    other = next(node for node in site.nodes if node.name != mine)
    doomed = begin(api, resources={"preset": other.name, "walltime_s": 600})
    ready(api, doomed)
    assert faults.node_of(site, doomed) == other.name
    jump = site.bed.host("nchc-jump")
    begun = time.time()
    try:
        jump.kill()
        other.kill()
        unreachable(api, since=begun)
        goes_on(api, alive)
        card = unreachable(api, "did not answer any more", since=begun, timeout_s=300)
        assert mends(card) == f"The administrator who opened it (ada): {UP}"
        for session in (doomed, alive.session):
            assert faults.session(api, session)["state"] == "READY", "nobody knows better yet"
        jump.start()
        site.open_tunnel()
        end = faults.ended(api, doomed, timeout_s=300)
    finally:
        jump.start()
        other.start()
        if not faults.outer(site):
            site.open_tunnel()
    assert end["end_reason"] == "node failure", end
    assert "failed" in end["reason"]
    end = faults.ended(api, minute, timeout_s=300)
    assert end["end_reason"] == "walltime", end
    assert "Its time of 1 minute was over." in end["reason"]
    for session in (doomed, minute):
        assert len(faults.jobs_of(site, session)) == 1
    waiting = site.login.run(["squeue", "-h", "-t", "PD", "-o", "%j"]).stdout
    assert doomed not in waiting, "it was put back into the queue"
