"""Passwords typed at a real terminal, and what is left when the terminal goes away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Iterator

import asyncssh
import psutil
import pytest

from lib.model import Seal
from lib.tunnels.outer.records import is_open
from tests.folders import processes, short_folder
from tests.sshd import HERE
from tests.tunnel_site import (
    ADMIN,
    CLUSTER,
    NEEDS,
    PORTAL,
    Site,
    eventually,
    python_for_all,
    through,
)

pytestmark = NEEDS


class Server(asyncssh.SSHServer):
    """Wants a password and then a code, as many sites do; forwards to anywhere."""

    def __init__(self, connections: set[asyncssh.SSHServerConnection]) -> None:
        self._connections = connections

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connections.add(conn)

    def password_auth_supported(self) -> bool:
        return False

    def kbdint_auth_supported(self) -> bool:
        return True

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> object:
        self._step = 0
        return "", "", "", [("Password: ", False)]

    def validate_kbdint_response(self, username: str, responses: list[str]) -> object:
        self._step += 1
        if self._step == 1:
            return ("", "", "", [("Code: ", True)]) if responses == ["secret"] else False
        return responses == ["123456"]

    def connection_requested(self, *where: object) -> bool:
        return True


class LoginNode:
    """An SSH server that knows passwords, in a thread."""

    def __init__(self) -> None:
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(300)

    @property
    def host_key(self) -> str:
        return " ".join(self.key.export_public_key().decode().split()[:2])

    def _run(self) -> None:
        async def serve() -> None:
            open_ones: set[asyncssh.SSHServerConnection] = set()
            server = await asyncssh.listen(
                HERE, 0, server_factory=lambda: Server(open_ones), server_host_keys=[self.key]
            )
            self.port = server.get_port()
            self._end = asyncio.Event()
            self._ready.set()
            await self._end.wait()
            server.close()
            await server.wait_closed()
            for connection in open_ones:
                connection.abort()
                await connection.wait_closed()

        self._loop.run_until_complete(serve())
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(300)


class Terminal:
    """A command of an account in a session of its own, at a pseudo-terminal."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self._master, slave = os.openpty()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *ADMIN.command(argv)],
            stdin=slave, stdout=slave, stderr=slave, env=ADMIN.environment(**env), cwd="/",
        )  # fmt: skip
        os.close(slave)
        self.text = ""

    def until(self, words: str, timeout_s: float = 300.0) -> None:
        deadline = time.monotonic() + timeout_s
        while words not in self.text:
            assert time.monotonic() < deadline, self.text
            ready, _, _ = select.select([self._master], [], [], 0.2)
            if ready:
                try:
                    self.text += os.read(self._master, 4096).decode()
                except OSError:
                    raise AssertionError(self.text) from None

    def answer(self, prompt: str, text: str, *, hidden: bool = True) -> None:
        """Type it at the prompt; ssh drops what was typed before it has turned the echo off."""
        self.until(prompt)
        self.text = ""
        eventually(lambda: self._echoes() is not hidden)
        os.write(self._master, text.encode())

    def press(self, key: str, then: str) -> None:
        """Press it until it is seen to count: ssh misses one that comes just before it waits."""
        self.text = ""
        while then not in self.text:
            os.write(self._master, key.encode())
            with contextlib.suppress(AssertionError):
                self.until(then, 1)

    def _echoes(self) -> bool:
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def hang_up(self) -> None:
        os.close(self._master)


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    with python_for_all() as found:
        yield found


@pytest.fixture
def site(python: str) -> Iterator[Site]:
    node = LoginNode()
    with short_folder() as folder:
        folder.chmod(0o755)
        site = Site(folder, python)
        site.describe(port=node.port, host_key=node.host_key)
        try:
            yield site
        finally:
            site.close()
            node.stop()


def at_terminal(site: Site) -> Terminal:
    argv = site.command("up", CLUSTER, "--group", "forest")
    return Terminal(argv, site.environment(agent=False))


def test_password_and_code_are_typed_and_logging_out_leaves_it_open(site: Site) -> None:
    terminal = at_terminal(site)
    terminal.until("No agent was forwarded to this host")
    terminal.answer("Password: ", "wrong\n")
    terminal.answer("Password: ", "secret\n")
    terminal.answer("Code: ", "123456\n", hidden=False)
    terminal.until("You may log out now")
    assert "Not sealed: It was opened with a typed password" in terminal.text
    assert "secret" not in terminal.text
    assert terminal.process.wait(300) == 0
    record = site.record()
    assert record.seal is Seal.UNSEALED

    terminal.hang_up()
    assert is_open(site.place, record)
    assert through(site.place.socket, PORTAL).endswith("hello\n")
    supervisor = psutil.Process(record.pid)
    assert supervisor.terminal() is None
    assert all(child.terminal() is None for child in supervisor.children())


def test_hanging_up_while_typing_leaves_nothing(site: Site) -> None:
    terminal = at_terminal(site)
    terminal.until("Password: ")
    terminal.hang_up()
    terminal.process.wait(300)
    eventually(lambda: not processes(str(site.place.socket)))
    assert site.place.read() is None
    assert not site.place.socket.exists()


@pytest.mark.parametrize("keys", ["\x03", "\x1a\x03"], ids=["ctrl-c", "ctrl-z ctrl-c"])
def test_ctrl_c_while_typing_leaves_nothing(site: Site, keys: str) -> None:
    """There is no shell to go on from: after Ctrl-Z ssh asks again."""
    terminal = at_terminal(site)
    terminal.until("Password: ")
    if "\x1a" in keys:
        terminal.press("\x1a", then="Password: ")
    terminal.press("\x03", then="Interrupted.")
    assert terminal.process.wait(300) == 130
    eventually(lambda: not processes(str(site.place.socket)))
    assert site.place.read() is None
    terminal.hang_up()


def test_ctrl_c_afterwards_does_not_reach_it(site: Site) -> None:
    """As in a shell without job control, whose programs are all one process group."""
    up = " ".join(f"'{word}'" for word in site.command("up", CLUSTER, "--group", "forest")[3:])
    script = f'"$0" -c "$1" {up}; trap \'\' INT; echo done; read a; echo heard; read b'
    argv = ["sh", "-c", script, site.python, site.command()[2]]
    terminal = Terminal(argv, site.environment(agent=False))
    terminal.answer("Password: ", "secret\n")
    terminal.answer("Code: ", "123456\n", hidden=False)
    terminal.answer("done", "\x03\n", hidden=False)
    terminal.until("heard")
    assert is_open(site.place, site.record())
    assert through(site.place.socket, PORTAL).endswith("hello\n")
    os.kill(terminal.process.pid, signal.SIGKILL)
    terminal.process.wait(300)
    terminal.hang_up()
    assert is_open(site.place, site.record())
    assert through(site.place.socket, PORTAL).endswith("hello\n")
