"""What a job left in its folders cannot lead the gate astray.

The attacker here owns everything below `work/` and may change it at any moment; the
notebook's own code could write anything into `control/` too where a runtime isolates nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib.errors import InvalidInput, NotFound, Refused, SceneBridgeError
from lib.files.atomic import write_json
from lib.gate import events as gate_events
from lib.gate.artifacts import open_artifact, pieces, read_log
from lib.gate.events import EventLog
from lib.gate.job_record import JobRecord, SessionFolders
from lib.gate.safe_open import open_file
from lib.protocol.events import MAX_EVENT_BYTES, ModuleEvent, parse_line, plain
from lib.protocol.messages import ArtifactKind, GetRequest, JobKind, LogKind, LogRequest, Verb
from tests.fixtures.gate_site import GateSite, running_site
from tests.running import wait_for

ID = "00000000-0000-4000-8000-000000000001"
SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(SECRET)
    work = tmp_path / "sessions" / ID / "work"
    (work / "out" / "S1" / "chips").mkdir(parents=True)
    (tmp_path / "sessions" / ID / "control").mkdir()
    (work / "out" / "S1" / "chips" / "0001.webp").write_bytes(b"chip")
    return tmp_path


def record() -> JobRecord:
    return JobRecord(ID, JobKind.RUN, "ada", "small", "1", "", "n", "small", 60, ["S1"], 0.0)


def chip(root: Path, n: int = 1) -> bytes:
    request = GetRequest(ID, ArtifactKind.CHIP, "S1", n)
    file = open_artifact(request, record(), SessionFolders(root))

    async def read() -> bytes:
        return b"".join([piece async for piece in pieces(file)])

    try:
        return asyncio.run(read())
    finally:
        os.close(file.fd)


def test_a_plain_file_is_read(root: Path) -> None:
    assert chip(root) == b"chip"


def test_a_link_in_place_of_the_file_is_refused(root: Path) -> None:
    path = root / "sessions" / ID / "work/out/S1/chips/0001.webp"
    path.unlink()
    path.symlink_to(root / "secret")
    with pytest.raises(Refused, match="not a plain file"):
        chip(root)


@pytest.mark.parametrize("level", ["", "out", "out/S1", "out/S1/chips"])
def test_a_link_in_place_of_a_folder_is_refused(root: Path, level: str) -> None:
    folder = root / "sessions" / ID / "work" / level
    elsewhere = root / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    with pytest.raises(Refused):
        chip(root)


def test_a_second_name_of_a_file_elsewhere_is_refused(root: Path) -> None:
    path = root / "sessions" / ID / "work/out/S1/chips/0002.webp"
    os.link(root / "secret", path)
    with pytest.raises(Refused):
        chip(root, 2)


def test_a_fifo_neither_blocks_nor_is_read(root: Path) -> None:
    os.mkfifo(root / "sessions" / ID / "work/out/S1/chips/0002.webp")
    with pytest.raises(Refused):
        chip(root, 2)


def test_sockets_and_folders_are_refused(root: Path) -> None:
    chips = root / "sessions" / ID / "work/out/S1/chips"
    (chips / "0002.webp").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        fd = os.open(chips, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{fd}/0003.webp")
        os.close(fd)
        for n in (2, 3):
            with pytest.raises(Refused):
                chip(root, n)


def test_a_device_is_refused() -> None:
    with pytest.raises(Refused):
        open_file(Path("/dev"), ("zero",), max_bytes=10)


def test_a_huge_sparse_file_is_refused_by_its_size(root: Path) -> None:
    path = root / "sessions" / ID / "work/out/S1/chips/0002.webp"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(Refused, match="larger than"):
        chip(root, 2)


def test_a_file_that_grows_is_sent_in_its_first_size(root: Path) -> None:
    request = GetRequest(ID, ArtifactKind.CHIP, "S1", 1)
    file = open_artifact(request, record(), SessionFolders(root))
    with (root / "sessions" / ID / "work/out/S1/chips/0001.webp").open("ab") as more:
        more.write(b"more")

    async def read() -> bytes:
        return b"".join([piece async for piece in pieces(file)])

    assert asyncio.run(read()) == b"chip"
    os.close(file.fd)


def test_a_file_that_shrinks_is_not_padded(root: Path) -> None:
    request = GetRequest(ID, ArtifactKind.CHIP, "S1", 1)
    file = open_artifact(request, record(), SessionFolders(root))
    os.truncate(root / "sessions" / ID / "work/out/S1/chips/0001.webp", 1)

    async def read() -> None:
        async for _ in pieces(file):
            pass

    with pytest.raises(SceneBridgeError, match="changed"):
        asyncio.run(read())
    os.close(file.fd)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../secret", "a\0b", "/etc/passwd"])
def test_names_that_are_no_plain_names_are_refused(root: Path, name: str) -> None:
    with pytest.raises(Refused, match="no plain name"):
        open_file(root, (name,), max_bytes=100)
    with pytest.raises(Refused, match="no plain name"):
        open_file(root, (name, "secret"), max_bytes=100)


@pytest.mark.parametrize("scene", ["..", "../..", "S1/..", "S2", "", "S1\0"])
def test_only_submitted_scenes_have_artifacts(root: Path, scene: str) -> None:
    with pytest.raises(NotFound, match="not part of the job"):
        open_artifact(GetRequest(ID, ArtifactKind.MASK, scene), record(), SessionFolders(root))


@pytest.mark.parametrize("n", [0, -1, 10**7])
def test_chip_numbers_are_bounded(root: Path, n: int) -> None:
    with pytest.raises(InvalidInput):
        open_artifact(GetRequest(ID, ArtifactKind.CHIP, "S1", n), record(), SessionFolders(root))


@pytest.mark.parametrize("job", ["..", "../x", "", ID.upper().replace("0", "A"), f"{ID}/.."])
def test_job_ids_are_uuids(root: Path, job: str) -> None:
    with pytest.raises(InvalidInput):
        SessionFolders(root).session(job)


def test_swapping_a_folder_for_a_link_during_reads_never_leaks(root: Path) -> None:
    """An attacker exchanges `chips` for a link to a folder of secrets, again and again."""
    scene = root / "sessions" / ID / "work/out/S1"
    outside = root / "outside"
    outside.mkdir()
    (outside / "0001.webp").write_bytes(SECRET)
    (scene / "link").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (scene / "chips").rename(scene / "aside")
            (scene / "link").rename(scene / "chips")
            (scene / "chips").rename(scene / "link")
            (scene / "aside").rename(scene / "chips")

    thread = threading.Thread(target=swap)
    thread.start()
    seen = {"chip": 0, "refused": 0}
    try:
        while min(seen.values()) < 200:
            try:
                assert chip(root) == b"chip"
                seen["chip"] += 1
            except (Refused, NotFound):
                seen["refused"] += 1
    finally:
        stop.set()
        thread.join()
    assert seen["chip"] > 10
    assert seen["refused"] > 10


def test_logs_are_not_read_through_links(root: Path) -> None:
    control = root / "sessions" / ID / "control"
    (control / "module.log").symlink_to(root / "secret")
    reply = read_log(LogRequest(ID, LogKind.MODULE), record(), SessionFolders(root))
    assert reply.text == ""
    (control / "job.log").write_bytes(b"a" * 500_000 + b"\xff end")
    reply = read_log(LogRequest(ID, LogKind.JOB, 10**9), record(), SessionFolders(root))
    assert reply.truncated
    assert len(reply.text) <= 256 * 1024
    assert reply.text.endswith("\N{REPLACEMENT CHARACTER} end")


# --- status.jsonl -------------------------------------------------------------------


def line(**changes: object) -> str:
    event = {
        "event": "object", "scene": "S1", "n": 1, "class": "fire", "score": 0.9, "lon": 1.0,
        "lat": 2.0, "bbox": [1, 2, 3, 4], "pixels": 5, "area_m2": 4.5, "chip": True,
        "flags": ["cloud"], "properties": {"a": 1}, "time": 1.0, **changes,
    }  # fmt: skip
    return json.dumps(event)


def as_passed_on(data: bytes, scenes: frozenset[str]) -> dict[str, Any]:
    return plain(parse_line(data, scenes))


def event_log(root: Path) -> EventLog:
    session = root / "sessions" / ID
    return EventLog(session / "control", (session / "work", "out"), frozenset({"S1"}))


def status_path(root: Path) -> Path:
    return root / "sessions" / ID / "work/out/status.jsonl"


def test_a_good_event_is_rebuilt_from_known_fields() -> None:
    event = as_passed_on(line(extra="<script>").encode(), frozenset({"S1"}))
    assert "extra" not in event
    assert event["class"] == "fire"


@pytest.mark.parametrize(
    "changes",
    [
        {"event": "reboot"},
        {"event": ["object"]},
        {"event": None},
        {"scene": "S2"},
        {"scene": ["S1"]},
        {"scene": "../S1"},
        {"n": 0},
        {"n": True},
        {"n": 1.5},
        {"n": 10**30},
        {"score": 2},
        {"score": "0.9"},
        {"score": float("nan")},
        {"lon": float("inf")},
        {"lat": 91},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, 3, float("nan")]},
        {"pixels": -1},
        {"chip": 1},
        {"flags": ["x"] * 100},
        {"flags": [""]},
        {"flags": [1]},
        {"class": "\x00"},
        {"bbox": [1, 2, 181, 4]},
        {"bbox": [1, 4, 3, 2]},
        {"bbox": [1, -91, 3, 2]},
        {"area_m2": 1e16},
        {"flags": "cloud"},
        {"properties": []},
        {"properties": {str(n): n for n in range(1000)}},
        {"properties": {"a": {"a": {"a": {"a": {"a": 1}}}}}},
        {"properties": {"a": 10**400}},
        {"time": None},
        {"time": -1},
        {"class": None},
    ],
)
def test_an_event_that_breaks_the_schema_is_rubbish(changes: dict[str, object]) -> None:
    assert as_passed_on(line().encode(), frozenset({"S1"}))
    with pytest.raises(InvalidInput):
        as_passed_on(line(**changes).encode(), frozenset({"S1"}))


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[" * 100_000, b'"object"', b"\xff\xfe", b"{}", b'{"event":"object"}']
)
def test_lines_that_are_no_events_are_rubbish(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        as_passed_on(data, frozenset({"S1"}))


def test_texts_lose_control_characters_and_length() -> None:
    message = "\x1b[31mred\x1b[0m" + "x" * 10_000
    data = json.dumps({"event": "scene_failed", "scene": "S1", "message": message, "time": 1})
    event = as_passed_on(data.encode(), frozenset({"S1"}))
    assert event["message"].startswith("[31mred")
    assert 490 < len(event["message"]) <= 500


def test_a_status_file_that_is_a_link_is_never_read(root: Path) -> None:
    (root / "other.jsonl").write_text(line() + "\n")
    status_path(root).symlink_to(root / "other.jsonl")
    log = event_log(root)
    assert not log.take()
    assert len(log) == 0
    assert "not a plain file" in log.note()


def test_a_status_file_exchanged_for_a_link_later_is_not_followed(root: Path) -> None:
    status_path(root).write_text(line() + "\n")
    log = event_log(root)
    assert log.take()
    (root / "other.jsonl").write_text((line() + "\n") * 5)
    status_path(root).unlink()
    status_path(root).symlink_to(root / "other.jsonl")
    assert not log.take()
    assert len(log) == 1


@pytest.mark.parametrize("how", ["truncated", "replaced"])
def test_a_rewritten_status_file_is_left_alone_and_said(root: Path, how: str) -> None:
    status_path(root).write_text((line() + "\n") * 3)
    log = event_log(root)
    log.take()
    if how == "truncated":
        status_path(root).write_text(line() + "\n")
    else:
        new = root / "new"
        new.write_text((line() + "\n") * 9)
        new.replace(status_path(root))
    assert not log.take()
    assert len(log) == 3
    assert "rewritten" in log.note()


def test_half_lines_wait_and_endless_lines_pass_by(root: Path) -> None:
    log = event_log(root)
    with status_path(root).open("a") as status:
        status.write(line()[:20])
        status.flush()
        assert not log.take()
        status.write(line()[20:] + "\n")
        status.flush()
        assert log.take()
        status.write("x" * (3 * MAX_EVENT_BYTES))
        status.flush()
        assert not log.take()
        status.write("x" * (3 * MAX_EVENT_BYTES) + "\n" + line(n=2) + "\n")
        status.flush()
        assert log.take()
    assert [event["n"] for event in log.read(0, 10)] == [1, 2]
    assert log.dropped == 1


def test_events_are_neither_lost_nor_doubled_by_a_crash(root: Path) -> None:
    status_path(root).write_text(line(n=1) + "\n" + line(n=2) + "\nrubbish\n")
    event_log(root).take()
    kept = root / "sessions" / ID / "control/events.jsonl"
    kept.write_bytes(kept.read_bytes() + b'{"o":99,"i":1,"d"')  # cut off in the middle
    with status_path(root).open("a") as status:
        status.write(line(n=3) + "\n")
    log = event_log(root)
    log.take()
    assert [event["n"] for event in log.read(0, 10)] == [1, 2, 3]
    again = event_log(root)
    assert [event["n"] for event in again.read(1, 10)] == [2, 3]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The lines that a gate took the trouble to read."""
    lines: list[bytes] = []

    def parse(line: bytes, scenes: frozenset[str]) -> ModuleEvent:
        lines.append(line)
        return parse_line(line, scenes)

    monkeypatch.setattr(gate_events, "parse_line", parse)
    return lines


