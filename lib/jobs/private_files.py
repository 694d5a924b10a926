"""Small files that other processes read: whole or not at all, and private."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 by temporary file and rename."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """`write_private` of one JSON value."""
    write_private(path, json.dumps(value, ensure_ascii=True).encode() + b"\n")


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
