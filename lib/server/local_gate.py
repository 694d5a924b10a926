"""The embedded cluster: a real gate on this computer, started beside the portal.

It is a process of its own (`python -m lib.gate`), never imported here, and outlives a
portal that is killed. `start` takes over the gate that it finds, unless policy or code
have changed since that one was started; jobs do not notice a restart of their gate.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from lib.config.policy_toml import module_entry, toml_table
from lib.config.settings import PROJECT
from lib.errors import ClusterUnreachable, Unavailable
from lib.model import ClusterId, JsonObject
from lib.tunnels.portal_keys import portal_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lib.config.offerings import Offerings
    from lib.config.settings import Settings

CLUSTER = ClusterId("here")
START_TIMEOUT_S = 30.0
#: Ending live jobs takes their grace time.
STOP_TIMEOUT_S = 90.0
COMMAND_TIMEOUT_S = 30.0
#: What people read of notebooks and runs that were live on this computer.
STOPPED_TEXT = "The portal was stopped, and with it everything that ran on its own computer."

_HOUR_S = 3600
#: What the gate runs from; when it changes, a gate that still runs is replaced.
_SHIPPED = (
    *("lib/files", "lib/gate", "lib/jobs", "lib/protocol", "lib/model"),
    *("lib/errors.py", "lib/loops.py"),
)


@dataclass(frozen=True, slots=True)
class GateAddress:
    """Where the gate answers on loopback, and the one host key it may show."""

    pid: int
    port: int
    host_key: str


class LocalGate:
    """The gate of this computer for one data folder.

    Args:
        offerings: the modules that it may run.
    """

    def __init__(self, settings: Settings, offerings: Offerings) -> None:
        self._settings = settings
        self._offerings = offerings
        self._home = settings.data / "embedded"
        self._key = settings.data / "keys" / CLUSTER
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> GateAddress:
        """Take over the gate that runs, or start one. Idempotent; call it again to mend.

        Raises:
            ClusterUnreachable: it did not start; the sentence carries its last words.
            Unavailable: a key or file of it could not be made.
        """
        portal_key(self._settings.data, CLUSTER)
        policy = policy_text(self._settings, self._offerings)
        running = self.address()
        if self._read_policy() != policy:
            if running is not None:
                self._gate("stop", "--home", str(self._home))
            self._prepare(policy)
            running = None
        return self._pin(running or self._serve())

    def address(self) -> GateAddress | None:
        """The gate that runs now, if one does."""
        if self._process is not None:
            self._process.poll()  # reaps a gate of ours that has died
        try:
            found = json.loads((self._home / "gate.json").read_text("utf-8"))
            address = GateAddress(found["pid"], found["port"], found["host_key"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return address if _lives(address, self._home) else None

    def stop(self) -> None:
        """End every live job, then the gate. Nothing of either is left.

        Raises:
            ClusterUnreachable: something could not be ended, and what.
        """
        if self._process is not None and self.address() is None:
            self._process.terminate()  # it does not listen yet, so `stop` would not see it
            try:
                self._process.wait(COMMAND_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        if (self._home / "policy.toml").exists():
            end = ("--jobs", "--because", STOPPED_TEXT)
            self._gate("stop", "--home", str(self._home), *end, timeout=STOP_TIMEOUT_S)
        if self._process is not None:
            self._process.wait(COMMAND_TIMEOUT_S)

    # --- making -----------------------------------------------------------------------

    def _prepare(self, policy: str) -> None:
        """The gate's home with this policy; what is there already stays."""
        file = self._settings.data / "embedded-policy.toml"
        file.write_text(policy, "utf-8")
        arguments = ["--home", str(self._home), "--cluster", CLUSTER]
        arguments += ["--portal-key", f"{self._key}.pub", "--policy", str(file)]
        self._gate("init", *arguments)
        file.unlink()

    def _serve(self) -> GateAddress:
        """Start the gate in a session of its own and wait until it answers."""
        if self._process is not None:  # one of ours that does not answer
            self._process.kill()
            self._process.wait()
        log = self._home / "gate.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*_GATE, "serve", "--home", str(self._home)],
                cwd="/",
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            address = self.address()
            if address is not None and address.pid == self._process.pid:
                return address
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        self._process.kill()
        self._process.wait()
        raise ClusterUnreachable(
            f"The gate of this computer did not start: {_last_line(log)} The whole log is in {log}."
        )

    def _pin(self, address: GateAddress) -> GateAddress:
        """Note the host key that the portal trusts."""
        self._key.with_suffix(".host").write_text(address.host_key + "\n", "utf-8")
        return address

    def _read_policy(self) -> str:
        try:
            return (self._home / "policy.toml").read_text("utf-8")
        except OSError:
            return ""

    def _gate(self, *arguments: str, timeout: float = COMMAND_TIMEOUT_S) -> None:
        what = f"The gate of this computer could not do “{arguments[0]}”"
        _run([*_GATE, *arguments], what, timeout=timeout)


