"""A running portal with several people, one of whom has a notebook.

Everything is real but the provider: whom it would vouch for is written into the store,
as `/signin/ID/callback` does.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from lib.auth import COOKIE, Auth, Membership
from lib.config import settings
from lib.model import TokenScope, User
from lib.store import Store
from tests.pages.sample_portal import plant_scene
from tests.running import NO_TLS, SHORT_IDLE, RunningPortal, first_start_is_over, wait_for

SCENE = "LC08_A"
PEOPLE: dict[str, dict[str, Any]] = {
    "alice": {"groups": ["forest"]},
    "bob": {"groups": ["coast"]},
    "lee": {"groups": ["forest"], "leads": ["forest"]},
    "kim": {"groups": ["coast"], "leads": ["coast"]},
    "ada": {"groups": ["admins"]},
}
_SETTINGS = """
embedded_groups = ["everyone"]
administrators = [{ provider = "test", claim = "groups", value = "admins" }]
[[provider]]
id = "test"
title = "Test institute"
issuer = "http://127.0.0.1:9"
client_id = "portal"
"""
_GROUP = """
[[group]]
id = "{id}"
members = [{{ provider = "test", claim = "groups", value = "{id}" }}]
leads = [{{ provider = "test", claim = "leads", value = "{id}" }}]
"""
#: As a browser asks for a page, coming from elsewhere.
NAVIGATE = {
    "sec-fetch-mode": "navigate",
    "sec-fetch-site": "cross-site",
    "sec-fetch-dest": "document",
    "accept": "text/html",
}


@dataclass(frozen=True)
class Somebody:
    """One sign-in of one person."""

    user: User
    secret: str
    login: str

    @property
    def cookie(self) -> str:
        return f"{COOKIE}={self.secret}"


@dataclass(frozen=True)
class Notebook:
    """A notebook that its owner has entered: `cookie` is that of its origin."""

    id: str
    run: str
    origin: str
    cookie: str


class Crowd:
    """A portal that runs, and this process's view of its store."""

    def __init__(self, running: RunningPortal) -> None:
        self.running = running
        self.origin = running.origin
        self.data = running.data
        self.store = Store(running.data / "portal.sqlite")
        self.auth = Auth(self.store, Membership.of(settings.load(running.data)))

    def sign_in(self, name: str = "alice") -> Somebody:
        """A fresh sign-in of that person."""
        secret = self.auth.admit(
            "test", name, name=name.capitalize(), claims=PEOPLE[name], issuer="http://127.0.0.1:9"
        )
        login = self.auth.logins.of_secret(secret)
        assert login is not None
        return Somebody(login.user, secret, login.id)

    def token(self, name: str, *scopes: TokenScope) -> str:
        """An access token of that person; for everything where no scope is named."""
        user = self.sign_in(name).user
        return self.auth.tokens.new("test", user=user, scopes=scopes or tuple(TokenScope))

    def client(self, who: Somebody | None = None, **headers: str) -> httpx.Client:
        """Speaks with the portal's origin as a page of its own does; follows nothing."""
        given = {"origin": self.origin, **headers}
        if who is not None:
            given["cookie"] = who.cookie
        return httpx.Client(
            base_url=self.origin, headers=given, timeout=300, verify=NO_TLS, limits=SHORT_IDLE
        )

    @property
    def notebook(self) -> Notebook:
        """A real Jupyter of Alice's that runs until the portal stops, entered anew: tests
        in any order end her other sign-ins, and with them what they had entered."""
        session, run = self._ready_notebook
        origin, cookie = self.enter(self.sign_in(), session)
        return Notebook(session, run, origin, cookie)

    @cached_property
    def _ready_notebook(self) -> tuple[str, str]:
        """Its session and its run."""
        alice = self.sign_in()
        with self.client(alice) as client:
            wait_for(
                "presets", lambda: (c := client.get("/api/clusters").json()) and c[0]["presets"]
            )
            cluster = client.get("/api/clusters").json()[0]
            asked = {
                "scenes": [SCENE],
                "module": "active-fire",
                "cluster": cluster["id"],
                "resources": {"preset": cluster["presets"][0]["name"], "walltime_s": 3600},
                "title": "Notebook of Alice",
            }
            opened = client.post("/api/sessions", json=asked)
            assert opened.status_code == 201, opened.text
            session = opened.json()
            path = f"/api/sessions/{session['id']}"
            wait_for("READY", lambda: client.get(path).json()["state"] == "READY")
        return session["id"], session["run"]

    def enter(self, who: Somebody, session: str) -> tuple[str, str]:
        """Go through the portal into a notebook: its origin, and the cookie there."""
        entered = at_notebook(self.ticket(who, session), **NAVIGATE)
        assert entered.status_code == 303, entered.text
        cookie = entered.headers["set-cookie"].split(";")[0]
        parts = urlsplit(self.last_ticket)
        return f"{parts.scheme}://{parts.netloc}", cookie

    def ticket(self, who: Somebody, session: str, onward: str = "/lab") -> str:
        """The address, with its ticket, to which the portal sends who may open it."""
        with self.client(who) as client:
            answer = client.get(f"/open/{session}", params={"next": onward}, headers=NAVIGATE)
        assert answer.status_code == 303, answer.text
        self.last_ticket = answer.headers["location"]
        return self.last_ticket


def at_notebook(address: str, method: str = "GET", **headers: Any) -> httpx.Response:
    """Ask a notebook's origin; its name leads to this computer as in a browser."""
    parts = urlsplit(address)
    target = parts._replace(netloc=f"127.0.0.1:{parts.port}").geturl()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    content = given.pop("content", None)
    return httpx.request(
        method,
        target,
        headers={"host": parts.netloc, **given},
        content=content,
        timeout=300,
        verify=NO_TLS,
    )


@contextmanager
def crowd() -> Iterator[Crowd]:
    """A portal on a data folder of its own, gone at the end."""
    data = Path(tempfile.mkdtemp(prefix="sb-crowd-"))
    groups = "".join(_GROUP.format(id=name) for name in ("forest", "coast"))
    (data / "settings.toml").write_text(_SETTINGS + groups)
    plant_scene(data, SCENE, bands=("coastal", *LANDSAT))
    first_start_is_over(data)  # one scene is enough
    running = RunningPortal(data)
    try:
        running.start()
        it = Crowd(running)
        yield it
        it.store.close()
    finally:
        if running.process is not None and running.process.poll() is None:
            try:
                running.stop()
            except subprocess.TimeoutExpired:
                os.killpg(running.process.pid, signal.SIGKILL)
        shutil.rmtree(data, ignore_errors=True)


LANDSAT = ("blue", "green", "red", "nir08", "swir16", "swir22", "cirrus", "lwir11")
