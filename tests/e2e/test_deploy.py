"""What deploy/ holds: a real Caddy in front of a real portal with a real provider, and units."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from lib import settings
from tests.fakes.authority import Authority
from tests.fakes.provider import TestProvider, provider
from tests.running import PROJECT, RunningPortal, free_port, wait_for

pytestmark = pytest.mark.slow
DEPLOY = PROJECT / "deploy"
NAVIGATE = {"sec-fetch-mode": "navigate", "sec-fetch-site": "none", "accept": "text/html"}
#: Not the address that the front server itself comes from.
VISITOR = "127.0.0.2"


# --- units and examples -------------------------------------------------------------------


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


UNITS = ["scenebridge.service", "scenebridge-backup.service", "scenebridge-backup.timer"]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, as they would be with the project here."""
    for name in UNITS:
        text = (DEPLOY / name).read_text().replace("/opt/scenebridge", str(PROJECT))
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", UNITS)
def test_systemd_can_read_the_units(installed: Path, name: str) -> None:
    done = subprocess.run(
        [needs("systemd-analyze"), "verify", "--man=no", installed / name],
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stderr.splitlines() if "scenebridge" in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize(("name", "most"), [(UNITS[0], 2.0), (UNITS[1], 2.0)])
def test_the_units_are_hardened(installed: Path, name: str, most: float) -> None:
    command = [needs("systemd-analyze"), "security", "--offline=true", "--no-pager"]
    done = subprocess.run([*command, installed / name], capture_output=True, text=True)
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    if exposure is None:
        pytest.skip("this systemd cannot judge a unit that is not loaded")
    assert float(exposure[1]) <= most


def test_the_unit_leaves_the_portal_the_time_that_it_needs() -> None:
    unit = (DEPLOY / UNITS[0]).read_text()
    from lib import serve

    assert int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)[1]) > serve._STOP_S
    for line in ("Type=notify", "KillMode=process", "OOMPolicy=continue", "UMask=0077"):
        assert f"\n{line}\n" in unit


def test_the_example_of_settings_is_valid(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "settings.toml", tmp_path)
    chosen = settings.load(tmp_path)
    assert not chosen.single_user
    assert chosen.trusted_proxies == ("127.0.0.1",)
    assert len(chosen.provider) == 2


