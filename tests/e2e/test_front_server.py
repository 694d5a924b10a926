"""A real Caddy with deploy/Caddyfile in front of a real portal with a real provider."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.fakes.provider import provider
from tests.front_server import (
    VISITOR,
    Site,
    answers,
    needs,
    start_caddy,
    start_portal,
    write_settings,
)
from tests.running import PROJECT, RunningPortal, first_start_is_over, free_port, wait_for

pytestmark = pytest.mark.slow


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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    caddy = needs("caddy")
    home = tmp_path_factory.mktemp("caddy")
    data = Path(tempfile.mkdtemp(prefix="sb-deploy-"))
    first_start_is_over(data)
    port, portal = free_port(), RunningPortal(data)
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
            front.process.wait(300)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=300)
            portal.leaves_nothing()
            shutil.rmtree(data)
    assert process.returncode == 0


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
    assert site.audit(action="sign-in")[0].client == VISITOR
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
    assert site.audit(action="stranger")[0].client == VISITOR


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
        assert isinstance(page.recv(timeout=300), bytes)


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
    front = start_caddy(needs("caddy"), tmp_path, port, free_port(), log_errors=log_errors)
    alone = Site(site.portal, site.provider, tmp_path / "trusted.pem", port, front.plain_port)
    try:
        addresses = (f"{alone.origin}/signin?key=SECRET", alone.notebook("/?t=SECRET"))
        with (
            alone.browser(referer="https://x/?key=SECRET", cookie="a=SECRET") as browser,
            ThreadPoolExecutor() as both,  # each answers after some seconds of trying
        ):
            for answer in both.map(browser.get, addresses):
                assert answer.status_code in (502, 503)
                if not log_errors:
                    assert "max-age" in answer.headers["strict-transport-security"]
                    assert "Try again in a minute" in answer.text
    finally:
        front.process.terminate()
        front.process.wait(300)
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
