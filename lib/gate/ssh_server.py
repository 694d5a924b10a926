"""The gate's SSH server (asyncssh): authentication, commands, and forwards to notebooks.

Refusal is the default of every request. Allowed are the command ``scenebridge-1 VERB``
and `direct-tcpip` to ``s-UUID`` port 1, where UUID is a live session whose scheduler
vouches for its endpoint at that very moment. Everything else is refused and audited,
what asyncssh would accept by itself (pty, env, agent, X11) as well as what it would not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Literal, cast

import asyncssh
from asyncssh.channel import SSHChannel, SSHServerChannel
from asyncssh.forward import SSHForwarder
from asyncssh.kex import get_kex_algs
from asyncssh.packet import SSHPacket
from asyncssh.stream import SSHReader, SSHServerStreamSession, SSHWriter

from lib.errors import Unavailable
from lib.gate.audit import Audit
from lib.gate.jobs import Jobs
from lib.gate.peer_account import is_own_account
from lib.gate.places import Places
from lib.gate.ssh_batching import send_in_batches
from lib.gate.verbs import Exchange, Verbs, verb_of
from lib.protocol import ssh_algorithms
from lib.protocol.codec import error_line
from lib.protocol.messages import ID_PATTERN, Verb

USER = "portal"
LOGIN_TIMEOUT_S = 10
#: Connections that have not proved anything yet.
MAX_WAITING = 16
#: Connections with the portal's key, which needs one, and for a moment two.
MAX_CONNECTIONS = 48
#: Channels without a command, which the portal sends together with them.
MAX_UNNAMED = 32
MAX_COMMANDS = 112
#: Of those that end work or ask whether the gate lives: they have places of their own.
MAX_URGENT = 16
_URGENT = frozenset({Verb.CANCEL, Verb.INFO})
_MAX_FORWARDS = 2048
#: Of one connection: a client may leave channels open that the gate has closed.
_MAX_CHANNELS = 2 * _MAX_FORWARDS
_CONNECT_TIMEOUT_S = 10.0
_WINDOW = 2 * 2**20
_PACKET = 32 * 1024

_TOO_BUSY = "The gate has as many requests as it may answer at once. Try again in a moment."

_log = logging.getLogger(__name__)


def key_exchanges() -> tuple[str, ...]:
    """Those that this computer's libraries know too."""
    known = {name.decode("ascii") for name in get_kex_algs()}
    return tuple(name for name in ssh_algorithms.KEY_EXCHANGES if name in known)


class GateServer:
    """What all connections share: the key, the jobs, and how much is open."""

    def __init__(self, key: asyncssh.SSHKey, jobs: Jobs, verbs: Verbs, audit: Audit) -> None:
        self.key = key
        self.jobs = jobs
        self.verbs = verbs
        self.audit = audit
        self.connections: set[Connection] = set()
        self.waiting = Places[Connection](MAX_WAITING, newest_wins=True)
        self.authenticated = Places[Connection](MAX_CONNECTIONS)
        self.unnamed = Places[Command](MAX_UNNAMED, newest_wins=True)
        self.commands = Places[Command](MAX_COMMANDS)
        self.urgent = Places[Command](MAX_URGENT, newest_wins=True)
        self.forwards = Places[Forward](_MAX_FORWARDS)

    async def listen(self, port: int, host_key: asyncssh.SSHKey) -> asyncssh.SSHAcceptor:
        """Serve on 127.0.0.1."""
        return await asyncssh.listen(
            "127.0.0.1",
            port,
            server_factory=lambda: Connection(self),
            server_host_keys=[host_key],
            kex_algs=key_exchanges(),
            encryption_algs=ssh_algorithms.CIPHERS,
            mac_algs=ssh_algorithms.MACS,
            signature_algs=ssh_algorithms.KEY_TYPES,
            compression_algs=None,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_host=None,
            x509_trusted_certs=None,
            agent_forwarding=False,
            x11_forwarding=False,
            allow_pty=False,
            allow_scp=False,
            login_timeout=LOGIN_TIMEOUT_S,
            keepalive_interval=15,
            keepalive_count_max=4,
            server_version="SceneBridge",
            backlog=128,
        )


