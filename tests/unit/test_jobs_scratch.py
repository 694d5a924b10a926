"""The node-local folder of a job: new, locked while it lives, and removed by a later job."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lib.jobs.scratch import Scratch

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
