"""One ssh connection to a login node, and a conversation with the program sent over it.

A line of sh looks for a Python, which says a marker and then takes the program (`there`)
from stdin. Whatever a login shell prints before the marker is passed over, and nothing is
sent until the marker has come. The program is kept in memory there, never in a file.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lib.config.settings import PROJECT
from lib.errors import (
    ClusterUnreachable,
    NotFound,
    ProtocolError,
    Refused,
    SceneBridgeError,
    from_code,
)
from lib.gate_deploy.remote import frames
from lib.gate_deploy.remote.frames import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from lib.model import JsonValue

#: The program, in an order in which each finds what it imports.
SOURCES = (
    "lib.errors",
    "lib.model.json_value",
    "lib.files.atomic",
    "lib.files.json_lines",
    "lib.gate_deploy.remote.frames",
    "lib.gate_deploy.remote.gate_dir",
    "lib.gate_deploy.remote.versions",
    "lib.gate_deploy.remote.control",
    "lib.gate_deploy.remote.main",
)
_PACKAGES = ("lib", "lib.files", "lib.model", "lib.gate_deploy", "lib.gate_deploy.remote")
#: Tried where the cluster file names none; the first that is new enough is taken.
PYTHONS = ("python3.13", "python3.12", "python3.11", "python3.10", "python3.14", "python3")
_PYTHON_NAME = re.compile(r"[A-Za-z0-9._/-]{1,200}")
_MARKER = b"scenebridge-dialogue-1"
#: Somebody may have to find a telephone that shows a code.
SIGN_IN_TIMEOUT_S = 300.0
#: A lost connection is noticed by ssh itself, much earlier.
ANSWER_TIMEOUT_S = 1800.0
_END_TIMEOUT_S = 10.0
#: Exit code of ssh where it did not come to run anything.
_OWN_FAULT = 255
_MAX_NOISE = 2**20
_MAX_SAID = 64 * 1024

_BOOT = """\
import hashlib, json, sys, types
print("\\n{marker} python", flush=True)
source = sys.stdin.buffer
head = json.loads(source.readline())
text = source.read(head["size"])
if hashlib.sha256(text).hexdigest() != head["sha256"]:
    sys.exit("the program arrived changed")
program = json.loads(text)
for name in program["packages"]:
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
for name, code in program["modules"]:
    module = sys.modules[name] = types.ModuleType(name)
    parent, _, own = name.rpartition(".")
    setattr(sys.modules[parent], own, module)
    exec(compile(code, name, "exec"), module.__dict__)
