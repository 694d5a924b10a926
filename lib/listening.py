"""Ports on loopback that are ours on every address that “localhost” may mean."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from lib.errors import Conflict
from lib.settings import NotebookOrigin

if TYPE_CHECKING:
    from lib.settings import Settings


def listen(port: int, advice: str = "") -> list[socket.socket]:
    """Listening sockets for the port on every loopback address of this computer.

    Both families, since "localhost" may mean either: where only one were ours, another
    account could answer on the other and receive the sign-in link.

    Args:
        advice: what the sentence of the error goes on with, after a space.
    Raises:
        Conflict: the port is in use.
    """
    listeners: list[socket.socket] = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            listener = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # this computer has no such addresses
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
            listener.listen(2048)
        except OSError as exc:
            listener.close()
            if family is socket.AF_INET6 and exc.errno == errno.EADDRNOTAVAIL:
                continue
            for other in listeners:
                other.close()
            raise Conflict(f"port {port} is in use by another program.{advice}") from exc
        listeners.append(listener)
    return listeners


def check_notebook_port(settings: Settings) -> None:
    """Find out before anything is started whether the notebooks' port can be had.

    Raises:
        Conflict: it is in use.
    """
    if settings.notebooks is NotebookOrigin.HOST:
        advice = ' The notebooks need it: choose another in settings.toml, "notebook_port".'
        for listener in listen(settings.port_of_notebooks, advice):
            listener.close()
