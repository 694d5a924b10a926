"""The notebook's server as the proxy sees it: TLS on both sides' certificates, over a socket."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import tempfile
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import aiohttp
from aiohttp.client_exceptions import UnixClientConnectorError
from yarl import URL

from lib.errors import ProtocolError, Unavailable
from lib.model import Endpoint
from lib.notebook_proxy.client import CONNECT_TIMEOUT_S, SILENCE_S, HttpClient
from lib.notebook_proxy.headers import InvalidAnswer
from lib.notebook_proxy.streams import StreamTransport, open_stream
from lib.protocol.resumable import ALPN

if TYPE_CHECKING:
    from aiohttp._websocket.reader import WebSocketDataQueue
    from aiohttp._websocket.writer import WebSocketWriter
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.tracing import Trace

_KEEP_ALIVE_S = 30.0
#: A peer that stalls may not keep a connection that we are done with (default: 30).
_SHUTDOWN_TIMEOUT_S = 2.0
_READ_BUFFER = 2**18
_MAX_ANSWER_LINE = 64 * 1024
_NOT_IN_TARGET = re.compile(rb"[^\x21-\x7e]|#")
P = TypeVar("P", bound=asyncio.Protocol)


class Upstream:
    """One running notebook: requests through its forward's socket.

    Nothing is connected before the first request. Connections are kept for
    `_KEEP_ALIVE_S`; after the forward was rebuilt new ones take the new socket. WebSockets
    go over resumable streams, which then look for it by themselves.
    """

    def __init__(self, socket: Path, endpoint: Endpoint) -> None:
        """
        Raises:
            ProtocolError: certificates or key of the endpoint cannot be used.
        """
        self.token = endpoint.token
        self._base = f"https://{endpoint.name}"
        self._name = endpoint.name
        self._socket = socket
        self._endpoint = endpoint
        self._context = tls_context(endpoint, socket.parent)
        self.http = self._new_client()
        self._websockets: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"Upstream({self._name})"

    def url(self, raw_path: bytes, query: bytes) -> URL:
        """As `target`, for aiohttp."""
        return URL(self._base + self.target(raw_path, query).decode("ascii"), encoded=True)

    def target(self, raw_path: bytes, query: bytes) -> bytes:
        """The address of a request; path and query are passed on as they came."""
        return _ascii(raw_path + (b"?" + query if query else b""))

    @property
    def websockets(self) -> aiohttp.ClientSession:
        """For WebSockets: over resumable streams where the notebook has them.

        Made on first use, since it belongs to an event loop.
        """
        if self._websockets is None or self._websockets.closed:
            context = tls_context(self._endpoint, self._socket.parent)
            context.set_alpn_protocols([ALPN])
            self._websockets = _client(StreamConnector(str(self._socket), context, self._name))
        return self._websockets

    def leads_to(self, socket: Path, endpoint: Endpoint) -> bool:
        """Whether it is made of these."""
        return (self._socket, self._endpoint) == (socket, endpoint)

    async def renew(self, timeout_s: float = 5.0) -> None:
        """The forward was made anew: prove this one, then close what went through the other.

        Streams go on over the new one by themselves.

        Raises as `probe`; nothing is closed then.
        """
        fresh = self._new_client()
        try:
            await self._ask(fresh, b"/api/status", timeout_s)
        except BaseException:
            fresh.close()
            raise
        old, self.http = self.http, fresh
        old.close()
        if self._websockets is not None and self._websockets.connector is not None:
            cast(StreamConnector, self._websockets.connector).drop_plain()

    def _new_client(self) -> HttpClient:
        return HttpClient(self._socket, self._context, self._name)

    async def probe(self, timeout_s: float = 5.0) -> None:
        """Prove that the notebook answers: an authenticated request through the forward.

        Raises:
            Unavailable: it cannot be reached (yet).
            ProtocolError: something answers, but not the notebook that was started.
        """
        await self._ask(self.http, b"/api/status", timeout_s)

    async def keep(self, timeout_s: float = 5.0) -> None:
        """Somebody works there: a request that Jupyter counts, as it does not count `probe`'s.

        Raises as `probe`.
        """
        await self._ask(self.http, b"/api/kernels", timeout_s)

    async def _ask(self, http: HttpClient, path: bytes, timeout_s: float) -> None:
        headers = [
            (b"Host", self._name.encode("ascii")),
            (b"Authorization", b"token " + self.token.encode("latin-1")),
        ]
        try:
            async with asyncio.timeout(timeout_s):
                answer = await http.request("GET", path, headers)
                try:
                    while await answer.read():
                        pass
                finally:
                    answer.finish()
        except ssl.SSLCertVerificationError as exc:
            raise ProtocolError(
                "What answers at the notebook's address is not the notebook."
            ) from exc
        except (InvalidAnswer, OSError) as exc:
            raise Unavailable("The notebook cannot be reached yet.") from exc
        if answer.status in (401, 403):
            raise ProtocolError("The notebook does not accept its own token.")
        if answer.status != 200:
            raise Unavailable(f"The notebook answered with status {answer.status}.")

    async def aclose(self) -> None:
        """Close every connection at once; the next request would open new ones."""
        self.http.close()
        if self._websockets is not None:
            if self._websockets.connector is not None:
                await self._websockets.connector.close(abort_ssl=True)
            await self._websockets.close()


def _client(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=_READ_BUFFER,
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_S
        ),
        max_line_size=_MAX_ANSWER_LINE,
        max_field_size=_MAX_ANSWER_LINE,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ws_response_class=NotebookWebSocket,
    )


class TlsUnixConnector(aiohttp.UnixConnector):
    """aiohttp's `UnixConnector` with TLS, which it lacks (aiohttp 3.14, pinned).

    Overrides one private method; `tests/contract/test_proxy_connector.py` fails when
    another release calls it differently.
    """

    def __init__(self, path: str, context: ssl.SSLContext, server_name: str) -> None:
        super().__init__(path=path, limit=0, keepalive_timeout=_KEEP_ALIVE_S)
        self._context = context
        self._server_name = server_name

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],  # noqa: ARG002
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> ResponseHandler:
        factory: Callable[[], ResponseHandler] = self._factory
        try:
            async with asyncio.timeout(timeout.sock_connect):
                return await self._connected(factory)
        except ssl.SSLCertVerificationError as exc:
            raise aiohttp.ClientConnectorCertificateError(req.connection_key, exc) from exc
        except OSError as exc:
            raise UnixClientConnectorError(self._path, req.connection_key, exc) from exc

    async def _connected(self, factory: Callable[[], ResponseHandler]) -> ResponseHandler:
        _, protocol = await self._connect(factory)
        return protocol

    async def _connect(self, factory: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        return await self._loop.create_unix_connection(
            factory,
            self._path,
            ssl=self._context,
            server_hostname=self._server_name,
            ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
        )


class StreamConnector(TlsUnixConnector):
    """Connections over resumable streams, where the session script knows them."""

    def __init__(self, path: str, context: ssl.SSLContext, server_name: str) -> None:
        """
        Args:
            context: asks for `lib.protocol.resumable.ALPN`.
        """
        super().__init__(path, context, server_name)
        self._streams: set[StreamTransport] = set()
        self._plain: weakref.WeakSet[ResponseHandler] = weakref.WeakSet()

    async def _connected(self, factory: Callable[[], ResponseHandler]) -> ResponseHandler:
        protocol, stream = await open_stream(self._dial, factory)
        if stream is None:
            self._plain.add(protocol)
        else:
            self._streams.add(stream)
            stream.forget = lambda: self._streams.discard(stream)
        return protocol

    async def _dial(self, factory: Callable[[], asyncio.Protocol]) -> asyncio.Transport:
        transport, _ = await self._connect(factory)
        return transport

    def drop_plain(self) -> None:
        """Close connections that nothing can resume."""
        for protocol in list(self._plain):
            protocol.abort()

    def close(self, *, abort_ssl: bool = False) -> Awaitable[None]:
        for stream in list(self._streams):
            stream.abort()
        return super().close(abort_ssl=abort_ssl)


class NotebookWebSocket(aiohttp.ClientWebSocketResponse):
    """Without aiohttp's own heartbeat where a stream sees to it that the other side is there."""

    def __init__(
        self,
        reader: WebSocketDataQueue,
        writer: WebSocketWriter,
        protocol: str | None,
        response: aiohttp.ClientResponse,
        *args: Any,
        heartbeat: float | None = None,
        **more: Any,
    ) -> None:
        connection = response.connection
        if connection is not None and isinstance(connection.transport, StreamTransport):
            heartbeat = None
        super().__init__(reader, writer, protocol, response, *args, heartbeat=heartbeat, **more)


def tls_context(endpoint: Endpoint, private: Path) -> ssl.SSLContext:
    """Trust the one server certificate, under its own name, and show the client's.

    Args:
        private: a folder that only we can read; OpenSSL takes a key from files only,
            so it lies there for the moment of loading.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # One self-signed certificate is the whole chain; strict mode asks for a real authority.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        endpoint.server_cert.encode("ascii")  # ValueError, where OpenSSL's is a TypeError
        context.load_verify_locations(cadata=endpoint.server_cert)
        fd, name = tempfile.mkstemp(dir=private)
        try:
            with os.fdopen(fd, "w", encoding="ascii") as file:
                file.write(endpoint.client_cert + "\n" + endpoint.client_key)
            context.load_cert_chain(name)
        finally:
            Path(name).unlink()
    except (ssl.SSLError, ValueError) as exc:
        raise ProtocolError("The gate sent certificates that cannot be used.") from exc
    return context


def _ascii(target: bytes) -> bytes:
    """Bytes that no request line may hold as they are (RFC 3986), percent-encoded."""
    return _NOT_IN_TARGET.sub(lambda found: b"%%%02X" % found[0][0], target)
