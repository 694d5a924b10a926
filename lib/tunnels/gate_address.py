"""Where the gate of a cluster can be reached from this computer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A port that the gate itself listens on (the embedded cluster: loopback)."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """A UNIX socket that leads to the gate: an outer tunnel, or a gate that dialled out.

    `opening` tells one opening of it from the next at the same path: an inner connection
    through an earlier one is given up.
    """

    path: Path
    opening: str = ""


GateAddress = TcpAddress | SocketAddress
