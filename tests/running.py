"""A portal as `./run` starts it, for tests: same program, same processes."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from lib.auth import auth_of
from lib.config import settings
from lib.server.module_cache import MARK, code_digest
from lib.store import Store
from tests.fakes.stores import new_store

PROJECT = Path(__file__).resolve().parent.parent
#: For plain HTTP: to load the certificates of all authorities takes a client 50 ms.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
#: The portal ends a connection that was idle for five seconds. Who asks now and then ends it
#: before, or a request meets that end on its way.
SHORT_IDLE = httpx.Limits(keepalive_expiry=1.0)
_READY = re.compile(r"SceneBridge is ready: (http://localhost:\d+\S*)")


def free_port() -> int:
    """A port that nobody has, nor the one after it, which the notebooks get.

    Not one that the system would give: it might give the next to some connection, before the
    portal takes it.
    """
    while True:
        port = 10_000 + 2 * secrets.randbelow(10_000)
        with (
            socket.socket() as probe,
            socket.socket() as next_to_it,
            contextlib.suppress(OSError),
        ):
            probe.bind(("127.0.0.1", port))
            next_to_it.bind(("127.0.0.1", port + 1))
            return port


@dataclass
class RunningPortal:
    """`python -m lib.server.main` on a data folder of its own."""

    data: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None
    link: str = ""
    output: list[str] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def start(self, timeout_s: float = 300.0, *, script: Path | None = None) -> str:
        """Start and wait until it says it is ready; the one-time sign-in link.

        Args:
            script: `./run`, which is started beside the data folder and given its name.
        """
        command = [sys.executable, "-m", "lib.server.main", "--data", str(self.data)]
        if script is not None:
            command = [str(script), "--data", self.data.name]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), "--no-browser"],
            cwd=PROJECT if script is None else self.data.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        for line in self.process.stdout:
            self.output.append(line.rstrip())
            found = _READY.search(line)
            if found:
                self.link = found[1]
                return self.link
            if time.monotonic() > deadline:
                break
        self.process.kill()
        self.process.communicate(timeout=300)
        raise AssertionError("the portal did not start:\n" + "\n".join(self.output))

    def stop(self, timeout_s: float = 300.0) -> str:
        """SIGTERM, as a service manager does; everything it said since the start."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate(timeout=timeout_s)
        self.output += said.splitlines()
        return said

    def kill(self) -> None:
        """SIGKILL to the portal alone."""
        assert self.process is not None
        self.process.kill()
        self.process.communicate(timeout=300)

    def api(self) -> httpx.Client:
        """A client for the API with a fresh token, as `admin.py token` makes one."""
        with contextlib.closing(Store(self.data / "portal.sqlite")) as store:
            token = auth_of(settings.load(self.data), store).tokens.new("tests")
        return httpx.Client(
            base_url=self.origin,
            headers={"Authorization": f"Bearer {token}"},
            timeout=300,
            verify=NO_TLS,
            limits=SHORT_IDLE,
        )

    def leaves_nothing(self) -> None:
        """Wait until no process and no socket belongs to this data folder any more: the last
        of a job end a moment after the portal."""
        deadline = time.monotonic() + 300.0
        while left := self._leftovers():
            assert time.monotonic() < deadline, f"these are left of the portal: {left}"
            time.sleep(0.05)

    def _leftovers(self) -> list[str]:
        found = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            words = " ".join(process.info["cmdline"] or ())
            if str(self.data) in words and process.pid != os.getpid():
                found.append(f"{process.pid}: {words}")
        runtime = runtime_of(self.data)
        if runtime.exists():
            found += [str(p) for p in [runtime, *runtime.rglob("*")]]
        return found


def first_start_is_over(data: Path) -> None:
    """Leave the folder as a first start does, without sample scenes and with no more compiled
    modules than tests have compiled before: the portal makes neither."""
    cache = data / "cache"
    (cache / "samples").mkdir(parents=True)
    if not (data / "portal.sqlite").exists():
        new_store(data / "portal.sqlite").close()
    take_compiled(cache)
    (cache / "samples" / "taken-in").touch()
    (cache / MARK).write_text(code_digest())


def take_compiled(cache: Path) -> None:
    """Put what tests have compiled before where jobs look for it."""
    if compiled := os.environ.get("NUMBA_CACHE_DIR"):
        unfinished = shutil.ignore_patterns("*.tmp.*")
        shutil.copytree(compiled, cache, ignore=unfinished, dirs_exist_ok=True)


def runtime_of(data: Path) -> Path:
    from lib.config.runtime_dir import runtime_path

    return runtime_path(data.resolve())


def wait_for(what: str, ask: Any, *, timeout_s: float = 300.0, every_s: float = 0.1) -> Any:
    """Ask until the answer is true; the answer. Fails with the last one."""
    deadline = time.monotonic() + timeout_s
    answer: Any = None
    while time.monotonic() < deadline:
        answer = ask()
        if answer:
            return answer
        time.sleep(every_s)
    raise AssertionError(f"{what}: not within {timeout_s:.0f} s; last: {answer!r}")
