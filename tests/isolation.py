"""Isolation: what tests start finds folders of the run where the machine has its own.

The site's files, the administrators' tunnels, the data folder, the home and the folder for
sockets are empty ones, made anew for each run. Child processes inherit the variables. Programs
that read the home from the password file (ssh, Apptainer) are started by tests with folders
of their own.

Package managers keep the account's settings and caches: they say where packages come from.
What is compiled or fetched for tests is kept in the checkout's `.pytest_cache`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lib.server.module_cache import code_digest

PROJECT = Path(__file__).resolve().parents[1]
CACHE = PROJECT / ".pytest_cache"
#: They would lead back to the account that runs the tests, or slow them down.
_TAKEN_OUT = (
    *("SSH_AUTH_SOCK", "SSH_ASKPASS", "EDITOR", "VISUAL", "DISPLAY", "WAYLAND_DISPLAY"),
    *("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "NOTIFY_SOCKET", "WATCHDOG_USEC"),
    # Byte code is kept, or each of hundreds of processes compiles the project anew.
    *("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"),
    *("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "SLURM_CONF"),
)


def new_folder() -> Path:
    """A short path, since sockets lie below it; only we can enter."""
    return Path(tempfile.mkdtemp(prefix="sbt-"))


def variables(folder: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What to set so that everything of the machine is looked for in `folder`."""
    given = Path(environment.get("HOME") or "/nonexistent")
    pip = given / ".config" / "pip" / "pip.conf"
    kept = {
        "PIP_CONFIG_FILE": str(pip) if pip.exists() else os.devnull,
        "PIP_CACHE_DIR": str(given / ".cache" / "pip"),
        "UV_CACHE_DIR": str(given / ".cache" / "uv"),
        "NPM_CONFIG_USERCONFIG": str(given / ".npmrc"),
        "NPM_CONFIG_CACHE": str(given / ".npm"),
        "GIT_CONFIG_GLOBAL": str(given / ".gitconfig"),
    }
    return {name: environment.get(name, value) for name, value in kept.items()} | {
        "HOME": str(folder / "home"),
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "XDG_CACHE_HOME": str(CACHE / "home"),
        "NUMBA_CACHE_DIR": str(CACHE / f"numba-{code_digest()[:16]}"),
        "SCENEBRIDGE_SITE": str(folder / "site"),
        "SCENEBRIDGE_TUNNELS": str(folder / "tunnels"),
        "SCENEBRIDGE_DATA": str(folder / "data"),
    }


def isolate(folder: Path) -> None:
    """This process, and what it starts from now on, see nothing of the machine's own."""
    found = variables(folder)
    for name in ("home", "run", "site", "tunnels", "data"):
        (folder / name).mkdir(mode=0o700)
    for name in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
        Path(found[name]).mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in CACHE.glob("numba-*"):
        if str(old) != found["NUMBA_CACHE_DIR"]:
            shutil.rmtree(old, ignore_errors=True)
    for name in _TAKEN_OUT:
        os.environ.pop(name, None)
    os.environ.update(found)
