"""Answers frames until the other side closes. Its stdout carries frames and nothing else."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable
from typing import BinaryIO

from lib.errors import ProtocolError, Refused, SceneBridgeError, StorageFull, Unavailable
from lib.gate_deploy.remote import control, frames, versions
from lib.gate_deploy.remote.frames import Message
from lib.gate_deploy.remote.gate_dir import GateDir, gate_dir_at, make_gate_dir
from lib.model.json_value import JsonValue, json_list, json_number, json_object, json_text

Reply = tuple[Message, bytes]
#: A full disk, a used-up quota, a limit on the size of files.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def main() -> None:
    """Serve requests on stdin and stdout."""
    os.umask(0o077)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a child prints goes to stderr
    source = sys.stdin.buffer
    while True:
        frame = frames.read_frame(source)
        if frame is None:
            return
        _answer(out, *frame)


def _answer(out: BinaryIO, message: Message, body: bytes) -> None:
    try:
        act = _HANDLERS.get(str(message.pop("do", "")))
        if act is None:
            raise ProtocolError("This program on the login node does not know that request.")
        answer, data = act(message, body)
        frames.write_frame(out, {"ok": True, **answer}, data)
    except SceneBridgeError as exc:
        frames.write_frame(out, {"ok": False, "code": exc.code, "message": exc.message})
    except OSError as exc:
        error = _of_system(exc)
        frames.write_frame(out, {"ok": False, "code": error.code, "message": error.message})
    except Exception as exc:
        text = f"The program on the login node failed: {type(exc).__name__}: {exc}"
        frames.write_frame(out, {"ok": False, "code": ProtocolError.code, "message": text})


def _of_system(error: OSError) -> SceneBridgeError:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in _FULL:
        return StorageFull(
            f"The account's home on the cluster is full or its quota is used up{where}; make "
            "room there (the gate needs about 40 MB), or name another folder in [gate] home."
        )
    if error.errno in _CLOSED:
        return Refused(
            f"The account may not write there on the cluster{where}; name a folder of its own in "
            "[gate] home of the cluster file."
        )
    return Unavailable(f"The login node's file system says: {error.strerror}{where}.")


def _gate_dir(message: Message) -> GateDir:
    return gate_dir_at(json_text(message["home"]))


def _whole(value: JsonValue) -> int:
    return int(json_number(value))


def _piece(value: JsonValue) -> tuple[str, int, str]:
    path, size, sha = json_list(value)
    return json_text(path), _whole(size), json_text(sha)


def _look(message: Message, _: bytes) -> Reply:
    """Facts about the node, the Python and what is deployed."""
    gate_dir = _gate_dir(message)
    found = {name: shutil.which(name) or "" for name in ("sbatch", "apptainer", "singularity")}
    return {
        "python": list(sys.version_info[:2]),
        "executable": sys.executable,
        "machine": platform.machine(),
        "libc": list(platform.libc_ver()),
        "system": platform.system(),
        "node": socket.gethostname(),
        "account_home": os.path.expanduser("~"),  # noqa: PTH111
        "home": str(gate_dir.home),
        "current": gate_dir.current(),
        "policy": gate_dir.policy.exists(),
        "programs": found,
    }, b""


def _installed(message: Message, _: bytes) -> Reply:
    gate_dir = _gate_dir(message)
    return {"installed": versions.installed(gate_dir, json_text(message["version"]))}, b""


def _install(message: Message, body: bytes) -> Reply:
    manifest = {
        kind: [_piece(piece) for piece in json_list(pieces)]
        for kind, pieces in json_object(message["manifest"]).items()
    }
    gate_dir, version = make_gate_dir(json_text(message["home"])), json_text(message["version"])
    versions.install(gate_dir, version, manifest, body)
    return {}, b""


def _first(message: Message, body: bytes) -> Reply:
    gate_dir, split = make_gate_dir(json_text(message["home"])), _whole(message["key_bytes"])
    key, policy = body[:split], body[split:]
    version, cluster = json_text(message["version"]), json_text(message["cluster"])
    return control.first(gate_dir, version, cluster, key, policy), b""


def _replace(message: Message, _: bytes) -> Reply:
    gate_dir = _gate_dir(message)
    port, version = _whole(message["port"]), json_text(message["version"])
    start, restart = message["start"] is True, message["restart"] is True
    return control.replace(gate_dir, version, port=port, start=start, restart=restart), b""


def _status(message: Message, _: bytes) -> Reply:
    return control.status(_gate_dir(message)), b""


def _start(message: Message, _: bytes) -> Reply:
    return control.start(_gate_dir(message)), b""


def _stop(message: Message, _: bytes) -> Reply:
    return control.stop(_gate_dir(message), jobs=message["jobs"] is True), b""


def _read_policy(message: Message, _: bytes) -> Reply:
    return control.read_policy(_gate_dir(message))


def _write_policy(message: Message, body: bytes) -> Reply:
    gate_dir, port = _gate_dir(message), _whole(message["port"])
    return control.write_policy(gate_dir, json_text(message["digest"]), body, port=port), b""


_HANDLERS: dict[str, Callable[[Message, bytes], Reply]] = {
    "look": _look,
    "installed": _installed,
    "install": _install,
    "first": _first,
    "replace": _replace,
    "status": _status,
    "start": _start,
    "stop": _stop,
    "read-policy": _read_policy,
    "write-policy": _write_policy,
}
