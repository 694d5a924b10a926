"""Streamlit keeps a page's state and buttons under an id; they are for one sign-in alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from lib.auth import LOGIN_HEADER
from lib.server.uvicorn_server import LARGEST_MESSAGE
from tests.crowd import Crowd, Somebody

if TYPE_CHECKING:  # imported by what runs: `./test fast` has no use for Streamlit
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

pytestmark = pytest.mark.slow
TITLE = "Notebook of Alice"


class Page:
    """One open page, as Streamlit's own program in the browser speaks with it."""

    def __init__(self, stream: ClientConnection) -> None:
        self.stream = stream
        self.session = ""

    def run(self, path: str = "work", fragment: str = "", press: str = "") -> list[ForwardMsg]:
        """Run the script (or a part of it) once; everything that came back."""
        from streamlit.proto.BackMsg_pb2 import BackMsg
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        asked = BackMsg()
        asked.rerun_script.page_name = path
        asked.rerun_script.fragment_id = fragment
        if press:
            asked.rerun_script.widget_states.widgets.add(id=press, trigger_value=True)
        self.stream.send(asked.SerializeToString())
        got = []
        while True:
            message = ForwardMsg.FromString(self.stream.recv(timeout=300))
            got.append(message)
            if message.WhichOneof("type") == "new_session":
                self.session = message.new_session.initialize.session_id
            if message.WhichOneof("type") == "script_finished" and (
                message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN
            ):
                return got


@contextmanager
def page(there: Crowd, who: Somebody, session: str = "", **headers: str) -> Iterator[Page]:
    protocols: list[Any] = ["streamlit", "PLACEHOLDER_AUTH_TOKEN", *([session] if session else [])]
    with connect(
        there.origin.replace("http", "ws") + "/_stcore/stream",
        origin=there.origin,  # type: ignore[arg-type]
        subprotocols=protocols,
        additional_headers={"Cookie": who.cookie, **headers},
        max_size=None,
    ) as stream:
        yield Page(stream)


def of(messages: list[ForwardMsg], choose: Callable[[Any], str]) -> list[str]:
    return [found for m in messages if m.HasField("delta") if (found := choose(m.delta))]


def stop_button(messages: list[ForwardMsg]) -> str:
    (button,) = of(
        messages,
        lambda d: d.new_element.button.id if d.new_element.button.label == "Stop now" else "",
    )
    return button


def said(messages: list[ForwardMsg]) -> str:
    return "\n".join(str(m) for m in messages)


def fragments(messages: list[ForwardMsg]) -> set[str]:
    return set(of(messages, lambda d: d.fragment_id))


@pytest.mark.parametrize("still_open", [True, False], ids=["open page", "closed page"])
def test_a_page_of_somebody_else_cannot_be_taken_over(there: Crowd, still_open: bool) -> None:
    notebook = there.notebook
    alice, bob = there.sign_in("alice"), there.sign_in("bob")
    with page(there, alice) as hers:
        drawn = hers.run()
        assert TITLE in said(drawn)
        button, parts = stop_button(drawn), fragments(drawn)
        assert parts
        if still_open:
            _try(there, bob, hers.session, button, parts)
            assert TITLE in said(hers.run()), "her own page goes on"
    if not still_open:
        _try(there, bob, hers.session, button, parts)
    with there.client(alice) as client:
        assert not client.get(f"/api/sessions/{notebook.id}").json()["stopping"]
    with page(there, alice, hers.session) as again:
        assert TITLE in said(again.run())
        assert again.session == hers.session, "who comes back keeps the page"


def _try(there: Crowd, thief: Somebody, session: str, button: str, parts: set[str]) -> None:
    """Everything that somebody could do who has learned the page's id."""
    for headers in ({}, {LOGIN_HEADER: "anything"}):
        with page(there, thief, session, **headers) as stolen:
            got = [*stolen.run(press=button), *stolen.run()]
            assert stolen.session not in ("", session)
            for part in parts:
                got += stolen.run(fragment=part)
            assert TITLE not in said(got)


def test_another_sign_in_of_the_same_person_gets_a_page_of_its_own(there: Crowd) -> None:
    first, second = there.sign_in("alice"), there.sign_in("alice")
    with page(there, first) as before:
        before.run()
    with page(there, second, before.session) as after:
        after.run()
        assert after.session != before.session


def test_a_message_that_is_too_large_ends_the_page(there: Crowd) -> None:
    from streamlit.proto.BackMsg_pb2 import BackMsg

    def send(stream: ClientConnection, size: int) -> None:
        asked = BackMsg()
        asked.rerun_script.page_name = "work"
        asked.rerun_script.query_string = "x" * size
        stream.send(asked.SerializeToString())
        for _ in range(5):
            stream.recv(timeout=300)

    alice = there.sign_in("alice")
    with page(there, alice) as hers:
        send(hers.stream, 2**20)
    with page(there, alice) as hers, pytest.raises(ConnectionClosed):
        send(hers.stream, LARGEST_MESSAGE + 1)
