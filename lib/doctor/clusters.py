"""The clusters: who may change their files, keys, tunnels, and what their gates answer."""

from __future__ import annotations

import grp
import json
import os
import socket
import stat
import time
from typing import TYPE_CHECKING

from lib.config.data_dir import account_name, running_portal
from lib.config.site_paths import tunnel_folder
from lib.doctor import gates
from lib.doctor.check import Check
from lib.model import Fault
from lib.portal.advice import advice
from lib.portal.tunnels import closed
from lib.tunnels.gate_address import SocketAddress, TcpAddress
from lib.tunnels.outer import records

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lib.config.clusters import ClusterEntry
    from lib.config.offerings import Offerings
    from lib.config.settings import Settings
    from lib.model import Tunnel

_ANSWER_S = 10.0
_BANNER = b"SSH-2.0-"


def checks(chosen: Settings, known: Offerings, offered: Offerings) -> Iterator[Check]:
    """Each cluster that is configured; of tunnels only where one needs them.

    Args:
        known: what the catalogs hold; `offered`: what this portal offers of it.
    """
    others = [entry for entry in known.clusters.values() if not entry.embedded]
    for broken in known.broken:
        yield Check(f"cluster {broken.cluster}: file", False, f"this cluster is left out: "
                    f"{broken.fault}")  # fmt: skip
    for entry in offered.clusters.values():
        if entry.embedded:
            yield from here(chosen, entry)
    if not others:
        return
    if chosen.single_user:
        yield own_computer(known, offered)
    yield from tunnels(chosen, tunnel_folder())
    for entry in others:
        yield file(chosen, entry)
        yield host_key(entry)
        yield key(chosen, entry)
        yield from behind(chosen, entry, tunnel_folder())


def here(chosen: Settings, entry: ClusterEntry) -> Iterator[Check]:
    """The gate of this computer, which the portal starts and ends."""
    name = f"cluster {entry.id}: gate"
    if running_portal(chosen.data) is None:
        yield Check(name, True, "it starts with the portal, which does not run")
        return
    try:
        said = json.loads((chosen.data / "embedded" / "gate.json").read_text("utf-8"))
        address, host_key = TcpAddress("127.0.0.1", int(said["port"])), str(said["host_key"])
    except (OSError, ValueError, KeyError, TypeError):
        yield Check(
            name, False, "it does not run, although the portal does: the portal's log says why"
        )
        return
    yield from gates.checks(chosen, entry, None, address, host_key)


def own_computer(known: Offerings, offered: Offerings) -> Check:
    """Jobs of this computer run as the portal's account, which has keys to the clusters."""
    embedded = [c.id for c in known.clusters.values() if c.embedded]
    kept = [c for c in embedded if c in offered.clusters]
    if kept:
        return Check(
            "own computer", False,
            f"what runs on {', '.join(kept)} can read the portal's keys to the other clusters: "
            "take embedded_groups out of the settings",
        )  # fmt: skip
    left = f"{', '.join(embedded)} is not offered, since there are other clusters"
    return Check("own computer", True, left if embedded else "it is no cluster")


def tunnels(chosen: Settings, folder: Path) -> Iterator[Check]:
    """The folder of tunnels is root's, and each administrator's below it not the portal's."""
    name = "tunnels"
    try:
        status = folder.stat()
    except OSError:
        yield Check(
            name, False, f"{folder} is not there: sudo install -d -m 0755 {folder}, and a folder "
            "for each administrator (docs/operate.md)",
        )  # fmt: skip
        return
    if status.st_uid != 0 or status.st_mode & 0o022:
        yield Check(
            name, False, f"{folder} must belong to root and be writable by nobody else: "
            f"sudo chown root {folder}; sudo chmod 0755 {folder}",
        )  # fmt: skip
        return
    portal = chosen.data.stat()
    for below in sorted(folder.iterdir()):
        wrong = _folder_fault(below, portal)
        if wrong:
            yield Check(name, False, wrong)
            return
    yield Check(name, True, f"{folder} is root's; its folders belong to administrators")