@pytest.mark.parametrize(
    ("budget", "value"), [("MAX_LINES", 5), ("MAX_EVENTS", 1), ("MAX_STATUS_BYTES", 500)]
)
def test_a_module_is_read_within_its_budget_and_it_is_said(
    root: Path, monkeypatch: pytest.MonkeyPatch, parsed: list[bytes], budget: str, value: int
) -> None:
    monkeypatch.setattr(gate_events, budget, value)
    status_path(root).write_text(line() + "\n")
    log = event_log(root)
    log.take()
    assert "more than can be read" not in log.note()
    with status_path(root).open("a") as status:
        status.write("{}\n" * 200 + line(n=2) + "\n")
        status.flush()
        log.take()
        read = len(parsed)
        assert read < 100
        assert log.note() == (
            "This module wrote more than can be read; what it told after that is not shown."
        )
        status.write(line(n=3) + "\n")
    again = event_log(root)
    assert not log.take()
    assert not again.take()
    assert len(parsed) == read, "not begun anew, by a later gate either"
    assert again.note() == log.note()
    assert [event["n"] for event in again.read(0, 10)] == [1]


def test_one_line_without_end_has_a_budget_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_events, "MAX_STATUS_BYTES", 2**20)
    with status_path(root).open("wb") as status:
        status.truncate(2**42)  # of holes
    log = event_log(root)
    log.take()
    assert "more than can be read" in log.note()


