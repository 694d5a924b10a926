"""Run code in a session's notebook, by whoever has its secrets and a socket that leads there."""

from __future__ import annotations

import json
import ssl
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, unix_connect

from lib.model import Endpoint
from lib.notebook_proxy.upstream import tls_context


@dataclass
class Lab:
    """One notebook through `socket`; `secrets` has its certificates and token.

    With `keep` all code goes through one WebSocket, until `close`: at each new one Jupyter asks the
    kernel for a sign of life first.
    """

    id: str
    socket: Path
    secrets: Endpoint
    private: Path
    kernel: str = ""
    keep: bool = False
    _line: ClientConnection | None = None
    _kept: ExitStack = field(default_factory=ExitStack)

    def context(self) -> ssl.SSLContext:
        return tls_context(self.secrets, self.private)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"token {self.secrets.token}"}

    def http(self, **options: Any) -> httpx.Client:
        """With the token, unless `headers` say otherwise."""
        transport = httpx.HTTPTransport(uds=str(self.socket), verify=self.context())
        options.setdefault("headers", self.headers)
        return httpx.Client(
            transport=transport, base_url=f"https://{self.secrets.name}", timeout=300, **options
        )

    def run(self, code: str, timeout_s: float = 300.0) -> str:
        """What the code printed, in a kernel that stays.

        Raises:
            AssertionError: the code failed; with its traceback.
        """
        if not self.kernel:
            with self.http() as client:
                made = client.post("/api/kernels", json={"name": "python3"})
                made.raise_for_status()
                self.kernel = made.json()["id"]
        with self._channels() as line:
            asked = uuid.uuid4().hex
            line.send(json.dumps(_execute(asked, code)))
            said, failed, done = "", "", {"idle", "reply"}
            while done:
                message = json.loads(line.recv(timeout=timeout_s))
                if message["parent_header"].get("msg_id") != asked:
                    continue
                content = message["content"]
                match message["msg_type"]:
                    case "stream":
                        said += content["text"]
                    case "error":
                        failed = "\n".join(content["traceback"])
                    case "execute_reply":
                        done.discard("reply")
                    case "status" if content["execution_state"] == "idle":
                        done.discard("idle")
        assert not failed, failed
        return said

    @contextmanager
    def _channels(self) -> Iterator[ClientConnection]:
        """The kernel's WebSocket."""
        if self._line is None:
            self._line = self._kept.enter_context(
                unix_connect(
                    str(self.socket),
                    f"wss://{self.secrets.name}/api/kernels/{self.kernel}/channels",
                    ssl=self.context(),
                    server_hostname=self.secrets.name,
                    additional_headers=self.headers,
                    open_timeout=300,
                    max_size=None,
                )
            )
        try:
            yield self._line
        finally:
            if not self.keep:
                self.close()

    def close(self) -> None:
        """End the WebSocket, where one was kept."""
        self._line = None
        self._kept.close()

    def value(self, code: str, timeout_s: float = 300.0) -> Any:
        """The last line of what the code printed, which must be JSON."""
        return json.loads(self.run(code, timeout_s).strip().splitlines()[-1])


def _execute(asked: str, code: str) -> dict[str, Any]:
    header = {
        "msg_id": asked, "username": "x", "session": uuid.uuid4().hex,
        "msg_type": "execute_request", "version": "5.3",
    }  # fmt: skip
    content = {
        "code": code, "silent": False, "store_history": False, "user_expressions": {},
        "allow_stdin": False, "stop_on_error": True,
    }  # fmt: skip
    return {
        "channel": "shell", "header": header, "parent_header": {}, "metadata": {},
        "content": content, "buffers": [],
    }  # fmt: skip
