"""A stage for proxy tests: any server behind the real TLS relay, the real proxy before it.

browser (aiohttp or raw) -> uvicorn -> NotebookProxy -> UNIX socket -> TLS -> relay -> server
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from aiohttp import web

from lib.errors import SceneBridgeError
from lib.gate.certificates import make_pair
from lib.http.server_settings import SERVER_SETTINGS
from lib.jobs.relay import Relay, bind, server_context
from lib.model import Endpoint, SessionId, UserId
from lib.notebook_proxy.asgi import NotebookProxy, ProxySettings
from lib.notebook_proxy.upstream import Upstream
from tests.folders import short_folder

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

USER = UserId("ada")
LOGIN = "login-1"
TOKEN = "token-of-the-notebook"


@dataclass
class Porter:
    """A authorizer that lets in whom the test wants."""

    allowed: bool = True
    asked: list[tuple[SessionId, UserId, str]] = field(default_factory=list)
    in_use: list[str] = field(default_factory=list)
    ends: float | None = None

    async def active(self, login: str) -> None:
        self.in_use.append(login)

    async def ends_at(self, session: SessionId) -> float | None:
        return self.ends

    async def may_open(self, session: SessionId, user: UserId, login: str) -> bool:
        self.asked.append((session, user, login))
        return self.allowed


@dataclass
class Stage:
    proxy: NotebookProxy
    session: SessionId
    endpoint: Endpoint
    forward: Forward
    port: int
    porter: Porter
    http: aiohttp.ClientSession
    cookie: str = ""

    @property
    def socket(self) -> Path:
        return self.forward.path

    @property
    def host(self) -> str:
        return self.proxy.origin(self.session).removeprefix("http://")

    @property
    def origin(self) -> str:
        return self.proxy.origin(self.session)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def headers(self, **extra: str) -> dict[str, str]:
        """As the notebook's own page sends them; `_` stands for `-`, None removes one."""
        base = {"Host": self.host, "Origin": self.origin, "Sec-Fetch-Site": "same-origin"}
        if self.cookie:
            base["Cookie"] = self.cookie
        base.update({name.replace("_", "-"): value for name, value in extra.items()})
        return {name: value for name, value in base.items() if value is not None}

    def navigation(self, **extra: Any) -> dict[str, str]:
        """As a browser asks for a page from the portal."""
        asked = {
            "Origin": None,
            "Sec_Fetch_Site": "cross-site",
            "Sec_Fetch_Mode": "navigate",
            "Sec_Fetch_Dest": "document",
        }
        return self.headers(**{**asked, **extra})

    async def get(self, path: str, **extra: Any) -> tuple[int, bytes]:
        async with self.http.get(
            self.url(path), headers=self.headers(**extra), allow_redirects=False
        ) as answer:
            return answer.status, await answer.read()

    async def enter(self, login: str = LOGIN) -> None:
        """Come in through a ticket, as a browser does; the cookie is kept."""
        entry = self.proxy.entry_url(self.session, USER, login, "/tree?x=1")
        path = entry.removeprefix(self.origin)
        async with self.http.get(
            self.url(path), headers=self.navigation(), allow_redirects=False
        ) as answer:
            assert answer.status == 303, await answer.text()
            self.cookie = answer.headers["Set-Cookie"].split(";")[0]

    def websocket(self, path: str, **extra: Any) -> Any:
        protocols = extra.pop("protocols", ())
        return self.http.ws_connect(
            self.url(path), headers=self.headers(**extra), protocols=protocols, max_msg_size=0
        )

    async def raw(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Bytes as they are; `{HOST}`, `{ORIGIN}` and `{COOKIE}` are filled in."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        for name, value in (("HOST", self.host), ("ORIGIN", self.origin), ("COOKIE", self.cookie)):
            request = request.replace(b"{%s}" % name.encode(), value.encode())
        writer.write(request)
        return reader, writer


async def stalled(count: Callable[[], int]) -> int:
    """What was counted when it went on no more. Of a busy computer too little is believed."""
    looks: list[int] = []
    while len(looks) < 10 or not 0 < looks[-1] == looks[-10]:
        looks.append(count())
        await asyncio.sleep(0.03)
    return looks[-1]


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    async def main_loop(self) -> None:
        """uvicorn's own sees a tenth of a second later that it is to end."""
        await self.on_tick(0)
        while not self.should_exit:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(app: Any, listener: socket.socket | None = None) -> AsyncIterator[int]:
    """Serve an ASGI application as the portal is served; its port."""
    config = uvicorn.Config(
        app, port=0, lifespan="off", log_level="warning", access_log=False, **SERVER_SETTINGS
    )
    server = Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener] if listener else None))
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = True
        await task


