"""The web server of a portal: uvicorn in this process, on sockets that listen already."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from lib.errors import Unavailable
from lib.http.server_settings import server_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_POLL_S = 0.02
#: What a page may send at once: states of widgets, shapes drawn on the map.
LARGEST_MESSAGE = 4 * 2**20


class PortalServer(uvicorn.Server):
    """Serves `app:app` until `stop`. Signals are left to whoever runs it.

    `streamlit run` would do without: no limit on how long open pages hold up a stop,
    and compression of WebSockets, which costs more than loopback does.
    """

    def __init__(self, front_servers: Iterable[str] = ()) -> None:
        """
        Args:
            front_servers: addresses whose X-Forwarded-For counts.
        """
        super().__init__(
            uvicorn.Config(
                "app:app",
                access_log=False,
                log_config=None,
                log_level="warning",
                lifespan="on",
                **(server_settings(front_servers) | {"ws_max_size": LARGEST_MESSAGE}),
            )
        )
        self.stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own would raise the signal again when it has shut down."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with Streamlit's hand taken off the server's loggers.

        Streamlit 1.67 prints every request to the terminal whatever `access_log` says,
        the keys of sign-in links included.
        """
        logging.getLogger("uvicorn.access").disabled = True
        logging.getLogger("uvicorn.error").addFilter(lambda record: record.levelno > logging.INFO)
        await super().startup(sockets)
        for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi", "websockets"):
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.WARNING)

    async def ready(self, serving: asyncio.Task[None]) -> None:
        """Wait until it answers, or was told to stop before it did.

        Raises:
            Unavailable: it ended instead; why is in the log.
        """
        while not self.started and not self.stopping.is_set():
            if serving.done():
                raise Unavailable(
                    "The portal could not start; portal.log in the data folder says why."
                )
            await asyncio.sleep(_POLL_S)

    def stop(self) -> None:
        """Finish requests, close WebSockets and end. For any thread or signal handler."""
        self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self.should_exit = True
        self.stopping.set()
