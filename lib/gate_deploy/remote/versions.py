"""Put one version of the gate beside the others, and remove those that nobody uses.

Every file is checked against the manifest before it is written where it could be used.
Wheels are unpacked here: a login node may have neither pip nor venv nor internet.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import secrets
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.errors import InvalidInput, ProtocolError
from lib.files.atomic import write_atomic
from lib.gate_deploy.remote.gate_dir import GateDir

#: By "files" and "wheels": name, size and SHA-256 of each.
Manifest = Mapping[str, Sequence[tuple[str, int, str]]]
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_MANIFEST = "manifest.json"
_MAX_UNPACKED = 256 * 2**20


def installed(gate_dir: GateDir, name: str) -> bool:
    """Whether that version is there, whole and unchanged."""
    folder = gate_dir.version(name)
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        files: Mapping[str, str] = {**manifest["files"], **manifest["unpacked"]}
        return all(_digest((folder / path).read_bytes()) == sha for path, sha in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def install(gate_dir: GateDir, name: str, manifest: Manifest, body: bytes) -> None:
    """Write a version from the bytes of all its files, one after the other.

    Args:
        manifest: `files` and `wheels`, lists of [name, size, sha256] in the order of `body`;
            files go to that path, wheels into `packages/`.
    Raises:
        ProtocolError: a checksum or the size does not fit; nothing is left behind.
    """
    target = gate_dir.version(name)
    gate_dir.versions.mkdir(mode=0o700, exist_ok=True)
    part = gate_dir.versions / f".part-{secrets.token_hex(6)}"
    part.mkdir(mode=0o700)
    try:
        files, rest = _parts(manifest["files"], body)
        wheels, rest = _parts(manifest["wheels"], rest)
        if rest:
            raise ProtocolError("More was sent than the manifest names.")
        for path, data in files.items():
            _write(part, path, data)
        unpacked: dict[str, str] = {}
        for data in wheels.values():
            unpacked |= _unpack(data, part, "packages")
        record = {"files": {p: _digest(d) for p, d in files.items()}, "unpacked": unpacked}
        write_atomic(part / _MANIFEST, json.dumps(record).encode(), sync=True)
        if target.exists():  # it was not whole
            target.rename(gate_dir.versions / f".part-{secrets.token_hex(6)}")
        part.rename(target)
    finally:
        _sweep(gate_dir)


def prune(gate_dir: GateDir) -> list[str]:
    """Remove the versions that neither the gate nor a live job uses; their names."""
    used = _used(gate_dir)
    if used is None:
        return []
    removed = []
    for folder in sorted(gate_dir.versions.iterdir()):
        if folder.name not in used:
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder.name)
    return removed


def _used(gate_dir: GateDir) -> set[str] | None:
    """None where it cannot be known: then nothing is removed."""
    used = {gate_dir.current()}
    try:
        gate = json.loads((gate_dir.home / "gate.json").read_bytes())
        used.add(gate.get("code", ""))
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        return None
    for file in gate_dir.home.glob("sessions/*/control/record.json"):
        try:
            record = json.loads(file.read_bytes())
        except (OSError, ValueError):
            return None
        if record.get("state") != "ended":
            if not record.get("code"):
                return None
            used.add(record["code"])
    return used


def _parts(listed: Sequence[tuple[str, int, str]], body: bytes) -> tuple[dict[str, bytes], bytes]:
    """Cut the files off the front of `body`, checked."""
    found, at = {}, 0
    for path, size, sha in listed:
        data = body[at : at + size]
        if len(data) != size or _digest(data) != sha:
            raise ProtocolError(
                f"The checksum of {path} is wrong: it arrived changed, and nothing was installed. "
                "Try again; if it stays so, the file differs from what was pinned."
            )
        found[path] = data
        at += size
    return found, body[at:]


def _unpack(wheel: bytes, part: Path, folder: str) -> dict[str, str]:
    """The paths and digests of what was written."""
    found = {}
    left = _MAX_UNPACKED
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            first = entry.filename.split("/")[0]
            if first.endswith(".data"):  # scripts and headers; the gate needs neither
                continue
            left -= entry.file_size
            if left < 0:
                raise InvalidInput("A wheel is too large once unpacked.")
            data = archive.read(entry)
            path = f"{folder}/{entry.filename}"
            _write(part, path, data)
            found[path] = _digest(data)
    return found


def _write(part: Path, path: str, data: bytes) -> None:
    if _PATH.fullmatch(path) is None or ".." in path.split("/"):
        raise InvalidInput(f"{path!r:.120} cannot be the name of a shipped file.")
    file = part / path
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_bytes(data)


def _sweep(gate_dir: GateDir) -> None:
    for left in gate_dir.versions.glob(".part-*"):
        shutil.rmtree(left, ignore_errors=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
