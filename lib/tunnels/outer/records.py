"""The record of an outer tunnel, and the folders that sockets and records lie in.

    TUNNELS/            root's, 0755; nobody else adds a folder
      ada/              ada's, group of the portal's account, 2750
        nchc.sock       leads to the gate of cluster nchc; 0660, group of the folder
        nchc.json       `TunnelRecord`, 0640
        nchc.lock       locked by the supervisor while it lives, 0640

The portal's account may connect and read, and neither add, replace nor remove anything.
A tunnel that is open has a record with state "open" and a supervisor process that lives.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import psutil

from lib.errors import InvalidInput
from lib.model import ClusterId, Seal, Tunnel, TunnelState, UserId
from lib.model.bounds import Count, MomentOrNever, Name, Port, Sentence
from lib.protocol.codec import decode
from lib.protocol.messages import NAME_PATTERN

_MAX_RECORD_BYTES = 16 * 1024
#: Clock ticks: what psutil tells of a process' start may differ by so much, seconds.
_START_SLACK_S = 0.05


@dataclass(frozen=True, slots=True)
class TunnelRecord:
    """What the administrator's side writes down. Times are Unix seconds.

    Args:
        group, person: to whom the tunnel belongs; one of them, or neither.
        pid, start: the supervisor process, and when it started.
        login_node: `user@host` it leads to; `gate_port` on its loopback.
        until: when it closes by itself.
        closed_at, reason: once it is closed.
    """

    cluster: Name
    account: Name
    state: TunnelState
    seal: Seal
    seal_note: Sentence
    group: Name
    person: Name
    login_node: Name
    gate_port: Port
    opened_at: MomentOrNever
    until: MomentOrNever
    pid: Count
    start: MomentOrNever
    closed_at: MomentOrNever | None = None
    reason: Sentence = ""


@dataclass(frozen=True, slots=True)
class TunnelFiles:
    """The two files of one cluster's tunnel in one administrator's folder."""

    folder: Path
    cluster: ClusterId

    def __post_init__(self) -> None:
        if NAME_PATTERN.fullmatch(self.cluster) is None:
            raise InvalidInput(f"{self.cluster!r:.60} is not the id of a cluster.")

    @property
    def socket(self) -> Path:
        return self.folder / f"{self.cluster}.sock"

    @property
    def lock(self) -> Path:
        return self.folder / f"{self.cluster}.lock"

    @property
    def record(self) -> Path:
        return self.folder / f"{self.cluster}.json"

    def read(self) -> TunnelRecord | None:
        """The record, or None where there is none that can be understood."""
        try:
            fd = os.open(self.record, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            record = decode(TunnelRecord, os.read(fd, _MAX_RECORD_BYTES), newer=True)
        except InvalidInput:
            return None
        finally:
            os.close(fd)
        return record if record.cluster == self.cluster else None


def is_open(files: TunnelFiles, record: TunnelRecord) -> bool:
    """Whether its supervisor lives and its time is not over.

    A portal whose service must not see others' processes (`ProtectProc=invisible`) can
    still ask for the lock.
    """
    if record.state is not TunnelState.OPEN or record.until <= time.time():
        return False
    return _is_locked(files.lock) or _lives(record)


def _is_locked(file: Path) -> bool:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)  # lets go of it as well
    return False


def _lives(record: TunnelRecord) -> bool:
    try:
        started = psutil.Process(record.pid).create_time()
    except (psutil.Error, OSError):  # the latter where all of /proc is closed
        return False
    return abs(started - record.start) < _START_SLACK_S


def tunnel_files(tunnels: Path, cluster: ClusterId) -> Iterator[TunnelFiles]:
    """Where a tunnel to that cluster may be: one per administrator's folder.

    Only folders that belong to root's folder count; a link does not.
    """
    try:
        folders = sorted(tunnels.iterdir())
    except OSError:
        return
    for folder in folders:
        if folder.is_dir() and not folder.is_symlink():
            yield TunnelFiles(folder, cluster)


def latest(tunnels: Path, cluster: ClusterId) -> tuple[TunnelFiles, TunnelRecord] | None:
    """The one tunnel that counts: an open one before a closed one, and then the latest."""
    found = [
        (files, record) for files in tunnel_files(tunnels, cluster) if (record := files.read())
    ]
    return max(found, key=lambda pr: (is_open(*pr), pr[1].opened_at)) if found else None


def find(tunnels: Path, cluster: ClusterId) -> tuple[Tunnel, Path | None]:
    """The tunnel to a cluster as the portal sees it, and its socket while it is open."""
    found = latest(tunnels, cluster)
    if found is None:
        return Tunnel(cluster, TunnelState.NONE), None
    files, record = found
    opened = is_open(files, record)
    reason = "" if opened else record.reason or "It has ended without saying why."
    if not opened and record.until <= time.time():
        reason = record.reason or "Its time is over."
    tunnel = Tunnel(
        cluster,
        TunnelState.OPEN if opened else TunnelState.CLOSED,
        account=record.account,
        group=record.group,
        person=UserId(record.person) if record.person else None,
        seal=record.seal,
        login_node=record.login_node,
        opened_at=_moment(record.opened_at),
        until=_moment(record.until),
        closed_at=_moment(record.closed_at) if record.closed_at else None,
        reason=reason,
    )
    return tunnel, files.socket if opened else None


def _moment(seconds: float) -> datetime:
    # As `lib.store.times`, without the store: supervisors live long and should be small.
    return datetime.fromtimestamp(seconds, timezone.utc)
