"""Set-up with the real venv, pip and npm, on a small project that needs no network."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from tools import bootstrap
from tools.bootstrap import FRONT_END, PACKAGES, Project, SetupError, is_due, prepare

PROJECT = Path(__file__).resolve().parents[2]
ASSETS = """
import pathlib
pathlib.Path("assets").mkdir(exist_ok=True)
pathlib.Path("assets/built").write_text(pathlib.Path("ui/components/map/own.js").read_text())
"""
LOCK = {
    "name": "small",
    "lockfileVersion": 3,
    "requires": True,
    "packages": {"": {"name": "small"}},
}


def write_wheel(folder: Path, version: str) -> None:
    """A package `tiny`, by hand: pip installs it without a network."""
    info = f"tiny-{version}.dist-info"
    files = {
        "tiny.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"tiny-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(name, text)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project folder that was set up once, for `run`."""
    root = tmp_path_factory.mktemp("project")
    wheels = tmp_path_factory.mktemp("wheels")
    for version in ("1.0", "2.0"):
        write_wheel(wheels, version)
    (root / "requirements.txt").write_text("tiny\n")
    (root / "requirements-dev.txt").write_text("")
    (root / "constraints.txt").write_text("tiny==1.0\n")
    (root / "package.json").write_text('{"name": "small", "private": true}')
    (root / "package-lock.json").write_text(json.dumps(LOCK))
    (root / "ui" / "components" / "map").mkdir(parents=True)
    (root / "ui" / "__init__.py").write_text("")
    (root / "ui" / "assets.py").write_text(ASSETS)
    (root / "ui" / "components" / "map" / "own.js").write_text("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(wheels))
        patch.setenv("PIP_USER", "1")  # the user's own setting must not lead elsewhere
        patch.delenv("PIP_CONFIG_FILE", raising=False)
        project = Project(root)
        prepare(project, "run")
        yield project


def tiny_version(project: Project) -> str:
    command = [project.python, "-c", "import tiny; print(tiny.version)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_first_set_up_installs_packages_and_front_end(made):
    assert list(made.venv.glob("lib/python*/site-packages/__pycache__/tiny.*.pyc"))
    assert tiny_version(made) == "1.0"
    assert (made.root / "assets" / "built").read_text() == "first"
    assert not any(is_due(made, part, "run") for part in (PACKAGES, FRONT_END))


def test_a_second_set_up_does_nothing_and_is_quick(made, capsys):
    began = time.monotonic()
    prepare(made, "run")
    assert time.monotonic() - began < 3
    assert capsys.readouterr().out == ""


def test_the_test_packages_are_due_by_themselves_and_cover_the_portal(made):
    assert is_due(made, PACKAGES, "test")
    prepare(made, "test")
    assert not is_due(made, PACKAGES, "test")
    assert not is_due(made, PACKAGES, "run")


def test_changed_pins_are_installed(made):
    (made.root / "constraints.txt").write_text("tiny==2.0\n")
    prepare(made, "run")
    assert tiny_version(made) == "2.0"
    assert is_due(made, PACKAGES, "test"), "what was made for ./run does not serve ./test"


def test_changed_own_scripts_are_built(made):
    (made.root / "ui" / "components" / "map" / "own.js").write_text("second")
    prepare(made, "run")
    assert (made.root / "assets" / "built").read_text() == "second"


def test_a_removed_assets_folder_is_built_again(made):
    shutil.rmtree(made.root / "assets")
    prepare(made, "run")
    assert (made.root / "assets" / "built").exists()


def test_a_failed_installation_says_what_to_do_and_is_tried_again(made):
    (made.root / "constraints.txt").write_text("tiny==3.0\n")
    for _ in range(2):
        with pytest.raises(
            SetupError, match=r"The packages could not be installed: .*tiny"
        ) as caught:
            prepare(made, "run")
        assert "internet connection" in str(caught.value)
        assert is_due(made, PACKAGES, "run")
    (made.root / "constraints.txt").write_text("tiny==2.0\n")
    prepare(made, "run")


def test_a_failed_build_of_the_front_end_is_tried_again(made):
    own = made.root / "ui" / "assets.py"
    own.write_text("raise SystemExit('error: no such file')")
    with pytest.raises(SetupError, match="front-end files could not be installed: no such file"):
        prepare(made, "run")
    own.write_text(ASSETS)
    prepare(made, "run")


def test_an_environment_whose_python_is_gone_is_made_again(made):
    made.python.unlink()
    prepare(made, "run")
    assert tiny_version(made) == "2.0"


def test_two_set_ups_at_once_take_turns(made, capsys):
    (made.root / "constraints.txt").write_text("tiny==1.0\n")
    with (made.root / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Thread(target=prepare, args=(made, "run"))
        other.start()
        other.join(timeout=2)
        assert other.is_alive(), "it must wait for the one that holds the lock"
    other.join(timeout=60)
    assert not other.is_alive()
    assert "Waiting for another set-up" in capsys.readouterr().out
    assert tiny_version(made) == "1.0"


def test_a_folder_that_cannot_be_written_is_named():
    with (
        pytest.raises(SetupError, match="/proc/1 cannot be written to"),
        bootstrap.one_at_a_time(Project(Path("/proc/1"))),
    ):
        pass


def test_an_old_npm_does_not_count(tmp_path):
    assert bootstrap.npm_version(program(tmp_path, "npm", "echo 6.14.0"), os.environ) == 6
    assert bootstrap.npm_version(program(tmp_path, "npm", "exit 1"), os.environ) == 0
    assert bootstrap.npm_version(str(tmp_path / "missing"), os.environ) == 0


# --- the tests of sites ----------------------------------------------------------------


@pytest.fixture
def becomes(monkeypatch):
    """What `main` became, without becoming it or setting anything up."""
    seen: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "prepare", lambda project, goal: seen.append([goal]))
    monkeypatch.setattr(bootstrap.os, "execve", lambda program, argv, env: seen.append(argv[1:]))
    monkeypatch.setattr(bootstrap.signal, "signal", lambda *_: None)
    monkeypatch.chdir(PROJECT)
    return seen


def test_sites_are_tested_alone_in_one_process_when_they_are_asked_for(becomes, monkeypatch):
    checked = []
    monkeypatch.setattr(bootstrap, "check_testbed", checked.append)
    bootstrap.main(["test", "-x", "--sites", "-k", "jobs"])
    assert becomes == [
        ["test"],
        ["-P", "-m", "pytest", "-n", "2", "tests/sites", "-x", "-k", "jobs"],
    ]
    assert len(checked) == 1
    del becomes[:]
    bootstrap.main(["test", "-x"])
    assert becomes[1][-1] == "-x"
    assert "tests/sites" not in becomes[1]
    assert len(checked) == 1, "the ordinary tests need no test-bed"


def test_sites_are_not_tested_where_the_test_bed_lacks_something(becomes, monkeypatch):
    def lacking(_):
        raise SetupError("the tests of sites cannot run.")

    monkeypatch.setattr(bootstrap, "check_testbed", lacking)
    with pytest.raises(SystemExit, match="SceneBridge: the tests of sites cannot run"):
        bootstrap.main(["test", "--sites"])
    assert becomes == []


def test_what_the_test_bed_lacks_is_said(tmp_path):
    package = tmp_path / "testbed"
    package.mkdir()
    (package / "__main__.py").write_text(
        "import sys; assert sys.argv[1:] == ['check']; sys.exit('testbed: run: mend it')"
    )
    with pytest.raises(SetupError, match=r"the tests of sites cannot run\. run: mend it$"):
        bootstrap.check_testbed(Project(tmp_path))
    (package / "__main__.py").write_text("")
    bootstrap.check_testbed(Project(tmp_path))


@pytest.mark.slow
def test_the_tests_of_sites_are_collected_by_name_only():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0"]
    # The other folders would only take time here.
    everything = [*command, "tests", "--ignore-glob=tests/[!s]*", "--ignore=tests/security"]
    listed = subprocess.run(everything, cwd=PROJECT, capture_output=True, text=True)
    assert listed.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, listed.stdout
    named = subprocess.run([*command, "tests/sites"], cwd=PROJECT, capture_output=True, text=True)
    assert named.returncode == 0
    assert "tests/sites/test_bed.py::" in named.stdout


# --- finding a Python ------------------------------------------------------------------


def program(folder: Path, name: str, body: str) -> str:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return str(file)


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`./run` of a copy of the two scripts, with nothing but `folder` on the PATH."""
    root = folder / "project"
    (root / "tools").mkdir(parents=True, exist_ok=True)
    shutil.copy(PROJECT / "run", root / "run")
    shutil.copy(PROJECT / "tools" / "bootstrap.sh", root / "tools" / "bootstrap.sh")
    (root / "tools" / "bootstrap.py").write_text("import sys; print(*sys.argv[1:], sep='|')")
    for name in ("sh", "dirname"):
        if not (folder / name).exists():
            (folder / name).symlink_to(shutil.which(name))
    return subprocess.run(
        [root / "run", *arguments], env={"PATH": str(folder)}, capture_output=True, text=True
    )


def test_a_shim_that_fails_is_passed_over_and_arguments_arrive_whole(tmp_path):
    program(tmp_path, "python3.13", "echo 'pyenv: command not found' >&2; exit 127")
    program(tmp_path, "python3", f'exec "{sys.executable}" "$@"')
    done = start(tmp_path, "--data", "a folder", "*")
    assert done.stdout == "run|--data|a folder|*\n"
    assert done.returncode == 0


def test_old_pythons_are_named(tmp_path):
    program(tmp_path, "python3", "echo 3.9.2")
    program(tmp_path, "python", "echo 2.7.18")
    done = start(tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "needs Python 3.11 or newer; found only python3 (3.9.2) python (2.7.18)." in done.stderr


def test_no_python_at_all_is_said(tmp_path):
    done = start(tmp_path)
    assert done.returncode == 1
    assert "no Python was found" in done.stderr


def test_a_python_without_venv_names_the_package_to_install(tmp_path):
    program(tmp_path, "python3", "echo 3.11.2; exit 1")
    done = start(tmp_path)
    assert done.returncode == 1
    assert "sudo apt install python3-venv" in done.stderr


def test_the_stamp_follows_the_contents_of_the_inputs(made):
    before = bootstrap.digest(made, FRONT_END, "run")
    own = made.root / "ui" / "components" / "map" / "own.js"
    text = own.read_text()
    own.write_text(text + " ")
    assert bootstrap.digest(made, FRONT_END, "run") != before
    own.write_text(text)
    assert bootstrap.digest(made, FRONT_END, "run") == before
    assert len(before) == len(hashlib.sha256().hexdigest())
