"""The slides' scenario in a real Chromium: an administrator opens a tunnel and logs out; then
a scientist opens a notebook on a compute node that nobody can connect to."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.chromium import fresh_context
from tests.e2e.test_main_job import (
    choose_scenes,
    newest_card,
    open_lab,
    run_in_console,
    stop_newest,
)
from tests.running import wait_for
from tests.sites.standing import CLUSTER, TUNNELS, Standing

pytestmark = [pytest.mark.site, pytest.mark.browser]

_WHERE = """\
import os, socket
print('runs on', socket.gethostname(), 'as', os.getuid())
print('in a container:', os.path.exists('/.singularity.d'))
"""


def test_from_tunnel_to_notebook_and_back(empty_site: Standing, browser: Browser) -> None:
    site = empty_site
    with fresh_context(browser) as context:
        page = context.new_page()
        page.goto(site.link)
        page.goto(f"{site.origin}/clusters")
        card = page.locator('[class*="st-key-cluster-"]').first
        expect(card).to_contain_text("Taiwania (test-bed)")
        expect(card).to_contain_text(re.compile("open", re.IGNORECASE))
        expect(card).to_contain_text("ada")

        page.goto(site.origin)
        choose_scenes(page, "LC08_L1TP", 1)
        page.get_by_role("button", name="Open notebook").click()
        lab = open_lab(page)
        run_in_console(lab, _WHERE, "runs on nchc-n")
        expect(lab.locator(".jp-OutputArea-output", has_text="as 21001").first).to_be_visible()
        shown = lab.locator(".jp-OutputArea-output", has_text="in a container: True")
        expect(shown.first).to_be_visible()

        page.bring_to_front()
        newest = newest_card(page)
        newest.get_by_role("link", name=re.compile("Results")).click()
        chip = page.locator("button.chip img").first
        expect(chip).to_be_visible()
        wait_for("a thumbnail", lambda: chip.evaluate("image => image.naturalWidth") > 0)

        page.goto(f"{site.origin}/work")
        stop_newest(page)
    site.nothing_is_left()


def test_nothing_of_the_administrator_stays_on_the_portal_host(site: Standing) -> None:
    """No private key on its disk, no agent's socket, no process that holds one."""
    portal = site.portal
    for folder in ("/home", "/root", "/etc/scenebridge", TUNNELS, "/tmp", "/var/tmp", "/run"):
        for path in portal.path(folder).rglob("*"):
            if path.is_symlink() or not path.is_file() or path.stat().st_size > 1 << 20:
                continue
            mine = "/scenebridge/data/keys/" in str(path)  # the portal's own restricted keys
            if b"PRIVATE KEY" in path.read_bytes() and not mine:
                assert str(path).startswith(str(portal.path("/etc/ssh"))), path
    assert list(portal.path("/tmp").glob("ssh-*")) == [], "an agent's socket"
    for process in portal.processes():
        if process.user != "ada":
            continue
        environ = portal.path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        sockets = [e.partition(b"=")[2] for e in environ if e.startswith(b"SSH_AUTH_SOCK=")]
        assert not any(portal.path(s.decode()).exists() for s in sockets), process
    assert any(p.user == "ada" and "ssh" in p.argv[0] for p in portal.processes()), "no tunnel"


def test_the_portal_s_account_has_no_part_in_the_tunnel(site: Standing) -> None:
    """It connects to the socket; it cannot remove, replace or trace what ada opened."""
    socket = f"{TUNNELS}/ada/{CLUSTER}.sock"
    for refused in (
        ["rm", "-f", socket],
        ["mv", socket, f"{socket}.old"],
        ["touch", f"{TUNNELS}/ada/x"],
        ["ln", "-s", "/tmp/x", f"{TUNNELS}/mine"],
    ):
        done = site.portal.run(refused, "scenebridge", check=False)
        assert done.returncode != 0, refused
    assert site.portal.path(socket).is_socket()
    ssh = next(p for p in site.portal.processes() if p.user == "ada" and "ssh" in p.argv[0])
    done = site.portal.run(["cat", f"/proc/{ssh.pid}/environ"], "scenebridge", check=False)
    assert done.returncode != 0
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({socket!r})"
    assert site.portal.run(["python3", "-c", connect], "scenebridge", check=False).returncode == 0
    assert site.portal.run(["python3", "-c", connect], "mallory", check=False).returncode != 0
