"""Secrets stay where they belong: in no log, no address, no repr, no argv, no Referer."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import psutil
import pytest
from playwright.sync_api import Browser

from lib.auth import COOKIE, Login
from lib.auth.oidc import Identity
from lib.config.settings import Provider, Settings
from lib.jobs import control_files
from lib.model import Endpoint, SessionId, User, UserId
from lib.notebook_proxy.asgi import ProxySettings
from lib.notebook_proxy.tickets import Cookies, Grant, Tickets
from lib.notebook_proxy.upstream import Upstream
from lib.portal.admin import json_line
from lib.store.audit import AuditQuery
from tests.chromium import fresh_context
from tests.crowd import NAVIGATE, Crowd, at_notebook

CLIENT_SECRET = "the-client-secret-that-nobody-may-read"


@dataclass
class Used:
    """What was used while a browser and a program did what they do."""

    secrets: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)  # address, Referer


@pytest.fixture(scope="module")
def used(there: Crowd, browser: Browser) -> Iterator[Used]:
    """A sign-in, a notebook, a token, and several things that go wrong."""
    it = Used()
    secret = there.data / "secrets" / "oidc-test"
    secret.parent.mkdir(exist_ok=True)
    secret.write_text(CLIENT_SECRET)
    it.secrets["client secret"] = CLIENT_SECRET
    link = there.auth.links.new(there.origin)
    it.secrets["one-time key"] = link.partition("key=")[2]
    with fresh_context(browser) as context:
        page = context.new_page()
        page.on(
            "request",
            lambda request: it.seen.append((request.url, request.headers.get("referer", ""))),
        )
        page.goto(link)
        assert page.url == f"{there.origin}/"
        page.locator(".sb-heading h1").wait_for()
        page.goto(f"{there.origin}/work")
        alice = there.sign_in()
        context.add_cookies([{"name": COOKIE, "value": alice.secret, "url": "https://localhost"}])
        page.goto(f"{there.origin}/open/{there.notebook.id}?next=/lab", wait_until="commit")
        page.wait_for_timeout(1500)
        for cookie in context.cookies():
            if cookie["name"].startswith("__Host-sb"):
                it.secrets[cookie["name"]] = cookie["value"]
    with there.client(None, **NAVIGATE) as client:
        assert client.get("/signin", params={"key": it.secrets["one-time key"]}).status_code == 403
        assert client.get("/signin/test").status_code == 503, "nothing answers there"
    ticket = there.ticket(alice, there.notebook.id)
    it.secrets["ticket"] = parse_qs(urlsplit(ticket).query)["t"][0]
    assert at_notebook(ticket, **NAVIGATE).status_code == 303
    assert at_notebook(ticket, **NAVIGATE).status_code == 403
    token = it.secrets["token"] = there.token("alice")
    with there.client(authorization=f"Bearer {token}") as client:
        assert client.get("/api/me").status_code == 200
        assert client.get("/work").status_code == 401, "noted in the audit log"
        assert client.post("/api/runs", content=b"{").status_code == 422
    assert httpx.get(f"{there.origin}/api/me?access_token={token}").status_code == 401
    (control,) = there.data.rglob(f"{there.notebook.id}/control/{control_files.TOKEN}")
    it.secrets["notebook token"] = control.read_text().strip()
    it.secrets["client key"] = (control.parent / "client.key").read_text().splitlines()[1]
    assert len(it.secrets) >= 6
    yield it
    secret.unlink()


def written(there: Crowd) -> Iterator[tuple[str, bytes]]:
    """Everything that the portal, its gate and its jobs wrote down, but the secrets' own files."""
    own = {"secrets", "keys"}
    for file in there.data.rglob("*"):
        inside = file.relative_to(there.data).parts
        if not file.is_file() or file.is_symlink() or own & set(inside):
            continue
        if "control" in inside and file.name in (control_files.TOKEN, "client.key"):
            continue
        with contextlib.suppress(FileNotFoundError):  # a file of a moment
            yield "/".join(inside), file.read_bytes()
    out = there.running.process
    assert out is not None
    assert out.stdout is not None
    os.set_blocking(out.stdout.fileno(), False)
    try:
        said = os.read(out.stdout.fileno(), 2**20)
    except BlockingIOError:
        said = b""
    yield "stdout", said
    lines = there.store.audit.export(AuditQuery())
    yield "audit export", b"".join(json_line(line, {}) for line in lines)