class Connection(asyncssh.SSHServer):
    """One connection to the gate."""

    def __init__(self, server: GateServer) -> None:
        self._server = server
        self._conn: asyncssh.SSHServerConnection | None = None
        self._forwarded: set[str] = set()
        self._authenticated = False
        #: Channels that are open.
        self.channels = 0

    @property
    def owner(self) -> object:
        """All alike: whoever is authenticated has shown the same key."""
        return None

    @property
    def silent(self) -> bool:
        """Before the proof: it has not said a word. After it: it is used for nothing."""
        if self._authenticated:
            return not self.channels
        return self._conn is None or not self._conn.get_extra_info("client_version")

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Drops other accounts' connections at once."""
        self._conn = conn
        peer, local = conn.get_extra_info("peername"), conn.get_extra_info("sockname")
        if not peer or not local or not is_own_account(peer[:2], local[:2]):
            self._server.audit.refused("connection", message="another account of this computer")
            conn.abort()
        else:
            send_in_batches(conn)
            self._server.connections.add(self)
            self._server.waiting.take(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._server.connections.discard(self)
        self._server.waiting.leave(self)
        self._server.authenticated.leave(self)

    def drop(self) -> None:
        """Close it, with all its forwards: there are too many."""
        self._server.audit.refused("connection", message="too many")
        self.close()

    def close(self) -> None:
        """Close it, with all its forwards."""
        if self._conn is not None:
            self._conn.abort()

    def begin_auth(self, username: str) -> bool:
        """Always asks for proof."""
        if username != USER:
            self._server.audit.refused("user", user=username)
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Exactly one user name and one key."""
        if username == USER and key == self._server.key:
            return True
        fingerprint = key.get_fingerprint()
        self._server.audit.refused("key", user=username, fingerprint=fingerprint)
        return False

    def auth_completed(self) -> None:
        if self not in self._server.connections:
            return  # dropped while its proof was looked at
        self._authenticated = True
        self._server.waiting.leave(self)
        if self._server.authenticated.take(self):
            self._server.audit.write("connected")
        else:
            self.drop()

    def session_requested(self) -> Literal[False] | tuple[CommandChannel, Command]:
        """A channel that can carry a verb."""
        if self._conn is None or self.channels >= _MAX_CHANNELS:
            self._server.audit.refused("command", message="too many channels")
            return False
        channel = CommandChannel(self._conn, self._server.audit)
        return channel, Command(self._server, self)

    def connection_requested(  # a plain def: refusing in a coroutine ends the whole connection
        self,
        dest_host: str,
        dest_port: int,
        orig_host: str,  # noqa: ARG002
        orig_port: int,  # noqa: ARG002
    ) -> Awaitable[asyncssh.SSHTCPSession[bytes]]:
        """A forward, to a live notebook by its symbolic name and to nothing else."""
        session = dest_host[2:]
        named = dest_port == 1 and dest_host.startswith("s-") and ID_PATTERN.fullmatch(session)
        where = self._server.jobs.where(session) if named else None
        if where is None:
            self._server.audit.refused("forward", host=dest_host, port=dest_port)
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "not a notebook of this gate"
            )
        if session not in self._forwarded:
            self._forwarded.add(session)
            owner = self._server.jobs.record(session).owner
            self._server.audit.write("forwarded", session=session, owner=owner)
        # Its forwarders are sessions to asyncssh 2.24, which casts its own so too.
        return cast(
            Awaitable[asyncssh.SSHTCPSession[bytes]], self._forward(Forward(session, self), *where)
        )

    def unix_connection_requested(self, dest_path: str) -> bool:
        self._server.audit.refused("socket", path=dest_path)
        return False

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        self._server.audit.refused("remote-forward", host=listen_host, port=listen_port)
        return False

    def unix_server_requested(self, listen_path: str) -> bool:
        self._server.audit.refused("remote-socket", path=listen_path)
        return False

    def tun_requested(self, unit: int | None) -> bool:  # noqa: ARG002
        self._server.audit.refused("tun")
        return False

    def tap_requested(self, unit: int | None) -> bool:  # noqa: ARG002
        self._server.audit.refused("tap")
        return False

    async def _forward(self, forward: Forward, host: str, port: int) -> SSHForwarder:
        loop = asyncio.get_running_loop()
        if not self._server.forwards.take(forward):
            self._server.audit.refused("forward", session=str(forward.owner), message="too many")
            raise _too_many_forwards()
        self.channels += 1
        try:
            _, peer = await asyncio.wait_for(
                loop.create_connection(PausedForwarder, host, port), _CONNECT_TIMEOUT_S
            )
        except BaseException as exc:
            self.forward_ended(forward)
            if not isinstance(exc, (OSError, asyncio.TimeoutError)):
                raise
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_CONNECT_FAILED, "the notebook does not answer"
            ) from exc
        forward.end = CountedForwarder(peer, forward)
        if forward.dropped:
            forward.end.close()
            raise _too_many_forwards()
        return forward.end

    def forward_ended(self, forward: Forward) -> None:
        """It holds nothing any more."""
        self.channels -= 1
        self._server.forwards.leave(forward)


def _too_many_forwards() -> asyncssh.ChannelOpenError:
    return asyncssh.ChannelOpenError(
        asyncssh.OPEN_RESOURCE_SHORTAGE, "too many connections to this notebook"
    )


class Forward:
    """A connection to a notebook, from the moment it was asked for. `owner` is the session."""

    silent = False

    def __init__(self, session: str, connection: Connection) -> None:
        self.owner: object = session
        self.connection = connection
        self.end: CountedForwarder | None = None
        self.dropped = False

    def drop(self) -> None:
        """One too many of its notebook."""
        self.dropped = True
        if self.end is not None:
            self.end.close()


class PausedForwarder(SSHForwarder):
    """The notebook's end of a forward: reads nothing before the SSH end is there.

    asyncssh 2.24 drops what comes earlier (benchmarks/gate.py lost the first 128 KB).
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.pause_reading()


class CountedForwarder(SSHForwarder):
    """The SSH end of a forward; counted while it is open."""

    def __init__(self, peer: SSHForwarder, forward: Forward) -> None:
        super().__init__(peer)
        self._forward: Forward | None = forward

    def session_started(self) -> None:
        if self._peer is not None:
            self._peer.resume_reading()

    def close(self) -> None:
        if self._forward is not None:
            self._forward.connection.forward_ended(self._forward)
            self._forward = None
        super().close()


class CommandChannel(SSHServerChannel[bytes]):
    """A session channel that refuses pty, env, agent and X11, and says so in the audit.

    asyncssh looks these handlers up by name; tests/security/test_gate_matrix.py fails if
    a new version names them otherwise.
    """

    def __init__(self, conn: asyncssh.SSHServerConnection, audit: Audit) -> None:
        super().__init__(
            conn,
            asyncio.get_running_loop(),
            allow_pty=False,
            line_editor=False,
            line_echo=False,
            line_history=0,
            max_line_length=0,
            encoding=None,
            errors="strict",
            window=_WINDOW,
            max_pktsize=_PACKET,
        )
        self._audit = audit

    def _process_env_request(self, packet: SSHPacket) -> bool:  # noqa: ARG002
        return self._refuse("env")

    def _process_pty_req_request(self, packet: SSHPacket) -> bool:  # noqa: ARG002
        return self._refuse("pty")

    def _process_x11_req_request(self, packet: SSHPacket) -> bool:  # noqa: ARG002
        return self._refuse("x11")

    def _process_auth_agent_req_at_openssh_dot_com_request(self, packet: SSHPacket) -> bool:  # type: ignore[override]  # noqa: ARG002
        return self._refuse("agent")

    def _refuse(self, what: str) -> bool:
        self._audit.refused(what)
        return False


class Command(SSHServerStreamSession[bytes]):
    """One command on a session channel."""

    def __init__(self, server: GateServer, connection: Connection) -> None:
        super().__init__(None)
        self._server = server
        self._connection = connection
        self._command = ""
        self._places = server.unnamed
        self._busy = False
        self._channel: SSHServerChannel[bytes] | None = None
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def owner(self) -> object:
        return self._connection

    @property
    def silent(self) -> bool:
        """Whether its request has not arrived."""
        return self._exchange is None or not self._exchange.asked

    def drop(self) -> None:
        """There are too many at once."""
        self._server.audit.refused("command", message="too many at once")
        if self._channel is not None:
            self._channel.abort()
        if self._task is not None:
            self._task.cancel()  # the client may leave the channel open for ever

    def shell_requested(self) -> bool:
        self._server.audit.refused("shell")
        return False

    def subsystem_requested(self, subsystem: str) -> bool:
        self._server.audit.refused("subsystem", name=subsystem)
        return False

    def exec_requested(self, command: str) -> bool:
        verb = verb_of(command)
        if verb is None:
            self._server.audit.refused("exec", command=command)
            return False
        self._command = command
        wanted = self._server.urgent if verb in _URGENT else self._server.commands
        if wanted.take(self):
            self._places.leave(self)
            self._places = wanted
        else:
            self._busy = True
            self._server.audit.refused("command", message="too many at once")
        return True

    def connection_made(self, chan: SSHChannel[bytes]) -> None:
        super().connection_made(chan)
        self._channel = cast("SSHServerChannel[bytes]", chan)
        self._connection.channels += 1
        self._places.take(self)

    def session_started(self) -> None:
        self._task = asyncio.ensure_future(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._connection.channels -= 1
        self._places.leave(self)
        if self._task is not None:
            self._task.cancel()

    async def _serve(self) -> None:
        channel, verb = self._channel, verb_of(self._command)
        assert channel is not None  # noqa: S101 (the session runs on it)
        assert verb is not None  # noqa: S101 (checked in exec_requested)
        exchange = Exchange(SSHReader(self, channel), SSHWriter(self, channel))
        self._exchange = exchange
        try:
            if self._busy:
                await exchange.send(error_line(Unavailable(_TOO_BUSY)))
                channel.exit(1)
                return
            channel.exit(await self._answer(verb, exchange))
        except (asyncssh.Error, OSError):
            channel.close()  # the portal is gone

    async def _answer(self, verb: Verb, exchange: Exchange) -> int:
        try:
            return await self._server.verbs.handle(verb, exchange)
        except (asyncssh.Error, OSError):
            raise
        except Exception:
            _log.exception("the verb %s failed", verb)
            await self._server.verbs.fault(exchange)
            return 1