def _folder_fault(below: Path, portal: os.stat_result) -> str:
    status = below.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return f"{below} is no folder: remove it"
    if status.st_uid == portal.st_uid and portal.st_uid != 0:
        return (
            f"{below} belongs to the portal's account, which could put a tunnel of its own "
            "there: give it to an administrator"
        )
    group = _group_name(portal.st_gid)
    if status.st_gid != portal.st_gid or not status.st_mode & stat.S_ISGID:
        return (
            f"the portal cannot use what is in {below}: sudo chgrp {group} {below}; "
            f"sudo chmod 2750 {below}"
        )
    if status.st_mode & 0o027:
        return f"{below} is open to others, or to writing by the portal: sudo chmod 2750 {below}"
    return ""


def file(chosen: Settings, entry: ClusterEntry) -> Check:
    """Whoever changes a cluster's file decides which host is trusted, and who may use it."""
    name = f"cluster {entry.id}: file"
    if entry.file is None:
        return Check(name, True, "it has none")
    owner = chosen.data.stat().st_uid
    for path in (entry.file, entry.file.parent):
        status = path.stat()
        if status.st_mode & 0o022 or (status.st_uid == owner and owner != 0):
            return Check(
                name, False, f"the portal's account ({account_name(owner)}) or others may change "
                f"{path}: sudo chown root: {path}; sudo chmod go-w {path}",
            )  # fmt: skip
    return Check(name, True, f"{entry.file} can be changed by its owner alone")


def host_key(entry: ClusterEntry) -> Check:
    """Without one nothing is trusted, so the portal does not connect."""
    name = f"cluster {entry.id}: host key"
    if entry.gate is None or not entry.gate.host_key:
        return Check(
            name, False, f"its gate has not been set up: admin.py gate deploy {entry.id}, and "
            f"write the key that it prints into {entry.file} as host_key",
        )  # fmt: skip
    return Check(name, True, "pinned")


def key(chosen: Settings, entry: ClusterEntry) -> Check:
    """The portal's own key, which the gate admits."""
    name = f"cluster {entry.id}: key"
    private = chosen.data / "keys" / entry.id
    if not private.exists():
        return Check(name, False, f"{private} is not there: it is made when the portal starts")
    return Check(name, True, f"{private} is there")


def behind(chosen: Settings, entry: ClusterEntry, folder: Path) -> Iterator[Check]:
    """The tunnel, and the gate at its other end: each where the one before it is there."""
    name = f"cluster {entry.id}: tunnel"
    tunnel, path = records.find(folder, entry.id)
    if path is None:
        todo = advice(entry, tunnel, Fault.TUNNEL, one_person=chosen.single_user)[0][1]
        yield Check(name, False, f"{closed(tunnel).rstrip('.')}: {todo}")
        return
    yield Check(name, True, f"{tunnel.account}'s, until {tunnel.until:%Y-%m-%d %H:%M} UTC")
    listening = gate(entry, tunnel, path)
    private = chosen.data / "keys" / entry.id
    if not listening.ok or entry.gate is None or not entry.gate.host_key or not private.exists():
        yield listening
        return
    address = SocketAddress(path)
    yield from gates.checks(chosen, entry, tunnel, address, entry.gate.host_key)


def gate(entry: ClusterEntry, tunnel: Tunnel, path: Path) -> Check:
    """Whether something that speaks SSH answers at the other end of an open tunnel."""
    name = f"cluster {entry.id}: gate"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(_ANSWER_S)
            link.connect(str(path))
            said = _read(link, len(_BANNER))
    except OSError as exc:
        return Check(
            name, False, f"{path} cannot be used by {account_name(os.getuid())} "
            f"({exc.strerror or exc}): admin.py tunnel status {entry.id}",
        )  # fmt: skip
    if said != _BANNER:
        return Check(
            name, False, f"the tunnel is open and no gate answers behind it: admin.py gate start "
            f"{entry.id}",
        )  # fmt: skip
    return Check(name, True, f"it answers through the tunnel of {tunnel.account}")


def _read(link: socket.socket, size: int) -> bytes:
    got, until = b"", time.monotonic() + _ANSWER_S
    while len(got) < size and time.monotonic() < until:
        more = link.recv(size - len(got))
        if not more:
            break
        got += more
    return got


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
