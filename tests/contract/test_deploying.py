"""`admin.py gate` over a real sshd, with a Python there that has no package."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from lib.clusters import read_cluster
from lib.deploying import bundle, pinning, steps, wheels
from lib.deploying.bundle import Piece
from lib.deploying.login import signed_in
from lib.errors import Conflict, NotFound, ProtocolError, Refused, StorageFull, Unavailable
from tests.login_node import LoginNode, admin

CODE = Path(__file__).resolve().parents[1] / "fixtures" / "gate_code"


@pytest.fixture(scope="module")
def packages() -> Path:
    """A folder with the wheels for this Python, as somebody without internet would bring."""
    target = wheels.Target((sys.version_info[0], sys.version_info[1]), os.uname().machine)
    try:
        wheels.wheels_for(target, None)
    except Unavailable as exc:
        pytest.skip(exc.message)
    return wheels.cache_folder() / target.tag


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginNode]:
    node = LoginNode(tmp_path_factory.mktemp("node"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in node.start().items():
            patch.setenv(name, value)
        try:
            yield node
        finally:
            node.stop()


@pytest.fixture
def deployed(node: LoginNode, packages: Path) -> LoginNode:
    """That node with a gate that runs, of this version and with a policy for small jobs."""
    shutil.rmtree(node.gate / "local", ignore_errors=True)
    if not (node.gate / "policy.toml").exists():
        deploy(node, packages)
    text = policy(node)
    if (node.gate / "policy.toml").read_text() != text:
        file = node.root / "new-policy.toml"
        file.write_text(text)
        admin(["gate", "policy", "nchc", "--set", str(file)])
    admin(["gate", "deploy", "nchc", "--wheels", str(packages)])
    return node


def deploy(node: LoginNode, packages: Path, *words: str) -> dict[str, Any]:
    answer = admin([
        "gate", "deploy", "nchc", "--portal-key", node.portal_key, "--scheduler", "local",
        "--runtime", "process", "--wheels", str(packages), *words,
    ])  # fmt: skip
    value: dict[str, Any] = answer.value
    return value


def policy(node: LoginNode, *, more: str = "") -> str:
    return f"""
