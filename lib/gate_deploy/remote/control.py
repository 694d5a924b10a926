"""Start, stop, upgrade and give another policy to the gate of one folder.

Whatever goes wrong, what ran before runs again: its jobs are never touched, and live in the
scheduler and in processes of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.errors import Conflict, NotFound, Refused, SceneBridgeError, Unavailable
from lib.gate_deploy.remote import versions
from lib.gate_deploy.remote.gate_dir import Place, write_whole

Answer = dict[str, Any]


def status(place: Place) -> Answer:
    """What the deployed code says, and which version that is."""
    current = place.require_current()
    return {**place.gate(current, "status"), "current": current}


def start(place: Place) -> Answer:
    """Start the gate unless it runs."""
    current = place.require_current()
    said = place.gate(current, "status")
    if not said["running"]:
        _serve(place, current)
    return {**status(place), "was_running": said["running"]}


def stop(place: Place, *, jobs: bool) -> Answer:
    """Stop the gate; with `jobs` all that it started too."""
    current = place.require_current()
    answer = place.gate(current, "stop", *(["--jobs"] if jobs else []))
    return {**status(place), "was_running": answer["was_running"]}


def first(place: Place, new: str, cluster: str, key: bytes, policy: bytes) -> Answer:
    """Complete the folder: keys, and a policy where there is none. Starts nothing.

    Args:
        key: the portal's public key; empty keeps the one that is there.
        policy: written only where there is none.
    """
    arguments = ["--cluster", cluster, "--fix-node"]
    given = {"portal-key": key, "policy": b"" if place.policy.exists() else policy}
    files = {name: place.home / f".given-{name}" for name, data in given.items() if data}
    if not key and not (place.home / "authorized_key").exists():
        raise NotFound(
            "The gate does not know the portal's key yet: print it on the portal host with "
            f"`admin.py gate key {cluster}`, and give it with --portal-key."
        )
    if place.policy.exists():
        _checked(place, new)
    try:
        for name, file in files.items():
            write_whole(file, given[name])
            arguments += [f"--{name}", str(file)]
        keys = place.home / "authorized_key", place.home / "host_key"
        before = [_bytes_of(file) for file in keys]
        answer = place.gate(new, "init", *arguments)
        return {**answer, "key_changed": before != [_bytes_of(file) for file in keys]}
    finally:
        for file in files.values():
            file.unlink(missing_ok=True)


def replace(place: Place, new: str, *, port: int, start: bool, restart: bool) -> Answer:
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
    checked = _checked(place, new)
    _require_port(checked, port)
    old = place.current()
    before = _possible(place.gate(new, "status"))
    running = bool(before["running"])
    same = running and before["running_code"] == new and old == new
    if not same or restart:
        if running:
            place.gate(old or new, "stop")
        place.switch(new)
        if running or start:
            _start_or_go_back(place, new, old, running=running)
        if old != new:
            place.audit("deployed", version=new, before=old)
    removed = versions.prune(place)
    return {
        **status(place),
        "before": old,
        "was_running": running,
        "removed": removed,
        "problems": checked["problems"],
    }


def read_policy(place: Place) -> tuple[Answer, bytes]:
    """The policy and its digest, which `write_policy` wants to see again."""
    place.require_current()
    data = place.policy.read_bytes()
    return {"digest": hashlib.sha256(data).hexdigest()}, data


def write_policy(place: Place, digest: str, data: bytes, *, port: int) -> Answer:
    """Replace the policy, if the deployed code takes it, and let a running gate read it.

    Args:
        digest: of the policy that was read, "" to replace any.
        port: where the tunnels lead to.
    Raises:
        Conflict: somebody else changed it meanwhile.
        Refused: it is not acceptable, or no gate starts with it; the old one stays.
    """
    current = place.require_current()
    said = _possible(place.gate(current, "status"), switched_off=True)
    old = place.policy.read_bytes()
    if digest and hashlib.sha256(old).hexdigest() != digest:
        raise Conflict("Somebody else has changed the policy meanwhile; look at it again.")
    new = place.home / ".policy-new.toml"
    write_whole(new, data)
    try:
        checked = place.gate(current, "check", "--policy", str(new))
    finally:
        new.unlink(missing_ok=True)
    _require_port(checked, port)
    write_whole(place.policy.with_name("policy.toml.1"), old)
    write_whole(place.policy, data)
    if said["running"]:
        _restart_or_put_back(place, current, old)
    place.audit("policy-changed", digest=hashlib.sha256(data).hexdigest())
    return {**status(place), "problems": checked["problems"], "was_running": said["running"]}


def _checked(place: Place, version: str) -> Answer:
    try:
        return place.gate(version, "check")
    except SceneBridgeError as exc:
        raise Refused(
            f"The new version does not take this cluster's policy, so nothing was changed: "
            f"{exc.message}"
        ) from exc


def _require_port(checked: Answer, port: int) -> None:
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


def _possible(said: Answer, *, switched_off: bool = False) -> Answer:
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


def _restart_or_put_back(place: Place, current: str, old: bytes) -> None:
    try:
        place.gate(current, "stop")
        _serve(place, current)
    except SceneBridgeError as exc:
        write_whole(place.policy, old)
        if not place.gate(current, "status")["running"]:
            _serve(place, current)
        raise Refused(
            f"No gate starts with that policy, so the old one was put back and the gate runs "
            f"again: {exc.message}"
        ) from exc


def _start_or_go_back(place: Place, new: str, old: str, *, running: bool) -> None:
    try:
        _serve(place, new)
    except SceneBridgeError as exc:
        if not old or old == new:
            raise
        place.switch(old)
        if running:
            _serve(place, old)
        place.audit("deploy-failed", version=new, back_to=old)
        again = "runs again" if running else "is in use again"
        raise Unavailable(
            f"The new version {new} did not come up, and the old one {old} {again}: {exc.message}"
        ) from exc


def _serve(place: Place, version: str) -> Mapping[str, Any]:
    """Start a gate; on failure the sentence carries the end of its log."""
    try:
        return place.gate(version, "serve", "--detach")
    except Refused as exc:
        lines = place.last_log_lines()
        if "did not start" in exc.message and lines:
            raise Unavailable(f"{exc.message}\nThe end of its log:\n{lines}") from exc
        raise
