"""Request handlers of the seven verbs: one request line in, one reply out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import time
from collections.abc import AsyncIterator
from typing import Protocol

from lib.errors import InvalidInput, NotFound, SceneBridgeError, Unavailable
from lib.gate import VERSION as GATE_VERSION
from lib.gate.artifacts import open_artifact, pieces, read_log
from lib.gate.audit import Audit
from lib.gate.job_record import SessionFolders
from lib.gate.jobs import Jobs
from lib.gate.policy import Policy
from lib.gate.queue_load import QueueLoads
from lib.gate.staging import Staging
from lib.gate.watch import Watch
from lib.protocol.codec import decode, encode, error_line, reply_line
from lib.protocol.messages import (
    COMMAND,
    MAX_REQUEST_BYTES,
    REQUESTS,
    VERSION,
    CancelReply,
    CancelRequest,
    GateInfo,
    GetReply,
    GetRequest,
    InfoRequest,
    LogRequest,
    PutRequest,
    Request,
    SubmitRequest,
    Verb,
    WatchRequest,
)

_REQUEST_TIMEOUT_S = 60.0
_PIECE_BYTES = 256 * 1024
_BROKEN = "The gate could not do that because of a fault of its own; its log says more."


class Reader(Protocol):
    """Bytes from the portal; b"" at the end."""

    async def read(self, n: int) -> bytes: ...


class Writer(Protocol):
    """Bytes to the portal, with backpressure by `drain`."""

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...


def verb_of(command: str) -> Verb | None:
    """The verb of a command line, which must be exactly ``scenebridge-1 VERB``."""
    prefix, _, name = command.partition(" ")
    if prefix != COMMAND or name not in set(Verb):
        return None
    return Verb(name)


class Exchange:
    """One request and what follows it, both ways."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer
        self._rest = b""
        #: Whether the whole request line has arrived.
        self.asked = False

    async def line(self) -> bytes:
        """The request line.

        Raises:
            InvalidInput: no line, or one that is too long.
        """
        parts: list[bytes] = []
        size = 0
        while size <= MAX_REQUEST_BYTES:
            data = await self._reader.read(65536)
            head, newline, rest = data.partition(b"\n")
            parts.append(head)
            size += len(head)
            if newline:
                self.asked = True
                self._rest = rest
                return b"".join(parts)
            if not data:
                raise InvalidInput("The request is not a whole line.")
        raise InvalidInput(f"The request is longer than {MAX_REQUEST_BYTES} bytes.")

    async def body(self, size: int) -> AsyncIterator[bytes]:
        """Exactly `size` bytes after the line, or fewer when the portal breaks off."""
        while size > 0:
            data = self._rest or await self._reader.read(_PIECE_BYTES)
            self._rest = b""
            if not data:
                return
            yield data[:size]
            size -= len(data)

    async def send(self, data: bytes) -> None:
        """Write and wait until there is room again."""
        self._writer.write(data)
        await self._writer.drain()


