"""What `admin.py gate` does, each over one connection to the login node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lib.config.clusters import KEY_PATTERN
from lib.errors import InvalidInput, NotFound, Refused
from lib.gate_deploy import bundle, first_policy, wheels
from lib.gate_deploy.remote.frames import Message
from lib.model import json_list, json_number, json_text
from lib.tunnels.outer.admin_ssh import login_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from lib.config.clusters import ClusterEntry
    from lib.gate_deploy.connection import NodeConnection
    from lib.model import Module


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """What a deploy or an upgrade is to do.

    Args:
        portal_key: the portal's public key; "" keeps the one that is there.
        scheduler, runtime: names; "" takes what is found there.
        wheels: folder with the packages; None fetches them.
        start: start the gate, also when none ran before.
    """

    portal_key: str = ""
    scheduler: str = ""
    runtime: str = ""
    portal_origins: tuple[str, ...] = ()
    wheels: Path | None = None
    start: bool = True


def deploy(
    connection: NodeConnection,
    entry: ClusterEntry,
    options: DeployOptions,
    modules: Iterable[Module],
    say: Callable[[str], None],
) -> Message:
    """Install this version of the gate beside the others and change over to it.

    Raises:
        SceneBridgeError: one sentence; what ran before runs on.
    """
    _, gate = login_of(entry)
    home, cluster = gate.home, entry.id
    facts, _ = connection.ask("look", home=home)
    policy = b""
    if not options.start and not facts["current"]:
        raise NotFound(
            f"No gate was deployed to cluster {cluster} yet; begin with admin.py gate deploy."
        )
    if not facts["policy"]:
        scheduler = first_policy.found_scheduler(facts, options.scheduler)
        runtime = first_policy.found_runtime(facts, options.runtime)
        policy = first_policy.first_policy(
            cluster, gate.port, scheduler, runtime, options.portal_origins, modules
        ).encode()
    version = _install(connection, home, facts, options, say)
    key = options.portal_key.encode()
    made, _ = connection.ask(
        "first", key + policy, home=home, version=version, cluster=cluster, key_bytes=len(key)
    )
    done, _ = connection.ask(
        "replace",
        home=home,
        version=version,
        port=gate.port,
        start=options.start,
        restart=made["key_changed"],
    )
    return {
        **done,
        "home": facts["home"],
        "host_key": made["host_key"],
        "first_policy": bool(policy),
        "here": version,
    }


def version_here(connection: NodeConnection, home: str) -> str:
    """The version that a deploy would install; "" where there is none for that node."""
    facts, _ = connection.ask("look", home=home)
    try:
        target = _target(facts)
    except Refused:
        return ""
    return bundle.version_name(bundle.code_pieces(), wheels.PINS.read_text("utf-8"), target.tag)


def public_key(given: str, read: Callable[[str], str]) -> str:
    """The portal's public key, given as text or as the name of a file.

    Raises:
        InvalidInput: it is neither.
    """
    text = given if given.startswith("ssh-") else read(given)
    plain = " ".join(text.split()[:2])
    if KEY_PATTERN.fullmatch(plain) is None or "PRIVATE" in text:
        raise InvalidInput(
            "--portal-key must be the public key that `admin.py gate key CLUSTER` prints on the "
            "portal host, or a file with it."
        )
    return plain


def _install(
    connection: NodeConnection,
    home: str,
    facts: Message,
    options: DeployOptions,
    say: Callable[[str], None],
) -> str:
    target = _target(facts)
    code = bundle.code_pieces()
    version = bundle.version_name(code, wheels.PINS.read_text("utf-8"), target.tag)
    there, _ = connection.ask("installed", home=home, version=version)
    if there["installed"]:
        return version
    packages = wheels.wheels_for(target, options.wheels)
    size = sum(len(piece.data) for piece in (*code, *packages))
    say(f"Sending version {version} ({size / 1e6:.1f} MB) …")
    manifest = {"files": [p.entry for p in code], "wheels": [p.entry for p in packages]}
    body = b"".join(piece.data for piece in (*code, *packages))
    connection.ask("install", body, home=home, version=version, manifest=manifest)
    return version


def _target(facts: Message) -> wheels.Target:
    python = [int(json_number(part)) for part in json_list(facts["python"])]
    libc = [json_text(part) for part in json_list(facts["libc"])]
    machine, system = json_text(facts["machine"]), json_text(facts["system"])
    return wheels.target_of(python, machine, system, libc)
