"""Atomic writes: a small private file is replaced whole or not at all, by rename."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600, sync: bool = False) -> None:
    """Write a file by temporary file and rename.

    Args:
        mode: what it gets whatever the umask, before anybody finds it by its name.
        sync: on the disk before the rename: nothing else is left after a power failure.
    Raises:
        OSError: what was there stays as it was.
    """
    part = path.with_name(f".{path.name}.{os.urandom(6).hex()}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            if mode != 0o600:
                os.fchmod(file.fileno(), mode)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """`write_atomic` of one value as JSON. Raises `TypeError` where it is none."""
    write_atomic(path, json.dumps(value, ensure_ascii=True).encode() + b"\n")


def read_json(path: Path) -> Any:
    """The JSON value of a file of ours; None where it does not exist."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def text_of(path: Path) -> str:
    """The text of a file of ours; "" where it does not exist."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return ""
