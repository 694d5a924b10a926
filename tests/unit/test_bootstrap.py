"""Set-up with the real venv, pip and npm, on a small project that needs no network."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
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


def write_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    """A package, by hand, to be installed without a network."""
    info = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o100755 << 16
            wheel.writestr(entry, text)


def lock_of(wheels: Path, name: str, version: str) -> str:
    wheel = wheels / f"{name}-{version}-py3-none-any.whl"
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The packages `tiny`, and `uv`: the one of this environment, with what it was told."""
    folder = tmp_path_factory.mktemp("wheels")
    for version in ("1.0", "2.0"):
        write_wheel(folder, "tiny", version, {"tiny.py": f"version = {version!r}\n"})
    uv = Path(sys.executable).parent / "uv"
    script = f"""#!python
import os, sys
with open({str(folder / "told")!r}, "a") as told:
    print(*sys.argv[1:], os.environ.get("UV_FIND_LINKS"), file=told)
os.environ["UV_CACHE_DIR"] = {str(folder / "cache")!r}
os.execv({str(uv)!r}, [{str(uv)!r}, *sys.argv[1:]])
"""
    write_wheel(folder, "uv", "1.0", {"uv-1.0.data/scripts/uv": script})
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, wheels):
    """A project folder that was set up once, for `run`, in place of an environment whose Python
    is gone."""
    root = tmp_path_factory.mktemp("project")
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "python").symlink_to(root / "gone")
    (root / ".venv" / "left").touch()
    (root / "tools").mkdir()
    (root / "tools" / "uv.txt").write_text(lock_of(wheels, "uv", "1.0"))
    (root / "requirements.txt").write_text(lock_of(wheels, "tiny", "1.0"))
    (root / "requirements-dev.txt").write_text("-r requirements.txt\n")
    (root / "package.json").write_text('{"name": "small", "private": true}')
    (root / "package-lock.json").write_text(json.dumps(LOCK))
    (root / "ui" / "components" / "map").mkdir(parents=True)
    (root / "ui" / "__init__.py").write_text("")
    (root / "ui" / "assets.py").write_text(ASSETS)
    (root / "ui" / "components" / "map" / "own.js").write_text("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(wheels))
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_USER", "1")  # the user's own setting must not lead elsewhere
        project = Project(root)
        prepare(project, "run")
        yield project


def tiny_version(project: Project) -> str:
    command = [project.python, "-c", "import tiny; print(tiny.version)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_the_first_set_up_installs_packages_and_front_end(made, wheels):
    assert not (made.venv / "left").exists(), "an environment whose Python is gone is made anew"
    assert list(made.venv.glob("lib/python*/site-packages/__pycache__/tiny.*.pyc"))
    assert tiny_version(made) == "1.0"
    assert (made.root / "assets" / "built").read_text() == "first"
    assert not any(is_due(made, part, "run") for part in (PACKAGES, FRONT_END))
    told = (wheels / "told").read_text()
    assert "--require-hashes" in told
    assert "--no-index" in told
    assert told.endswith(f"{wheels}\n"), "uv is led to where pip is led"


@pytest.mark.slow
def test_packages_are_installed_by_uv_where_it_can_be_had(made):
    installer = made.venv.glob("lib/python*/site-packages/tiny-1.0.dist-info/INSTALLER")
    assert [file.read_text().strip() for file in installer] == ["uv"]


@pytest.mark.slow
def test_a_second_set_up_does_nothing(made, capsys, monkeypatch):
    monkeypatch.setattr(bootstrap, "run_logged", lambda *_: pytest.fail("nothing is due"))
    monkeypatch.setattr(bootstrap, "one_at_a_time", lambda *_: pytest.fail("nothing is due"))
    prepare(made, "run")
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_test_packages_are_due_by_themselves_and_cover_the_portal(made):
    assert is_due(made, PACKAGES, "test")
    prepare(made, "test")
    assert not is_due(made, PACKAGES, "test")
    assert not is_due(made, PACKAGES, "run")


@pytest.mark.slow
def test_changed_pins_are_installed(made, wheels):
    (made.root / "requirements.txt").write_text(lock_of(wheels, "tiny", "2.0"))
    prepare(made, "run")
    assert tiny_version(made) == "2.0"
    assert is_due(made, PACKAGES, "test"), "what was made for ./run does not serve ./test"


@pytest.mark.slow
def test_without_uv_pip_installs_the_packages_and_one_line_says_so(made, wheels, capsys):
    (made.root / "requirements.txt").write_text(lock_of(wheels, "tiny", "1.0"))
    lock = made.root / "tools" / "uv.txt"
    lock.write_text("uv==9.0 --hash=sha256:" + "0" * 64)
    prepare(made, "run")
    assert tiny_version(made) == "1.0"
    said = [line for line in capsys.readouterr().out.splitlines() if "pip" in line]
    assert len(said) == 1
    assert "uv cannot do it (" in said[0]
    assert "uv==9.0" in said[0]
    lock.write_text(lock_of(wheels, "uv", "1.0"))


@pytest.mark.slow
def test_changed_own_scripts_are_built(made):
    (made.root / "ui" / "components" / "map" / "own.js").write_text("second")
    prepare(made, "run")
    assert (made.root / "assets" / "built").read_text() == "second"


@pytest.mark.slow
def test_a_removed_assets_folder_is_built_again(made):
    shutil.rmtree(made.root / "assets")
    prepare(made, "run")
    assert (made.root / "assets" / "built").exists()


@pytest.mark.slow
def test_a_failed_installation_says_what_to_do_and_is_tried_again(made, wheels):
    """A file that is not the locked one is installed by neither."""
    lock = made.root / "requirements.txt"
    lock.write_text("tiny==2.0 --hash=sha256:" + "0" * 64)
    with pytest.raises(SetupError, match="The packages could not be installed: ") as caught:
        prepare(made, "run")
    assert "internet connection" in str(caught.value)
    assert is_due(made, PACKAGES, "run")
    assert tiny_version(made) == "1.0"
    lock.write_text(lock_of(wheels, "tiny", "2.0"))
    prepare(made, "run")
    assert tiny_version(made) == "2.0"


@pytest.mark.slow
def test_what_is_made_counts_no_more_once_the_python_is_gone(made):
    away = made.python.rename(made.python.with_name("away"))
    assert bootstrap.venv_version(made) == ""
    assert is_due(made, PACKAGES, "run")
    away.rename(made.python)
    assert not is_due(made, PACKAGES, "run")


@pytest.mark.slow
def test_a_failed_build_of_the_front_end_is_tried_again(made):
    own = made.root / "ui" / "assets.py"
    own.write_text("raise SystemExit('error: no such file')")
    with pytest.raises(SetupError, match="front-end files could not be installed: no such file"):
        prepare(made, "run")
    own.write_text(ASSETS)
    prepare(made, "run")


def test_two_set_ups_at_once_take_turns(tmp_path, monkeypatch):
    waiting, told = threading.Event(), []
    monkeypatch.setattr(bootstrap, "say", lambda line: (told.append(line), waiting.set()))

    def other_set_up():
        with bootstrap.one_at_a_time(Project(tmp_path)):
            told.append("its turn")

    with (tmp_path / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Thread(target=other_set_up)
        other.start()
        assert waiting.wait(timeout=300)
        assert told == ["Waiting for another set-up of this folder to finish."]
    other.join(timeout=300)
    assert told[1:] == ["its turn"]


def test_a_folder_that_cannot_be_written_is_named():
    with (
        pytest.raises(SetupError, match="/proc/1 cannot be written to"),
        bootstrap.one_at_a_time(Project(Path("/proc/1"))),
    ):
        pass


# --- where uv gets the packages from ---------------------------------------------------


def test_files_are_readable_by_whom_the_umask_lets_read_them(tmp_path):
    folder = tmp_path / ".venv" / "lib" / "python3" / "site-packages"
    folder.mkdir(parents=True)
    for name, mode in (("module.py", 0o600), ("program", 0o700)):
        (folder / name).touch()
        (folder / name).chmod(mode)
    before = os.umask(0o027)
    try:
        bootstrap.open_files(Project(tmp_path))
    finally:
        os.umask(before)
    assert (folder / "module.py").stat().st_mode & 0o777 == 0o640
    assert (folder / "program").stat().st_mode & 0o777 == 0o750


def test_pips_own_settings_are_known_and_later_ones_win(tmp_path, monkeypatch):
    (tmp_path / ".venv").symlink_to(sys.prefix)
    file = tmp_path / "pip.conf"
    file.write_text(
        "[install]\nfind-links = /a\n   /b\n[global]\nfind-links = /no\ntimeout = 5\n"
        "proxy = here:1\n[list]\nformat = columns\n"
    )
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("PIP_PROXY", "there:2")
    found = bootstrap.pip_settings(Project(tmp_path))
    assert found["find-links"].split() == ["/a", "/b"]
    assert (found["timeout"], found["proxy"]) == ("5", "there:2")
    assert "format" not in found


@pytest.fixture
def bare(monkeypatch):
    for name in list(os.environ):
        monkeypatch.delenv(name)
    return monkeypatch


def test_uv_is_led_to_where_pip_is_led(bare, tmp_path):
    bundle = tmp_path / "bundle.pem"
    told = bootstrap.uv_environment(
        {
            "index-url": "index",
            "extra-index-url": "one\n two",
            "find-links": "/a\n/b",
            "trusted-host": "host",
            "proxy": "there:2",
            "cert": str(bundle),
            "client-cert": "me.pem",
            "default-timeout": "180",
            "retries": "2",
            "keyring-provider": "subprocess",
            "user": "1",
        }
    )
    del told["PYTEST_CURRENT_TEST"]
    assert told == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": "index",
        "UV_EXTRA_INDEX_URL": "one two",
        "UV_FIND_LINKS": "/a,/b",
        "UV_INSECURE_HOST": "host",
        "HTTP_PROXY": "there:2",
        "HTTPS_PROXY": "there:2",
        "ALL_PROXY": "there:2",
        "SSL_CERT_FILE": str(bundle),
        "SSL_CLIENT_CERT": "me.pem",
        "UV_HTTP_TIMEOUT": "180",
        "UV_HTTP_RETRIES": "2",
        "UV_KEYRING_PROVIDER": "subprocess",
    }


def test_certificates_come_from_a_folder_or_the_variables_that_pip_reads_too(bare, tmp_path):
    assert bootstrap.uv_environment({"cert": str(tmp_path)})["SSL_CERT_DIR"] == str(tmp_path)
    bare.setenv("REQUESTS_CA_BUNDLE", "bundle.pem")
    assert bootstrap.uv_environment({})["SSL_CERT_FILE"] == "bundle.pem"


def test_what_is_set_for_uv_itself_stays(bare):
    bare.setenv("UV_INDEX_URL", "own")
    bare.setenv("UV_FIND_LINKS", "own")
    told = bootstrap.uv_environment({"index-url": "other", "find-links": "other"})
    assert "UV_DEFAULT_INDEX" not in told
    assert told["UV_FIND_LINKS"] == "own"


def test_an_old_npm_does_not_count(tmp_path):
    assert bootstrap.npm_version(program(tmp_path, "npm", "echo 6.14.0"), os.environ) == 6
    assert bootstrap.npm_version(program(tmp_path, "npm", "exit 1"), os.environ) == 0
    assert bootstrap.npm_version(str(tmp_path / "missing"), os.environ) == 0


# --- what ./test becomes ---------------------------------------------------------------


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
        ["-P", "-m", "pytest", "-n", "3", "tests/sites", "-x", "-k", "jobs"],
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


@pytest.mark.parametrize(
    "selected", ["tests/sites/test_bed.py", "tests/sites/", "tests/sites/test_bed.py::test_one"]
)
def test_an_argument_selects_among_the_tests_of_sites(becomes, monkeypatch, selected):
    monkeypatch.setattr(bootstrap, "check_testbed", lambda _: None)
    bootstrap.main(["test", "--sites", "-x", selected])
    assert becomes[1][-2:] == ["-x", selected]
    assert "tests/sites" not in becomes[1]


def test_fast_leaves_out_what_takes_long(becomes):
    bootstrap.main(["test", "fast", "-k", "fast"])
    assert becomes[0] == ["test"]
    assert becomes[1][-4:] == ["-m", "not browser and not slow and not portal", "-k", "fast"]
    del becomes[:]
    bootstrap.main(["test", "-k", "fast"])
    assert "-m" not in becomes[1][3:], "only the first word means the tier"


def test_changed_hands_over_to_the_tool_that_knows_what_a_change_breaks(becomes):
    bootstrap.main(["test", "--changed", "-x"])
    assert becomes == [["test"], ["-P", "-m", "tools.changed", "-x"]]


@pytest.mark.slow
def test_the_tests_of_sites_are_collected_by_name_only(tmp_path):
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    (tmp_path / "tests" / "sites").mkdir(parents=True)
    for file in ("tests/test_other.py", "tests/sites/test_bed.py"):
        (tmp_path / file).write_text("def test_it(): pass\n")

    def collected(*arguments: str) -> str:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        return done.stdout

    assert "tests/sites" not in collected()
    assert "tests/sites/test_bed.py::" in collected("tests/sites")


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


@pytest.mark.slow
def test_the_stamp_follows_the_contents_of_the_inputs(made):
    before = bootstrap.digest(made, FRONT_END, "run")
    own = made.root / "ui" / "components" / "map" / "own.js"
    text = own.read_text()
    own.write_text(text + " ")
    assert bootstrap.digest(made, FRONT_END, "run") != before
    own.write_text(text)
    assert bootstrap.digest(made, FRONT_END, "run") == before
    assert len(before) == len(hashlib.sha256().hexdigest())
