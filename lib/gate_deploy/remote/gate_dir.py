"""The gate's folder on the login node, as the one who sets it up sees it.

HOME/                     0700
  versions/VERSION-DIGEST/{lib,modules,packages,manifest.json}
  current                 a link to one of them, replaced at once
  host_key authorized_key policy.toml node gate.json audit.jsonl sessions/ ...
                          the gate's own (lib.gate.state_dir)
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lib.errors import Conflict, InvalidInput, NotFound, Refused, Unavailable
from lib.files.json_lines import Value, append_json_line
from lib.gate_deploy.remote.frames import Message

VERSION_PATTERN = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+]{0,39}-[0-9a-f]{12}")
#: A check reads whole images, of gigabytes on a slow file system.
_COMMAND_TIMEOUT_S = 900.0
_LOG_LINES = 12


@dataclass(frozen=True, slots=True)
class GateDir:
    """A gate's folder; it need not exist."""

    home: Path

    @property
    def versions(self) -> Path:
        return self.home / "versions"

    @property
    def policy(self) -> Path:
        return self.home / "policy.toml"

    def version(self, name: str) -> Path:
        """The folder of one version."""
        if VERSION_PATTERN.fullmatch(name) is None:
            raise InvalidInput(f"{name!r:.80} is not the name of a version.")
        return self.versions / name

    def current(self) -> str:
        """The version in use; "" before the first."""
        try:
            name = (self.home / "current").readlink().name
        except OSError:
            return ""
        return name if VERSION_PATTERN.fullmatch(name) and self.version(name).is_dir() else ""

    def require_current(self) -> str:
        """The version in use. Raises `NotFound` before the first deploy."""
        name = self.current()
        if not name:
            raise NotFound(
                f"No gate was deployed to {self.home} yet; begin with admin.py gate deploy."
            )
        return name

    def switch(self, name: str) -> None:
        """From now on this version is the one in use; there is no moment without one."""
        new = self.home / f".current-{secrets.token_hex(4)}"
        new.symlink_to(Path("versions") / self.version(name).name)
        new.replace(self.home / "current")

    def gate(self, version: str, command: str, *arguments: str) -> Message:
        """Run `python -m lib.gate COMMAND` with the code of one version; its answer.

        Raises:
            Refused: it refused; the sentence is its own.
            Unavailable: it did not end in time, or said what is no answer.
        """
        folder = self.version(version)
        argv = [sys.executable, "-s", "-m", "lib.gate", command, "--home", str(self.home)]
        try:
            done = subprocess.run(
                [*argv, *arguments],
                cwd=folder,
                env=environment(folder),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_COMMAND_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as exc:
            raise Unavailable(
                f"The gate's command {command!r} did not end within {_COMMAND_TIMEOUT_S:.0f} s; "
                "the login node or its file system may be overloaded."
            ) from exc
        if done.returncode != 0:
            raise Refused(_why(done.stderr, command))
        try:
            answer = json.loads(done.stdout)
        except ValueError as exc:
            raise Unavailable(f"The gate's command {command!r} gave no answer.") from exc
        return dict(answer)

    def last_log_lines(self) -> str:
        """The end of the gate's log, for people."""
        try:
            text = (self.home / "gate.log").read_text("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-_LOG_LINES:])

    def audit(self, event: str, **fields: str) -> None:
        """A line in the gate's own audit log (`lib.gate.audit`), by whoever set it up."""
        line: dict[str, Value] = {"time": round(time.time(), 3), "event": event, **fields}
        append_json_line(self.home / "audit.jsonl", line)


def make_gate_dir(path: str) -> GateDir:
    """Make the folder, 0700, or take the one that is there.

    Raises:
        Refused: it is somebody else's, or no folder.
        Conflict: something else lies in it.
    """
    home = gate_dir_at(path).home
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = home.lstat()
    if not home.is_dir() or home.is_symlink() or info.st_uid != os.getuid():
        raise Refused(f"{home} is not a folder of this account; name another in [gate] home.")
    names = {entry.name for entry in home.iterdir()}
    if names and not names & {"versions", "policy.toml", "host_key"}:
        raise Conflict(
            f"{home} holds other things and no gate; name another folder in [gate] home of the "
            "cluster file."
        )
    home.chmod(0o700)
    return GateDir(home)


def gate_dir_at(path: str) -> GateDir:
    """A path of the cluster file: absolute, or relative to the account's home."""
    return GateDir(Path.home() / path)


def environment(folder: Path) -> Mapping[str, str]:
    """For a gate that runs from that version: its code and packages, and no others."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    path = f"{folder}:{folder / 'packages'}"
    return {**kept, "PYTHONPATH": path, "PYTHONNOUSERSITE": "1", "PYTHONSAFEPATH": "1"}


def _why(stderr: str, command: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    if not lines:
        return f"The gate's command {command!r} failed without a word."
    if "Traceback" in stderr:
        return f"The gate's code does not run on this Python: {lines[-1].strip()}"
    return lines[-1].strip()
