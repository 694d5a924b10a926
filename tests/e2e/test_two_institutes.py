"""People of two institutes and two groups on one portal, in a real Chromium."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, WebSocket, expect

from tests.chromium import fresh_context
from tests.e2e.conftest import data_folder
from tests.e2e.signing_in import set_up_providers, sign_in_at
from tests.e2e.test_main_job import choose_scenes, open_lab, run_in_console
from tests.fakes.provider import provider
from tests.running import RunningPortal

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def shared(with_samples: Path) -> Iterator[RunningPortal]:
    """A portal where people of AIST and NSPO sign in."""
    with data_folder(with_samples) as data, provider() as aist, provider() as nspo:
        aist.knows("kato", name="Kato Ken", groups=["forest"])
        aist.knows("root", name="Root", groups=["portal-admins"])
        nspo.knows("lin", name="Lin Li", team="coast")
        set_up_providers(data, {"aist": aist, "nspo": nspo})
        running = RunningPortal(data)
        running.start()
        yield running
        running.stop()
        running.leaves_nothing()


def test_a_notebook_is_its_owner_s_alone_and_ends_with_the_sign_in(
    shared: RunningPortal, browser: Browser
) -> None:
    with ExitStack() as stack:
        kato, lin, root, elsewhere = (stack.enter_context(fresh_context(browser)) for _ in range(4))
        page = kato.new_page()
        sign_in_at(page, shared, "AIST", "kato")
        choose_scenes(page, "LC08", 1)
        sockets: list[WebSocket] = []
        kato.once("page", lambda opened: opened.on("websocket", lambda s: sockets.append(s)))
        page.get_by_role("button", name="Open notebook").click()
        lab = open_lab(page)
        run_in_console(lab, "print('forty-two is', 6 * 7)", "forty-two is 42")
        assert sockets
        (session,) = kato.request.get(f"{shared.origin}/api/sessions").json()
        notebook = re.match(r"http://nb-[0-9a-f]{32}\.localhost:\d+", lab.url)
        assert notebook

        other = lin.new_page()
        sign_in_at(other, shared, "NSPO", "lin")
        assert lin.request.get(f"{shared.origin}/api/me").json()["groups"] == ["coast"]
        assert lin.request.get(f"{shared.origin}/api/sessions").json() == []
        other.goto(f"{shared.origin}/work?session={session['id']}")
        expect(other.get_by_role("heading", name="Work")).to_be_visible()
        assert session["title"] not in other.inner_text("body")
        for path in ("/open/{}", "/api/sessions/{}"):
            theirs = lin.request.get(shared.origin + path.format(session["id"]))
            nobody_s = lin.request.get(shared.origin + path.format(uuid.uuid4()))
            assert theirs.status == nobody_s.status == 404
            assert theirs.text() == nobody_s.text()
        stopping = lin.request.delete(
            f"{shared.origin}/api/sessions/{session['id']}", headers={"origin": shared.origin}
        )
        assert stopping.status == 404
        answer = other.goto(f"{notebook[0]}/lab")
        assert answer is not None
        assert answer.status == 404
        expect(other.get_by_role("heading", name="This notebook cannot be opened")).to_be_visible()

        looking = root.new_page()
        sign_in_at(looking, shared, "AIST", "root")
        assert root.request.get(f"{shared.origin}/api/sessions/{session['id']}").ok
        assert root.request.get(f"{shared.origin}/open/{session['id']}").status == 403

        run_in_console(lab, "print('still', 'mine')", "still mine")
        second = elsewhere.new_page()
        sign_in_at(second, shared, "AIST", "kato")
        second.goto(f"{shared.origin}/account")
        second.get_by_role("button", name="Sign out everywhere").click()
        sure = second.get_by_role("dialog")
        expect(sure).to_be_visible()
        open_before = [socket for socket in sockets if not socket.is_closed()]
        assert open_before, "the notebook had open WebSockets"
        sure.get_by_role("button", name="Sign out everywhere").click()
        for socket in open_before:
            if not socket.is_closed():
                socket.wait_for_event("close")
        expect(second.get_by_role("heading", name="Please sign in")).to_be_visible()
        page.bring_to_front()
        expect(page.get_by_role("heading", name="Please sign in")).to_be_visible()
        assert kato.request.get(f"{shared.origin}/api/sessions").status == 401
        assert lin.request.get(f"{shared.origin}/api/me").ok, "who is somebody else stays"
        lab.reload()
        expect(lab.get_by_role("heading", name="Please sign in")).to_be_visible()

        back = kato.new_page()
        sign_in_at(back, shared, "AIST", "kato")
        (again,) = kato.request.get(f"{shared.origin}/api/sessions").json()
        assert (again["id"], again["state"]) == (session["id"], "READY")
        answer = back.goto(f"{shared.origin}/open/{session['id']}", wait_until="commit")
        assert answer is not None
        assert answer.ok
        assert back.url.startswith(f"{notebook[0]}/lab")
