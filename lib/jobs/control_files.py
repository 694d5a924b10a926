"""Control files: what the gate tells the session script, and what the script reports back.

Files in `control/`, all 0600, all written by temporary file and rename:

* `spec.json` (gate): `SessionSpec`;
* `server.crt server.key client.crt token` (gate): the secrets of this one session;
* `endpoint.json` (script): `{"host", "port", "time"}`, once in a run, when the notebook answers;
* `module.json` (script): `{"exit_code", "message", "time"}`, when the module has ended;
* `idle.json` (script): `{"idle_at"}`, when an end for want of use is near, or null again;
* `exit.json` (script): `{"end_reason", "reason", "exit_code"}`, last of all.

What the script reports holds `restarts` too, how often its scheduler had begun the job anew by
then: the gate takes only what the run that runs has said.

Logs: `job.log` is the script's own output, `module.log` and `notebook.log` what the
tasks printed (bounded; the older half is in `.1`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from lib.files.atomic import read_json, write_json
from lib.jobs.environment import inherited
from lib.jobs.interfaces import RESTARTS, Task
from lib.model.bounds import Bytes, Count, Json, Name, Seconds, Sentence, UpTo
from lib.protocol.codec import from_plain

SPEC = "spec.json"
ENDPOINT = "endpoint.json"
MODULE = "module.json"
IDLE = "idle.json"
EXIT = "exit.json"
TOKEN = "token"  # noqa: S105 (a file name)
SERVER_CERT, SERVER_KEY = "server.crt", "server.key"
CLIENT_CERT, CLIENT_KEY = "client.crt", "client.key"
JOB_LOG, MODULE_LOG, NOTEBOOK_LOG = "job.log", "module.log", "notebook.log"

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """One job for the session script.

    Args:
        kind: "session" or "run".
        work: the work folder, absolute.
        scratch: node-local folder to make, a short path; may name variables of the job.
        host: address to bind the endpoint to; "" for the node's own name.
        entry: Python module of the detector.
        notebook: file name in `work` to open first; "" for none.
        frame_origin: portal origin that may frame the notebook; "" for none.
        idle_s: end after so long without use; 0 never.
        max_file_bytes: largest single file that the tasks may write.
        readable: paths that the tasks read beside `work`.
        gpus: how many the job was given.
        image: the module's container image; "" for a runtime without.
    """

    kind: Name
    work: Sentence
    scratch: Sentence
    host: Name
    entry: Name
    notebook: Name
    frame_origin: Name
    idle_s: Seconds
    max_file_bytes: Bytes
    readable: Annotated[list[Sentence], UpTo(2000)]
    runtime: Name
    runtime_options: Annotated[dict[str, object], Json()]
    gpus: Count = 0
    image: Sentence = ""

    def task(self, args: tuple[str, ...], env: Mapping[str, str]) -> Task:
        """A task of this job: with its folders, data, GPUs and image."""
        return Task(
            args=args,
            env=env,
            work=Path(self.work),
            private=Path(self.scratch),
            readable=tuple(Path(path) for path in self.readable),
            gpus=self.gpus,
            image=Path(self.image) if self.image else None,
        )

    def write(self, control: Path) -> None:
        """Into `control/spec.json`."""
        write_json(control / SPEC, asdict(self))

    @classmethod
    def read(cls, control: Path) -> SessionSpec:
        """From `control/spec.json`."""
        return from_plain(cls, read_json(control / SPEC))


def restarts() -> int:
    """How often the scheduler has begun this job anew; for the session script."""
    told = os.environ.get(RESTARTS, "")
    return int(told) if told.isdecimal() else 0


def write_report(control: Path, name: str, said: Mapping[str, object]) -> None:
    """What the session script says of its job."""
    write_json(control / name, {**said, "restarts": restarts()})


def script_argv(control: Path) -> tuple[str, ...]:
    """The command that runs the session script with this very Python."""
    return (sys.executable, "-S", "-m", "lib.jobs.session", str(control))


def script_env() -> Mapping[str, str]:
    """The session script's environment: its code, and what tasks may inherit."""
    return {**inherited(), "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
