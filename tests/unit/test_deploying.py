"""What is shipped to a login node, and the program that puts it there."""

from __future__ import annotations

import ast
import errno
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import grimp
import pytest

from lib.config.offerings import load_offerings
from lib.config.settings import PROJECT
from lib.errors import Conflict, InvalidInput, NotFound, ProtocolError, Refused, StorageFull
from lib.gate.policy import parse
from lib.gate_deploy import bundle, connection, first_policy, host_key_pin, steps, wheels
from lib.gate_deploy.bundle import BundleFile
from lib.gate_deploy.login import refuse_portal
from lib.gate_deploy.remote import frames, main, versions
from lib.gate_deploy.remote.gate_dir import GateDir, make_gate_dir
from lib.model import ClusterId
from tests.unit.test_repository import pins, tracked

KEY = "ssh-ed25519 " + "A" * 68
NAME = f"0.1.0-{'a' * 12}"
HERE = wheels.Target((3, 11), "x86_64")


# --- the bundle -----------------------------------------------------------------------------


def test_the_bundle_is_all_that_the_gate_needs_and_no_more() -> None:
    graph = grimp.build_graph("lib", cache_dir=None)
    needed = {"lib"}
    for start in ("lib.gate", "lib.jobs"):
        for module in {start, *graph.find_descendants(start)}:
            needed |= {module, *graph.find_upstream_modules(module)}
    files = {piece.path for piece in bundle.code_pieces() if piece.path.startswith("lib/")}
    modules = {f.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for f in files}
    packages = {name.rpartition(".")[0] for name in needed} - {""}
    assert modules == needed | packages | {m for m in modules if m.startswith("lib.model")}


def test_the_notebooks_that_policies_name_are_in_it() -> None:
    paths = {piece.path for piece in bundle.code_pieces()}
    for module in load_offerings(PROJECT).modules.values():
        assert first_policy.module_entry(module)["notebook"] in paths
    assert not any(path.startswith("modules/") and path.endswith(".py") for path in paths)


def test_any_change_makes_another_version() -> None:
    code = [BundleFile("lib/gate/__init__.py", b'VERSION = "1.2.3"\n'), BundleFile("lib/x.py", b"")]
    names = {
        bundle.version_name(pieces, pinned, target)
        for pieces, pinned, target in (
            (code, "p", "cp311-x86_64"),
            ([code[0], BundleFile("lib/x.py", b"#")], "p", "cp311-x86_64"),
            (code, "q", "cp311-x86_64"),
            (code, "p", "cp312-x86_64"),
        )
    }
    assert len(names) == 4
    assert all(name.startswith("1.2.3-") for name in names)
    assert bundle.version_name(code, "p", "cp311-x86_64") in names


def test_the_program_there_needs_the_standard_library_alone() -> None:
    allowed = set(sys.stdlib_module_names)
    for name in connection.SOURCES:
        tree = ast.parse((PROJECT / f"{name.replace('.', '/')}.py").read_text())
        for node in ast.walk(tree):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                named = [node.module or ""]
                if node.module == "lib.gate_deploy.remote":
                    named = [f"{node.module}.{alias.name}" for alias in node.names]
            for found in named:
                assert found.split(".")[0] in allowed or found in connection.SOURCES, (name, found)


def test_its_modules_are_all_named() -> None:
    files = {f.stem for f in tracked("lib/gate_deploy/remote/*.py")} - {"__init__"}
    assert {name.rpartition(".")[2] for name in connection.SOURCES} == files | {
        "errors",
        "atomic",
        "json_lines",
        "json_value",
    }


SHELLS = ("sh", "bash", "dash", "zsh", "csh", "tcsh", "fish")


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shutil.which(shell)])
def test_every_shell_starts_the_program(shell: str, tmp_path: Path) -> None:
    line = connection.remote_command(sys.executable)
    asked = frames.pack_frame({"do": "look", "home": str(tmp_path)})
    done = subprocess.run(
        [shell, "-c", line], input=connection.program() + asked, capture_output=True, timeout=300
    )
    assert done.stdout.startswith(b"\nscenebridge-dialogue-1 python\n"), done
    answer = frames.read_frame(io.BytesIO(done.stdout.split(b"python\n", 1)[1]))
    assert answer is not None
    assert answer[0]["ok"]
    assert answer[0]["executable"] == sys.executable


@pytest.mark.parametrize("name", ["python; rm -rf", "$(id)", "a b", "it's"])
def test_a_python_that_is_a_command_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        connection.remote_command(name)


