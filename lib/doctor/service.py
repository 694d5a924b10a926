"""The portal that runs, or could: its ports and its systemd unit."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from lib.config.data_dir import running_portal
from lib.doctor.check import Check
from lib.errors import SceneBridgeError
from lib.http.listeners import check_notebook_port, listen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.config.settings import Settings

UNIT = "scenebridge.service"
_ASKING_S = 10


def checks(chosen: Settings) -> Iterator[Check]:
    yield port(chosen)
    found = unit()
    if found is not None:
        yield found


def port(chosen: Settings) -> Check:
    """Whether the portal has its port, or could have it."""
    running = running_portal(chosen.data)
    if running is not None:
        return Check("port", True, f"the portal runs at {running.origin} (process {running.pid})")
    try:
        for listener in listen(chosen.port, address=chosen.listen):
            listener.close()
    except SceneBridgeError as exc:
        return Check("port", False, f"{exc.message.rstrip('.')}: choose another with --port")
    try:
        check_notebook_port(chosen)
    except SceneBridgeError as exc:
        return Check("port", False, exc.message)
    return Check("port", True, f"{chosen.port} is free, and so is the notebooks'")


def unit() -> Check | None:
    """The systemd unit; None where systemd does not run or has no such unit."""
    program = shutil.which("systemctl")
    if program is None:
        return None
    wanted = "LoadState,ActiveState,UnitFileState,NRestarts"
    try:
        done = subprocess.run(
            [program, "show", UNIT, f"--property={wanted}"],
            capture_output=True,
            text=True,
            timeout=_ASKING_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if done.returncode or said.get("LoadState", "not-found") == "not-found":
        return None
    if said["LoadState"] != "loaded":
        return Check(
            "systemd", False, f"{UNIT} cannot be loaded: sudo systemd-analyze verify {UNIT}"
        )
    if said.get("ActiveState") == "failed":
        return Check("systemd", False, f"{UNIT} has failed: journalctl -u {UNIT} says why")
    if said.get("UnitFileState") not in ("enabled", "enabled-runtime"):
        return Check(
            "systemd", False, f"{UNIT} does not start with the computer: sudo systemctl enable "
            f"{UNIT}",
        )  # fmt: skip
    restarts = said.get("NRestarts", "0")
    return Check("systemd", True, f"{UNIT} is {said.get('ActiveState')}, {restarts} restarts")
