"""Somebody in a notebook: the way in over the portal, then requests and streams."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import aiohttp


@dataclass(frozen=True)
class Way:
    """Where to connect, and what to send along."""

    port: int
    headers: dict[str, str]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


def client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), connector=aiohttp.TCPConnector(limit=0)
    )


async def enter(http: aiohttp.ClientSession, portal_port: int, cookie: str, session: str) -> Way:
    """As a browser goes: the portal's address of the notebook, the ticket, the cookie."""
    asked = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    async with http.get(
        f"http://127.0.0.1:{portal_port}/open/{session}",
        headers={**asked, "Host": f"localhost:{portal_port}", "Cookie": cookie},
        allow_redirects=False,
    ) as answer:
        entry = answer.headers["Location"]
    origin, _, path = entry.partition("/_portal/")
    host = origin.removeprefix("http://")
    port = int(host.rpartition(":")[2])
    async with http.get(
        f"http://127.0.0.1:{port}/_portal/{path}",
        headers={**asked, "Host": host},
        allow_redirects=False,
    ) as answer:
        kept = answer.headers["Set-Cookie"].partition(";")[0]
    return Way(
        port, {"Host": host, "Origin": origin, "Sec-Fetch-Site": "same-origin", "Cookie": kept}
    )


async def request(http: aiohttp.ClientSession, way: Way) -> float:
    """Seconds of one request with an answer of 1 kB."""
    began = time.perf_counter()
    async with http.get(way.url("/small"), headers=way.headers) as answer:
        await answer.read()
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}")
    return time.perf_counter() - began


async def stream(http: aiohttp.ClientSession, way: Way, path: str, seen: list[int]) -> None:
    """Read messages from a WebSocket until cancelled; `seen[0]` counts them."""
    async with http.ws_connect(way.url(path), headers=way.headers) as ws:
        async for message in ws:
            if message.type is not aiohttp.WSMsgType.TEXT:
                raise RuntimeError("the stream broke off")
            seen[0] += 1
    raise RuntimeError("the stream ended")


async def download(http: aiohttp.ClientSession, way: Way, path: str, seen: list[int]) -> None:
    """Download again and again until cancelled; `seen[0]` counts bytes."""
    while True:
        async with http.get(way.url(path), headers=way.headers) as answer:
            async for chunk in answer.content.iter_any():
                seen[0] += len(chunk)
        await asyncio.sleep(0)
