"""The load, in a process of its own: people who click, and notebooks that stream.

Reads one line of JSON from its standard input, says "ready" when everybody is in, and ends,
with one line of JSON about what was done, when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import TypedDict

import aiohttp
import uvloop

from benchmarks.load import visitor
from benchmarks.load.browser import Page

PAGES = ("", "work", "results")
CHIPS = 24
#: How often an open page asks whether its sign-in still lives (ui/components/sign_in_watch.js).
WATCH_S = 15.0
#: Of no fewer clicks there are percentiles.
FEWEST = 2


class Given(TypedDict):
    """What the crowd is told: where the portal is, who comes, and what each one does."""

    port: int
    cookies: list[str]
    sessions: list[str]
    streams: int
    rate: int
    size: int
    download_rate: int
    every_s: float
    chip: str


class Report(TypedDict):
    """What was done; `clicks` are seconds each, of the time in which everybody was there."""

    clicks: list[float]
    messages: int
    downloaded_mb: float
    pictures: int


class Crowd:
    """Everybody's doings."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self.clicks: list[float] = []
        self.messages = [0]
        self.bytes = [0]
        self.pictures = 0
        self._inside = 0
        self._everybody = asyncio.Event()
        self._clicked = asyncio.Event()
        self._expected = len(given["cookies"]) + given["streams"] + 1

    async def run(self) -> None:
        given = self._given
        async with visitor.client() as http, asyncio.TaskGroup() as tasks:
            for number, cookie in enumerate(given["cookies"]):
                tasks.create_task(self._click(http, number, cookie))
                tasks.create_task(self._watch(http, number, cookie))
            for session in given["sessions"][: given["streams"]]:
                tasks.create_task(self._stream(http, session))
            tasks.create_task(self._download(http, given["sessions"][-1]))
            await self._everybody.wait()
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.read)
            await self._clicked.wait()
            print(json.dumps(self.report()), flush=True)
            sys.stdout.flush()
            raise SystemExit

    def report(self) -> Report:
        return {
            "clicks": self.clicks,
            "messages": self.messages[0],
            "downloaded_mb": self.bytes[0] / 1e6,
            "pictures": self.pictures,
        }

    def _came_in(self) -> None:
        self._inside += 1
        if self._inside >= self._expected:
            self._everybody.set()

    async def _click(self, http: aiohttp.ClientSession, number: int, cookie: str) -> None:
        await asyncio.sleep(0.15 * number)  # 30 people do not open a page in one moment
        every = self._given["every_s"]
        async with Page(http, self._given["port"], cookie) as page:
            self._came_in()
            await asyncio.sleep(random.uniform(0, every))
            turn = number
            while True:
                name = PAGES[turn % len(PAGES)]
                all_in = self._everybody.is_set()
                took = await page.click(name)
                if all_in:
                    self.clicks.append(took)
                if len(self.clicks) >= FEWEST:
                    self._clicked.set()
                await self._pictures(http, cookie, name, first=turn < number + len(PAGES))
                await asyncio.sleep(random.uniform(0.8, 1.2) * every)
                turn += 1

    async def _watch(self, http: aiohttp.ClientSession, number: int, cookie: str) -> None:
        """What each open page asks by itself."""
        await self._everybody.wait()
        await asyncio.sleep(WATCH_S * number / len(self._given["cookies"]))
        while True:
            await self._fetch(http, cookie, "/api/me")
            await asyncio.sleep(WATCH_S)

    async def _pictures(
        self, http: aiohttp.ClientSession, cookie: str, page: str, *, first: bool
    ) -> None:
        """What a browser fetches for a page: footprints each time, thumbnails once."""
        paths = ["/api/footprints"] if page == "" else []
        if page == "results" and first:
            paths = [self._given["chip"].format(n) for n in range(1, CHIPS + 1)]
        for path in paths:
            self.pictures += await self._fetch(http, cookie, path) == 200

    async def _fetch(self, http: aiohttp.ClientSession, cookie: str, path: str) -> int:
        port = self._given["port"]
        own = {"Host": f"localhost:{port}", "Cookie": cookie, "Sec-Fetch-Site": "same-origin"}
        async with http.get(f"http://127.0.0.1:{port}{path}", headers=own) as answer:
            await answer.read()
            return answer.status

    async def _way(self, http: aiohttp.ClientSession, session: str) -> visitor.Way:
        way = await visitor.enter(http, self._given["port"], self._given["cookies"][0], session)
        self._came_in()
        return way

    async def _stream(self, http: aiohttp.ClientSession, session: str) -> None:
        path = f"/stream?rate={self._given['rate']}&size={self._given['size']}"
        await visitor.stream(http, await self._way(http, session), path, self.messages)

    async def _download(self, http: aiohttp.ClientSession, session: str) -> None:
        path = f"/trickle?rate={self._given['download_rate']}"
        await visitor.download(http, await self._way(http, session), path, self.bytes)


def main() -> None:
    given = json.loads(sys.stdin.readline())
    uvloop.run(Crowd(given).run())


if __name__ == "__main__":
    main()
