"""A kernel in a notebook of a site, used as its owner's browser does: through the portal."""

from __future__ import annotations

import json
import socket
import uuid
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.crowd import NAVIGATE
from tests.sites.faults import sign_in_link
from tests.sites.standing import Standing

_TIMEOUT_S = 30.0


class Notebook:
    """A notebook, and one kernel in it that remembers a word.

    Attributes:
        session: its id.
    """

    def __init__(self, site: Standing, session: str) -> None:
        self.site, self.session = site, session
        self._sign_in = sign_in(site)
        self.enter()
        self._kernel = str(self._ask("POST", "/api/kernels", {})["id"])
        self._word = uuid.uuid4().hex
        self._pid = self.run(f"import os; word = {self._word!r}; print(os.getpid())").strip()

    def enter(self) -> None:
        """Come from the portal, as a click on the card does."""
        with httpx.Client(base_url=self.site.origin, timeout=_TIMEOUT_S) as client:
            headers = {**NAVIGATE, "cookie": self._sign_in, "origin": self.site.origin}
            opened = client.get(f"/open/{self.session}", headers=headers)
        assert opened.status_code == 303, opened.text
        parts = urlsplit(opened.headers["location"])
        self._host, self._port = parts.netloc, int(parts.port or 80)
        self._cookie = ""
        entered = self._send("GET", f"{parts.path}?{parts.query}", **NAVIGATE)
        assert entered.status_code == 303, entered.text
        self._cookie = entered.headers["set-cookie"].split(";")[0]

    def answers(self) -> bool:
        """Whether the notebook itself answers, through all that lies between."""
        try:
            return self._send("GET", "/api/kernels").status_code == 200
        except httpx.HTTPError:
            return False

    def run(self, code: str) -> str:
        """Run code in the kernel; what it printed."""
        near = socket.create_connection(("127.0.0.1", self._port), _TIMEOUT_S)
        with connect(
            f"ws://{self._host}/api/kernels/{self._kernel}/channels",
            sock=near,
            origin=Origin(f"http://{self._host}"),
            additional_headers={"Cookie": self._cookie},
            open_timeout=_TIMEOUT_S,
            max_size=None,
        ) as ws:
            asked = uuid.uuid4().hex
            header = {"msg_id": asked, "msg_type": "execute_request", "session": "t"}
            content = {"code": code, "silent": False, "stop_on_error": True}
            message = {"header": {**header, "version": "5.3"}, "content": content}
            ws.send(
                json.dumps({**message, "parent_header": {}, "metadata": {}, "channel": "shell"})
            )
            printed = ""
            while True:
                got: dict[str, Any] = json.loads(ws.recv(timeout=_TIMEOUT_S))
                if got["parent_header"].get("msg_id") != asked:
                    continue
                kind, said = got["msg_type"], got["content"]
                if kind == "stream":
                    printed += said["text"]
                if kind == "execute_reply":
                    assert said["status"] == "ok", said
                if kind == "status" and said["execution_state"] == "idle":
                    return printed

    def same_kernel(self) -> None:
        """It is the process of the beginning, and has the word that it was given."""
        assert self.run("print(os.getpid(), word)").split() == [self._pid, self._word]

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        answer = self._send(method, path, body)
        assert answer.status_code < 300, (answer.status_code, answer.text)
        return answer.json()

    def _send(self, method: str, path: str, body: object = None, **more: str) -> httpx.Response:
        """To the notebook's own origin; its name leads to this computer as in a browser."""
        own = {"host": self._host, **more}
        if self._cookie:
            own |= {"cookie": self._cookie, "origin": f"http://{self._host}"}
        url = f"http://127.0.0.1:{self._port}{path}"
        return httpx.request(method, url, headers=own, json=body, timeout=_TIMEOUT_S)


def sign_in(site: Standing) -> str:
    """A fresh sign-in of the portal's owner: the cookie."""
    parts = urlsplit(sign_in_link(site))
    entered = httpx.get(f"{site.origin}{parts.path}?{parts.query}", timeout=_TIMEOUT_S)
    assert entered.status_code == 303, entered.text
    return str(entered.headers["set-cookie"].split(";")[0])
