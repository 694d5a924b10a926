"""deploy/Caddyfile in front of a portal, for tests: real processes on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from lib.config import settings
from lib.store.audit import AuditEntry
from tests.fakes.authority import Authority
from tests.fakes.provider import TestProvider
from tests.fakes.stores import open_store
from tests.running import PROJECT, RunningPortal, free_port, wait_for

DEPLOY = PROJECT / "deploy"
NAVIGATE = {"sec-fetch-mode": "navigate", "sec-fetch-site": "none", "accept": "text/html"}
#: Not the address that the front server itself comes from.
VISITOR = "127.0.0.2"


def needs(program: str) -> str:
    """Its path; the test is skipped where it is missing."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


@dataclass
class Site:
    """A portal on the internet, as far as one computer can be that."""

    portal: RunningPortal
    provider: TestProvider
    trusted: Path
    port: int
    plain_port: int

    @property
    def host(self) -> str:
        return f"portal.localhost:{self.port}"

    @property
    def origin(self) -> str:
        return f"https://{self.host}"

    def notebook(self, path: str) -> str:
        return f"https://nb-{'0' * 32}.nb.localhost:{self.port}{path}"

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.trusted))

    def browser(self, **headers: str) -> httpx.Client:
        """It comes from another address than the front server, and follows nothing itself."""
        return httpx.Client(
            transport=httpx.HTTPTransport(verify=self.tls(), local_address=VISITOR),
            headers={**NAVIGATE, **headers},
            timeout=300,
        )

    def audit(self, **wanted: str) -> list[AuditEntry]:
        """The lines of its audit log that have these, newest first."""
        with closing(open_store(self.portal.data / "portal.sqlite")) as store:
            lines = store.audit.latest()
        return [line for line in lines if all(getattr(line, k) == v for k, v in wanted.items())]

    def sign_in(self, browser: httpx.Client) -> httpx.Response:
        leaving = browser.get(f"{self.origin}/signin/aist")
        assert leaving.status_code == 302, leaving.text
        return browser.get(self.provider.agree(leaving.headers["location"], "kato"))


def write_settings(data: Path, port: int, issuer: str) -> None:
    """deploy/settings.toml, with the names of this site."""
    text = (DEPLOY / "settings.toml").read_text()
    for example, ours in (
        ("portal.example.org", f"portal.localhost:{port}"),
        ("notebooks.example.net", f"nb.localhost:{port}"),
        ("https://id.aist.example", issuer),
        ('allow = [{ claim = "groups", value = "remote-sensing" }]', ""),
    ):
        assert example in text
        text = text.replace(example, ours)
    (data / "settings.toml").write_text(text)
    (data / "secrets").mkdir(mode=0o700)
    (data / "secrets" / "oidc-aist").write_text("a secret")
    (data / "secrets" / "oidc-aist").chmod(0o600)


def start_portal(portal: RunningPortal) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lib.server.main", "--data", str(portal.data), "--no-browser"]
    process = subprocess.Popen(
        [*command, "--port", str(portal.port)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if "ready" in line:
            return process
    raise AssertionError("the portal did not start")


@dataclass
class Front:
    process: subprocess.Popen[bytes]
    plain_port: int


def start_caddy(
    caddy: str, home: Path, port: int, portal_port: int, *, log_errors: bool = False
) -> Front:
    """deploy/Caddyfile as it is, but on loopback, and not at the ports 80 and 443.

    Args:
        log_errors: without its own answers to errors, so that Caddy logs each.
    """
    own = Authority(home, "Notebooks")
    issued = own.issue("*.nb.localhost")
    issued.certificate.rename(home / "notebooks.pem")
    issued.key.rename(home / "notebooks.key")
    # Where the notebooks' proxy has no port of its own yet, the portal's answers for it.
    split = "notebook_port" in settings.KEYS
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_DATA_HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "SCENEBRIDGE_PORTAL": f"portal.localhost:{port}",
        "SCENEBRIDGE_NOTEBOOKS": f"nb.localhost:{port}",
        "SCENEBRIDGE_TLS": str(home),
        "SCENEBRIDGE_PORT": str(portal_port),
        "SCENEBRIDGE_NOTEBOOK_PORT": str(portal_port + 1 if split else portal_port),
    }
    source = ["--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")]
    valid = subprocess.run([caddy, "validate", *source], env=environment, capture_output=True)
    assert valid.returncode == 0, valid.stderr.decode()
    adapted = subprocess.run(
        [caddy, "adapt", *source], env=environment, capture_output=True, check=True
    )
    config = json.loads(adapted.stdout)
    plain_port = free_port()
    config["admin"] = {"disabled": True}
    config["apps"]["http"] |= {"http_port": plain_port}
    for server in config["apps"]["http"]["servers"].values():
        if log_errors:
            del server["errors"]
        server["listen"] = [f"127.0.0.1{address}" for address in server["listen"]]
    config["apps"]["pki"] = {"certificate_authorities": {"local": {"install_trust": False}}}
    (home / "caddy.json").write_text(json.dumps(config))
    with (home / "caddy.log").open("wb") as log:
        process = subprocess.Popen(
            [caddy, "run", "--config", home / "caddy.json"],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    root = home / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    wait_for("Caddy's own authority", lambda: process.poll() is not None or root.exists())
    assert process.poll() is None, (home / "caddy.log").read_text()
    (home / "trusted.pem").write_bytes(root.read_bytes() + own.file.read_bytes())
    trusting = ssl.create_default_context(cafile=str(home / "trusted.pem"))
    for name in ("portal.localhost", "nb-0.nb.localhost"):
        wait_for(
            f"Caddy with a certificate for {name}",
            lambda name=name: process.poll() is not None or has_certificate(port, name, trusting),
        )
    assert process.poll() is None, (home / "caddy.log").read_text()
    return Front(process, plain_port)


def has_certificate(port: int, name: str, trusting: ssl.SSLContext) -> bool:
    try:
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            trusting.wrap_socket(plain, server_hostname=name),
        ):
            return True
    except OSError:
        return False


def answers(site: Site) -> bool:
    try:
        return httpx.get(f"{site.origin}/healthz", verify=site.tls()).status_code == 200
    except httpx.HTTPError:
        return False
