"""`admin.py gate` over a real sshd, with a Python there that has no package."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import psutil
import pytest

from lib.config.clusters import read_cluster
from lib.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    ProtocolError,
    Refused,
    StorageFull,
    Unavailable,
)
from lib.gate_deploy import host_key_pin, steps, wheels
from lib.gate_deploy.bundle import BundleFile
from lib.gate_deploy.login import signed_in
from lib.jobs.processes import start_of
from tests.login_node import (
    LoginNode,
    admin,
    deploy,
    job_process,
    other_code,
    record,
    submit,
    wait,
)

# --- deploy ---------------------------------------------------------------------------------


def test_deploy_from_nothing_and_again(node: LoginNode, packages: Path) -> None:
    done = deploy(node, packages, "--pin")
    assert node.gate.stat().st_mode & 0o777 == 0o700
    for name in ("host_key", "authorized_key", "policy.toml"):
        assert (node.gate / name).stat().st_mode & 0o777 == 0o600
    assert done["running"]
    assert node.ask("info")["cluster"] == "nchc"
    assert node.versions() == {node.current()} == {done["here"]}
    entry = read_cluster(node.file)
    assert entry.gate is not None
    assert entry.gate.host_key == done["host_key"] == node.running()["host_key"]
    # The packages are the ones that were sent, and no others.
    mapped = {m.path for m in psutil.Process(done["pid"]).memory_maps() if "cffi" in m.path}
    assert mapped
    assert all(path.startswith(str(node.gate / "versions" / done["here"])) for path in mapped)
    again = deploy(node, packages)
    assert (again["pid"], again["host_key"]) == (done["pid"], done["host_key"])
    assert not again["first_policy"]
    with signed_in(entry, "", print) as connection:
        assert steps.version_here(connection, str(node.gate)) == node.current()


def test_packages_are_fetched_for_where_there_is_no_internet(
    packages: Path, tmp_path: Path
) -> None:
    """What `gate wheels` leaves is what `--wheels` takes, checked by the same pins."""
    version, machine = ".".join(map(str, sys.version_info[:2])), os.uname().machine
    into = tmp_path / "usb" / "wheels"
    done = admin(["gate", "wheels", str(into), "--python", version, "--machine", machine])
    assert f"packages for Python {version} on {machine} are in {into}" in done.text
    target = wheels.Target((sys.version_info[0], sys.version_info[1]), machine)
    taken = wheels.wheels_for(target, into)
    assert {Path(piece.path).name for piece in taken} == {file.name for file in into.iterdir()}
    assert all((packages / file.name).read_bytes() == file.read_bytes() for file in into.iterdir())
    with pytest.raises(InvalidInput, match=r"--python must be one of 3\.10"):
        admin(["gate", "wheels", str(into), "--python", "2.7"])
    with pytest.raises(Unavailable, match="cannot be written"):
        wheels.bring(target, next(into.glob("*.whl")))


def test_another_portal_key_counts_at_once(deployed: LoginNode, packages: Path) -> None:
    """And the gate's own can be pinned in the cluster's file later."""
    before = deployed.running()["pid"]
    deployed.write_cluster()
    text = (deployed.root / "admin.pub").read_text()
    words = ["--portal-key", text, "--wheels", str(packages)]
    said = admin(["gate", "deploy", "nchc", *words]).text
    assert host_key_pin.line_for(deployed.running()["host_key"]) in said
    assert "--pin writes it" in said
    with pytest.raises(AssertionError, match="Permission denied"):
        deployed.ask("info")
    deploy(deployed, packages)
    assert deployed.ask("info")
    assert deployed.running()["pid"] != before


def test_the_first_deploy_needs_the_portals_key(
    node: LoginNode, packages: Path, tmp_path: Path
) -> None:
    node.write_cluster(home=str(tmp_path / "gate"))
    try:
        with pytest.raises(NotFound, match=r"admin\.py gate key nchc"):
            admin(["gate", "deploy", "nchc", "--scheduler", "local", "--runtime", "process",
                   "--wheels", str(packages)])  # fmt: skip
        with pytest.raises(NotFound, match=r"begin with admin\.py gate deploy"):
            admin(["gate", "status", "nchc"])
    finally:
        node.write_cluster()


def test_a_folder_with_other_things_is_left_alone(
    node: LoginNode, packages: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    node.write_cluster(home=str(tmp_path))
    try:
        with pytest.raises(Conflict, match="holds other things"):
            deploy(node, packages)
        assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
    finally:
        node.write_cluster()


# --- signing in -----------------------------------------------------------------------------


def test_without_an_agent_nothing_is_tried(
    node: LoginNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK")
    with pytest.raises(Refused, match="No agent was forwarded"):
        admin(["gate", "status", "nchc"])


def test_another_host_key_is_refused(node: LoginNode) -> None:
    text = node.file.read_text()
    try:
        node.file.write_text(text.replace(node.sshd.host_key, node.portal_key))
        with pytest.raises(Refused, match="not one that is pinned"):
            admin(["gate", "status", "nchc"])
    finally:
        node.file.write_text(text)


def test_no_suitable_python_names_what_is_there(node: LoginNode, tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\necho 3.6.15\nexit 1\n")
    old.chmod(0o755)
    path, node.path = node.path, str(tmp_path)
    node.write_cluster(python="")
    node.write_login()
    try:
        with pytest.raises(NotFound, match=r"python3 is 3\.6\.15, which is too old"):
            admin(["gate", "status", "nchc"])
    finally:
        node.path = path
        node.write_login()
        node.write_cluster()


def test_the_python_of_the_cluster_file_is_taken_or_nothing(node: LoginNode) -> None:
    node.write_cluster(python="/opt/none/bin/python3")
    try:
        with pytest.raises(NotFound, match=r"looked for /opt/none/bin/python3\)"):
            admin(["gate", "status", "nchc"])
    finally:
        node.write_cluster()


def test_a_sealed_key_sets_up_no_gate(node: LoginNode) -> None:
    public = (node.root / "admin.pub").read_text()
    node.sshd.stop()
    node.sshd.authorized(f'restrict,command="/bin/false" {public}')
    node.sshd.start("ForceCommand none")
    try:
        with pytest.raises(Refused, match="sealed for the tunnel"):
            admin(["gate", "status", "nchc"])
    finally:
        node.sshd.stop()
        node.sshd.authorized(public)
        node.sshd.start()


# --- what arrives ---------------------------------------------------------------------------


def test_a_wheel_with_another_checksum_is_not_sent(
    node: LoginNode, packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(packages, tmp_path / "wheels")
    wheel = next((tmp_path / "wheels").glob("asyncssh-*"))
    wheel.write_bytes(wheel.read_bytes() + b"x")
    other_code(monkeypatch, lib__errors="# another\n")
    before = node.versions() if node.gate.exists() else set()
    with pytest.raises(Refused, match="checksum is wrong"):
        deploy(node, tmp_path / "wheels")
    assert before == (node.versions() if node.gate.exists() else set())


def test_what_arrives_changed_is_not_installed(deployed: LoginNode) -> None:
    entry, name = read_cluster(deployed.file), f"9.9-{'a' * 12}"
    before = deployed.versions()
    manifest = {"files": [["lib/x.py", 1, "0" * 64]], "wheels": []}
    with signed_in(entry, "", print) as connection:
        with pytest.raises(ProtocolError, match=r"checksum of lib/x\.py is wrong"):
            connection.ask(
                "install", b"x", home=str(deployed.gate), version=name, manifest=manifest
            )
        good = BundleFile("../../x.py", b"x")
        with pytest.raises(Exception, match="cannot be the name of a shipped file"):
            connection.ask(
                "install", b"x", home=str(deployed.gate), version=name,
                manifest={"files": [good.entry], "wheels": []},
            )  # fmt: skip
    assert deployed.versions() == before


def test_a_version_that_was_changed_there_is_sent_again(
    deployed: LoginNode, packages: Path
) -> None:
    module = deployed.gate / "current" / "lib" / "errors.py"
    text = module.read_text()
    module.write_text(text + "# changed\n")
    deploy(deployed, packages)
    assert module.read_text() == text


def test_a_full_home_is_said(node: LoginNode, packages: Path, tmp_path: Path) -> None:
    node.before = "ulimit -f 100"
    node.write_login()
    node.write_cluster(home=str(tmp_path / "gate"))
    try:
        with pytest.raises(StorageFull, match="quota is used up"):
            deploy(node, packages)
        assert not list((tmp_path / "gate" / "versions").iterdir())
    finally:
        node.before = ""
        node.write_login()
        node.write_cluster()


# --- upgrade --------------------------------------------------------------------------------


def test_a_session_goes_on_through_an_upgrade(
    deployed: LoginNode, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, gate = deployed.current(), deployed.running()["pid"]
    job = submit(deployed)
    process = job_process(deployed, job)
    other_code(monkeypatch, lib__gate__watch="# another\n")
    done = admin(["gate", "upgrade", "nchc", "--wheels", str(packages)]).value
    assert done["running"]
    assert done["pid"] != gate
    assert done["live"] == 1
    assert not start_of(gate)  # an upgrade waits for its end, but not until it is reaped
    assert deployed.current() == done["here"] != old
    assert deployed.versions() == {old, done["here"]}  # the job runs from the old one
    assert process.is_running()
    assert job_process(deployed, job) == process
    deployed.ask("cancel", json.dumps({"id": job}) + "\n")
    wait(lambda: record(deployed, job)["state"] == "ended")
    again = admin(["gate", "upgrade", "nchc", "--wheels", str(packages)]).value
    assert again["pid"] == done["pid"]
    assert deployed.versions() == {done["here"]}
    assert old in again["removed"]


def test_a_version_that_does_not_come_up_gives_way_to_the_old_one(
    deployed: LoginNode, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = deployed.current()
    job = submit(deployed)
    process = job_process(deployed, job)
    broken = "\nasync def serve(home):\n    raise SceneBridgeError('No luck today.')\n"
    other_code(monkeypatch, lib__gate__serve=broken)
    with pytest.raises(Unavailable, match=r"(?s)did not come up.*runs again.*No luck today"):
        admin(["gate", "upgrade", "nchc", "--wheels", str(packages)])
    assert deployed.current() == deployed.running()["code"] == old
    assert deployed.ask("info")["live"] == 1
    assert process.is_running()
    assert admin(["gate", "stop", "nchc", "--jobs"]).value["live"] == 0
    assert not process.is_running()


def test_a_version_that_does_not_take_the_policy_changes_nothing(
    deployed: LoginNode, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, pid = deployed.current(), deployed.running()["pid"]
    other_code(
        monkeypatch, lib__gate__policy="\ndef load(path, home):\n    raise InvalidInput('No.')\n"
    )
    with pytest.raises(Refused, match="does not take this cluster's policy"):
        admin(["gate", "upgrade", "nchc", "--wheels", str(packages)])
    assert (deployed.current(), deployed.running()["pid"]) == (old, pid)
