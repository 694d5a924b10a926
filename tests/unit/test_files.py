"""Atomic writes, JSON lines, trees: what a fault leaves, modes, links, whole lines, depth."""

from __future__ import annotations

import ctypes
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.files import tree
from lib.files.atomic import write_atomic
from lib.files.json_lines import JsonLines, append_json_line
from lib.files.repeated_lines import LogLine, RepeatedLines


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


class Log:
    """What a log of repeated lines came to hold."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[tuple[str, int]] = []
        self.full = False
        self.repeated = RepeatedLines(self._write, lambda: self.now)

    def add(self, who: str, act: str, about: str, result: str = "") -> None:
        self.repeated.add(LogLine(who, act, result, about))

    def _write(self, line: LogLine, more: int) -> None:
        if self.full:
            raise OSError("full")
        self.lines.append((" ".join(filter(None, (line.who, line.act, line.about))), more))


def test_a_line_is_repeated_only_when_something_else_happened_to_its_thing() -> None:
    log = Log()
    for who, act in (("a", "block"), ("a", "block"), ("a", "free"), ("b", "free"), ("a", "block")):
        log.add(who, act, "x")
    log.add("a", "block", "y")
    written = ["a block x", "a free x", "b free x", "a block x", "a block y"]
    assert log.lines == [(line, 0) for line in written]
    log.now = 600.0
    log.add("a", "block", "y")
    assert log.lines[5:] == [("a block x", 1), ("a block y", 0)]


def test_nobody_s_flood_hides_the_first_line_of_another_kind() -> None:
    log = Log()
    flooders = [f"f{n}" for n in range(12)]
    for n in range(101):
        for who in flooders:
            log.add(who, "look", f"{who}-{n}", "refused")
    log.add("z", "look", "quiet", "refused")
    log.add("z", "open", "quiet", "refused")
    assert len(log.lines) < 12 * 100, "all people together have a bound too"
    assert log.lines[-2:] == [("z look quiet", 0), ("z open quiet", 0)]
    written = len(log.lines)
    log.repeated.tell()
    told = log.lines[written:]
    assert {line for line, _ in told} == {f"{who} look" for who in flooders}
    assert written + sum(more for _, more in told) == 12 * 101 + 2, "none is lost silently"


def test_people_without_end_are_not_told_apart_for_ever() -> None:
    log = Log()
    for n in range(4_000):
        log.add(f"made up {n}", "look", f"{n}", "refused")
    assert len(log.lines) < 3_100
    written = len(log.lines)
    log.repeated.tell()
    assert log.lines[written:] == [("* look", 4_000 - written)]


def test_a_line_that_could_not_be_written_is_no_repetition() -> None:
    log = Log()
    log.full = True
    with pytest.raises(OSError, match="full"):
        log.add("a", "block", "x")
    log.full = False
    log.add("a", "block", "x")
    assert log.lines == [("a block x", 0)]


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


# --- trees that a job made ------------------------------------------------------------------

DEEP = 1500


def dig(top: Path, levels: int) -> None:
    """Folders below each other, deeper than any path can name, with a file in the last."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)


def measured(top: Path, max_bytes: int = 2**40, max_entries: int = 10**6) -> tree.Size:
    return tree.measure(top, max_bytes=max_bytes, max_entries=max_entries, timeout_s=60.0)


