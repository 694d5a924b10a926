"""Files and events: whole or absent, and plain words when the disk is full."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modulekit.errors import UsageError
from modulekit.files import read_json, write_bytes, write_json
from modulekit.status import Status

PROJECT = Path(__file__).resolve().parents[2]


def test_bytes_replace_what_was_there(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="choose another output folder"):
        write_bytes(tmp_path / "file" / "a", b"")


def test_what_json_cannot_say_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_json_round_trip(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Kōchi"})
    write_json(tmp_path / "b.json", {"name": "Kōchi"}, compact=True)
    assert read_json(tmp_path / "a.json") == read_json(tmp_path / "b.json") == {"name": "Kōchi"}
    assert (tmp_path / "b.json").read_text() == '{"name":"Kōchi"}\n'


def limited(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` where no file may grow over 2,000 bytes, as on a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, cwd=PROJECT, preexec_fn=limit, capture_output=True, text=True)


def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    code = (
        "import sys; from pathlib import Path; from modulekit.files import *\n"
        "try: write_bytes(Path(sys.argv[1]) / 'a', b'x' * 5000)\n"
        "except Exception as exc: print(type(exc).__name__, exc)"
    )
    result = limited(code, tmp_path)
    assert result.stdout.startswith("DiskFull a could not be written because the disk")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_events_that_cannot_be_written_stop_the_run(tmp_path):
    code = (
        "import sys; from pathlib import Path; from modulekit.status import Status\n"
        "status = Status(Path(sys.argv[1]) / 'status.jsonl')\n"
        "try:\n"
        "    for _ in range(100): status.scene_started('s' * 50)\n"
        "except Exception as exc: print(type(exc).__name__, exc)"
    )
    assert limited(code, tmp_path).stdout.startswith("DiskFull status.jsonl could not be")


def test_each_event_is_one_flushed_line(tmp_path):
    path = tmp_path / "status.jsonl"
    status = Status(path)
    for n in range(1, 4):
        status.scene_started(f"s\n{n}")
        lines = path.read_text().split("\n")
        assert lines[-1] == ""
        assert len(lines) == n + 1
        assert json.loads(lines[-2])["scene"] == f"s\n{n}"
    status.close()


def test_progress_is_not_told_too_often(tmp_path):
    status = Status(tmp_path / "status.jsonl")
    for step in range(1000):
        status.progress("s", step / 1000)
    status.close()
    assert len((tmp_path / "status.jsonl").read_text().splitlines()) <= 5


def test_a_new_run_begins_a_new_file_and_follows_no_link(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("keep me")
    (tmp_path / "status.jsonl").symlink_to(elsewhere)
    status = Status(tmp_path / "status.jsonl")
    status.run_done(0, 0)
    status.close()
    assert elsewhere.read_text() == "keep me"
    assert not (tmp_path / "status.jsonl").is_symlink()
