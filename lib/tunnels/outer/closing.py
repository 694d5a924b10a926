"""Ending tunnels, and the owner of an open one."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import TYPE_CHECKING

import psutil

from lib.errors import Refused, Unavailable
from lib.model import TunnelState
from lib.tunnels.outer import record_writer
from lib.tunnels.outer.admission import calling_account
from lib.tunnels.outer.records import TunnelFiles, is_open, tunnel_files

if TYPE_CHECKING:
    from pathlib import Path

    from lib.model import ClusterId
    from lib.tunnels.outer.records import TunnelRecord

_END_TIMEOUT_S = 20.0
_STEP_S = 0.05


def owner_of_open_tunnel(tunnels: Path, cluster: ClusterId) -> str:
    """The account that has a tunnel to the cluster open; "" where nobody has.

    Others' folders are closed to administrators, so processes are looked at: the socket's
    path stands in ssh's arguments. It counts only where the folder is its owner's.
    """
    pattern = re.compile(rf"{re.escape(str(tunnels))}/([^/:]+)/{re.escape(cluster)}\.sock:.*")
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if not command or command[0] != "ssh":
                continue
            match = next((m for word in command if (m := pattern.fullmatch(word))), None)
            if match and process.uids().real == (tunnels / match[1]).stat().st_uid:
                return match[1]
        except (psutil.Error, OSError):
            continue
    return ""


def close_tunnel(tunnels: Path, cluster: ClusterId) -> list[TunnelRecord]:
    """End the calling account's tunnel to the cluster, or as root anybody's.

    Returns:
        the records of what was open and is closed now; idempotent.
    Raises:
        Refused: it is another account's.
    """
    name = calling_account()
    mine = [
        files
        for files in tunnel_files(tunnels, cluster)
        if os.geteuid() == 0 or files.folder.name == name
    ]
    closed = []
    for files in mine:
        record = files.read()
        if record is not None and record.state is TunnelState.OPEN:
            closed.append(_end(files, record))
    if not closed and (other := owner_of_open_tunnel(tunnels, cluster)):
        raise Refused(
            f"The tunnel to cluster {cluster} is {other}'s. {other} can end it, or root on this "
            "host can."
        )
    return closed


def close_stale_record(files: TunnelFiles) -> None:
    """Write down that a tunnel is closed whose supervisor could not any more."""
    record = files.read()
    if record is not None and record.state is TunnelState.OPEN and not is_open(files, record):
        record_writer.close(files, record, "The process that looked after it was ended.")


def _end(files: TunnelFiles, record: TunnelRecord) -> TunnelRecord:
    """Ask its supervisor to close it; as root, who must not write there, that is all."""
    root = os.geteuid() == 0
    deadline = time.monotonic() + _END_TIMEOUT_S
    if is_open(files, record):
        os.kill(record.pid, signal.SIGTERM if root else signal.SIGINT)
    while is_open(files, record):
        if time.monotonic() > deadline:
            raise Unavailable(
                f"The process {record.pid} that looks after the tunnel does not end; try again, "
                f"or end it with `kill -9 {record.pid}`: its connection ends with it."
            )
        time.sleep(_STEP_S)
    if not root:
        close_stale_record(files)
    return files.read() or record