def descriptors() -> set[int]:
    """Those that are open; with one of the question itself."""
    return {int(fd.name) for fd in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = max(descriptors())
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 40, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_descriptors")
def test_a_tree_of_any_depth_is_counted_and_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    for name, levels in (("a", 20), ("b", DEEP), ("c", 20)):
        (top / name).mkdir(parents=True)
        dig(top / name, levels)
    size = measured(top)
    assert (size.entries, size.uncounted, size.in_time) == (DEEP + 20 + 20 + 6, "", True)
    before = descriptors()
    assert tree.remove(top, timeout_s=60.0)
    assert descriptors() == before
    assert not top.exists()


def test_no_link_is_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"x" * 2**20)
    top = tmp_path / "top"
    top.mkdir()
    (top / "folder").symlink_to(outside)
    (top / "file").symlink_to(outside / "f")
    assert measured(top).bytes < 2**20
    assert tree.remove(top, timeout_s=60.0)
    link = tmp_path / "link"
    link.symlink_to(outside)
    assert measured(link).uncounted
    assert tree.remove(link, timeout_s=60.0)
    assert (outside / "f").stat().st_size == 2**20


@pytest.mark.parametrize(("max_bytes", "max_entries"), [(1000, 100), (10**9, 3)])
def test_a_count_ends_at_its_bounds(tmp_path: Path, max_bytes: int, max_entries: int) -> None:
    for number in range(50):
        (tmp_path / f"f{number}").write_bytes(b"x" * 4096)
    size = measured(tmp_path, max_bytes, max_entries)
    assert size.entries == 1 if max_bytes == 1000 else max_entries + 1


def test_time_is_a_bound_and_what_is_left_is_removed_the_next_time(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    assert not tree.measure(top, max_bytes=2**40, max_entries=9, timeout_s=-1.0).in_time
    assert measured(top).in_time
    assert not tree.remove(top, timeout_s=-1.0)
    assert tree.remove(top, timeout_s=60.0)
    assert tree.remove(top, timeout_s=60.0)  # and once more


def test_more_folders_than_are_noted_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "_NAMES", 3)
    top = tmp_path / "top"
    for number in range(10):
        (top / f"d{number}" / "below").mkdir(parents=True)
        (top / f"f{number}").touch()
    assert tree.remove(top, timeout_s=60.0)


@pytest.fixture
def like_an_account() -> Iterator[None]:
    """Modes count for this thread, even where it is root's (without CAP_DAC_*)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before, less = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    less[:] = before[:]
    less[0] &= ~0b110
    assert libc.capset(header, less) == 0
    yield
    assert libc.capset(header, before) == 0


@pytest.mark.usefixtures("like_an_account")
def test_what_cannot_be_opened_is_said_and_is_removed_all_the_same(tmp_path: Path) -> None:
    for name, mode in (("closed", 0), ("unlisted", 0o300), ("blind", 0o400), ("fixed", 0o500)):
        top = tmp_path / name
        (top / "in" / "below").mkdir(parents=True)
        (top / "in" / "below" / "f").touch()
        (top / "in").chmod(mode)
        assert bool(measured(top).uncounted) == (mode != 0o500), name
        assert tree.remove(top, timeout_s=60.0), name
    (tmp_path / "closed").mkdir(mode=0)
    assert measured(tmp_path / "closed").uncounted


def test_the_way_up_is_the_way_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is moved away while a walk is below it leads it nowhere else."""
    probe, top, away = (tmp_path / name for name in ("probe", "top", "away"))
    for name in "abcd":
        (probe / name).mkdir(parents=True)
    first, *others = (entry.name for entry in os.scandir(probe))  # the walk goes there first
    for level in range(1, 31):
        for name in (first, *others):
            top.joinpath(*first * level, name).mkdir(parents=True, exist_ok=True)
    for name in others:
        (away / name).mkdir(parents=True)
        (away / name / "precious").touch()
    up, moves = tree._up, []

    def moved(fd: int, key: tuple[int, int]) -> int:
        here = Path(f"/proc/self/fd/{fd}").readlink()
        moves.append(here)
        if len(moves) == 1:
            here.rename(away / first)
        return up(fd, key)

    monkeypatch.setattr(tree, "_up", moved)
    assert not tree.remove(top, timeout_s=60.0)
    assert len(list(away.rglob("precious"))) == 3
    assert tree.remove(top, timeout_s=60.0)
    assert len(list(away.rglob("precious"))) == 3
