"""What the service manager is told of the portal (sd_notify(3)): nothing where there is none.

systemd sets NOTIFY_SOCKET, and WATCHDOG_USEC where it wants to hear from us regularly. The
variables are taken out of the environment: what the portal starts must not speak for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

log = logging.getLogger(__name__)


class Notices:
    """Messages to the service manager. Telling it never fails: at worst it is not told."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        """
        Args:
            address: of a datagram socket: a path, or "@" and an abstract name; empty: nobody.
            watchdog_s: it gives the portal up when it hears nothing for so long; 0: never.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = watchdog_s if address else 0.0

    @classmethod
    def of(cls, environment: MutableMapping[str, str] = os.environ) -> Notices:
        """As the service manager asked by the environment; each variable is read once."""
        address = environment.pop("NOTIFY_SOCKET", "")
        wanted = environment.pop("WATCHDOG_USEC", "")
        process = environment.pop("WATCHDOG_PID", "")
        ours = process in ("", str(os.getpid()))
        if not address.startswith(("/", "@")):
            address = ""
        return cls(address, int(wanted) / 1e6 if ours and wanted.isdigit() else 0.0)

    def __bool__(self) -> bool:
        """Whether somebody listens."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}")

    def stopping(self, within_s: float) -> None:
        """From now on no watchdog is fed: the time to stop replaces it."""
        lines = ["STOPPING=1", "STATUS=Stopping"]
        if self._watchdog_s:
            lines.append(f"WATCHDOG_USEC={within_s * 1e6:.0f}")
        self._tell(*lines)

    async def feed_watchdog(self) -> None:
        """Say for ever that this event loop still turns; ends at once where nobody asks."""
        while self._watchdog_s:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 3)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.settimeout(1.0)
                out.connect(self._address)
                out.sendall("\n".join(lines).encode())
        except OSError as exc:
            log.warning("the service manager cannot be told: %s", exc.strerror)
