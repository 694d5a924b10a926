"""The portal's restricted keys, one per cluster: `DATA/keys/CLUSTER`.

Such a key opens nothing but the gate's verbs, so it may lie on the portal's disk.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from lib.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

    from lib.model import ClusterId

_TIMEOUT_S = 30.0


def portal_key(data: Path, cluster: ClusterId) -> Path:
    """The private key's file, made when there is none; the public one is beside it.

    Raises:
        Unavailable: it could not be made.
    """
    key = data / "keys" / cluster
    if key.exists():
        return key
    key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "scenebridge-portal"]
    try:
        done = subprocess.run(
            [*command, "-f", str(key)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except OSError as exc:
        raise Unavailable(
            f"The portal's key could not be made: ssh-keygen cannot be started ({exc.strerror})."
        ) from exc
    except subprocess.TimeoutExpired as exc:
        raise Unavailable("The portal's key could not be made in time.") from exc
    if done.returncode:
        said = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise Unavailable(f"The portal's key could not be made: {said}")
    return key
