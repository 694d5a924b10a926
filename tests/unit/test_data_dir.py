"""The data folder has one portal; the runtime folder is short, private and found again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.config.data_dir import PortalRecord, lock_data_folder, make_data_folder, running_portal
from lib.config.runtime_dir import LONGEST_RUNTIME, make_runtime_folder, runtime_path
from lib.errors import Conflict, Refused, Unavailable

PROJECT = Path(__file__).resolve().parents[2]
CLAIM = """
import sys
from pathlib import Path
from lib.config.data_dir import PortalRecord, lock_data_folder
with lock_data_folder(Path(sys.argv[1]), PortalRecord(4711, "http://localhost:8777", "/nowhere")):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def other_portal(data: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, data],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "claimed\n"
    return process


def test_a_new_data_folder_is_private(tmp_path):
    make_data_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_file_is_no_data_folder(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(Unavailable, match="it is a file"):
        make_data_folder(tmp_path / "data")


def test_a_folder_that_cannot_be_written_is_named():
    # /proc refuses new files to root too, so this test needs no other user.
    with pytest.raises(Unavailable, match=r"/proc/1.* cannot be written to .*--data"):
        make_data_folder(Path("/proc/1"))


def test_a_second_portal_is_refused_and_told_where_the_first_is(tmp_path):
    process = other_portal(tmp_path)
    try:
        said = "already running .* at http://localhost:8777 .process 4711."
        with (
            pytest.raises(Conflict, match=said),
            lock_data_folder(tmp_path, PortalRecord(1, "", "")),
        ):
            pass
        assert running_portal(tmp_path).origin == "http://localhost:8777"
    finally:
        process.kill()
        process.communicate()


def test_a_killed_portal_leaves_the_folder_free(tmp_path):
    process = other_portal(tmp_path)
    process.kill()
    process.communicate()
    assert running_portal(tmp_path) is None
    with lock_data_folder(tmp_path, PortalRecord(1, "http://localhost:1", "")):
        assert json.loads((tmp_path / "portal.json").read_text())["pid"] == 1


def test_no_portal_runs_on_a_folder_that_is_not_there(tmp_path):
    assert running_portal(tmp_path / "none") is None


def test_the_runtime_folder_is_short_whatever_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    deep = Path("/" + "/".join(["a-long-folder-name"] * 20))
    assert len(str(runtime_path(deep))) <= LONGEST_RUNTIME
    assert runtime_path(deep) != runtime_path(deep / "other")


def test_the_login_session_s_folder_is_used_when_it_is_short_and_ours(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/")
    ours = os.getuid() == 0
    chosen = runtime_path(Path("/some/data"))
    assert chosen.parent == (Path("/") if ours else Path("/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert runtime_path(Path("/some/data")).parent == Path("/tmp")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime_path(Path("/some/data")).parent == Path("/tmp")


def test_the_folder_of_the_portal_before_is_found_again(tmp_path, monkeypatch):
    before = tmp_path / "runtime"
    make_runtime_folder(before)
    with lock_data_folder(tmp_path, PortalRecord(1, "", str(before))):
        pass
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/")
    assert runtime_path(tmp_path) == before
    before.rmdir()
    assert runtime_path(tmp_path) != before


def test_a_runtime_folder_is_made_private_and_taken_over(tmp_path):
    folder = tmp_path / "sb"
    make_runtime_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    make_runtime_folder(folder)


def test_a_squatted_runtime_folder_is_refused(tmp_path):
    link = tmp_path / "link"
    (tmp_path / "target").mkdir(mode=0o700)
    link.symlink_to(tmp_path / "target")
    file = tmp_path / "file"
    file.write_text("")
    opened = tmp_path / "open"
    opened.mkdir()
    opened.chmod(0o755)
    for squatted in (link, file, opened):
        with pytest.raises(Refused, match="not private to you"):
            make_runtime_folder(squatted)


@pytest.mark.skipif(os.getuid() != 0, reason="giving a folder away needs root")
def test_a_runtime_folder_of_somebody_else_is_refused(tmp_path):
    folder = tmp_path / "sb"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    with pytest.raises(Refused, match="not private to you"):
        make_runtime_folder(folder)
    with lock_data_folder(tmp_path, PortalRecord(1, "", str(folder))):
        pass
    assert runtime_path(tmp_path) != folder
