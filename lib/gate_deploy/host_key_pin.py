"""The gate's host key in the cluster's file: the line to write, and writing it."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
from typing import TYPE_CHECKING

from lib.config.clusters import read_cluster
from lib.errors import Conflict, InvalidInput, Refused

if TYPE_CHECKING:
    from pathlib import Path

_TABLE = re.compile(r"^\s*\[")
_GATE = re.compile(r"^\s*\[\s*gate\s*\]")
_KEY = re.compile(r"^\s*host_key\s*=")


def line_for(host_key: str) -> str:
    """The line of `[gate]`."""
    return f'host_key = "{host_key}"'


def fingerprint(host_key: str) -> str:
    """As `ssh-keygen -l` shows it."""
    digest = hashlib.sha256(base64.b64decode(host_key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def may_pin(file: Path) -> bool:
    """Whether who runs this could write the cluster's file."""
    return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)


def pin(file: Path, host_key: str) -> None:
    """Write the key into the file; everything else in it stays, as do owner and mode.

    Raises:
        Refused: the file may not be written.
        Conflict: the file has no table [gate] that stands on lines of its own.
    """
    try:
        old = file.read_text("utf-8")
        new = _with_key(old, line_for(host_key))
        info = file.stat()
        part = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
        try:
            part.write_text(new, "utf-8")
            part.chmod(info.st_mode & 0o777)
            if (info.st_uid, info.st_gid) != (part.stat().st_uid, part.stat().st_gid):
                os.chown(part, info.st_uid, info.st_gid)
            found = read_cluster(part)
            if found.gate is None or found.gate.host_key != host_key:
                raise InvalidInput("the key does not stand in [gate]")
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
    except OSError as exc:
        raise Refused(
            f"{file} cannot be written ({exc.strerror}); whoever owns it writes into [gate]: "
            f"{line_for(host_key)}"
        ) from exc
    except InvalidInput as exc:
        raise Conflict(
            f"{file} is not written as this program can change it; write into [gate] yourself: "
            f"{line_for(host_key)}"
        ) from exc


def _with_key(text: str, line: str) -> str:
    lines = text.splitlines()
    start = next((i for i, found in enumerate(lines) if _GATE.match(found)), None)
    if start is None:
        raise InvalidInput("no table [gate]")
    after = (i for i in range(start + 1, len(lines)) if _TABLE.match(lines[i]))
    end = next(after, len(lines))
    old = next((i for i in range(start + 1, end) if _KEY.match(lines[i])), None)
    if old is None:
        lines.insert(start + 1, line)
    else:
        lines[old] = line
    return "\n".join(lines) + "\n"
