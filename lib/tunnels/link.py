"""`ClusterLink`: everything the portal may ask of one cluster's gate."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from lib.errors import ClusterUnreachable, InvalidInput, ProtocolError
from lib.model import ClusterId, SessionId
from lib.protocol.codec import decode, encode, read_reply
from lib.protocol.messages import (
    MAX_PUT_BYTES,
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    WATCH_PING_S,
    CancelReply,
    CancelRequest,
    GateInfo,
    GetRequest,
    InfoRequest,
    LogReply,
    LogRequest,
    PutReply,
    PutRequest,
    SubmitReply,
    SubmitRequest,
    Verb,
    WatchMessage,
    WatchRequest,
)
from lib.tunnels import ssh_errors, ssh_options, ssh_process, transfer
from lib.tunnels.gate_address import GateAddress, SocketAddress
from lib.tunnels.master import Master
from lib.tunnels.ssh_options import ConnectionFiles
from lib.tunnels.ssh_process import SshProcess

log = logging.getLogger(__name__)

#: How long a verb may take, seconds; `get` and `put` as long as bytes move.
VERB_TIMEOUT_S: Mapping[Verb, float] = {
    Verb.INFO: 10.0,
    Verb.SUBMIT: 60.0,
    Verb.CANCEL: 30.0,
    Verb.LOG: 30.0,
}
SILENCE_S = 3 * WATCH_PING_S
#: A master that answered so lately is not asked again before it is used.
_FRESH_S = 2.0
#: How long a suspected master has to show that its gate still answers. Generous: ending
#: it cuts every notebook's connections, and ssh itself ends one whose gate is gone.
_PROBE_S = 10.0
#: Commands at the same time, and files on the way, so that these never hold those up.
_AT_ONCE = 8
_FILES_AT_ONCE = 4

Request = InfoRequest | SubmitRequest | CancelRequest | LogRequest
T = TypeVar("T")


class ClusterLink:
    """One cluster's gate, through one OpenSSH ControlMaster in a process of its own.

    Every method connects when needed and raises `ClusterUnreachable` when the gate
    cannot be asked; what the gate itself refuses comes as the error it reported.
    Nothing is retried here. Cancelling a call ends its ssh process. All calls must
    come from one event loop.
    """

    def __init__(
        self,
        cluster: ClusterId,
        *,
        gate_address: Callable[[], GateAddress],
        key: Path,
        host_key: str,
        runtime: Path,
    ) -> None:
        """
        Args:
            gate_address: asked anew at each connect; may raise `ClusterUnreachable`.
            key: the portal's private key for this cluster (0600).
            host_key: the gate's public key, as in a `.pub` file; nothing else is trusted.
            runtime: a short private folder (0700) for sockets; made when missing.
        """
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files = ConnectionFiles(cluster, runtime)
        self._known_hosts = ssh_options.known_hosts_line(cluster, host_key)
        self._gate_address = gate_address
        self._master = Master(self._files, key.absolute())
        self._open = set(self._master.recorded)
        self._answered_at = float("-inf")
        #: Until a gate has answered through it, a master found here is not trusted.
        self._suspect = True
        self._connecting: asyncio.Task[None] | None = None
        self._forwarding = asyncio.Lock()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._file_slots = asyncio.Semaphore(_FILES_AT_ONCE)

    # --- connection ---------------------------------------------------------

    async def ensure(self) -> None:
        """Start the master, or adopt the living one; rebuild the forwards of a dead one.

        Callers that come while this happens share its outcome.

        Raises:
            ClusterUnreachable: not running, host key changed, key refused, no answer.
        """
        if not self._suspect and time.monotonic() - self._answered_at < _FRESH_S:
            return
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
        await asyncio.shield(self._connecting)

    async def disconnect(self) -> None:
        """End the master and take every forward away. Call `ensure` to come back."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        async with self._forwarding:
            await self._master.end()
            for session in self._master.recorded | self._open:
                self._master.forget(session)
            self._open.clear()
        self._suspect = True
        for path in (self._files.known_hosts, self._files.log, self._files.record):
            path.unlink(missing_ok=True)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # every caller may have been cancelled: then nobody reads it

    async def _connect(self) -> None:
        try:
            alive = await self._master.check()
        except TimeoutError:
            alive = False
        if alive and self._suspect:
            alive = await self._gate_answers()
        if alive and self._master.opening:
            alive = await self._leads_on()
        async with self._changing_forwards():
            if not alive:
                await self._restart()
            elif self._suspect:
                await self._rebuild({s for s in self._open if not self._master.listens(s)})
        self._suspect = False
        self._answered_at = time.monotonic()

    @asynccontextmanager
    async def _changing_forwards(self) -> AsyncIterator[None]:
        """One change of master or forwards at a time; trouble with their files is told."""
        async with self._forwarding:
            try:
                yield
            except OSError as exc:
                raise ClusterUnreachable(
                    f"The runtime folder {self._files.runtime} cannot be used "
                    f"({exc.strerror or exc}), so cluster {self._files.cluster} is not connected."
                ) from exc

    async def _gate_answers(self) -> bool:
        with suppress(ClusterUnreachable):
            await self._ask(GateInfo, Verb.INFO, InfoRequest(), timeout_s=_PROBE_S)
            return True
        return False

    async def _leads_on(self) -> bool:
        """Whether the tunnel that the master goes through is still the one to use.

        One whose time is over may still carry bytes: the master on it is ended here.
        """
        try:
            address = self._gate_address()
        except ClusterUnreachable:
            async with self._changing_forwards():
                await self._master.end()
            raise
        return isinstance(address, SocketAddress) and address.opening == self._master.opening

    async def _restart(self) -> None:
        address = self._gate_address()
        # Something may have tidied the folder up, as some systems do with old ones.
        self._files.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files.known_hosts.write_text(self._known_hosts, encoding="ascii")
        await self._master.start(address)
        await self._rebuild(self._open)

    async def _rebuild(self, sessions: Iterable[SessionId]) -> None:
        for session in sorted(sessions):
            try:
                await self._master.forward(session)
            except ClusterUnreachable as exc:
                log.warning("The forward of session %s was not rebuilt: %s", session, exc)

    # --- verbs --------------------------------------------------------------

    async def info(self) -> GateInfo:
        """What the cluster offers now."""
        return await self._call(GateInfo, Verb.INFO, InfoRequest())

    async def submit(self, r: SubmitRequest) -> SubmitReply:
        """Start a job. The id makes it safe to ask again after `ClusterUnreachable`."""
        return await self._call(SubmitReply, Verb.SUBMIT, r)

    async def cancel(self, id: str) -> CancelReply:
        """End a job; safe to ask again."""
        return await self._call(CancelReply, Verb.CANCEL, CancelRequest(id=id))

    async def log(self, r: LogRequest) -> LogReply:
        """The end of one of a job's logs."""
        return await self._call(LogReply, Verb.LOG, r)

    async def get(self, r: GetRequest, into: Path) -> int:
        """Fetch one artifact into the file `into`, complete or not at all; its size in bytes."""
        async with self._file_slots:
            await self.ensure()
            async with self._verb(Verb.GET) as ssh:
                return await transfer.receive(ssh, r, into)

    async def put(self, r: PutRequest, source: Path) -> PutReply:
        """Stage the file `source`; safe to ask again."""
        if not 0 <= r.size <= MAX_PUT_BYTES:
            raise InvalidInput(
                f"{source.name} has {r.size} bytes; a gate takes {MAX_PUT_BYTES} at most."
            )
        async with self._file_slots:
            await self.ensure()
            with transfer.opened(source, r.size) as file:
                async with self._verb(Verb.PUT) as ssh:
                    return read_reply(PutReply, await transfer.send(ssh, r, file))

    async def watch(self, have: Mapping[str, int]) -> AsyncGenerator[WatchMessage, None]:
        """The gate's stream: a snapshot, then changes, with a ping when nothing changes.

        Close the iterator (`contextlib.aclosing`) to end its ssh process.

        Raises:
            ClusterUnreachable: the stream broke, or was silent for `SILENCE_S`.
            ProtocolError: a line that is no message.
        """
        await self.ensure()
        async with self._verb(Verb.WATCH) as ssh:
            ssh.stdin.write(encode(WatchRequest(have=dict(have))))
            while True:
                async with asyncio.timeout(SILENCE_S):
                    line = await _line(ssh)
                self._answered_at = time.monotonic()
                yield watch_message(line)

    async def _call(self, reply: type[T], verb: Verb, request: Request) -> T:
        async with self._slots:
            await self.ensure()
            return await self._ask(reply, verb, request, timeout_s=VERB_TIMEOUT_S[verb])

    async def _ask(self, reply: type[T], verb: Verb, request: Request, *, timeout_s: float) -> T:
        line = encode(request)
        if len(line) > MAX_REQUEST_BYTES:
            raise InvalidInput("The request is too large for the gate; choose fewer scenes.")
        async with self._verb(verb) as ssh, asyncio.timeout(timeout_s):
            ssh.stdin.write(line)
            await ssh.close_input()
            answer = await _line(ssh)
        self._answered_at = time.monotonic()
        return read_reply(reply, answer)

    @asynccontextmanager
    async def _verb(self, verb: Verb) -> AsyncIterator[SshProcess]:
        """A running verb; what goes wrong with ssh itself becomes `ClusterUnreachable`."""
        cluster = self._files.cluster
        argv = ssh_options.verb(self._files, verb)
        async with ssh_process.running(argv, line_limit=MAX_REPLY_BYTES) as ssh:
            try:
                yield ssh
            except TimeoutError as exc:
                self._suspect = True
                raise ssh_errors.silent(cluster) from exc
            except EOFError as exc:
                self._suspect = True
                said = ""
                with suppress(TimeoutError):
                    _, said = await ssh.finish(2.0)
                raise ssh_errors.unreachable(cluster, said) from exc

    # --- forwards -----------------------------------------------------------

    async def open_forward(self, session: SessionId) -> Path:
        """The UNIX socket that leads to the session's notebook; safe to ask again.

        The gate decides at each connection whether it goes through, so prove the
        notebook with a request before telling anybody that it is there.
        """
        ssh_options.destination(session)
        await self.ensure()
        path = self._files.forward(session)
        async with self._changing_forwards():
            if session not in self._open or not path.is_socket():
                await self._master.forward(session)
                self._open.add(session)
        return path

    async def close_forward(self, session: SessionId) -> None:
        """Take the forward away and unlink its socket; no error if there is none."""
        ssh_options.destination(session)
        async with self._changing_forwards():
            self._open.discard(session)
            try:
                if await self._master.check():
                    await self._master.cancel(session)
                    return
            except (TimeoutError, ClusterUnreachable):
                self._suspect = True
            self._master.forget(session)

    async def forwards(self) -> frozenset[SessionId]:
        """The sessions that this link keeps a forward for, adopted ones included."""
        return frozenset(self._open)


async def _line(ssh: SshProcess) -> bytes:
    try:
        line = await ssh.stdout.readline()
    except ValueError as exc:
        raise ProtocolError("The gate sent a line longer than the protocol allows.") from exc
    except ConnectionError as exc:
        raise EOFError from exc
    if not line.endswith(b"\n"):
        raise EOFError
    return line


def watch_message(line: bytes) -> WatchMessage:
    """One message of the stream; the stream may also begin with a refusal."""
    try:
        return decode(WatchMessage, line, newer=True)
    except InvalidInput as exc:
        with suppress(ProtocolError):
            read_reply(WatchMessage, line)
        raise ProtocolError(
            f"The gate sent a message that is not understood: {exc.message}."
        ) from exc
