"""Start, stop, upgrade and give another policy to the gate of one folder.

Whatever goes wrong, what ran before runs again: its jobs are never touched, and live in the
scheduler and in processes of their own.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from lib.errors import Conflict, NotFound, Refused, SceneBridgeError, Unavailable
from lib.files.atomic import write_atomic
from lib.gate_deploy.remote import versions
from lib.gate_deploy.remote.frames import Message
from lib.gate_deploy.remote.gate_dir import GateDir


def status(gate_dir: GateDir) -> Message:
    """What the deployed code says, and which version that is."""
    current = gate_dir.require_current()
    return {**gate_dir.gate(current, "status"), "current": current}


def start(gate_dir: GateDir) -> Message:
    """Start the gate unless it runs."""
    current = gate_dir.require_current()
    said = gate_dir.gate(current, "status")
    if not said["running"]:
        _serve(gate_dir, current)
    return {**status(gate_dir), "was_running": said["running"]}


def stop(gate_dir: GateDir, *, jobs: bool) -> Message:
    """Stop the gate; with `jobs` all that it started too."""
    current = gate_dir.require_current()
    answer = gate_dir.gate(current, "stop", *(["--jobs"] if jobs else []))
    return {**status(gate_dir), "was_running": answer["was_running"]}


def first(gate_dir: GateDir, new: str, cluster: str, key: bytes, policy: bytes) -> Message:
    """Complete the folder: keys, and a policy where there is none. Starts nothing.

    Args:
        key: the portal's public key; empty keeps the one that is there.
        policy: written only where there is none.
    """
    arguments = ["--cluster", cluster, "--fix-node"]
    given = {"portal-key": key, "policy": b"" if gate_dir.policy.exists() else policy}
    files = {name: gate_dir.home / f".given-{name}" for name, data in given.items() if data}
    if not key and not (gate_dir.home / "authorized_key").exists():
        raise NotFound(
            "The gate does not know the portal's key yet: print it on the portal host with "
            f"`admin.py gate key {cluster}`, and give it with --portal-key."
        )
    if gate_dir.policy.exists():
        _checked(gate_dir, new)
    try:
        for name, file in files.items():
            write_atomic(file, given[name], sync=True)
            arguments += [f"--{name}", str(file)]
        keys = gate_dir.home / "authorized_key", gate_dir.home / "host_key"
        before = [_bytes_of(file) for file in keys]
        answer = gate_dir.gate(new, "init", *arguments)
        return {**answer, "key_changed": before != [_bytes_of(file) for file in keys]}
    finally:
        for file in files.values():
            file.unlink(missing_ok=True)


def replace(gate_dir: GateDir, new: str, *, port: int, start: bool, restart: bool) -> Message:
    """Change over to an installed version; if it does not come up, back to the old one.

    Args:
        port: where the tunnels lead to.
        start: also when no gate ran before.
        restart: also when this version runs already.
    Raises:
        Refused: the version does not take the policy, or the kill switch is on.
        Conflict: the policy names another port, or the gate belongs to another node.
        Unavailable: the new version did not come up; the old one runs again.
    """
    checked = _checked(gate_dir, new)
    _require_port(checked, port)
    old = gate_dir.current()
    before = _require_changeable(gate_dir.gate(new, "status"))
    running = bool(before["running"])
    same = running and before["running_code"] == new and old == new
    if not same or restart:
        if running:
            gate_dir.gate(old or new, "stop")
        gate_dir.switch(new)
        if running or start:
            _start_or_go_back(gate_dir, new, old, running=running)
        if old != new:
            gate_dir.audit("deployed", version=new, before=old)
    removed = versions.prune(gate_dir)
    return {
        **status(gate_dir),
        "before": old,
        "was_running": running,
        "removed": removed,
        "problems": checked["problems"],
    }


def read_policy(gate_dir: GateDir) -> tuple[Message, bytes]:
    """The policy and its digest, which `write_policy` wants to see again."""
    gate_dir.require_current()
    data = gate_dir.policy.read_bytes()
    return {"digest": hashlib.sha256(data).hexdigest()}, data


def write_policy(gate_dir: GateDir, digest: str, data: bytes, *, port: int) -> Message:
    """Replace the policy, if the deployed code takes it, and let a running gate read it.

    Args:
        digest: of the policy that was read, "" to replace any.
        port: where the tunnels lead to.
    Raises:
        Conflict: somebody else changed it meanwhile.
        Refused: it is not acceptable, or no gate starts with it; the old one stays.
    """
    current = gate_dir.require_current()
    said = _require_changeable(gate_dir.gate(current, "status"), switched_off=True)
    old = gate_dir.policy.read_bytes()
    if digest and hashlib.sha256(old).hexdigest() != digest:
        raise Conflict("Somebody else has changed the policy meanwhile; look at it again.")
    new = gate_dir.home / ".policy-new.toml"
    write_atomic(new, data, sync=True)
    try:
        checked = gate_dir.gate(current, "check", "--policy", str(new))
    finally:
        new.unlink(missing_ok=True)
    _require_port(checked, port)
    write_atomic(gate_dir.policy.with_name("policy.toml.1"), old, sync=True)
    write_atomic(gate_dir.policy, data, sync=True)
    if said["running"]:
        _restart_or_put_back(gate_dir, current, old)
    gate_dir.audit("policy-changed", digest=hashlib.sha256(data).hexdigest())
    return {**status(gate_dir), "problems": checked["problems"], "was_running": said["running"]}


def _checked(gate_dir: GateDir, version: str) -> Message:
    try:
        return gate_dir.gate(version, "check")
    except SceneBridgeError as exc:
        raise Refused(
            f"The new version does not take this cluster's policy, so nothing was changed: "
            f"{exc.message}"
        ) from exc


def _require_port(checked: Message, port: int) -> None:
    if checked["port"] != port:
        raise Conflict(
            f"The policy lets the gate listen on port {checked['port']}, and [gate] of the "
            f"cluster file leads tunnels to {port}; nothing was changed. Make them the same: in "
            "that file, or with admin.py gate policy."
        )


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def _require_changeable(said: Message, *, switched_off: bool = False) -> Message:
    """Pass on what `status` said, where this node may change something.

    Raises:
        Conflict: the gate belongs to another node: whether it runs cannot be seen here.
        Refused: the kill switch is on, and that matters.
    """
    if said["node"] not in ("", said["this_node"]):
        raise Conflict(
            f"The gate belongs to the node {said['node']}, and this connection leads to "
            f"{said['this_node']}. Name {said['node']} as the host in [login] of the cluster file."
        )
    if said["kill_switch"] and not switched_off:
        raise Refused(
            f"The kill switch is on: {said['kill_switch']} is there. Whoever made that file has "
            "to remove it before a gate may start."
        )
    return said


def _restart_or_put_back(gate_dir: GateDir, current: str, old: bytes) -> None:
    try:
        gate_dir.gate(current, "stop")
        _serve(gate_dir, current)
    except SceneBridgeError as exc:
        write_atomic(gate_dir.policy, old, sync=True)
        if not gate_dir.gate(current, "status")["running"]:
            _serve(gate_dir, current)
        raise Refused(
            f"No gate starts with that policy, so the old one was put back and the gate runs "
            f"again: {exc.message}"
        ) from exc


def _start_or_go_back(gate_dir: GateDir, new: str, old: str, *, running: bool) -> None:
    try:
        _serve(gate_dir, new)
    except SceneBridgeError as exc:
        if not old or old == new:
            raise
        gate_dir.switch(old)
        if running:
            _serve(gate_dir, old)
        gate_dir.audit("deploy-failed", version=new, back_to=old)
        again = "runs again" if running else "is in use again"
        raise Unavailable(
            f"The new version {new} did not come up, and the old one {old} {again}: {exc.message}"
        ) from exc


def _serve(gate_dir: GateDir, version: str) -> Message:
    """Start a gate; on failure the sentence carries the end of its log."""
    try:
        return gate_dir.gate(version, "serve", "--detach")
    except Refused as exc:
        lines = gate_dir.last_log_lines()
        if "did not start" in exc.message and lines:
            raise Unavailable(f"{exc.message}\nThe end of its log:\n{lines}") from exc
        raise