def test_no_secret_was_written_down(there: Crowd, used: Used) -> None:
    time.sleep(0.3)
    found = [
        (where, name)
        for where, content in written(there)
        for name, secret in used.secrets.items()
        if secret.encode() in content
    ]
    assert found == []
    names = {where for where, _ in written(there)}
    assert {"portal.log", "portal.sqlite"} <= names
    assert any(name.endswith("gate.log") for name in names)
    # Of strangers only so many lines a minute are kept, and other tests share this portal.
    actions = {entry.action for entry in there.store.audit.latest(10_000)}
    assert {"sign-in", "open", "stranger", "token-made"} <= actions, "what was done is there"


def test_no_secret_is_in_an_address_or_referer(there: Crowd, used: Used) -> None:
    assert any(urlsplit(address).path == "/_portal/enter" for address, _ in used.seen)
    assert any(referer for _, referer in used.seen)
    notebook = there.notebook.origin
    once = {"one-time key": "/signin", "ticket": "/_portal/enter"}
    for address, referer in used.seen:
        for name, secret in used.secrets.items():
            assert secret not in referer, address
            if name not in once:
                assert secret not in address, name
        assert "key=" not in referer
        assert "t" not in parse_qs(urlsplit(referer).query)
        if address.startswith(notebook):
            assert not referer.startswith(there.origin), "the notebook learns no page of the portal"


def test_no_secret_is_in_an_argv(there: Crowd, used: Used) -> None:
    mine = [
        " ".join(process.info["cmdline"] or ())
        for process in psutil.process_iter(["cmdline"])
        if str(there.data) in " ".join(process.info["cmdline"] or ())
    ]
    assert len(mine) >= 3, "the portal, its gate and its master"
    for line in mine:
        assert not any(secret in line for secret in used.secrets.values())


def test_files_of_secrets_are_for_their_owner_alone(there: Crowd, used: Used) -> None:
    checked = 0
    for folder in ("secrets", "keys"):
        for file in (there.data / folder).rglob("*"):
            if file.is_file() and file.suffix != ".pub" and file.name != "oidc-test":
                assert file.stat().st_mode & 0o077 == 0, file
                checked += 1
    for name in ("portal.sqlite", "portal.log"):
        assert (there.data / name).stat().st_mode & 0o077 == 0
    assert there.data.stat().st_mode & 0o077 == 0
    assert checked >= 3


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    text = "s3cr3t-that-must-not-be-shown"
    user = User(UserId("u"), "U", via="login:1")
    tickets = Tickets()
    visitor = Grant(SessionId("s"), user.id, "1")
    issued = tickets.issue(visitor, "/")
    endpoint = Endpoint("s-1", text, text, text, text)
    upstream = Upstream.__new__(Upstream)  # without its certificates
    upstream.token, upstream._name = text, endpoint.name
    things: list[Any] = [
        user, Login("1", user), visitor, upstream, tickets, Cookies(text.encode()), endpoint,
        ProxySettings("http://localhost:1", text.encode()),
        Identity("p", "https://i", "s", "n", {"email": text, "token": text}),
        Settings(data=tmp_path, runtime=tmp_path, provider=(Provider("p", "P", "https://i", "c"),)),
    ]  # fmt: skip
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "oidc-p").write_text(text)
    settings = things[-1]
    assert settings.client_secret(settings.provider[0]) == text
    for thing in things:
        for shown in (repr(thing), str(thing), f"{thing!r}"):
            assert text not in shown, type(thing)
            assert issued not in shown, type(thing)