_GATE = (sys.executable, "-P", "-m", "lib.gate")


# --- policy -------------------------------------------------------------------------------


def policy_text(settings: Settings, offerings: Offerings) -> str:
    """The gate's policy file: this computer, its offered modules, the data folder's scenes."""
    slots = settings.slots or max(2, (os.cpu_count() or 1) // 2)
    runtime = {
        "name": "process",
        "python": sys.executable,
        "code": str(PROJECT),
        "cache": str(settings.data / "cache"),
    }
    limits = {"max_live": slots + 16, "keep_days": settings.keep_days}
    lines = [
        f"# Written by ./run at each start; changes here are lost. Code: {_code_digest()}",
        "format = 1",
        f"cluster = {json.dumps(CLUSTER)}",
        'users = ["*"]',
        f"portal_origins = {json.dumps(_portal_origins(settings))}",
        f"data_paths = [{json.dumps(str(settings.data / 'scenes'))}]",
        "https_hosts = []",
        *toml_table("listen", {"port": 0}),
        *toml_table("scheduler", {"name": "local", "slots": slots}),
        *toml_table("runtime", runtime),
        *toml_table("limits", limits),
    ]
    for module in offerings.modules.values():
        lines += toml_table("[modules]", module_entry(module))
    for preset in presets(psutil.cpu_count() or 1, psutil.virtual_memory().total // 2**20):
        lines += toml_table("[presets]", preset)
    return "\n".join(lines) + "\n"


def _portal_origins(settings: Settings) -> list[str]:
    public = [settings.public_origin] if settings.public_origin else []
    return [*public, "http://localhost:*"]


def presets(cores: int, memory_mb: int) -> tuple[JsonObject, ...]:
    """Small and medium for a computer of that many cores and that much memory.

    Small leaves room for a second job; medium takes nearly all. The local scheduler
    enforces neither: they are what modules are told.
    """
    half, most = max(1, cores // 2), cores if cores <= 2 else cores - 1
    return (
        {
            "name": "small",
            "title": f"Small ({_cores(half)}, a quarter of the memory)",
            "cores": half,
            "memory_mb": max(64, memory_mb // 4),
            "gpus": 0,
            "max_walltime_s": 24 * _HOUR_S,
            "default_walltime_s": 2 * _HOUR_S,
        },
        {
            "name": "medium",
            "title": f"Medium ({_cores(most)}, half of the memory)",
            "cores": most,
            "memory_mb": max(64, memory_mb // 2),
            "gpus": 0,
            "max_walltime_s": 72 * _HOUR_S,
            "default_walltime_s": 8 * _HOUR_S,
        },
    )


def _cores(number: int) -> str:
    return "1 core" if number == 1 else f"{number} cores"


def _code_digest() -> str:
    total = hashlib.sha256()
    for name in _SHIPPED:
        path = PROJECT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            total.update(file.read_bytes())
    return total.hexdigest()[:16]


# --- processes ----------------------------------------------------------------------------


def _lives(address: GateAddress, home: Path) -> bool:
    """Whether that process is a gate of `home`, and not one that was given its id since."""
    try:
        process = psutil.Process(address.pid)
        return process.status() != psutil.STATUS_ZOMBIE and str(home) in process.cmdline()
    except psutil.Error:
        return False


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT)}


def _run(command: Sequence[str], what: str, *, timeout: float = COMMAND_TIMEOUT_S) -> None:
    """Run a program to its end.

    Raises:
        Unavailable: it failed; `what` begins the sentence, its last line ends it.
    """
    try:
        done = subprocess.run(
            command,
            cwd="/",
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as exc:
        raise Unavailable(f"{what}: no answer within {timeout:.0f} s.") from exc
    except OSError as exc:
        raise Unavailable(f"{what}: {command[0]} cannot be started ({exc.strerror}).") from exc
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise Unavailable(f"{what}: {last}")


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing."
