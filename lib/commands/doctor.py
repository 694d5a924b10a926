"""`doctor`: what a portal needs of this computer, checked one by one."""

from __future__ import annotations

import re
import shutil
import socket
import stat
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from lib import __version__, settings
from lib.commands.answer import Answer, Commands, command
from lib.errors import SceneBridgeError
from lib.places import make_data_folder, running_portal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    from lib.settings import Settings

#: Less free space than this and a few full scenes fill the disk.
LOW_DISK_BYTES = 5 * 2**30
#: OpenSSH 8.4 knows every option that the tunnels use.
OLDEST_SSH = (8, 4)
_SECRET = ("portal.sqlite", "keys/*", "secrets/*", "embedded")
_PUBLIC = (".pub", ".host")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `detail` says what was found, and what to do."""

    name: str
    ok: bool
    detail: str


def add_to(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    command(commands, "doctor", _doctor, common, "Check this computer and the data folder.")


def _doctor(options: argparse.Namespace) -> Answer:
    checks = list(examine(options.data.expanduser().resolve()))
    lines = [f"{'ok  ' if c.ok else 'BAD '} {c.name}: {c.detail}" for c in checks]
    return Answer(
        [asdict(c) for c in checks], "\n".join(lines), failed=not all(c.ok for c in checks)
    )


def examine(data: Path) -> Iterator[Check]:
    """All checks, for one data folder."""
    python = ".".join(str(part) for part in sys.version_info[:3])
    yield Check("versions", True, f"SceneBridge {__version__}, Python {python}")
    yield _packages(settings.PROJECT)
    yield _ssh()
    built = (settings.PROJECT / "assets").is_dir()
    yield Check("front end", built, "built" if built else "assets/ is missing: start ./run once")
    try:
        chosen = settings.load(data)
        yield Check("settings", True, f"{data / settings.FILE}: valid")
        make_data_folder(data)
    except SceneBridgeError as exc:
        yield Check("data folder", False, exc.message)
        return
    yield Check("data folder", True, f"{data} can be written to")
    yield _permissions(data)
    yield _disk(data)
    yield _port(chosen)


def _packages(project: Path) -> Check:
    """Whether the installed packages are the pinned ones."""
    pins = re.findall(
        r"^([\w.-]+)==(\S+)", (project / "requirements.txt").read_text("utf-8"), re.MULTILINE
    )
    wrong = [
        f"{name} {_installed(name)} is not {pin}" for name, pin in pins if _installed(name) != pin
    ]
    detail = f"{', '.join(wrong)}; start ./run once" if wrong else f"{len(pins)} as pinned"
    return Check("packages", not wrong, detail)


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(missing)"


def _ssh() -> Check:
    program = shutil.which("ssh")
    if program is None:
        return Check("ssh", False, "missing; on Debian or Ubuntu: sudo apt install openssh-client")
    said = subprocess.run(
        [program, "-V"], capture_output=True, text=True, timeout=10
    ).stderr.strip()
    found = re.match(r"OpenSSH_(?:for_Windows_)?(\d+)\.(\d+)", said)
    new_enough = found is not None and (int(found[1]), int(found[2])) >= OLDEST_SSH
    return Check(
        "ssh", new_enough, said if new_enough else f"{said}; OpenSSH 8.4 or newer is needed"
    )


def _permissions(data: Path) -> Check:
    """Whether other accounts are kept away from what is secret."""
    secrets = [file for pattern in _SECRET for file in data.glob(pattern)]
    private = [file for file in secrets if file.suffix not in _PUBLIC]
    readable = [f for f in (data, *private) if stat.S_IMODE(f.stat().st_mode) & 0o077]
    if readable:
        names = ", ".join(str(file) for file in readable)
        return Check(
            "permissions", False, f"others may enter or read {names}; use chmod go= on them"
        )
    return Check("permissions", True, f"{data} is closed to other accounts")


def _disk(data: Path) -> Check:
    free = shutil.disk_usage(data).free
    detail = f"{free / 2**30:.1f} GiB free below {data}"
    if free < LOW_DISK_BYTES:
        return Check("disk", False, f"{detail}; a full scene needs about 1 GiB")
    return Check("disk", True, detail)


def _port(chosen: Settings) -> Check:
    running = running_portal(chosen.data)
    if running is not None:
        return Check("port", True, f"the portal runs at {running.origin} (process {running.pid})")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", chosen.port))
        except OSError:
            return Check("port", False, f"{chosen.port} is in use; choose another with --port")
    return Check("port", True, f"{chosen.port} is free")
