"""A real OpenID Connect provider in a process of its own, for tests."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx


class TestProvider:
    """`oidc-provider-mock`: signs real tokens; any client id and secret will do."""

    __test__ = False

    def __init__(self, port: int) -> None:
        self.issuer = f"http://127.0.0.1:{port}"

    def knows(self, subject: str, **claims: Any) -> None:
        """From now on it says so of this person."""
        httpx.put(f"{self.issuer}/users/{subject}", json=claims).raise_for_status()

    def agree(self, address: str, subject: str) -> str:
        """What a browser does that was sent there: sign in, and be sent back; where to."""
        with httpx.Client() as browser:
            answer = browser.post(address, data={"sub": subject})
        assert answer.status_code in (302, 303), answer.text
        return urljoin(address, answer.headers["location"])

    def deny(self, address: str) -> str:
        """The person presses "deny"; where their browser is sent to."""
        with httpx.Client() as browser:
            answer = browser.post(address, data={"action": "deny"})
        return str(answer.headers["location"])


@contextlib.contextmanager
def provider(*arguments: str) -> Iterator[TestProvider]:
    """A provider that runs until the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "oidc_provider_mock", "-p", str(port), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    it = TestProvider(port)
    try:
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{it.issuer}/.well-known/openid-configuration").raise_for_status()
                break
            assert process.poll() is None, "the provider ended"
            assert time.monotonic() < deadline, "the provider did not start"
            time.sleep(0.05)
        yield it
    finally:
        process.terminate()
        process.wait(300)


def query_of(address: str) -> dict[str, str]:
    """The query of an address, each name once."""
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
