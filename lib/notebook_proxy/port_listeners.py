"""Listeners for the setting `notebooks = "port"`: one uvicorn server per notebook."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from lib.errors import Unavailable
from lib.http.server_settings import SERVER_SETTINGS
from lib.model import SessionId
from lib.notebook_proxy.origins import PortAddresses

if TYPE_CHECKING:
    from starlette.types import ASGIApp


class PortListeners:
    """Opens and closes a port per notebook; `addresses.ports` says which."""

    def __init__(
        self, app: ASGIApp, addresses: PortAddresses, ports: tuple[int, int] = (0, 0)
    ) -> None:
        """
        Args:
            ports: first and last port to use; any of the system's where both are 0.
        """
        self._app = app
        self._ports = ports
        self._addresses = addresses
        self._servers: dict[SessionId, tuple[QuietServer, asyncio.Task[None]]] = {}

    async def open(self, session: SessionId, port: int = 0) -> None:
        """Listen for that notebook; nothing changes where it has its port already.

        Args:
            port: one that it had before, taken where it is free.
        Raises:
            Unavailable: no port is left, or it could not be listened on.
        """
        if session in self._servers:
            return
        listener = self._listener(port)
        server = QuietServer(
            uvicorn.Config(
                self._app,
                lifespan="off",
                log_config=None,
                access_log=False,
                **(SERVER_SETTINGS | {"timeout_graceful_shutdown": 1}),
            )
        )
        self._addresses.ports[session] = listener.getsockname()[1]
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        self._servers[session] = (server, serving)
        await server.listening.wait()
        if not server.started:
            await self.close(session)
            raise Unavailable("The notebook's port could not be opened.")

    def _listener(self, wanted: int) -> socket.socket:
        first, last = self._ports
        for port in dict.fromkeys([*([wanted] if wanted else []), *range(first, last + 1)]):
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((self._addresses.host, port))
                listener.listen(128)
            except OSError:
                listener.close()
            else:
                return listener
        raise Unavailable("This computer has no port left for the notebook.")

    async def close(self, session: SessionId) -> None:
        """Stop listening; no error if it has no port."""
        server, serving = self._servers.pop(session, (None, None))
        self._addresses.ports.pop(session, None)
        if server is not None and serving is not None:
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)


class QuietServer(uvicorn.Server):
    """A server among others in one process: signals belong to the one that runs it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets=sockets)
        finally:
            self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