def test_a_gate_that_is_started_again_reads_no_line_twice(root: Path, parsed: list[bytes]) -> None:
    rubbish = "{}\n" * 1000
    for text in (rubbish, line(n=1) + "\n", rubbish + "x" * (2 * MAX_EVENT_BYTES), "x\n" + rubbish):
        with status_path(root).open("a") as status:
            status.write(text)
        parsed.clear()
        log = event_log(root)
        log.take()
        assert len(parsed) == text.count("\n") - text.startswith("x")
    assert (len(log), log.dropped) == (1, 3001)
    assert event_log(root).dropped == 3001


def test_events_that_are_gone_are_read_again(root: Path) -> None:
    """The position counts only beside the events that it was written for."""
    status_path(root).write_text(line(n=1) + "\nrubbish\n")
    event_log(root).take()
    (root / "sessions" / ID / "control/events.jsonl").unlink()
    log = event_log(root)
    assert log.take()
    assert (len(log), log.dropped) == (1, 1)


@pytest.mark.parametrize("name", ["events.jsonl", "events.position.json"])
@pytest.mark.parametrize(
    "text", ["no JSON\n", "[]\n", "{}\n", '{"end": "x", "o": 1, "i": 1, "d": "x"}\n']
)
def test_what_is_kept_of_a_module_and_damaged_stops_nobody(
    root: Path, name: str, text: str
) -> None:
    if (name, text) == ("events.position.json", "{}\n"):
        text = '{"at": {"offset": -1}}'  # nothing at all is no damage
    status_path(root).write_text(line(n=1) + "\n")
    (root / "sessions" / ID / "control" / name).write_text(text)
    log = event_log(root)
    assert not log.take()
    assert "damaged" in log.note()


