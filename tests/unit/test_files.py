"""Atomic writes and JSON lines: what is left after a fault, modes, links, and whole lines."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lib.files.atomic import write_atomic
from lib.files.json_lines import JsonLines, append_json_line


@pytest.mark.parametrize("mode", [0o600, 0o640])
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_file_is_replaced_whole_with_its_mode(tmp_path: Path, mode: int, umask: int) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"a much longer text")
    before = os.umask(umask)
    try:
        write_atomic(file, b"new", mode=mode, sync=True)
    finally:
        os.umask(before)
    assert file.read_bytes() == b"new"
    assert file.stat().st_mode & 0o777 == mode
    assert list(tmp_path.iterdir()) == [file]


def test_a_fault_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"old")

    def full(_: Path, __: Path) -> None:
        raise OSError("full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="full"):
        write_atomic(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    (tmp_path / "f").symlink_to(other)
    write_atomic(tmp_path / "f", b"new")
    assert other.read_bytes() == b"other"
    assert not (tmp_path / "f").is_symlink()


def test_lines_of_two_writers_stay_whole(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    kept = JsonLines(file)
    kept.append({"n": 1, "text": "two\nlines"})
    append_json_line(file, {"n": 2})
    kept.append({"n": 3})
    kept.close()
    assert [json.loads(line)["n"] for line in file.read_text().splitlines()] == [1, 2, 3]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_log_is_never_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        append_json_line(tmp_path / "log.jsonl", {"n": 1})
    assert (tmp_path / "other").read_bytes() == b""