format = 1
cluster = "nchc"
users = ["ada"]
data_paths = ["{node.root / "data"}"]
{more}
[listen]
port = {node.port}
[scheduler]
name = "local"
[runtime]
name = "process"
python = "{sys.executable}"
code = "{CODE}"
[[modules]]
id = "small"
version = "1.0.0"
entry = "small_module"
[[presets]]
name = "small"
title = "Small"
cores = 1
memory_mb = 500
max_walltime_s = 3600
"""


def submit(node: LoginNode, **params: Any) -> str:
    """A run that stays until it is stopped."""
    data = node.root / "data"
    data.mkdir(exist_ok=True)
    (data / "blue.tif").write_bytes(b"II*\0")
    item = {
        "type": "Feature", "stac_version": "1.1.0", "id": "S1", "geometry": None,
        "properties": {"datetime": "2024-01-01T00:00:00Z"}, "links": [],
        "assets": {"blue": {"href": str(data / "blue.tif")}},
    }  # fmt: skip
    request = {
        "id": str(uuid.uuid4()), "kind": "run", "owner": "ada", "module": "small",
        "module_version": "1.0.0", "params": {"objects": 2000, "pause_s": 1, **params},
        "items": [item],
        "preset": "small", "walltime_s": 600,
    }  # fmt: skip
    node.ask("submit", json.dumps(request) + "\n")
    return str(request["id"])


def record(node: LoginNode, job: str) -> dict[str, Any]:
    file = node.gate / "sessions" / job / "control" / "record.json"
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def job_process(node: LoginNode, job: str) -> psutil.Process:
    """The session script of a job that runs."""
    wait(lambda: record(node, job)["state"] == "running")
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "lib.jobs.session" in line and any(job in word for word in line):
            return process
    raise AssertionError("no such process")


def wait(until: Callable[[], bool], timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < deadline, "not reached"
        time.sleep(0.05)


def other_code(patch: pytest.MonkeyPatch, **changes: str) -> None:
    """From now on another version is shipped: file name (`_` for `/`) to what is added."""
    real = bundle.code_pieces
    added = {name.replace("__", "/") + ".py": text for name, text in changes.items()}

    def pieces() -> list[Piece]:
        return [
            replace(piece, data=piece.data + added.get(piece.path, "").encode()) for piece in real()
        ]

    patch.setattr(bundle, "code_pieces", pieces)


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


def test_another_portal_key_counts_at_once(deployed: LoginNode, packages: Path) -> None:
    before = deployed.running()["pid"]
    text = (deployed.root / "admin.pub").read_text()
    admin(["gate", "deploy", "nchc", "--portal-key", text, "--wheels", str(packages)])
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
    with signed_in(entry, "", print) as dialogue:
        with pytest.raises(ProtocolError, match=r"checksum of lib/x\.py is wrong"):
            dialogue.ask("install", b"x", home=str(deployed.gate), version=name, manifest=manifest)
        good = Piece("../../x.py", b"x")
        with pytest.raises(Exception, match="cannot be the name of a shipped file"):
            dialogue.ask(
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
    assert not psutil.pid_exists(gate)
    assert deployed.current() == done["here"] != old
    assert deployed.versions() == {old, done["here"]}  # the job runs from the old one
    assert process.is_running()
    assert job_process(deployed, job) == process
    deployed.ask("cancel", json.dumps({"id": job}) + "\n")
    wait(lambda: record(deployed, job)["state"] == "ended")
    other_code(monkeypatch, lib__gate__watch="# a third\n")
    done = admin(["gate", "upgrade", "nchc", "--wheels", str(packages)]).value
    assert deployed.versions() == {done["here"]}
    assert old in done["removed"]


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


# --- start, stop, status --------------------------------------------------------------------


def test_stop_leaves_sessions_and_start_finds_them(deployed: LoginNode) -> None:
    job = submit(deployed)
    process = job_process(deployed, job)
    said = admin(["gate", "stop", "nchc"])
    assert "is stopped. 1 session goes on." in said.text
    assert not (deployed.gate / "gate.json").exists()
    assert "does not run" in admin(["gate", "status", "nchc"]).text
    assert admin(["gate", "start", "nchc"]).value["live"] == 1
    assert "runs already" in admin(["gate", "start", "nchc"]).text
    assert process.is_running()
    said = admin(["gate", "status", "nchc"])
    assert said.value["here"] == said.value["current"]
    assert "Live: 1 sessions and runs of 1 person, 0 GPUs." in said.text
    admin(["gate", "stop", "nchc", "--jobs"])
    assert not process.is_running()


def test_a_taken_port_is_said(deployed: LoginNode) -> None:
    admin(["gate", "stop", "nchc"])
    taken = pytest.raises(Unavailable, match=rf"(?s)Port {deployed.port} of .* is taken")
    with socket.create_server(("127.0.0.1", deployed.port)), taken:
        admin(["gate", "start", "nchc"])
    assert admin(["gate", "start", "nchc"]).value["running"]


def test_another_port_in_the_cluster_file_is_said(deployed: LoginNode, packages: Path) -> None:
    deployed.write_cluster(port=deployed.port + 1)
    try:
        with pytest.raises(Conflict, match=f"listen on port {deployed.port}, and"):
            admin(["gate", "upgrade", "nchc", "--wheels", str(packages)])
    finally:
        deployed.write_cluster()


def test_another_node_neither_starts_nor_stops_it(deployed: LoginNode, packages: Path) -> None:
    pid, mine = deployed.running()["pid"], (deployed.gate / "node").read_text()
    assert mine == socket.gethostname() + "\n"
    (deployed.gate / "node").write_text("login-2\n")
    try:
        for words in (["start"], ["stop"], ["upgrade", "--wheels", str(packages)]):
            with pytest.raises((Conflict, Refused), match="belongs to the node login-2"):
                admin(["gate", words[0], "nchc", *words[1:]])
        assert "Name login-2 as the host" in admin(["gate", "status", "nchc"]).text
    finally:
        (deployed.gate / "node").write_text(mine)
    assert psutil.pid_exists(pid)
    assert deployed.running()["pid"] == pid


@pytest.mark.parametrize("where", ["account", "site"])
def test_the_kill_switch_ends_everything(deployed: LoginNode, where: str) -> None:
    switch = deployed.gate / "STOP" if where == "account" else deployed.root / "scenebridge.stop"
    text = policy(deployed, more=f'stop_files = ["{deployed.root / "scenebridge.stop"}"]')
    file = deployed.root / "stop-policy.toml"
    file.write_text(text)
    admin(["gate", "policy", "nchc", "--set", str(file)])
    pid, job = deployed.running()["pid"], submit(deployed)
    process = job_process(deployed, job)
    switch.touch()
    try:
        wait(lambda: not psutil.pid_exists(pid))
        assert not process.is_running()
        ended = record(deployed, job)
        assert (ended["state"], ended["end_reason"]) == ("ended", "stopped")
        assert "kill switch" in ended["reason"]
        with pytest.raises(Refused, match=f"The kill switch is on: {switch}"):
            admin(["gate", "start", "nchc"])
        with pytest.raises(Refused, match="The kill switch is on"):
            admin(["gate", "deploy", "nchc"])
        assert f"The kill switch is on: {switch}" in admin(["gate", "status", "nchc"]).text
        events = [json.loads(x) for x in (deployed.gate / "audit.jsonl").read_text().splitlines()]
        assert {"kill-switch", "stopped"} <= {line["event"] for line in events}
    finally:
        switch.unlink()
    assert admin(["gate", "start", "nchc"]).value["running"]


# --- policy ---------------------------------------------------------------------------------


def test_a_policy_is_checked_there_before_it_counts(deployed: LoginNode, tmp_path: Path) -> None:
    old = (deployed.gate / "policy.toml").read_text()
    assert admin(["gate", "policy", "nchc", "--get"]).value["policy"] == old
    new = tmp_path / "policy.toml"
    for wrong, why in (
        (old + "colour = 1\n", "unknown key"),
        (old.replace('"nchc"', '"abci"'), "is for abci, not for nchc"),
        (old.replace(f"port = {deployed.port}", "port = 1"), "listen on port 1"),
    ):
        new.write_text(wrong)
        with pytest.raises((Refused, Conflict), match=why):
            admin(["gate", "policy", "nchc", "--set", str(new)])
    assert (deployed.gate / "policy.toml").read_text() == old
    job = submit(deployed)
    process, pid = job_process(deployed, job), deployed.running()["pid"]
    new.write_text(old.replace('users = ["ada"]', 'users = ["bob"]'))
    said = admin(["gate", "policy", "nchc", "--set", str(new)])
    assert "sessions went on" in said.text
    assert deployed.running()["pid"] != pid
    assert process.is_running()
    assert (deployed.gate / "policy.toml.1").read_text() == old
    assert (deployed.gate / "policy.toml").stat().st_mode & 0o777 == 0o600
    with pytest.raises(AssertionError, match="does not take jobs from you"):
        submit(deployed)
    admin(["gate", "stop", "nchc", "--jobs"])


def test_a_policy_that_changed_meanwhile_is_not_overwritten(deployed: LoginNode) -> None:
    entry = read_cluster(deployed.file)
    with signed_in(entry, "", print) as dialogue:
        answer, text = dialogue.ask("read-policy", home=str(deployed.gate))
        with (deployed.gate / "policy.toml").open("a") as policy_file:
            policy_file.write("# by somebody else\n")
        with pytest.raises(Conflict, match="meanwhile"):
            dialogue.ask(
                "write-policy", text, home=str(deployed.gate), digest=answer["digest"],
                port=deployed.port,
            )  # fmt: skip


def test_a_policy_is_edited_until_the_gate_takes_it(
    deployed: LoginNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "y")
    editor = tmp_path / "editor"
    editor.write_text(
        f"""#!/bin/sh
if [ -e {tmp_path}/twice ]; then sed -i 's/^nonsense//' "$2"
else touch {tmp_path}/twice; printf 'nonsense\n# edited\n' >> "$2"; fi
"""
    )
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", f"{editor} --wait")
    monkeypatch.delenv("VISUAL", raising=False)
    assert admin(["gate", "policy", "nchc"]).value["changed"]
    assert len(asked) == 1
    assert (deployed.gate / "policy.toml").read_text().endswith("\n# edited\n")
    monkeypatch.setenv("EDITOR", "true")
    assert not admin(["gate", "policy", "nchc"]).value["changed"]


def test_the_version_of_this_computer_is_known_without_a_deploy(deployed: LoginNode) -> None:
    with signed_in(read_cluster(deployed.file), "", print) as dialogue:
        assert steps.version_here(dialogue, str(deployed.gate)) == deployed.current()


def test_the_host_key_can_be_pinned_later(deployed: LoginNode, packages: Path) -> None:
    deployed.write_cluster()
    said = admin(["gate", "deploy", "nchc", "--wheels", str(packages)]).text
    assert pinning.line_for(deployed.running()["host_key"]) in said
    assert "--pin writes it" in said