sys.modules[program["main"]].main()
"""
_SH = (
    'found=; for p in "$@"; do '
    'if v=$("$p" -I -c "import sys; print(sys.version.split()[0]); '
    'sys.exit(sys.version_info < (3, 10))" 2>/dev/null </dev/null); '
    'then exec "$p" -I -u -c "import base64, sys; exec(base64.b64decode(sys.argv[1]))" {boot}; '
    'else found="$found $p=$v"; fi; done; '
    'echo; echo "{marker} none$found"'
)


def remote_command(python: str) -> str:
    """The command line for the account's login shell, whichever that is.

    In it stands one word in single quotes, without newlines, `!` or quotes: sh, csh and
    fish all hand that on as it is.
    """
    names = [python] if python else PYTHONS
    if any(_PYTHON_NAME.fullmatch(name) is None for name in names):
        raise ProtocolError("The Python of the cluster file cannot be named on a command line.")
    marker = _MARKER.decode()
    boot = base64.b64encode(_BOOT.replace("{marker}", marker).encode()).decode()
    script = _SH.replace("{boot}", boot).replace("{marker}", marker)
    return f"exec /bin/sh -c '{script}' sh {' '.join(names)}"


def source_files() -> list[Path]:
    """The files that the program is read from."""
    return [PROJECT.joinpath(*name.split(".")).with_suffix(".py") for name in SOURCES]


def program() -> bytes:
    """The program as it is sent: a line about it, and its modules."""
    files = zip(SOURCES, source_files(), strict=True)
    modules = [[name, file.read_text("utf-8")] for name, file in files]
    whole = {"packages": _PACKAGES, "modules": modules, "main": SOURCES[-1]}
    text = json.dumps(whole).encode()
    head = {"size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    return json.dumps(head).encode() + b"\n" + text


@dataclass(frozen=True, slots=True)
class SshTarget:
    """How to reach a login node.

    Args:
        argv: gives a command line for the command to run there.
        environment: of ssh.
        explain: what ssh wrote, as an error.
        name: the host as people know it.
        python: see `lib.config.clusters.GatePlace`.
    """

    argv: Callable[[str], Sequence[str]]
    environment: Mapping[str, str]
    explain: Callable[[str], SceneBridgeError]
    name: str
    python: str


class NodeConnection:
    """An open connection; a context manager. Not for two threads.

    Raises, when it is opened:
        NotFound: no suitable Python there.
        Refused, ClusterUnreachable: ssh did not get in; the sentence says why.
    """

    def __init__(self, target: SshTarget) -> None:
        self._target = target
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        try:
            self._process = subprocess.Popen(
                list(target.argv(remote_command(target.python))),
                env=dict(target.environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        except FileNotFoundError as exc:
            self._said.close()
            raise NotFound("ssh was not found; install the OpenSSH client.") from exc
        assert self._process.stdin is not None  # noqa: S101 - a pipe, as asked for
        assert self._process.stdout is not None  # noqa: S101 - another
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._pending = b""
        self._begun = False
        try:
            self._find_marker()
            self._begun = True
            self._write(program(), time.monotonic() + ANSWER_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> NodeConnection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(
        self,
        do: str,
        body: bytes = b"",
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
        **fields: JsonValue,
    ) -> tuple[Message, bytes]:
        """One request and its answer.

        Raises:
            SceneBridgeError: what the program there reported.
            ClusterUnreachable: the connection broke, or no answer came in time.
        """
        deadline = time.monotonic() + timeout_s
        self._write(frames.pack_frame({"do": do, **fields}, body), deadline)
        head = self._line(deadline)
        size = _size_of(head)
        taken = frames.read_frame(io.BytesIO(head + self._exactly(size, deadline)))
        if taken is None:
            raise self._broken()
        answer, data = taken
        if not answer.pop("ok", False):
            raise from_code(str(answer.get("code")), str(answer.get("message")))
        return answer, data

    def close(self) -> None:
        """End the connection. The program there ends with it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(_END_TIMEOUT_S)
        if self._process.stderr is not None:
            self._process.stderr.close()
        self._said.close()

    # --- inside -----------------------------------------------------------------------

    def _find_marker(self) -> None:
        deadline = time.monotonic() + SIGN_IN_TIMEOUT_S
        passed = 0
        while True:
            line = self._line(deadline)
            if line.startswith(_MARKER):
                break
            passed += len(line)
            if passed > _MAX_NOISE:
                raise ProtocolError(
                    f"The login shell on {self._target.name} prints without end; "
                    "look at its .bashrc."
                )
        said = line[len(_MARKER) :].decode("utf-8", "replace").split()
        if said[:1] != ["python"]:
            raise NotFound(self._no_python(said[1:]))

    def _no_python(self, found: Sequence[str]) -> str:
        there = [word.replace("=", " is ", 1) for word in found if not word.endswith("=")]
        old = "; there " + ", ".join(there) + ", which is too old" if there else ""
        return (
            f"No Python 3.10 or newer was found on {self._target.name} (looked for "
            f"{', '.join(word.split('=')[0] for word in found)}){old}. Write the path of one into "
            "python in [gate] of the cluster file; the site's documentation or "
            "`module avail python` there names them."
        )

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._pending:
            if len(self._pending) > frames.MAX_LINE:
                raise ProtocolError(f"{self._target.name} sent a line that is too long.")
            self._pending += self._read(deadline)
        line, _, self._pending = self._pending.partition(b"\n")
        return line + b"\n"

    def _exactly(self, size: int, deadline: float) -> bytes:
        while len(self._pending) < size:
            self._pending += self._read(deadline)
        data, self._pending = self._pending[:size], self._pending[size:]
        return data

    def _read(self, deadline: float) -> bytes:
        ready, _, _ = select.select([self._out], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise ClusterUnreachable(
                f"{self._target.name} is connected but gave no answer in time."
            )
        data = os.read(self._out, 65536)
        if not data:
            raise self._broken()
        return data

    def _write(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            left = max(0.0, deadline - time.monotonic())
            _, ready, _ = select.select([], [self._in], [], left)
            if not ready:
                raise ClusterUnreachable(
                    f"{self._target.name} is connected but takes nothing more."
                )
            try:
                view = view[os.write(self._in, view[:65536]) :]
            except BrokenPipeError as exc:
                raise self._broken() from exc

    def _broken(self) -> SceneBridgeError:
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._listener.join(_END_TIMEOUT_S)
        if not self._begun and self._process.returncode not in (_OWN_FAULT, None):
            return Refused(
                f"{self._target.name} let you in and ran no command. A key that is sealed for the "
                "tunnel cannot set up a gate: use an ordinary one, of an account that may log in."
            )
        self._said.seek(0)
        return self._target.explain(self._said.read(_MAX_SAID).decode("utf-8", "replace"))

    def _listen(self) -> None:
        """Keep what ssh says, and show it to whoever signs in: it may be instructions."""
        assert self._process.stderr is not None  # noqa: S101 - a pipe, as asked for
        show = sys.stderr.isatty()
        kept = 0
        while data := self._process.stderr.read(4096):
            if kept < _MAX_SAID:
                kept += self._said.write(data)
                self._said.flush()
            if show:
                text = data.decode("utf-8", "replace")
                sys.stderr.write(
                    "".join(c if c.isprintable() or c in "\r\n" else "?" for c in text)
                )
                sys.stderr.flush()


def _size_of(head: bytes) -> int:
    try:
        size = json.loads(head)["bytes"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ProtocolError("The login node sent what is no answer.") from exc
    if not isinstance(size, int) or not 0 <= size <= frames.MAX_BODY:
        raise ProtocolError("The login node sent an answer of an impossible size.")
    return size
