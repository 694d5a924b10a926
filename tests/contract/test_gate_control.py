"""`admin.py gate start|stop|status|policy` over a real sshd: the gate, its node, its switch."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lib.config.clusters import read_cluster
from lib.errors import Conflict, Refused, Unavailable
from lib.gate_deploy.login import signed_in
from tests.login_node import LoginNode, admin, job_process, record, submit, wait

# --- start, stop, status --------------------------------------------------------------------


def test_stop_leaves_sessions_and_start_finds_them(deployed: LoginNode) -> None:
    """And a port that is taken meanwhile is said."""
    job = submit(deployed)
    process = job_process(deployed, job)
    said = admin(["gate", "stop", "nchc"])
    assert "is stopped. 1 session goes on." in said.text
    assert not (deployed.gate / "gate.json").exists()
    assert "does not run" in admin(["gate", "status", "nchc"]).text
    taken = pytest.raises(Unavailable, match=rf"(?s)Port {deployed.port} of .* is taken")
    with socket.create_server(("127.0.0.1", deployed.port)), taken:
        admin(["gate", "start", "nchc"])
    assert admin(["gate", "start", "nchc"]).value["live"] == 1
    assert "runs already" in admin(["gate", "start", "nchc"]).text
    assert process.is_running()
    said = admin(["gate", "status", "nchc"])
    assert "Live: 1 sessions and runs of 1 person, 0 GPUs." in said.text
    admin(["gate", "stop", "nchc", "--jobs"])
    assert not process.is_running()


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


def test_either_kill_switch_ends_everything(deployed: LoginNode) -> None:
    """The site's and the account's own."""
    site, account = deployed.root / "scenebridge.stop", deployed.gate / "STOP"
    job = submit(deployed)
    process = job_process(deployed, job)
    with thrown(deployed, site):
        assert not process.is_running()
        ended = record(deployed, job)
        assert (ended["state"], ended["end_reason"]) == ("ended", "stopped")
        assert "kill switch" in ended["reason"]
        with pytest.raises(Refused, match="The kill switch is on"):
            admin(["gate", "deploy", "nchc"])
        assert f"The kill switch is on: {site}" in admin(["gate", "status", "nchc"]).text
        events = [json.loads(x) for x in (deployed.gate / "audit.jsonl").read_text().splitlines()]
        assert {"kill-switch", "stopped"} <= {line["event"] for line in events}
    with thrown(deployed, account):
        pass


@contextlib.contextmanager
def thrown(node: LoginNode, switch: Path) -> Iterator[None]:
    """While it is thrown the gate has ended and cannot be started; afterwards it runs again."""
    pid = node.running()["pid"]
    switch.touch()
    try:
        wait(lambda: not psutil.pid_exists(pid))
        with pytest.raises(Refused, match=f"The kill switch is on: {switch}"):
            admin(["gate", "start", "nchc"])
        yield
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
    deployed.ask("cancel", json.dumps({"id": job}) + "\n")
    wait(lambda: record(deployed, job)["state"] == "ended")


def test_a_policy_that_changed_meanwhile_is_not_overwritten(deployed: LoginNode) -> None:
    entry = read_cluster(deployed.file)
    with signed_in(entry, "", print) as connection:
        answer, text = connection.ask("read-policy", home=str(deployed.gate))
        with (deployed.gate / "policy.toml").open("a") as policy_file:
            policy_file.write("# by somebody else\n")
        with pytest.raises(Conflict, match="meanwhile"):
            connection.ask(
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
