"""A portal with providers, and under a service manager: no link, one address, notices."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from lib.errors import Conflict, Unavailable
from lib.http.listeners import listen
from tests.running import PROJECT, RunningPortal, free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def portal(unstarted: RunningPortal) -> RunningPortal:
    """Each test starts it in its own way."""
    return unstarted


def test_only_the_address_of_the_settings_is_listened_on():
    port = free_port()
    (only,) = listen(port, address="127.0.0.2")
    try:
        assert only.getsockname() == ("127.0.0.2", port)
        for other in listen(port, address="127.0.0.1"):  # nobody is there yet
            other.close()
        with pytest.raises(Conflict, match=r"in use by another program\. Sorry"):
            listen(port, " Sorry.", address="127.0.0.2")
    finally:
        only.close()


def test_an_address_of_another_computer_is_said():
    with pytest.raises(Unavailable, match=r"no address 192\.0\.2\.1: mend listen"):
        listen(free_port(), address="192.0.2.1")


PROVIDERS = """
[[provider]]
id = "aist"
title = "AIST"
issuer = "http://127.0.0.1:9/"
client_id = "scenebridge"
"""


def service(data: Path, port: int, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "lib.server.main", "--data", data, "--port", str(port)],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "DISPLAY": ":0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def links_made(data: Path) -> int:
    with sqlite3.connect(data / "portal.sqlite") as store:
        (count,) = store.execute("SELECT count(*) FROM sign_in_links").fetchone()
    store.close()
    return count


@pytest.mark.allow_hosts(["127.0.0.1", "127.0.0.2", "::1"])
def test_where_people_have_accounts_no_link_is_made_or_opened(portal, data, tmp_path):
    """And the portal waits at the address of the settings alone."""
    (data / "settings.toml").write_text(f'listen = "127.0.0.2"\n{PROVIDERS}')
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\ntouch "{opened}"\n')
    browser.chmod(0o755)
    portal.process = service(data, portal.port, BROWSER=str(browser))
    said = next(line for line in portal.process.stdout if "ready" in line)
    assert said == f"SceneBridge is ready: {portal.origin}\n"
    listening = {
        connection.laddr.ip
        for connection in psutil.Process(portal.process.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == portal.port
    }
    assert listening == {"127.0.0.2"}
    headers = {"accept": "text/html", "host": portal.origin.removeprefix("http://")}
    page = httpx.get(f"http://127.0.0.2:{portal.port}/", headers=headers)
    assert "Sign in at AIST" in page.text
    assert links_made(data) == 0
    said = portal.stop()
    assert portal.process.returncode == 0
    assert "\x1b" not in said
    assert not opened.exists()


def test_a_service_manager_hears_how_it_goes_and_its_journal_gets_no_link(portal, data, tmp_path):
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(300)
        portal.process = service(
            data, portal.port, NOTIFY_SOCKET=str(address), WATCHDOG_USEC="1500000"
        )
        heard = []
        while "READY=1" not in heard or heard.count("WATCHDOG=1") < 3:
            heard += manager.recv(4096).decode().split("\n")
        assert f"STATUS=Ready at {portal.origin}" in heard
        assert httpx.get(f"{portal.origin}/healthz").status_code == 200
        said = portal.stop()
        while "STOPPING=1" not in heard:
            heard += manager.recv(4096).decode().split("\n")
    assert f"SceneBridge is ready: {portal.origin}\n" in said
    assert "key=" not in said
    assert links_made(data) == 0
    assert portal.process.returncode == 0
