"""Writes the records that `records` reads, and the audit log beside them; as the administrator.

Files get the group of the folder, because it is setgid, so the portal can read them.
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from lib.files.atomic import write_atomic
from lib.files.json_lines import Value, append_json_line
from lib.model import TunnelState
from lib.protocol.codec import encode

if TYPE_CHECKING:
    from lib.tunnels.outer.records import TunnelFiles, TunnelRecord

_READABLE = 0o640
_TRIES, _TRY_S = 10, 0.02
AUDIT = "audit.jsonl"


def write(files: TunnelFiles, record: TunnelRecord) -> None:
    """Replace the record, whole or not at all."""
    write_atomic(files.record, encode(record), mode=_READABLE)


def close(files: TunnelFiles, record: TunnelRecord, reason: str) -> TunnelRecord:
    """Remove the socket and write down that, when and why the tunnel was closed."""
    files.socket.unlink(missing_ok=True)
    closed = replace(record, state=TunnelState.CLOSED, closed_at=time.time(), reason=reason)
    write(files, closed)
    note(files, "closed", closed)
    return closed


def note(files: TunnelFiles, event: str, record: TunnelRecord) -> None:
    """Append one line to the audit log of the folder."""
    line: dict[str, Value] = {
        "time": time.time(),
        "event": event,
        "cluster": record.cluster,
        "account": record.account,
        "for": f"group {record.group}" if record.group else f"person {record.person}",
        "login_node": record.login_node,
        "gate_port": record.gate_port,
        "seal": record.seal.value,
        "opened_at": record.opened_at,
        "until": record.until,
        "reason": record.reason,
    }
    append_json_line(files.folder / AUDIT, line, mode=_READABLE)


def lock(files: TunnelFiles) -> int | None:
    """Hold the tunnel of these files: a descriptor to keep open, or None while another does.

    It is held from the first step of opening until the supervisor has ended. Whoever looks
    whether it is held has it for a moment, hence more than one try.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(files.lock, flags, _READABLE)
    os.fchmod(fd, _READABLE)
    for _ in range(_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_TRY_S)
        else:
            return fd
    os.close(fd)
    return None