def test_a_program_that_arrives_changed_does_not_run(tmp_path: Path) -> None:
    changed = connection.program().replace(b"def main()", b"def mayn()")
    done = subprocess.run(
        ["sh", "-c", connection.remote_command(sys.executable)],
        input=changed, capture_output=True, timeout=300,
    )  # fmt: skip
    assert b"the program arrived changed" in done.stderr
    assert done.returncode == 1


# --- frames ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"hello\n", b"[1]\n", b'{"do": "x"}\n', b'{"bytes": -1}\n', b'{"bytes": 3}\nab']
)
def test_what_is_no_frame_is_named(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        frames.read_frame(io.BytesIO(data))


def test_frames_arrive_whole() -> None:
    source = io.BytesIO(frames.pack_frame({"do": "x"}, b"\n\0") + frames.pack_frame({"y": 1}))
    assert frames.read_frame(source) == ({"do": "x"}, b"\n\0")
    assert frames.read_frame(source) == ({"y": 1}, b"")
    assert frames.read_frame(source) is None


# --- on the login node ----------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_or_quota_is_said(number: int) -> None:
    error = main._of_system(OSError(number, "x", "/home/user/y"))
    assert isinstance(error, StorageFull)
    assert "/home/user/y" in error.message


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_home_that_is_not_writable_is_said(number: int) -> None:
    error = main._of_system(OSError(number, "x", "/home/user/y"))
    assert isinstance(error, Refused)
    assert "[gate] home" in error.message


def place(root: Path) -> GateDir:
    return make_gate_dir(str(root / "gate"))


def manifest(files: list[BundleFile], *packages: BundleFile) -> dict[str, Any]:
    return {"files": [f.entry for f in files], "wheels": [p.entry for p in packages]}


def wheel(**files: str) -> BundleFile:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return BundleFile("x-1-py3-none-any.whl", out.getvalue())


def test_a_version_is_installed_whole(tmp_path: Path) -> None:
    there, file = place(tmp_path), BundleFile("lib/a.py", b"a = 1\n")
    package = wheel(**{"x/__init__.py": "", "x-1.data/scripts/run": "no"})
    body = file.data + package.data
    versions.install(there, NAME, manifest([file], package), body)
    folder = there.version(NAME)
    assert (folder / "lib" / "a.py").read_bytes() == file.data
    assert (folder / "packages" / "x" / "__init__.py").exists()
    assert not list(folder.rglob("run"))
    assert versions.installed(there, NAME)
    (folder / "packages" / "x" / "__init__.py").write_text("changed")
    assert not versions.installed(there, NAME)
    versions.install(there, NAME, manifest([file], package), body)
    assert versions.installed(there, NAME)
    assert [f.name for f in there.versions.iterdir()] == [NAME]


@pytest.mark.parametrize("path", ["../a.py", "/etc/passwd", "lib/../../a.py", "", "lib/.x", "a\nb"])
def test_files_go_nowhere_else(tmp_path: Path, path: str) -> None:
    there = place(tmp_path)
    with pytest.raises(InvalidInput, match="cannot be the name"):
        versions.install(there, NAME, manifest([BundleFile(path, b"x")]), b"x")
    package = wheel(**{f"{path or '.'}": "x"})
    with pytest.raises(InvalidInput, match="cannot be the name"):
        versions.install(there, NAME, manifest([], package), package.data)
    assert list(there.versions.iterdir()) == []


@pytest.mark.parametrize("body", [b"y", b"", b"xx"])
def test_a_wrong_checksum_or_size_installs_nothing(tmp_path: Path, body: bytes) -> None:
    there = place(tmp_path)
    with pytest.raises(ProtocolError):
        versions.install(there, NAME, manifest([BundleFile("lib/a.py", b"x")]), body)
    assert list(there.versions.iterdir()) == []


def test_versions_that_somebody_uses_stay(tmp_path: Path) -> None:
    there = place(tmp_path)
    names = [f"0.1.0-{letter * 12}" for letter in "abcd"]
    for name in names:
        versions.install(there, name, manifest([]), b"")
    there.switch(names[0])
    control = there.home / "sessions" / "x" / "control"
    control.mkdir(parents=True)
    record = control / "record.json"
    record.write_text(f'{{"state": "running", "code": "{names[1]}"}}')
    (there.home / "gate.json").write_text(f'{{"code": "{names[2]}"}}')
    assert versions.prune(there) == [names[3]]
    record.write_text('{"state": "queued"}')  # whose it is cannot be known
    assert versions.prune(there) == []
    record.write_text("{")
    assert versions.prune(there) == []
    record.write_text(f'{{"state": "ended", "code": "{names[1]}"}}')
    assert versions.prune(there) == [names[1]]


def test_a_home_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "a.tex").touch()
    with pytest.raises(Conflict, match="holds other things"):
        make_gate_dir(str(tmp_path / "thesis"))
    (tmp_path / "link").symlink_to(tmp_path / "gate")
    (tmp_path / "gate").mkdir(mode=0o755)
    with pytest.raises(Refused, match="not a folder of this account"):
        make_gate_dir(str(tmp_path / "link"))
    make_gate_dir(str(tmp_path / "gate"))
    assert (tmp_path / "gate").stat().st_mode & 0o777 == 0o700


