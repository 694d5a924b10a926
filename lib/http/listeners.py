"""Ports that are ours on every address that “localhost” may mean, or on one address."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import TYPE_CHECKING

from lib.config.settings import NotebookOrigin
from lib.errors import Conflict, Unavailable

if TYPE_CHECKING:
    from lib.config.settings import Settings

_LOOPBACK = ("127.0.0.1", "::1")


def listen(port: int, advice: str = "", *, address: str = "127.0.0.1") -> list[socket.socket]:
    """Listening sockets for the port: on 127.0.0.1 and ::1, or on another address alone.

    Both families, since "localhost" may mean either: where only one were ours, another
    account could answer on the other and receive the sign-in link.

    Args:
        advice: what the sentence of the error goes on with, after a space.
        address: one of loopback's means both.
    Raises:
        Conflict: the port is in use.
        Unavailable: this computer has no such address.
    """
    listeners: list[socket.socket] = []
    for own in _LOOPBACK if address in _LOOPBACK else (address,):
        family = socket.AF_INET6 if ipaddress.ip_address(own).version == 6 else socket.AF_INET
        try:
            listener = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # this computer has no such addresses
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((own, port))
            listener.listen(2048)
        except OSError as exc:
            listener.close()
            if own == "::1" and exc.errno == errno.EADDRNOTAVAIL:
                continue
            for other in listeners:
                other.close()
            if exc.errno == errno.EADDRNOTAVAIL:
                raise Unavailable(
                    f"This computer has no address {own}: mend listen in settings.toml."
                ) from exc
            raise Conflict(f"port {port} is in use by another program.{advice}") from exc
        listeners.append(listener)
    if not listeners:
        raise Unavailable(f"This computer has no addresses such as {address}.")
    return listeners


def check_notebook_port(settings: Settings) -> None:
    """Find out before anything is started whether the notebooks' port can be had.

    Raises:
        Conflict: it is in use.
    """
    if settings.notebooks is NotebookOrigin.HOST:
        advice = (
            " The notebooks need it: choose another with ./run --notebook-port PORT, or as "
            "notebook_port in settings.toml."
        )
        for listener in listen(settings.port_of_notebooks, advice):
            listener.close()