# --- endpoint.json ------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GateSite]:
    yield from running_site(tmp_path, light=True)


def test_an_endpoint_is_taken_only_from_the_job_itself(site: GateSite) -> None:
    """A fake report leads nowhere: the scheduler vouches only for the job's own listener."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        port = service.getsockname()[1]
        session = site.submit(JobKind.SESSION, params={"linger_s": 600})
        (site.work(session.id) / "hold").touch()
        fake = {"host": "127.0.0.1", "port": port, "time": time.time()}
        write_json(site.control(session.id) / "endpoint.json", fake)
        wait_for("the fake to be noticed", lambda: "endpoint" in site.refusals())
        assert site.status(session.id).endpoint is None
        (site.work(session.id) / "hold").unlink()
        ready = site.ready(session.id)  # the script's own report replaces the fake
        taken = json.loads((site.control(session.id) / "record.json").read_text())["port"]
        write_json(site.control(session.id) / "endpoint.json", fake)
        site.wait(session.id, lambda s: s.events == 5)
        with (site.work(session.id) / "out" / "status.jsonl").open("a") as news:
            news.write("rubbish\n")
        # It has then looked at everything again.
        site.wait(session.id, lambda s: "1 status lines" in s.reason)
        again = json.loads((site.control(session.id) / "record.json").read_text())["port"]
        assert again == taken != port
        assert ready.endpoint is not None
        service.setblocking(False)
        with pytest.raises(BlockingIOError):
            service.accept()
    assert "endpoint" in site.refusals()


def test_a_job_cannot_hand_out_the_accounts_files(site: GateSite) -> None:
    status = site.submit()
    site.ended(status.id)
    out = site.work(status.id) / "out" / "S1"
    (out / "detections.geojson").unlink()
    (out / "detections.geojson").symlink_to(site.home / "host_key")
    with pytest.raises(Refused):
        site.ask(Verb.GET, GetRequest(status.id, ArtifactKind.DETECTIONS, "S1"))
    os.link(site.home / "host_key", out / "mask.tif")
    with pytest.raises(Refused):
        site.ask(Verb.GET, GetRequest(status.id, ArtifactKind.MASK, "S1"))
    _, log = site.ask(Verb.GET, GetRequest(status.id, ArtifactKind.SCENE_LOG, "S1"))
    assert log == b"looked at everything\n"
