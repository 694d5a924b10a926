"""Records of outer tunnels as the administrator's side writes them, kept by a living process."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import psutil

from lib.model import ClusterId, Seal, TunnelState
from lib.protocol.codec import encode
from lib.tunnels.outer.records import TunnelFiles, TunnelRecord


def write_record(tunnels: Path, cluster: str, *, account: str = "ada", **more: Any) -> TunnelFiles:
    """A tunnel in that administrator's folder; open as long as process `pid` lives."""
    pid = int(more.pop("pid", os.getpid()))
    values: dict[str, Any] = {
        "cluster": cluster,
        "account": account,
        "state": TunnelState.OPEN,
        "seal": Seal.SEALED,
        "seal_note": "",
        "group": "",
        "person": "",
        "login_node": f"u1001@login.{cluster}.example",
        "gate_port": 22022,
        "opened_at": time.time(),
        "until": time.time() + 7 * 86400,
        "pid": pid,
        "start": psutil.Process(pid).create_time(),
        **more,
    }
    place = TunnelFiles(tunnels / account, ClusterId(cluster))
    place.folder.mkdir(parents=True, exist_ok=True)
    fresh = place.record.with_suffix(".new")
    fresh.write_bytes(encode(TunnelRecord(**values)))
    fresh.replace(place.record)
    return place
