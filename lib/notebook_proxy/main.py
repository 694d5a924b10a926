"""The notebooks' process: their proxy, away from the portal's pages and their interpreter lock.

    python -m lib.notebook_proxy.main --control FD --listen FD[,FD...] --data DIR

Started by `NotebookProcess` with these descriptors. It reads the portal's store by itself, so
a page that computes delays no request to a notebook. It ends when the portal does.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import socket
import sys
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import uvicorn
import uvloop

from lib.auth.notebook_access import notebook_access
from lib.config import settings
from lib.errors import Conflict, InvalidInput, ProtocolError, SceneBridgeError, Unavailable
from lib.http.hardening import allow_many_files
from lib.http.server_settings import server_settings
from lib.loops import Loops
from lib.model import JsonValue, SessionId, UserId, json_list, json_number, json_object, json_text
from lib.notebook_proxy import messages
from lib.notebook_proxy.asgi import NotebookProxy, ProxySettings
from lib.notebook_proxy.messages import Message, Open, Start
from lib.notebook_proxy.port_listeners import QuietServer
from lib.notebook_proxy.upstream import Upstream
from lib.store import Store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

log = logging.getLogger(__name__)

_STOP_S = 3.0


class CommandHandler:
    """Carries out what the portal asks, on one `NotebookProxy`."""

    def __init__(self, proxy: NotebookProxy) -> None:
        self._proxy = proxy
        self._opening: dict[SessionId, asyncio.Task[int]] = {}
        self._handlers: dict[str, Callable[[Message], Awaitable[Message]]] = {
            "restore": self._restore,
            "open": self._open,
            "close": self._close,
            "ticket": self._ticket,
            "sign_out": self._sign_out,
            "probe": self._probe,
            "keep": self._keep,
            "idle": self._idle,
        }

    async def handle(self, request: Message) -> Message:
        """The message to send back, whatever happens."""
        try:
            handler = self._handlers.get(str(request.get("do")))
            if handler is None:
                raise InvalidInput("The notebooks' process does not know this order.")
            return {"n": request.get("n"), "ok": await handler(request)}
        except SceneBridgeError as exc:
            return _error(request, exc)
        except asyncio.CancelledError:
            return _error(request, Conflict("The notebook was closed while it was opened."))
        except Exception:
            log.exception("a command could not be carried out: %s", request.get("do"))
            return _error(request, Unavailable("The notebooks' process has a fault; see its log."))

    async def _restore(self, request: Message) -> Message:
        """All that was open and closed before this process was. Requests prove the rest."""
        for session, reason in json_object(request["closed"]).items():
            await self._proxy.close(SessionId(session), str(reason))
        ports: dict[str, JsonValue] = {}
        for values in json_list(request["open"]):
            wanted = Open.of(json_object(values))
            try:
                await self._let_in(wanted, Upstream(Path(wanted.socket), wanted.endpoint))
            except SceneBridgeError as exc:
                log.warning("session %s: %s", wanted.session, exc)
                continue
            ports[wanted.session] = self._proxy.port(wanted.session)
        for name, at in json_object(request["idle"]).items():
            self._proxy.idle(SessionId(name), json_number(at))
        return {"ports": ports}

    async def _open(self, request: Message) -> Message:
        wanted = Open.of(request)
        await self._give_up(wanted.session)
        task = asyncio.create_task(self._prove(wanted))
        self._opening[wanted.session] = task
        try:
            return {"port": await task}
        finally:
            if self._opening.get(wanted.session) is task:
                del self._opening[wanted.session]

    async def _prove(self, wanted: Open) -> int:
        known = self._proxy.get(wanted.session)
        if known is not None and known.leads_to(Path(wanted.socket), wanted.endpoint):
            try:
                await known.probe()
            except Unavailable:
                await known.renew()  # as its forward was
            return self._proxy.port(wanted.session)
        fresh = Upstream(Path(wanted.socket), wanted.endpoint)
        try:
            await fresh.probe()
        except BaseException:
            await fresh.aclose()
            raise
        return await self._let_in(wanted, fresh)

    async def _let_in(self, wanted: Open, upstream: Upstream) -> int:
        await self._proxy.open(wanted.session, upstream, port=wanted.port)
        return self._proxy.port(wanted.session)

    async def _close(self, request: Message) -> Message:
        session = SessionId(json_text(request["session"]))
        await self._give_up(session)
        await self._proxy.close(session, str(request["reason"]))
        return {}

    async def _keep(self, request: Message) -> Message:
        upstream = self._proxy.get(SessionId(json_text(request["session"])))
        if upstream is None:
            raise Conflict("This notebook is not open.")
        await upstream.keep()
        return {}

    async def _idle(self, request: Message) -> Message:
        at = request["at"]
        session = SessionId(json_text(request["session"]))
        self._proxy.idle(session, None if at is None else json_number(at))
        return {}

    async def _give_up(self, session: SessionId) -> None:
        """Commands come in the portal's order: one that is under way has been overtaken."""
        task = self._opening.pop(session, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _ticket(self, request: Message) -> Message:
        session, user, login, onward = (
            json_text(request[name]) for name in ("session", "user", "login", "onward")
        )
        url = self._proxy.entry_url(SessionId(session), UserId(user), login, onward)
        return {"url": url}

    async def _sign_out(self, request: Message) -> Message:
        self._proxy.sign_out(str(request["login"]))
        return {}

    async def _probe(self, _request: Message) -> Message:
        """Who asks ends a process that does not answer, and one that says this."""
        if self._proxy.loops.trouble:
            raise Unavailable(self._proxy.loops.trouble)
        return self._proxy.counts()


def _error(request: Message, exc: SceneBridgeError) -> Message:
    return {"n": request.get("n"), "error": {"code": exc.code, "message": exc.message}}


# --- the process ------------------------------------------------------------------------------


async def run(control_fd: int, listen: list[int], data: Path) -> None:
    """Serve until the portal closes its end of the control socket."""
    pair = socket.socket(fileno=control_fd)
    reader, writer = await asyncio.open_unix_connection(sock=pair, limit=messages.LINE_BYTES)
    first = await messages.read(reader)
    if first is None:
        return
    start = Start.of(json_object(first["start"]))
    store = Store(data / "portal.sqlite")
    chosen = settings.load(data, port=start.portal_port)
    proxy = _proxy(start, chosen, store)
    server = QuietServer(_server_config(proxy, chosen.trusted_proxies))
    serving = asyncio.create_task(server.serve([socket.socket(fileno=fd) for fd in listen]))
    await server.listening.wait()
    writer.write(messages.encode_line({"n": first["n"], "ok": {}}))
    # What was loaded stays: no collection has to look at it again.
    gc.collect()
    gc.freeze()
    try:
        await _obey(CommandHandler(proxy), reader, writer, proxy.loops)
    finally:
        await proxy.aclose()
        server.should_exit = True
        with suppress(TimeoutError):
            await asyncio.wait_for(serving, _STOP_S)
        store.close()


async def _obey(
    handler: CommandHandler,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    loops: Loops,
) -> None:
    """Until the portal closes its end. What is no order is logged, and the next one is read."""
    under_way: set[asyncio.Task[None]] = set()

    async def act(request: Message) -> None:
        with loops.item(f"order {request.get('do')}"):
            writer.write(messages.encode_line(await handler.handle(request)))

    while True:
        try:
            request = await messages.read(reader)
        except ProtocolError as exc:
            loops.note("an order of the portal", exc)
            continue
        if request is None:
            break
        task = asyncio.create_task(act(request))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    for task in under_way:
        task.cancel()


def _proxy(start: Start, chosen: settings.Settings, store: Store) -> NotebookProxy:
    access = notebook_access(chosen, store)
    return NotebookProxy(
        ProxySettings(
            portal_origin=start.portal_origin,
            secret=bytes.fromhex(start.secret),
            notebooks=cast(Literal["host", "port"], start.notebooks),
            base=start.base,
            ports=(start.ports[0], start.ports[1]),
        ),
        access,
        access.active,
    )


def _server_config(proxy: NotebookProxy, front_servers: Iterable[str]) -> uvicorn.Config:
    return uvicorn.Config(
        proxy,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        **(server_settings(front_servers) | {"timeout_graceful_shutdown": 1}),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lib.notebook_proxy.main")
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    os.umask(0o077)
    handler = RotatingFileHandler(
        options.data / "notebooks.log", maxBytes=5 * 2**20, backupCount=2, encoding="utf-8"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    allow_many_files()
    listen = [int(fd) for fd in options.listen.split(",") if fd]
    uvloop.run(run(options.control, listen, options.data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
