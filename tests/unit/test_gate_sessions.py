"""A gate's jobs from submit to end, through real ssh, one of them with a real Jupyter server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.errors import Conflict, NotFound, Refused
from lib.jobs.processes import descendants
from lib.model import Endpoint, EndReason, JobState
from lib.protocol.messages import (
    ArtifactKind,
    GetRequest,
    InfoRequest,
    JobKind,
    LogKind,
    LogRequest,
    Verb,
)
from tests.fixtures.gate_site import GateSite, Watching, running_site
from tests.running import wait_for


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GateSite]:
    yield from running_site(tmp_path_factory.mktemp("site"), light=True, slots=3, max_live=6)


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[GateSite]:
    yield from running_site(tmp_path, light=True, slots=1, max_live=2)


def processes_with(text: str) -> list[str]:
    out = subprocess.run(["ps", "-axwwo", "pid=,args="], capture_output=True, text=True, check=True)
    return [line for line in out.stdout.splitlines() if text in line]


def test_info_says_what_the_policy_allows(site: GateSite) -> None:
    info, _ = site.ask(Verb.INFO, InfoRequest())
    assert (info.cluster, info.scheduler, info.runtime) == ("test", "local", "process")
    assert info.isolation.value == "none"
    assert [(m.id, m.version) for m in info.modules] == [("small", "1.0.0")]
    assert info.data_paths == [str(site.data)]


def test_a_run_ends_with_all_its_events_and_artifacts(site: GateSite) -> None:
    status = site.submit(items=[site.item("S1"), site.item("S2")], params={"objects": 2})
    with Watching(site) as watching:
        events = watching.collect(status.id, 10)
        ended = watching.job(status.id, lambda s: s.state is JobState.ENDED)
    assert [e["event"] for e in events] == [
        "run_started",
        *(["scene_started", "object", "object", "scene_done"] * 2),
        "run_done",
    ]
    assert (ended.end_reason, ended.exit_code, ended.events) == (EndReason.FINISHED, 0, 10)
    assert ended.module_exit_code == 0
    assert ended.keep_until is not None
    assert ended.ended_at is not None
    assert ended.keep_until - ended.ended_at == pytest.approx(14 * 86400)
    reply, data = site.ask(Verb.GET, GetRequest(status.id, ArtifactKind.CHIP, "S2", 1))
    assert data == b"chip of S2"
    assert reply.size == len(data)
    with pytest.raises(NotFound):
        site.ask(Verb.GET, GetRequest(status.id, ArtifactKind.CHIP, "S2", 2))
    with pytest.raises(NotFound, match="not part"):
        site.ask(Verb.GET, GetRequest(status.id, ArtifactKind.CHIP, "S3", 1))


def test_a_watch_goes_on_after_what_the_portal_has(site: GateSite) -> None:
    status = site.submit(params={"objects": 3})
    site.ended(status.id)
    with Watching(site, {status.id: 4}) as watching:
        events = watching.collect(status.id, 3)
    assert [f for f in watching.firsts if f[0] == status.id] == [(status.id, 4)]
    assert [e["event"] for e in events] == ["object", "scene_done", "run_done"]


def test_a_module_that_breaks_off_is_told_with_its_last_words(site: GateSite) -> None:
    status = site.submit(params={"exit_code": 1, "text": "no such band: swir22"})
    ended = site.ended(status.id)
    assert (ended.end_reason, ended.exit_code, ended.module_exit_code) == (EndReason.CRASHED, 1, 1)
    assert "no such band: swir22" in ended.reason
    assert "no such band: swir22" in ended.module_message
    log, _ = site.ask(Verb.LOG, LogRequest(status.id, LogKind.MODULE))
    assert "no such band: swir22" in log.text


def test_rubbish_in_the_status_file_is_dropped_and_said(site: GateSite) -> None:
    lines = ["not json", '{"event":"object"}', "[]", '{"event":["x"]}', "\x00" * 50]
    status = site.submit(params={"lines": lines})
    ended = site.ended(status.id)
    assert ended.events == 5
    assert "5 status lines" in ended.reason


def test_submitting_the_same_id_again_answers_with_the_job_it_has(site: GateSite) -> None:
    request = site.request(params={"linger_s": 600})
    first, _ = site.ask(Verb.SUBMIT, request)
    again, _ = site.ask(Verb.SUBMIT, request)
    assert (first.created, again.created) == (True, False)
    assert first.status.job == again.status.job
    site.cancel(request.id)
    assert site.ended(request.id).end_reason is EndReason.STOPPED


def test_a_notebook_becomes_ready_and_stops_without_a_trace(tmp_path: Path) -> None:
    for site in running_site(tmp_path):
        _a_notebook_from_start_to_end(site)


def _a_notebook_from_start_to_end(site: GateSite) -> None:
    status = site.submit(JobKind.SESSION, portal_origin="http://localhost:8501")
    ready = site.ready(status.id)
    assert ready.endpoint is not None
    assert ready.endpoint.name == f"s-{status.id}"
    assert (site.work(status.id) / "small.ipynb").exists()
    with Forward(site, status.id) as port:
        page = asyncio.run(fetch(port, ready.endpoint, "/lab"))
        assert b" 200 OK" in page
        assert b"frame-ancestors 'self' http://localhost:8501" in page
        assert ready.endpoint.token.encode() not in page
        refused = asyncio.run(fetch(port, ready.endpoint, "/api/status", token="wrong"))
        assert b" 403 " in refused
    scratch = json.loads((site.control(status.id) / "spec.json").read_text())["scratch"]
    assert Path(scratch).is_dir()
    assert ready.endpoint.token not in "".join(processes_with(""))
    assert processes_with(scratch) != []
    site.cancel(status.id)
    ended = site.ended(status.id)
    assert ended.end_reason is EndReason.STOPPED
    assert ended.endpoint is None
    assert not Path(scratch).exists()
    assert processes_with(status.id) == []
    assert processes_with(scratch) == []


def test_a_detached_grandchild_does_not_outlive_its_job(site: GateSite) -> None:
    status = site.submit(params={"setsid": True})
    assert site.ended(status.id).end_reason is EndReason.FINISHED
    assert processes_with("sleep 1000") == []


def test_a_session_goes_on_with_the_files_of_an_ended_one(site: GateSite) -> None:
    old = site.submit(JobKind.SESSION)
    site.ready(old.id)
    (site.work(old.id) / "mine.txt").write_text("keep me")
    with pytest.raises(Conflict, match="still running"):
        site.submit(JobKind.SESSION, continue_from=old.id)
    site.cancel(old.id)
    site.ended(old.id)
    with pytest.raises(NotFound):
        site.submit(JobKind.SESSION, continue_from=old.id, owner="bob")
    new = site.submit(JobKind.SESSION, continue_from=old.id)
    assert (site.work(new.id) / "mine.txt").read_text() == "keep me"
    ready = site.ready(new.id)
    assert ready.endpoint is not None
    _, chip = site.ask(Verb.GET, GetRequest(old.id, ArtifactKind.CHIP, "S1", 1))
    assert chip == b"chip of S1"
    with pytest.raises(Conflict, match="continued already"):
        site.submit(JobKind.SESSION, continue_from=old.id)
    site.cancel(new.id)
    site.ended(new.id)


def test_a_full_cluster_lets_jobs_wait_and_says_why(own_site: GateSite) -> None:
    first = own_site.submit(params={"linger_s": 600})
    second = own_site.submit()
    waiting = own_site.wait(second.id, lambda s: "1 of 1" in s.reason)
    assert waiting.state is JobState.QUEUED
    with pytest.raises(Refused, match="2 jobs are live"):
        own_site.submit()
    assert own_site.cancel(second.id).id == second.id
    assert own_site.ended(second.id).end_reason is EndReason.CANCELLED
    own_site.cancel(first.id)
    assert own_site.ended(first.id).end_reason is EndReason.STOPPED


def test_jobs_and_their_news_outlive_the_gate(own_site: GateSite) -> None:
    status = own_site.submit(JobKind.SESSION, params={"pause_s": 0.2, "objects": 10})
    ready = own_site.ready(status.id)
    os.kill(own_site.process.pid, signal.SIGKILL)
    while own_site.process.alive():
        time.sleep(0.01)
    own_site.start()
    with Watching(own_site, {status.id: 3}) as watching:
        events = watching.collect(status.id, 10)
        again = watching.jobs[status.id]
    assert again.endpoint == ready.endpoint
    assert [e["n"] for e in events if e["event"] == "object"] == list(range(2, 11))
    with Forward(own_site, status.id) as port:
        assert ready.endpoint is not None
        assert b" 200 OK" in asyncio.run(fetch(port, ready.endpoint, "/api/status"))


def test_a_job_that_was_recorded_but_not_submitted_is_submitted_once(own_site: GateSite) -> None:
    status = own_site.submit(params={})
    own_site.ended(status.id)
    own_site.stop(jobs=False)
    record = own_site.control(status.id) / "record.json"
    data = json.loads(record.read_text())
    data.update(job="", state="queued", ended_at=None, end_reason=None, name=data["name"] + "x")
    for stale in ("exit.json", "module.json", "events.jsonl"):
        (own_site.control(status.id) / stale).unlink()
    record.write_text(json.dumps(data))
    own_site.start()
    ended = own_site.ended(status.id)
    assert ended.job != status.job


def test_a_notebook_that_cannot_start_says_why(tmp_path: Path) -> None:
    python = tmp_path / "python-without-jupyter"
    python.write_text("#!/bin/sh\necho 'No module named jupyterlab' >&2\nexit 1\n")
    python.chmod(0o755)
    for site in running_site(tmp_path, python=str(python)):
        status = site.submit(JobKind.SESSION)
        ended = site.ended(status.id)
        assert ended.end_reason is EndReason.FAILED_TO_START
        assert "No module named jupyterlab" in ended.reason


def test_stop_with_jobs_leaves_no_process(tmp_path: Path) -> None:
    before = set(descendants(os.getpid()))  # of tests that ran before in this process
    site = GateSite(tmp_path, light=True)
    site.start()
    status = site.submit(JobKind.SESSION)
    site.ready(status.id)
    site.stop(jobs=True)
    assert not site.process.alive()
    assert processes_with(str(tmp_path)) == []
    assert processes_with(status.id) == []
    assert set(descendants(os.getpid())) <= before
    assert not (site.home / "gate.json").exists()
    site.start()
    assert site.status(status.id).end_reason is EndReason.STOPPED
    again = site.submit(JobKind.SESSION)
    site.ready(again.id)
    site.command("stop", "--jobs", "--because", "The portal was stopped.")
    site.start()
    assert site.status(again.id).reason == "The portal was stopped."
    site.stop()


def test_a_second_gate_on_one_folder_says_so(site: GateSite) -> None:
    for flags in ([], ["--detach"]):
        done = site.command("serve", *flags, check=False)
        assert done.returncode == 1
        assert done.stderr.strip().endswith(f"A gate serves {site.home} already.")


def test_a_session_over_its_disk_allowance_is_stopped(tmp_path: Path) -> None:
    for site in running_site(tmp_path, max_disk_mb=20):
        status = site.submit(params={"linger_s": 600})
        site.wait(status.id, lambda s: s.events > 0)
        for n in range(3):
            (site.work(status.id) / f"big{n}").write_bytes(os.urandom(10 * 2**20))
        ended = site.ended(status.id)
        assert ended.end_reason is EndReason.STOPPED
        assert "20 MB" in ended.reason


def test_old_files_are_removed_after_the_keep_days(tmp_path: Path) -> None:
    for site in running_site(tmp_path, keep_days=0):
        status = site.submit()
        folder = site.home / "sessions" / status.id
        wait_for("its files to go", lambda folder=folder: not folder.exists())
        with pytest.raises(NotFound):
            site.cancel(status.id)


def test_requests_that_are_not_the_protocol_get_a_sentence(site: GateSite) -> None:
    for data, words in (
        (b"{\n", b"not JSON"),
        (b"", b"not a whole line"),
        (b'{"id":"x","more":1}\n', b"unknown field"),
        (b"x" * (5 * 2**20), b"longer than"),
    ):
        done = site.raw("cancel", data)
        assert words in done.stdout, data[:20]
        assert done.returncode == 1


class Forward:
    """An ssh -L to a session's symbolic name."""

    def __init__(self, site: GateSite, session: str) -> None:
        self._site = site
        self._session = session

    def __enter__(self) -> str:
        self._socket = self._site.root / f"{self._session[:8]}.sock"
        command = self._site.ssh(
            "-N", "-oExitOnForwardFailure=yes", "-L", f"{self._socket}:s-{self._session}:1",
            "--", "127.0.0.1",
        )  # fmt: skip
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_for("the forward", self._socket.exists)
        return str(self._socket)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(timeout=300)
        self._socket.unlink(missing_ok=True)


async def fetch(path: str, endpoint: Endpoint, url: str, token: str | None = None) -> bytes:
    """GET through a forwarded UNIX socket, as the portal's proxy does."""
    context = ssl.create_default_context(cadata=endpoint.server_cert)
    folder = Path(path).parent
    files = folder / "client.crt", folder / "client.key"
    files[0].write_text(endpoint.client_cert)
    files[1].write_text(endpoint.client_key)
    context.load_cert_chain(*files)
    reader, writer = await asyncio.open_unix_connection(
        path, ssl=context, server_hostname=endpoint.name
    )
    token = endpoint.token if token is None else token
    writer.write(f"GET {url} HTTP/1.0\r\nHost: x\r\nAuthorization: token {token}\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer
