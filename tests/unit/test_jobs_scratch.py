"""The node-local folder of a job: new, locked while it lives, and removed by a later job."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from lib.errors import InvalidInput, Refused, Unavailable
from lib.jobs import scratch as scratch_module
from lib.jobs.scratch import Scratch, check_place, located, node, room

OLD = time.time() - 3600


def place(tmp_path: Path, number: int) -> Path:
    return tmp_path / f"sb-0000000{number}-{number:012x}"


def aged(folder: Path) -> Path:
    os.utime(folder, (OLD, OLD))
    return folder


def test_it_is_private_new_and_gone_afterwards(tmp_path: Path) -> None:
    scratch = Scratch(place(tmp_path, 1))
    scratch.make("config", "r")
    assert scratch.path.stat().st_mode & 0o777 == 0o700
    assert {p.name for p in scratch.path.iterdir()} == {"config", "r"}
    scratch.remove()
    assert not scratch.path.exists()


def test_a_folder_that_somebody_prepared_is_refused_and_left_alone(tmp_path: Path) -> None:
    prepared = place(tmp_path, 1)
    prepared.mkdir()
    scratch = Scratch(prepared)
    with pytest.raises(FileExistsError):
        scratch.make()
    scratch.remove()
    assert prepared.exists()


def test_what_a_killed_job_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = place(tmp_path, 1)
    (left / "r").mkdir(parents=True)
    (left / "r").chmod(0)
    aged(left)
    living = Scratch(place(tmp_path, 2))
    living.make()
    assert not left.exists()
    living.remove()


def test_what_lives_is_young_or_not_ours_stays(tmp_path: Path) -> None:
    living = Scratch(place(tmp_path, 1))
    living.make()
    aged(living.path)
    young = place(tmp_path, 2)
    young.mkdir()
    otherwise_named = aged_new(tmp_path / "sb-config")
    linked = tmp_path / place(tmp_path, 3).name
    target = aged_new(tmp_path / "target")
    linked.symlink_to(target)
    stranger = aged_new(place(tmp_path, 4))
    if os.getuid() == 0:
        os.chown(stranger, 12345, 12345)
    new = Scratch(place(tmp_path, 5))
    new.make()
    for kept in (living.path, young, otherwise_named, linked, target):
        assert kept.exists(), kept
    assert stranger.exists() == (os.getuid() == 0)
    living.remove()
    new.remove()


def aged_new(folder: Path) -> Path:
    folder.mkdir()
    return aged(folder)


# --- where it lies ----------------------------------------------------------------------------

VARIABLES = {"TMPDIR": "/local/job7", "JOB": "7", "UP": "..", "DEEP": "a/b", "RELATIVE": "tmp"}


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("/tmp", "/tmp"),
        ("/local/scratch", "/local/scratch"),
        ("$TMPDIR", "/local/job7"),
        ("$TMPDIR/sb-1", "/local/job7/sb-1"),
        ("/scratch/$JOB/x", "/scratch/7/x"),
    ],
)
def test_a_place_may_name_variables_of_the_job(place: str, found: str) -> None:
    assert located(check_place(place), VARIABLES) == Path(found)


@pytest.mark.parametrize(
    "place",
    [
        *("", "tmp", "./tmp", "~/tmp", "/", "//tmp", "/tmp/", "/tmp/../etc", "/./tmp", "/a\nb"),
        *("$HOME", "$HOME/tmp", "/x/$HOME", "$PWD", "${TMPDIR}", "/x$JOB", "$tmpdir", "$(id)", "$"),
        "/" + "x" * 201,
    ],
)
def test_what_is_no_plain_place_is_refused(place: str) -> None:
    with pytest.raises(InvalidInput):
        check_place(place)


@pytest.mark.parametrize("place", ["$NONE", "$RELATIVE", "$JOB", "/x/$UP", "/x/$DEEP", "/x/$NONE"])
def test_a_variable_that_is_no_path_is_refused_on_its_node(place: str) -> None:
    with pytest.raises(Refused, match=f"Node {node()} has no place") as refused:
        located(place, VARIABLES)
    assert place in refused.value.message


def test_where_others_could_put_theirs_it_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside each the same place as it should be."""
    shared = tmp_path / "shared"
    shared.mkdir()
    below = shared / "below"
    below.mkdir()
    link = tmp_path / "link"
    link.symlink_to(shared)

    def made(folder: Path) -> str:
        scratch = Scratch(place(folder, 1))
        try:
            scratch.make()
        except Refused as exc:
            return exc.message
        scratch.remove()
        return ""

    assert made(below) == ""
    for mode, refused in ((0o777, True), (0o770, True), (0o1777, False), (0o755, False)):
        shared.chmod(mode)
        assert ("may rename" in made(shared)) is refused, oct(mode)
        assert ("may rename" in made(below)) is refused, "a folder on the way"
    if os.getuid():  # the system's links lead where its administrators want
        assert "is a link" in made(link)
    else:
        assert made(link) == ""
        os.chown(link, 12345, 12345, follow_symlinks=False)
        assert "is a link" in made(link)
        assert "is a link" in made(link / "below")
        os.chown(shared, 12345, 12345)
        assert "belongs to another account" in made(below)
        os.chown(shared, 0, 0)
    assert "no such file" in made(tmp_path / "nothing")
    (tmp_path / "file").touch()
    assert "is no folder" in made(tmp_path / "file")
    monkeypatch.setenv("HOME", str(shared))
    for inside in (shared, below):
        assert "lies in the home" in made(inside)
    monkeypatch.setenv("HOME", str(below))
    assert made(shared) == "", "beside a home"


def test_what_was_left_in_the_usual_place_goes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy may have named another one since."""
    usual, new = tmp_path / "usual", tmp_path / "new"
    usual.mkdir()
    new.mkdir()
    monkeypatch.setattr(scratch_module, "USUAL", str(usual))
    left = aged_new(place(usual, 1))
    scratch = Scratch(place(new, 2))
    scratch.make()
    assert not left.exists()
    scratch.remove()


def test_a_full_disk_is_told_with_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert room(tmp_path, tmp_path / "nothing") == ""
    found = os.statvfs(tmp_path)
    full = os.statvfs_result((*found[:3], 0, 0, *found[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    assert room(tmp_path) == f"There is no space left in {tmp_path} on node {node()}."

    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", no_space)
    with pytest.raises(Unavailable, match=f"no space left in {tmp_path} on node {node()}"):
        Scratch(place(tmp_path, 1)).make()
