"""One open page of a Streamlit application, driven over its WebSocket as a browser does.

What it does like a browser: one WebSocket per page, a rerun per click, reruns of fragments
as often as the page asks for, and the list of messages it has kept; and, where the page is the
portal's, a second WebSocket that tells when what it shows has changed (ui/components/live.js),
and the reruns of fragments that follow. What it leaves out: drawing, and the states of widgets,
which the server then has as they were made.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
from streamlit.components.v2.bidi_component.main import _make_trigger_id
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Delta_pb2 import Delta
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

_ANSWER_S = 60.0
#: The component that follows (ui/live.py), and how long it waits between two reruns.
LIVE, GAP_S = "scenebridge_live", 0.5


@dataclass(frozen=True)
class Followed:
    """One of those on the page."""

    component: str
    fragment: str
    seen: str


class Page:
    """An open page. Use as a context; `click` takes one caller at a time."""

    def __init__(self, http: aiohttp.ClientSession, port: int, cookie: str) -> None:
        self._http = http
        self._address = f"http://localhost:{port}"
        self._url = f"ws://127.0.0.1:{port}"
        self._cookie = cookie
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ticking: dict[str, asyncio.Task[None]] = {}
        self._done = asyncio.Event()
        self._problem = ""
        self._page = ""
        self._kept: set[str] = set()
        #: Last part of the address -> the page's hash; filled by the first answer.
        self.pages: dict[str, str] = {}
        #: Reruns of fragments that were asked for.
        self.ticks = 0
        #: What the page follows: by topic the component, its fragment, and the stamp that it has.
        self._followed: dict[str, Followed] = {}
        self._told: list[str] = []
        self._stamps: dict[str, str] = {}
        self._changes: aiohttp.ClientWebSocketResponse | None = None
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Page:
        self._ws = await self._connect("/_stcore/stream", "streamlit")
        self._reading = asyncio.create_task(self._read(self._ws))
        await self.click()
        if self._followed:
            self._changes = await self._connect("/changes")
            self._listening = asyncio.create_task(self._listen(self._changes))
            await self._follow()
        return self

    async def _connect(self, path: str, *protocols: str) -> aiohttp.ClientWebSocketResponse:
        return await self._http.ws_connect(
            self._url + path,
            headers={
                "Host": self._address.removeprefix("http://"),
                "Origin": self._address,
                "Cookie": self._cookie,
            },
            protocols=protocols,
            max_msg_size=0,
        )

    async def __aexit__(self, *_: object) -> None:
        for task in self._ticking.values():
            task.cancel()
        for ws in (self._changes, self._ws):
            if ws is not None:
                await ws.close()
        for reading in (self._listening, self._reading):
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def click(self, page: str | None = None) -> float:
        """Go to that page (or run the one that is open again); seconds until it was there.

        Raises:
            RuntimeError: the page showed an exception, or the connection ended.
        """
        if page is not None:
            self._page = self.pages[page]
        self._stop_ticking()
        self._done.clear()
        began = time.perf_counter()
        await self._send(self._rerun())
        async with asyncio.timeout(_ANSWER_S):
            await self._done.wait()
        taken = time.perf_counter() - began
        if self._problem:
            raise RuntimeError(f"the page does not work: {self._problem}")
        await self._follow()
        return taken

    def _rerun(self, fragment: str = "", component: str = "") -> BackMsg:
        message = BackMsg()
        state = message.rerun_script
        state.query_string = ""
        state.page_script_hash = self._page
        state.fragment_id = fragment
        state.is_auto_rerun = bool(fragment)
        state.cached_message_hashes.extend(self._kept)
        state.context_info.timezone = "UTC"
        state.context_info.locale = "en"
        state.context_info.url = self._address
        if component:
            told = state.widget_states.widgets.add()
            told.id = _make_trigger_id(component, "events")
            told.json_trigger_value = json.dumps([{"event": "changed", "value": "again"}])
            state.is_auto_rerun = False
        return message

    async def _send(self, message: BackMsg) -> None:
        if self._ws is None:
            raise RuntimeError("the page is not open")
        await self._ws.send_bytes(message.SerializeToString())

    async def _read(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        try:
            async for frame in ws:
                if frame.type is aiohttp.WSMsgType.BINARY:
                    self._take(ForwardMsg.FromString(frame.data))
        finally:
            if not self._done.is_set():
                self._problem = self._problem or "the connection ended"
                self._done.set()

    def _take(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if message.hash and message.metadata.cacheable:
            self._kept.add(message.hash)
        if kind == "new_session" and not message.metadata.run.fragment_ids:
            self._stop_ticking()
            self._followed.clear()
        elif kind == "navigation":
            self.pages = {p.url_pathname: p.page_script_hash for p in message.navigation.app_pages}
        elif kind == "auto_rerun":
            self._tick(message.auto_rerun.fragment_id, message.auto_rerun.interval)
        elif kind == "stop_auto_rerun":
            for fragment in message.stop_auto_rerun.fragment_ids:
                self._stop_ticking(fragment)
        elif kind == "delta" and message.delta.new_element.HasField("bidi_component"):
            self._mount(message.delta)
        elif kind == "delta" and message.delta.new_element.HasField("exception"):
            self._problem = message.delta.new_element.exception.message or "an exception"
        elif kind == "script_finished" and message.script_finished == 0:
            self._done.set()

    # --- what the page follows ------------------------------------------------------------

    def _mount(self, delta: Delta) -> None:
        component = delta.new_element.bidi_component
        if component.component_name == LIVE:
            given = json.loads(component.json)
            self._followed[given["topic"]] = Followed(
                component.id, delta.fragment_id, given["seen"]
            )

    async def _follow(self) -> None:
        """Tell the portal what the page shows now, where that is something else than before."""
        if self._changes is not None and sorted(self._followed) != self._told:
            self._told = sorted(self._followed)
            await self._changes.send_json({"follow": self._told})
        else:
            await self._look()

    async def _listen(self, changes: aiohttp.ClientWebSocketResponse) -> None:
        async for frame in changes:
            if frame.type is not aiohttp.WSMsgType.TEXT:
                continue
            self._stamps.update(json.loads(frame.data))
            await self._look()
            await asyncio.sleep(GAP_S)

    async def _look(self) -> None:
        """Ask again for what is not as the portal says that it is."""
        for topic, followed in tuple(self._followed.items()):
            if self._stamps.get(topic, followed.seen) != followed.seen:
                self.ticks += 1
                await self._send(self._rerun(followed.fragment, followed.component))

    def _tick(self, fragment: str, every_s: float) -> None:
        if fragment not in self._ticking:
            self._ticking[fragment] = asyncio.create_task(self._rerun_often(fragment, every_s))

    async def _rerun_often(self, fragment: str, every_s: float) -> None:
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            while True:
                await asyncio.sleep(every_s)
                self.ticks += 1
                await self._send(self._rerun(fragment))

    def _stop_ticking(self, *fragments: str) -> None:
        """Of these fragments; without any, of all."""
        for fragment in fragments or tuple(self._ticking):
            task = self._ticking.pop(fragment, None)
            if task is not None:
                task.cancel()


async def sign_in(http: aiohttp.ClientSession, link: str) -> str:
    """Spend a one-time link; the cookie, as a browser sends it back."""
    port, path = link.removeprefix("http://localhost:").split("/", 1)
    async with http.get(
        f"http://127.0.0.1:{port}/{path}",
        headers={"Host": f"localhost:{port}"},
        allow_redirects=False,
    ) as answer:
        return answer.headers["Set-Cookie"].partition(";")[0]


async def repeat(
    seconds: float, pause_s: float, act: Callable[[], Awaitable[float]]
) -> list[float]:
    """What `act` says, again and again for that long, at least twice."""
    found: list[float] = []
    until = time.monotonic() + seconds
    while len(found) < 2 or time.monotonic() < until:
        found.append(await act())
        await asyncio.sleep(pause_s)
    return found