# --- wheels ---------------------------------------------------------------------------------


def test_the_gates_packages_are_the_ones_that_the_tests_run_with() -> None:
    pinned = {pin.name: pin.version for pin in wheels.pins_for(wheels.Target((3, 13), "x86_64"))}
    for name, version in pinned.items():
        assert pins("requirements.txt")[name] == version, name
    assert {"asyncssh", "cryptography"} <= set(pinned)


@pytest.mark.parametrize("machine", wheels.MACHINES)
@pytest.mark.parametrize("python", wheels.PYTHONS)
def test_every_python_has_its_packages(python: tuple[int, int], machine: str) -> None:
    names = [pin.name for pin in wheels.pins_for(wheels.Target(python, machine))]
    assert len(names) == len(set(names))
    assert ("tomli" in names) == (python == (3, 10))
    assert {"asyncssh", "cryptography", "cffi", "pycparser", "typing-extensions"} <= set(names)


@pytest.mark.parametrize(
    ("python", "machine", "system", "libc", "why"),
    [
        ((3, 9), "x86_64", "Linux", ("glibc", "2.28"), "Python 3.10 to 3.14"),
        ((3, 11), "ppc64le", "Linux", ("glibc", "2.28"), "x86_64 or aarch64"),
        ((3, 11), "x86_64", "Linux", ("glibc", "2.12"), "glibc 2.17 or newer"),
        ((3, 11), "x86_64", "Linux", ("", ""), "another C library"),
        ((3, 11), "arm64", "Darwin", ("", ""), "login nodes with Linux"),
    ],
)
def test_where_there_are_no_wheels_it_is_said(
    python: tuple[int, int], machine: str, system: str, libc: tuple[str, str], why: str
) -> None:
    with pytest.raises(Refused, match=why):
        wheels.target_of(python, machine, system, libc)
    assert wheels.target_of((3, 11), "x86_64", "Linux", ("glibc", "2.36")) == HERE


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("cffi-2.1.1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", True),
        ("cffi-2.1.1-cp312-cp312-manylinux2014_x86_64.whl", False),
        ("cffi-2.1.1-cp311-cp311-manylinux2014_aarch64.whl", False),
        ("cffi-2.1.1-cp39-abi3-manylinux_2_17_x86_64.whl", True),
        ("cffi-2.1.1-cp312-abi3-manylinux_2_17_x86_64.whl", False),
        ("cffi-2.1.1-cp311-cp311-manylinux_2_34_x86_64.whl", False),
        ("cffi-2.1.1-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("cffi-2.1.1-py3-none-any.whl", True),
        ("cffi-2.1.2-py3-none-any.whl", False),
        ("cffix-2.1.1-py3-none-any.whl", False),
        ("cffi-2.1.1.tar.gz", False),
    ],
)
def test_only_wheels_of_that_python_and_processor_fit(name: str, fits: bool) -> None:
    assert wheels._fits(name, wheels.Pin("cffi", "2.1.1", frozenset()), HERE) is fits


def test_a_folder_of_wheels_is_taken_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = b"the wheel"
    pin = wheels.Pin("small", "1.0", frozenset({hashlib.sha256(good).hexdigest()}))
    monkeypatch.setattr(wheels, "pins_for", lambda _: [pin])
    with pytest.raises(NotFound, match="no wheel of small"):
        wheels.wheels_for(HERE, tmp_path)
    file = tmp_path / "small-1.0-py3-none-any.whl"
    file.write_bytes(b"another")
    with pytest.raises(Refused, match="checksum is wrong"):
        wheels.wheels_for(HERE, tmp_path)
    file.write_bytes(good)
    assert wheels.wheels_for(HERE, tmp_path) == [BundleFile(file.name, good)]
    with pytest.raises(NotFound, match="no folder"):
        wheels.wheels_for(HERE, tmp_path / "none")


