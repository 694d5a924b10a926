"""The portal's own keys: one for each cluster, which that cluster's gate alone admits."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from lib.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

    from lib.model import ClusterId

_LIMIT_S = 30.0
_FAILED = "The portal's key could not be made"


def key_file(data: Path, cluster: ClusterId) -> Path:
    """Where the private key for that cluster lies; the public one beside it, `.pub`."""
    return data / "keys" / cluster


def make_key(file: Path) -> None:
    """Make a key pair, unless it is there.

    Raises:
        Unavailable: with what ssh-keygen said.
    """
    if file.exists():
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "scenebridge-portal"]
    try:
        done = subprocess.run(
            [*command, "-f", str(file)],
            cwd="/",
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
        )
    except subprocess.TimeoutExpired as exc:
        raise Unavailable(f"{_FAILED}: no answer within {_LIMIT_S:.0f} s.") from exc
    except OSError as exc:
        raise Unavailable(f"{_FAILED}: ssh-keygen cannot be started ({exc.strerror}).") from exc
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise Unavailable(f"{_FAILED}: {last}")