class Verbs:
    """Carries out requests for whoever holds the portal's key."""

    def __init__(self, policy: Policy, folders: SessionFolders, jobs: Jobs, audit: Audit) -> None:
        self._policy = policy
        self._folders = folders
        self._jobs = jobs
        self._audit = audit
        self._staging = Staging(folders, policy, jobs.loops)
        self._loads = QueueLoads(jobs.load, jobs.loops)

    async def handle(self, verb: Verb, exchange: Exchange) -> int:
        """Answer one command. Returns its exit status; errors are replies, and 1."""
        error: SceneBridgeError
        asked: dict[str, str] = {}
        try:
            line = await asyncio.wait_for(exchange.line(), _REQUEST_TIMEOUT_S)
            request = decode(REQUESTS[verb], line)
            asked = self._about(request)
            await self._carry_out(request, exchange)
            return 0
        except SceneBridgeError as exc:
            error = exc
            self._audit.refused(verb.value, message=exc.message, code=exc.code, **asked)
        except asyncio.TimeoutError:
            error = InvalidInput("The request did not arrive in time.")
        except OSError as exc:
            error = Unavailable(f"The gate cannot use its disk: {exc.strerror}.")
        await exchange.send(error_line(error))
        return 1

    def _about(self, request: Request) -> dict[str, str]:
        """The job that is asked about, and whose it is, for the audit."""
        if isinstance(request, (InfoRequest, WatchRequest)):
            return {}
        if isinstance(request, SubmitRequest):
            return {"session": request.id, "owner": request.owner}
        with contextlib.suppress(NotFound):
            return {"session": request.id, "owner": self._jobs.record(request.id).owner}
        return {"session": request.id}

    async def _carry_out(self, request: Request, exchange: Exchange) -> None:
        match request:
            case InfoRequest():
                await self._info(request, exchange)
            case SubmitRequest():
                await self._submit(request, exchange)
            case WatchRequest():
                await self._watch(request, exchange)
            case CancelRequest():
                await self._cancel(request, exchange)
            case LogRequest():
                await self._log(request, exchange)
            case GetRequest():
                await self._get(request, exchange)
            case PutRequest():
                await self._put(request, exchange)

    async def fault(self, exchange: Exchange) -> None:
        """Answer after an exception that nobody foresaw."""
        await exchange.send(error_line(SceneBridgeError(_BROKEN)))

    def forget_old(self) -> None:
        """Throw away what was prepared and never submitted. Blocks on files."""
        self._staging.forget_old()

    async def _info(self, _: InfoRequest, exchange: Exchange) -> None:
        runtime = self._policy.runtime()
        load, load_at = await self._loads.now()
        info = GateInfo(
            protocol=VERSION,
            gate_version=GATE_VERSION,
            cluster=self._policy.cluster,
            scheduler=self._policy.scheduler_name,
            runtime=self._policy.runtime_name,
            isolation=runtime.isolation,
            modules=self._policy.offers(),
            presets=[allowed.preset for allowed in self._policy.presets],
            data_paths=[str(path) for path in self._policy.data_paths],
            https_hosts=list(self._policy.https_hosts),
            max_live=self._policy.limits.max_live,
            live=self._jobs.live,
            keep_s=self._policy.limits.keep_s,
            time=time.time(),
            account=_account(),
            node=socket.gethostname(),
            load=load,
            load_at=load_at,
            troubles=await self._troubles(),
        )
        await exchange.send(reply_line(info))

    async def _troubles(self) -> list[str]:
        standing = self._jobs.loops.trouble
        return [*([standing] if standing else []), *await self._jobs.images.troubles()]

    async def _submit(self, request: SubmitRequest, exchange: Exchange) -> None:
        reply = await self._jobs.submit(request)
        if reply.created:
            self._audit.write(
                "submitted",
                session=request.id,
                owner=request.owner,
                module=f"{request.module} {request.module_version}",
                kind=request.kind.value,
                scenes=len(request.items),
                job=reply.status.job,
                state=reply.status.state.value,
            )
        await exchange.send(reply_line(reply))

    async def _cancel(self, request: CancelRequest, exchange: Exchange) -> None:
        status = await self._jobs.cancel(request.id)
        self._audit.write("cancelled", session=request.id, owner=status.owner)
        await exchange.send(reply_line(CancelReply(status)))

    async def _watch(self, request: WatchRequest, exchange: Exchange) -> None:
        async for message in Watch(self._jobs, request).messages():
            await exchange.send(encode(message))

    async def _log(self, request: LogRequest, exchange: Exchange) -> None:
        record = self._jobs.record(request.id)
        reply = await asyncio.to_thread(read_log, request, record, self._folders)
        await exchange.send(reply_line(reply))

    async def _get(self, request: GetRequest, exchange: Exchange) -> None:
        record = self._jobs.record(request.id)
        file = await asyncio.to_thread(open_artifact, request, record, self._folders)
        try:
            await exchange.send(reply_line(GetReply(file.size)))
            async for piece in pieces(file):
                await exchange.send(piece)
        finally:
            os.close(file.fd)

    async def _put(self, request: PutRequest, exchange: Exchange) -> None:
        reply = await self._staging.put(request, exchange.body(request.size))
        self._audit.write(
            "staged",
            session=request.id,
            scene=request.scene,
            asset=request.asset,
            size=request.size,
        )
        await exchange.send(reply_line(reply))


def _account() -> str:
    """Whose gate this is; a number where the account has no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