def test_pip_is_asked_for_pinned_wheels_alone(tmp_path: Path) -> None:
    words = wheels.pip_arguments(HERE, tmp_path / "r.txt", tmp_path)
    assert {"--require-hashes", "--only-binary=:all:", "--no-deps"} <= set(words)
    assert not [word for word in words if "://" in word or "index" in word]


# --- the cluster's file, the policy, the key ------------------------------------------------

FILE = f"""\
# A cluster.
id = "nchc"
title = "T"
groups = ["everyone"]
[login]
host = "login.example"
host_keys = ["{KEY}"]
[gate]   # where it is
port = 22022
"""


@pytest.mark.parametrize(
    "text",
    [FILE, FILE + f'host_key = "ssh-ed25519 {"B" * 68}"\nhome = "x"\n', FILE + "# the end\n"],
)
def test_the_host_key_is_written_into_its_table(tmp_path: Path, text: str) -> None:
    file = tmp_path / "nchc.toml"
    file.write_text(text)
    file.chmod(0o640)
    host_key_pin.pin(file, KEY)
    assert tomllib.loads(file.read_text())["gate"]["host_key"] == KEY
    assert file.read_text().startswith("# A cluster.\n")
    assert file.stat().st_mode & 0o777 == 0o640
    assert [f.name for f in tmp_path.iterdir()] == ["nchc.toml"]


def test_a_file_written_otherwise_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "nchc.toml"
    text = FILE.split("[gate]")[0].replace("[login]", "gate = {port = 1}\n[login]")
    file.write_text(text)
    with pytest.raises(Conflict, match=r"write into \[gate\] yourself: host_key"):
        host_key_pin.pin(file, KEY)
    assert file.read_text() == text


def facts(**programs: str) -> dict[str, Any]:
    return {"programs": programs, "executable": sys.executable}


def test_the_first_policy_is_one(tmp_path: Path) -> None:
    modules = load_offerings(PROJECT).modules.values()
    text = first_policy.first_policy(
        ClusterId("nchc"),
        22022,
        first_policy.found_scheduler(facts(), "local"),
        first_policy.found_runtime(facts(), "process"),
        ["https://portal.example.org"],
        modules,
    )
    policy = parse(tomllib.loads(text), tmp_path)
    assert {module.id for module in policy.modules} == {module.id for module in modules}
    assert all(m.notebook and m.notebook.is_file() for m in policy.modules)
    assert (policy.port, policy.users, policy.data_paths) == (22022, ("*",), ())
    assert policy.may_frame("https://portal.example.org")


def test_modules_that_need_images_are_not_offered_without() -> None:
    modules = load_offerings(PROJECT).modules.values()
    runtime = first_policy.found_runtime(facts(apptainer="/opt/bin/apptainer"), "")
    assert runtime == {"name": "apptainer", "binary": "/opt/bin/apptainer"}
    scheduler = first_policy.found_scheduler(facts(sbatch="/opt/slurm/bin/sbatch"), "")
    assert scheduler == {"name": "slurm", "bin": "/opt/slurm/bin"}
    text = first_policy.first_policy(ClusterId("nchc"), 1, scheduler, runtime, [], modules)
    assert "modules" not in tomllib.loads(text)
    assert "# [[modules]]" in text


def test_a_login_node_without_a_scheduler_is_not_guessed_at() -> None:
    with pytest.raises(InvalidInput, match="--scheduler"):
        first_policy.found_scheduler(facts(), "")
    with pytest.raises(InvalidInput, match="--runtime"):
        first_policy.found_runtime(facts(), "")


def test_the_portals_key_is_a_public_one() -> None:
    assert steps.public_key(f"{KEY} scenebridge-portal", str) == KEY
    assert steps.public_key("key.pub", lambda _: f"{KEY} x\n") == KEY
    for wrong in ("hello", "-----BEGIN OPENSSH PRIVATE KEY-----\nabc", "ssh-ed25519"):
        with pytest.raises(InvalidInput, match="--portal-key"):
            steps.public_key("key.pub", lambda _, text=wrong: text)


def test_the_portals_account_sets_up_no_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, tunnels = tmp_path / "data", tmp_path / "tunnels"
    data.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    refuse_portal(data, tunnels)
    (data / "portal.sqlite").touch()
    refuse_portal(data, tunnels)  # somebody else's portal
    monkeypatch.setattr(os, "geteuid", lambda: (data / "portal.sqlite").stat().st_uid or 12345)
    os.chown(data / "portal.sqlite", os.geteuid(), -1)
    with pytest.raises(Refused, match="portal's account"):
        refuse_portal(data, tunnels)