def test_logrotate_can_read_its_file(tmp_path: Path) -> None:
    program = needs("logrotate")
    file = tmp_path / "scenebridge"
    file.write_text((DEPLOY / "logrotate").read_text().replace("su scenebridge scenebridge", ""))
    file.chmod(0o644)
    state = tmp_path / "state"
    done = subprocess.run([program, "-d", "-s", state, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_renewed_certificate_is_given_to_the_front_server(tmp_path: Path) -> None:
    lineage, target = tmp_path / "live" / "scenebridge-notebooks", tmp_path / "tls"
    lineage.mkdir(parents=True)
    (lineage / "fullchain.pem").write_text("chain")
    (lineage / "privkey.pem").write_text("key")
    (tmp_path / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/asked"\n')
    (tmp_path / "systemctl").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SCENEBRIDGE_TLS": str(target),
        "SCENEBRIDGE_TLS_GROUP": str(os.getgid()),
    }
    hook = DEPLOY / "notebook-certificate"
    other = {**environment, "RENEWED_LINEAGE": str(tmp_path / "live" / "other")}
    subprocess.run([hook], env=other, check=True)
    assert not target.exists()
    subprocess.run([hook], env={**environment, "RENEWED_LINEAGE": str(lineage)}, check=True)
    assert sorted(f.name for f in target.iterdir()) == ["notebooks.key", "notebooks.pem"]
    assert (target / "notebooks.key").read_text() == "key"
    assert stat.S_IMODE((target / "notebooks.key").stat().st_mode) == 0o640
    assert (tmp_path / "asked").read_text() == "reload-or-restart caddy\n"


# --- Caddy in front of a portal ---------------------------------------------------------------


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
            timeout=20,
        )

    def audit(self, **wanted: str) -> list[dict[str, Any]]:
        command = [sys.executable, "admin.py", "audit", "--json", "--data", str(self.portal.data)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        lines = json.loads(done.stdout)
        return [line for line in lines if all(line[k] == v for k, v in wanted.items())]

    def sign_in(self, browser: httpx.Client) -> httpx.Response:
        leaving = browser.get(f"{self.origin}/signin/aist")
        assert leaving.status_code == 302, leaving.text
        return browser.get(self.provider.agree(leaving.headers["location"], "kato"))


@pytest.fixture(scope="module", autouse=True)
def names() -> Iterator[None]:
    """Browsers know that *.localhost is this computer; resolvers often do not."""
    real = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        if isinstance(host, (str, bytes)):
            name = host.decode() if isinstance(host, bytes) else host
            if name.endswith(".localhost"):
                host = "127.0.0.1"
        return real(host, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve)
        yield


def free_pair() -> int:
    """A port whose next one, the notebooks', is free as well."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
        return port


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    caddy = needs("caddy")
    home = tmp_path_factory.mktemp("caddy")
    data = Path(tempfile.mkdtemp(prefix="sb-deploy-"))
    (data / "cache" / "samples").mkdir(parents=True)
    (data / "cache" / "samples" / "taken-in").touch()
    port, portal = free_port(), RunningPortal(data, free_pair())
    with provider() as who:
        who.knows("kato", name="Kato Ken", groups=["forest"])
        write_settings(data, port, who.issuer)
        process = start_portal(portal)
        front = start_caddy(caddy, home, port, portal.port)
        it = Site(portal, who, home / "trusted.pem", port, front.plain_port)
        try:
            wait_for("Caddy to reach the portal", lambda: answers(it))
            yield it
        finally:
            front.process.terminate()
            front.process.wait(20)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            left = portal.leftovers()
            shutil.rmtree(data)
    assert process.returncode == 0
    assert left == []


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
    command = [sys.executable, "-m", "lib.serve", "--data", str(portal.data), "--no-browser"]
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
    wait_for("Caddy", lambda: process.poll() is not None or listens(port))
    assert process.poll() is None, (home / "caddy.log").read_text()
    (home / "trusted.pem").write_bytes(root.read_bytes() + own.file.read_bytes())
    return Front(process, plain_port)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(site: Site) -> bool:
    try:
        return httpx.get(f"{site.origin}/healthz", verify=site.tls()).status_code == 200
    except httpx.HTTPError:
        return False


def test_signing_in_over_https_gives_cookies_for_this_host_alone(site: Site) -> None:
    with site.browser() as browser:
        page = browser.get(f"{site.origin}/")
        assert page.status_code == 401
        assert "Sign in at AIST" in page.text
        answer = site.sign_in(browser)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookies = answer.headers.get_list("set-cookie")
        (login,) = [c for c in cookies if c.startswith("__Host-sb-login=")]
        attributes = {part.strip().lower() for part in login.split(";")[1:]}
        assert {"secure", "httponly", "path=/"} <= attributes
        assert not any(part.startswith("domain") for part in attributes)
        assert browser.get(f"{site.origin}/").status_code == 200
        assert browser.get(f"{site.origin}/api/scenes").status_code == 200


def test_every_answer_has_hsts_and_says_nothing_of_the_server(site: Site) -> None:
    with site.browser() as browser:
        for address in (f"{site.origin}/", f"{site.origin}/healthz", site.notebook("/")):
            headers = browser.get(address).headers
            assert "max-age=31536000" in headers["strict-transport-security"]
            assert len(headers.get_list("strict-transport-security")) == 1
            assert "server" not in headers


@pytest.mark.parametrize(
    "spoofed",
    [
        {},
        {"x-forwarded-for": "203.0.113.7"},
        {"x-forwarded-for": "203.0.113.7, 127.0.0.1", "forwarded": "for=203.0.113.7"},
        {"x-real-ip": "203.0.113.7", "x-scenebridge-client": "203.0.113.7"},
    ],
)
def test_the_audit_log_has_the_address_that_really_asked(
    site: Site, spoofed: dict[str, str]
) -> None:
    with site.browser(**spoofed) as browser:
        site.sign_in(browser)
    assert site.audit(action="sign-in")[0]["client"] == VISITOR
    assert site.audit(client="203.0.113.7") == []


def test_who_is_not_the_front_server_cannot_say_where_they_come_from(site: Site) -> None:
    """A program on this computer that goes round the front server, from another address."""
    transport = httpx.HTTPTransport(local_address=VISITOR)
    with httpx.Client(transport=transport) as program:
        program.get(
            f"http://127.0.0.1:{site.portal.port}/api/scenes",
            headers={
                "host": site.host, "authorization": "Bearer x", "x-forwarded-for": "203.0.113.8"
            },
        )  # fmt: skip
    assert site.audit(action="stranger")[0]["client"] == VISITOR


def test_a_page_s_websocket_passes_with_a_sign_in_and_not_without(site: Site) -> None:
    address = f"wss://{site.host}/_stcore/stream"
    with site.browser() as browser:
        site.sign_in(browser)
        cookie = "; ".join(f"{c.name}={c.value}" for c in browser.cookies.jar)
    common: dict[str, Any] = {
        "ssl": site.tls(), "subprotocols": ["streamlit"], "proxy": None, "open_timeout": 20
    }  # fmt: skip
    with pytest.raises(InvalidStatus):
        connect(address, origin=site.origin, **common)
    own = {"Cookie": cookie}
    with pytest.raises(InvalidStatus):
        connect(address, origin="https://evil.example", additional_headers=own, **common)
    with connect(address, origin=site.origin, additional_headers=own, **common) as page:
        rerun = BackMsg()
        rerun.rerun_script.query_string = ""
        page.send(rerun.SerializeToString())
        assert isinstance(page.recv(timeout=30), bytes)


def test_names_of_notebooks_lead_to_the_notebooks_proxy(site: Site) -> None:
    with site.browser() as browser:
        page = browser.get(site.notebook("/lab"))
        assert page.status_code in (302, 303, 307)
        onward = urllib.parse.urlsplit(page.headers["location"])
        assert f"{onward.scheme}://{onward.netloc}" == site.origin
        assert onward.path.startswith("/open/")
        api = browser.get(site.notebook("/api"), headers={"sec-fetch-mode": "cors"})
        assert api.status_code == 401
        assert "Open this notebook from the portal" in api.text


@pytest.mark.parametrize("host", ["portal.localhost", f"nb-{'0' * 32}.nb.localhost"])
def test_plain_http_is_sent_to_https(site: Site, host: str) -> None:
    with httpx.Client() as browser:
        answer = browser.get(f"http://{host}:{site.plain_port}/work?x=1")
    assert answer.status_code in (301, 308)
    assert answer.headers["location"].startswith(f"https://{host}")
    assert answer.headers["location"].endswith("/work?x=1")


def test_a_body_that_nothing_reads_is_refused(site: Site) -> None:
    with site.browser(origin=site.origin) as browser:
        for _ in range(2):
            answer = browser.post(f"{site.origin}/api/sessions", content=b"x" * 2**21)
            assert answer.status_code == 413
            site.sign_in(browser)
        assert browser.post(f"{site.origin}/api/sessions", content=b"{}").status_code == 422


@pytest.mark.parametrize("log_errors", [False, True])
def test_a_front_server_without_a_portal_says_so_and_keeps_its_secrets(
    site: Site, tmp_path: Path, log_errors: bool
) -> None:
    port = free_port()
    front = start_caddy(needs("caddy"), tmp_path, port, free_pair(), log_errors=log_errors)
    alone = Site(site.portal, site.provider, tmp_path / "trusted.pem", port, front.plain_port)
    try:
        with alone.browser(referer="https://x/?key=SECRET", cookie="a=SECRET") as browser:
            for address in (f"{alone.origin}/signin?key=SECRET", alone.notebook("/?t=SECRET")):
                answer = browser.get(address)
                assert answer.status_code in (502, 503)
                if not log_errors:
                    assert "max-age" in answer.headers["strict-transport-security"]
                    assert "Try again in a minute" in answer.text
    finally:
        front.process.terminate()
        front.process.wait(20)
    log = (tmp_path / "caddy.log").read_text()
    assert ("/signin?-" in log) == log_errors
    assert "SECRET" not in log


def test_another_name_is_nobody_s(site: Site) -> None:
    with pytest.raises(httpx.ConnectError), site.browser() as browser:
        browser.get(f"https://other.localhost:{site.port}/")


def test_doctor_agrees_with_this_site(site: Site) -> None:
    done = subprocess.run(
        [sys.executable, "admin.py", "doctor", "--json", "--data", str(site.portal.data)],
        cwd=PROJECT,
        env={**os.environ, "SSL_CERT_FILE": str(site.trusted)},
        capture_output=True,
        text=True,
    )
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    for name in ("permissions", "TLS portal", "TLS notebooks", "provider aist", "port", "store"):
        assert checks[name]["ok"], checks[name]
    assert "HSTS" in checks["TLS portal"]["detail"]
    assert not checks["provider nchc"]["ok"]


def test_no_secret_of_a_sign_in_is_in_a_log(site: Site, tmp_path: Path) -> None:
    with site.browser() as browser:
        site.sign_in(browser)
        (cookie,) = [c.value for c in browser.cookies.jar if c.name == "__Host-sb-login"]
    assert cookie not in (site.portal.data / "portal.log").read_text()
    assert cookie not in (site.trusted.parent / "caddy.log").read_text()
    with sqlite3.connect(site.portal.data / "portal.sqlite") as store:
        assert cookie not in "\n".join(store.iterdump())
    store.close()
