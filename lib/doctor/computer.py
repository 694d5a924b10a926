"""Programs, packages and the clock of this computer."""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from lib import __version__
from lib.config.settings import PROJECT
from lib.doctor.check import Check

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLDEST_PYTHON = (3, 11)
#: OpenSSH 8.4 knows every option that the tunnels use.
OLDEST_SSH = (8, 4)
_ASKING_S = 10
#: adjtimex(2): what it returns, and large enough for `struct timex`.
_TIME_ERROR = 5
_TIMEX_BYTES = 512


def checks() -> Iterator[Check]:
    """What every portal needs."""
    python = ".".join(str(part) for part in sys.version_info[:3])
    said = f"SceneBridge {__version__}, Python {python}"
    new_enough = sys.version_info >= OLDEST_PYTHON
    yield Check("versions", new_enough, said if new_enough else f"{said}: install Python 3.11")
    yield packages(PROJECT)
    yield ssh()
    built = (PROJECT / "assets").is_dir()
    yield Check("front end", built, "built" if built else "assets/ is missing: start ./run once")


def packages(project: Path) -> Check:
    """Whether the installed packages are the pinned ones."""
    pins = re.findall(
        r"^([\w.-]+)==(\S+)", (project / "requirements.in").read_text("utf-8"), re.MULTILINE
    )
    wrong = [
        f"{name} {_installed(name)} is not {pin}" for name, pin in pins if _installed(name) != pin
    ]
    detail = f"{', '.join(wrong)}: start ./run once" if wrong else f"{len(pins)} as pinned"
    return Check("packages", not wrong, detail)


@functools.cache
def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(missing)"


def ssh() -> Check:
    """The OpenSSH client."""
    program = shutil.which("ssh")
    if program is None:
        return Check("ssh", False, "missing: on Debian or Ubuntu: sudo apt install openssh-client")
    said = subprocess.run(
        [program, "-V"], capture_output=True, text=True, timeout=_ASKING_S
    ).stderr.strip()
    found = re.match(r"OpenSSH_(?:for_Windows_)?(\d+)\.(\d+)", said)
    new_enough = found is not None and (int(found[1]), int(found[2])) >= OLDEST_SSH
    return Check("ssh", new_enough, said if new_enough else f"{said}: install OpenSSH 8.4 or newer")


def clock() -> Check:
    """Whether somebody keeps the clock right; sign-ins end where it is wrong by a minute."""
    match _kept():
        case True:
            return Check("clock", True, "is kept in time")
        case False:
            return Check(
                "clock", False, "nothing keeps it in time: sudo apt install chrony, or "
                "sudo timedatectl set-ntp true",
            )  # fmt: skip
    return Check("clock", True, "nobody here knows whether it is kept in time; providers say below")


def _kept() -> bool | None:
    """None where this computer cannot tell, as in many containers."""
    program = shutil.which("timedatectl")
    if program is not None:
        try:
            said = subprocess.run(
                [program, "show", "--property=NTPSynchronized", "--value"],
                capture_output=True,
                text=True,
                timeout=_ASKING_S,
            ).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            said = ""
        if said in ("yes", "no"):
            return said == "yes"
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    # A clock that the host of a virtual machine keeps looks unsynchronised from inside.
    return True if 0 <= state < _TIME_ERROR else None
