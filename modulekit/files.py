"""Files that are whole or absent: written beside their name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator
from pathlib import Path

from modulekit.errors import DiskFull, UsageError
from modulekit.json_value import JsonValue

MAX_JSON_BYTES = 16 * 2**20
#: What a full disk, a used-up quota and a file size limit look like.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_full(error: OSError) -> bool:
    """Whether an operating system error means that there is no room to write."""
    return error.errno in _FULL


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says while `path` is written into plain words.

    Raises:
        DiskFull: no space, quota or permitted size is left.
        UsageError: the folder cannot be written for another reason.
    """
    try:
        yield
    except OSError as exc:
        if is_full(exc):
            raise DiskFull(
                f"{path.name} could not be written because the disk or the quota is full; "
                "free some space and run again."
            ) from exc
        raise UsageError(
            f"{path.name} could not be written ({exc.strerror}); choose another output folder."
        ) from exc


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name and rename it. Errors as in `writing`."""
    temporary = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_json(path: Path, value: JsonValue, *, compact: bool = False) -> None:
    """Write `value` as JSON text; NaN and infinities are refused by `json`."""
    text = json.dumps(
        value,
        ensure_ascii=False,
        allow_nan=False,
        indent=None if compact else 2,
        separators=(",", ":") if compact else None,
    )
    write_bytes(path, text.encode() + b"\n")


def read_json(path: Path) -> JsonValue:
    """Parse a JSON file of at most 16 MiB.

    Raises:
        UsageError: it is missing, too large or not JSON.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UsageError(f"{path.name} is larger than 16 MiB, which no catalog or item needs.")
        found: JsonValue = json.loads(path.read_bytes())
    except OSError as exc:
        raise UsageError(f"{path.name} cannot be read ({exc.strerror}).") from exc
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{path.name} is not JSON; write it again.") from exc
    return found
