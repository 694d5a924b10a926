"""Edit the policy of a gate: fetched, changed here, checked there, and only then in place."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import InvalidInput, Refused, SceneBridgeError, Unavailable
from lib.model import json_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from lib.config.clusters import GatePlace
    from lib.gate_deploy.connection import NodeConnection
    from lib.gate_deploy.remote.frames import Message


def replace(connection: NodeConnection, gate: GatePlace, text: bytes, digest: str = "") -> Message:
    """Put this policy in place of the one that is there.

    Args:
        digest: of the policy that it was made from; "" replaces any.
    Raises:
        Refused: the gate does not take it; nothing was changed.
    """
    done, _ = connection.ask("write-policy", text, home=gate.home, digest=digest, port=gate.port)
    return done


def edit(connection: NodeConnection, gate: GatePlace, say: Callable[[str], None]) -> Message | None:
    """Open an editor on it; again while the gate does not take what was written.

    Returns what the gate says afterwards; None when nothing was changed.

    Raises:
        InvalidInput: there is no terminal.
        Unavailable: the editor failed.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidInput("There is no terminal for an editor; use --get and --set FILE.")
    answer, old = connection.ask("read-policy", home=gate.home)
    with tempfile.TemporaryDirectory(prefix="sb-") as folder:
        file = Path(folder, "policy.toml")
        file.write_bytes(old)
        while True:
            _run_editor(file)
            new = file.read_bytes()
            if new == old:
                return None
            try:
                return replace(connection, gate, new, json_text(answer["digest"]))
            except (Refused, InvalidInput) as exc:
                say(exc.message)
                if not _again():
                    return None
            except SceneBridgeError:
                say(f"What you wrote:\n{new.decode('utf-8', 'replace')}")
                raise


def _run_editor(file: Path) -> None:
    words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    try:
        done = subprocess.run([*words, str(file)])
    except OSError as exc:
        raise Unavailable(
            f"The editor {words[0]} cannot be started; set EDITOR to another one."
        ) from exc
    if done.returncode:
        raise Unavailable(f"The editor {words[0]} failed; the policy was not changed.")


def _again() -> bool:
    return input("Edit it again? [Y/n] ").strip().lower() not in ("n", "no")
