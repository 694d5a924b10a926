"""Jupyter server of a session: its command line, readiness and activity."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from lib.jobs.control_files import SessionSpec
from lib.jobs.interfaces import Runtime, Task
from lib.jobs.sockets import connect_unix
from lib.model import JsonValue, json_list, json_object, json_text
from lib.protocol.messages import MAX_WEBSOCKET_BYTES

#: As `-m jupyterlab`. jsonschema (tried: 4.26) builds a grammar of IRIs when it is imported where
#: `rfc3987_syntax` is installed: more than half of what Jupyter computes to start. It checks a
#: format that Jupyter never asks for. The configuration file lets it be imported again.
START = (
    "import runpy, sys; sys.modules['rfc3987_syntax'] = None; "
    "runpy.run_module('jupyterlab', run_name='__main__', alter_sys=True)"
)
_CONFIG = Path(__file__).with_name("notebook_config.py")
_MAX_ANSWER_BYTES = 1024 * 1024
_ASK_TIMEOUT_S = 5.0
SOCKET = "jupyter.sock"


def notebook_task(runtime: Runtime, spec: SessionSpec, *, token: str) -> Task:
    """JupyterLab on a UNIX socket in the private folder, showing `work`.

    Settings and window layout lie in `work`, so they survive into a continued session;
    all else that Jupyter writes lies in the private folder.
    """
    work, private = Path(spec.work), Path(spec.scratch)
    config = private / "jupyter_config.py"
    shutil.copyfile(_CONFIG, config)

    def inside(path: Path) -> str:
        return str(runtime.inside(path, work=work, private=private))

    settings = work / ".jupyter"
    env: Mapping[str, str] = {
        "SCENEBRIDGE_TOKEN": token,
        "SCENEBRIDGE_WORK": inside(work),
        "SCENEBRIDGE_PRIVATE": inside(private),
        "SCENEBRIDGE_NOTEBOOK": spec.notebook,
        "SCENEBRIDGE_FRAME_ORIGIN": spec.frame_origin,
        "SCENEBRIDGE_LARGEST_MESSAGE": str(MAX_WEBSOCKET_BYTES),
        "JUPYTER_CONFIG_DIR": inside(private / "config"),
        "JUPYTER_RUNTIME_DIR": inside(private / "r"),
        "JUPYTERLAB_SETTINGS_DIR": inside(settings / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": inside(settings / "workspaces"),
        "IPYTHONDIR": inside(private / "ipython"),
        "PYTHONUNBUFFERED": "1",
    }
    return spec.task(("-c", START, f"--config={inside(config)}"), env)


@dataclass(frozen=True, slots=True)
class Activity:
    """When the notebook was last used (Unix seconds), and whether a cell runs now."""

    last: float
    busy: bool


class NotebookClient:
    """Asks the notebook server over its UNIX socket, with the token."""

    def __init__(self, private: Path, token: str) -> None:
        self._socket = private / SOCKET
        self._token = token

    async def answers(self) -> bool:
        """Whether an authenticated request is answered."""
        try:
            return isinstance(await self._get("/api/status?no_track_activity=1"), dict)
        except (OSError, ValueError, RecursionError, asyncio.TimeoutError):
            return False

    async def activity(self) -> Activity | None:
        """None when it does not answer."""
        try:
            status = json_object(await self._get("/api/status?no_track_activity=1"))
            kernels = json_list(await self._get("/api/kernels?no_track_activity=1"))
            last = datetime.strptime(json_text(status["last_activity"]), "%Y-%m-%dT%H:%M:%S.%fZ")
            busy = any(json_object(k)["execution_state"] == "busy" for k in kernels)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, asyncio.TimeoutError):
            return None
        return Activity(last.replace(tzinfo=timezone.utc).timestamp(), busy)

    async def _get(self, path: str) -> JsonValue:
        return await asyncio.wait_for(self._ask(path), _ASK_TIMEOUT_S)

    async def _ask(self, path: str) -> JsonValue:
        reader, writer = await asyncio.open_unix_connection(sock=await connect_unix(self._socket))
        try:
            writer.write(
                f"GET {path} HTTP/1.0\r\nHost: localhost\r\n"
                f"Authorization: token {self._token}\r\n\r\n".encode()
            )
            answer = b""
            while (part := await reader.read(65536)) and len(answer) < _MAX_ANSWER_BYTES:
                answer += part
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0] + b" ":
            raise ValueError("the notebook server refused the request")
        answered: JsonValue = json.loads(body)
        return answered
