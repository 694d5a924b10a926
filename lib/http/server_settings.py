"""How every uvicorn server of the portal and of its notebooks is set up."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from lib.http.hardening import StrictProtocol, behind
from lib.http.websocket_protocol import PatientWebSocket
from lib.protocol.messages import MAX_WEBSOCKET_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Longest WebSocket message to and from a notebook, bytes.
LARGEST_MESSAGE = MAX_WEBSOCKET_BYTES


class ServerSettings(TypedDict):
    """Some of `uvicorn.Config`'s arguments."""

    http: type[StrictProtocol]
    ws: type[PatientWebSocket]
    ws_per_message_deflate: bool
    ws_max_size: int
    timeout_graceful_shutdown: int
    server_header: bool
    proxy_headers: bool


#: For the portal's server, which allows shorter messages, and those in front of notebooks.
SERVER_SETTINGS: ServerSettings = {
    "http": StrictProtocol,
    "ws": PatientWebSocket,
    # Compressing what stays on this computer only costs time.
    "ws_per_message_deflate": False,
    "ws_max_size": LARGEST_MESSAGE,
    "timeout_graceful_shutdown": 5,
    "server_header": False,
    # Forwarded-For is ours to say: nobody in front of the portal is trusted by default.
    "proxy_headers": False,
}


def server_settings(front_servers: Iterable[str] = ()) -> ServerSettings:
    """`SERVER_SETTINGS` of a server that these hand requests on to."""
    return {**SERVER_SETTINGS, "http": behind(front_servers)}
