"""What the service manager hears, at a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.server.systemd import Notices


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The other side of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(str(tmp_path / "n"))
        inbox.settimeout(300)
        yield inbox


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_ready_and_stopping_are_told(manager: socket.socket) -> None:
    notices = Notices.of({"NOTIFY_SOCKET": manager.getsockname()})
    assert notices
    notices.ready("Ready at https://portal.example.org")
    assert heard(manager) == ["READY=1", "STATUS=Ready at https://portal.example.org"]
    notices.stopping(150)
    assert heard(manager) == ["STOPPING=1", "STATUS=Stopping"]


def test_an_abstract_socket_is_one_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(f"\0scenebridge-test-{os.getpid()}")
        inbox.settimeout(300)
        Notices.of({"NOTIFY_SOCKET": f"@scenebridge-test-{os.getpid()}"}).ready("")
        assert heard(inbox)[0] == "READY=1"


async def test_the_watchdog_is_fed_as_often_as_it_asks(manager: socket.socket) -> None:
    environment = {
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": "300000",
        "WATCHDOG_PID": str(os.getpid()),
        "HOME": "/",
    }
    notices = Notices.of(environment)
    assert environment == {"HOME": "/"}, "what the portal starts must not speak for it"
    feeding = asyncio.create_task(notices.feed_watchdog())
    for _ in range(3):
        assert await asyncio.to_thread(heard, manager) == ["WATCHDOG=1"]
    feeding.cancel()
    notices.stopping(150)
    assert "WATCHDOG_USEC=150000000" in heard(manager)


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "1000"}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:1:2"}],
)
async def test_where_nobody_listens_nothing_is_told(environment: dict[str, str]) -> None:
    notices = Notices.of(environment)
    assert not notices
    notices.ready("")
    await asyncio.wait_for(notices.feed_watchdog(), 1)


@pytest.mark.parametrize(("process", "every"), [("1", "1000"), ("", "soon"), ("", "0")])
async def test_a_watchdog_that_is_not_ours_is_not_fed(
    manager: socket.socket, process: str, every: str
) -> None:
    asked = {"WATCHDOG_USEC": every, "WATCHDOG_PID": process}
    notices = Notices.of({"NOTIFY_SOCKET": manager.getsockname(), **asked})
    await asyncio.wait_for(notices.feed_watchdog(), 1)
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(100)


def test_a_manager_that_is_gone_stops_nobody(tmp_path: Path, caplog) -> None:
    Notices(str(tmp_path / "gone")).ready("")
    assert "cannot be told" in caplog.text