class Forward:
    """The UNIX socket that leads to a relay, as ssh makes it; it can be cut and made anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.port = 0
        #: How many connections were made through it.
        self.made = 0
        self._server: asyncio.Server | None = None
        self._carried: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._carry, str(self.path))

    def cut(self) -> None:
        """End it and what goes through it, at whatever byte that is."""
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)
        for writer in self._carried:
            writer.transport.abort()
        self._carried.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._carried.extend((writer, far_writer))
        await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))


@asynccontextmanager
async def relayed(
    target: Path, folder: Path, session: SessionId, forward: Forward | None = None
) -> AsyncIterator[Endpoint]:
    """The session script's relay before `target`, and a UNIX socket that leads to it."""
    name = f"s-{session}"
    server, client = make_pair(name, server=True), make_pair(name, server=False)
    for file, data in (("cert", server.cert), ("key", server.key), ("client", client.cert)):
        (folder / file).write_bytes(data)
    context = server_context(folder / "cert", folder / "key", folder / "client")
    relay = Relay(bind("127.0.0.1"), context, target)
    await relay.start()
    forward = forward or Forward(folder / "f.sock")
    forward.port = relay.port
    await forward.open()
    try:
        yield Endpoint(
            name=name,
            token=TOKEN,
            server_cert=server.cert.decode(),
            client_cert=client.cert.decode(),
            client_key=client.key.decode(),
        )
    finally:
        await relay.close()
        forward.cut()
        await asyncio.sleep(0)


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


def beside(portal: Any, proxy: NotebookProxy) -> Any:
    """Both at one port: what is for no notebook goes to the portal."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (proxy if _is_for_a_notebook(proxy, scope) else portal)(scope, receive, send)

    return app


def _is_for_a_notebook(proxy: NotebookProxy, scope: Any) -> bool:
    try:
        return proxy.addresses.session_of(scope) is not None
    except SceneBridgeError:
        return True


@asynccontextmanager
async def stage(
    target: web.Application
    | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    | Path,
    *,
    notebooks: Any = "host",
    portal: Callable[[NotebookProxy, SessionId], Any] | None = None,
    listener: socket.socket | None = None,
) -> AsyncIterator[Stage]:
    """A notebook server (aiohttp's, or any stream handler) on stage, and a visitor inside.

    Args:
        target: the server, or the socket of one that listens already.
        portal: makes an application that serves all but notebooks at the same port.
        listener: where the portal listens; its origin is then the real one.
    """
    session = SessionId(str(uuid.uuid4()))
    porter = Porter()
    origin = f"http://localhost:{listener.getsockname()[1] if listener else 8501}"
    settings = ProxySettings(origin, b"s" * 32, notebooks=notebooks)
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(short_folder())
        listening = folder / "n.sock"
        if isinstance(target, web.Application):
            runner = web.AppRunner(target, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            await web.UnixSite(runner, str(listening)).start()
            stack.push_async_callback(runner.cleanup)
        elif isinstance(target, Path):
            listening = target
        else:
            server = await asyncio.start_unix_server(target, str(listening))
            stack.callback(server.close)
        forward = Forward(folder / "f.sock")
        line = relayed(listening, folder, session, forward)
        endpoint = await stack.enter_async_context(line)
        proxy = NotebookProxy(settings, porter, porter.active)
        app = beside(portal(proxy, session), proxy) if portal else proxy
        port = await stack.enter_async_context(serving(app, listener))
        stack.push_async_callback(proxy.aclose)
        await proxy.open(session, Upstream(folder / "f.sock", endpoint))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)
        )
        if notebooks == "port":
            port = int(proxy.origin(session).rsplit(":", 1)[1])
        made = Stage(proxy, session, endpoint, forward, port, porter, http)
        await made.enter()
        yield made
