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
from lib.gate_deploy.remote.gate_dir import gate_dir_at, make_gate_dir

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
        act = _HANDLERS.get(message.pop("do", ""))
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


def _look(message: Message, _: bytes) -> Reply:
    """Facts about the node, the Python and what is deployed."""
    gate_dir = gate_dir_at(message["home"])
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
    gate_dir = gate_dir_at(message["home"])
    return {"installed": versions.installed(gate_dir, message["version"])}, b""


def _install(message: Message, body: bytes) -> Reply:
    versions.install(make_gate_dir(message["home"]), message["version"], message["manifest"], body)
    return {}, b""


def _first(message: Message, body: bytes) -> Reply:
    gate_dir, split = make_gate_dir(message["home"]), message["key_bytes"]
    key, policy = body[:split], body[split:]
    return control.first(gate_dir, message["version"], message["cluster"], key, policy), b""


def _replace(message: Message, _: bytes) -> Reply:
    gate_dir = gate_dir_at(message["home"])
    options = {name: message[name] for name in ("port", "start", "restart")}
    return control.replace(gate_dir, message["version"], **options), b""


def _status(message: Message, _: bytes) -> Reply:
    return control.status(gate_dir_at(message["home"])), b""


def _start(message: Message, _: bytes) -> Reply:
    return control.start(gate_dir_at(message["home"])), b""


def _stop(message: Message, _: bytes) -> Reply:
    return control.stop(gate_dir_at(message["home"]), jobs=message["jobs"]), b""


def _read_policy(message: Message, _: bytes) -> Reply:
    return control.read_policy(gate_dir_at(message["home"]))


def _write_policy(message: Message, body: bytes) -> Reply:
    gate_dir, port = gate_dir_at(message["home"]), message["port"]
    return control.write_policy(gate_dir, message["digest"], body, port=port), b""


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
