"""Files through the inner connection: `get` into a file, `put` out of one."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from lib.errors import InvalidInput, ProtocolError, StorageFull
from lib.protocol.codec import encode, read_reply
from lib.protocol.messages import GetReply, GetRequest, PutRequest
from lib.tunnels.ssh_process import SshProcess

#: A transfer may take any time as long as bytes keep moving.
STALL_TIMEOUT_S = 60.0
_CHUNK = 2**20

T = TypeVar("T")


async def receive(child: SshProcess, request: GetRequest, into: Path) -> int:
    """Write the artifact to `into` (temp + rename) and return its size in bytes.

    Raises:
        SceneBridgeError: as the gate reported.
        ProtocolError: more bytes than asked for or announced.
        EOFError: the connection broke before all bytes were here.
        TimeoutError: nothing moved for `STALL_TIMEOUT_S`.
        StorageFull: no space left for the file.
    """
    child.stdin.write(encode(request))
    await child.close_input()
    line = await _in_time(child.stdout.readline())
    if not line:
        raise EOFError
    size = read_reply(GetReply, line).size
    if not 0 <= size <= request.max_bytes:
        raise ProtocolError(
            f"The gate wanted to send {size} bytes where {request.max_bytes} are allowed."
        )
    part = into.with_name(f".{into.name}.{secrets.token_hex(6)}.part")
    try:
        await _write(child, part, size)
        part.replace(into)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"There is no space left for {into.name} ({size} bytes). Free some and try again."
            ) from exc
        raise
    finally:
        part.unlink(missing_ok=True)
    return size


async def _write(child: SshProcess, part: Path, size: int) -> None:
    left = size
    with _new_file(part) as file:
        while left:
            chunk = await _in_time(child.stdout.read(min(left, _CHUNK)))
            if not chunk:
                raise EOFError
            await asyncio.to_thread(file.write, chunk)
            left -= len(chunk)
        if await _in_time(child.stdout.read(1)):
            raise ProtocolError("The gate sent more bytes than it had announced.")


def _new_file(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


@contextmanager
def opened(source: Path, size: int) -> Iterator[BinaryIO]:
    """The file to send, before anything is asked of the gate.

    Raises:
        InvalidInput: it has another size than the request says.
    """
    with source.open("rb") as file:
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise InvalidInput(f"{source.name} has {found} bytes, not {size}; read it anew.")
        yield file


async def send(child: SshProcess, request: PutRequest, file: BinaryIO) -> bytes:
    """Send the request and the bytes of an `opened` file; return the gate's reply line.

    The gate may answer before it has read everything (a refusal, or a file it has
    already); the rest is not sent then.

    Raises:
        InvalidInput: the file became shorter.
        EOFError, TimeoutError: as in `receive`.
    """
    child.stdin.write(encode(request))
    reply = asyncio.ensure_future(child.stdout.readline())
    try:
        left = request.size
        while left and not reply.done():
            chunk = await asyncio.to_thread(file.read, min(left, _CHUNK))
            if not chunk:
                name = Path(file.name).name
                raise InvalidInput(f"{name} became shorter while it was sent.")
            left -= len(chunk)
            child.stdin.write(chunk)
            await _in_time(_until_sent_or_answered(child, reply))
        if not left:
            await child.close_input()
        line = await _in_time(asyncio.shield(reply))
    finally:
        reply.cancel()
    if not line:
        raise EOFError
    return line


async def _until_sent_or_answered(child: SshProcess, reply: asyncio.Future[bytes]) -> None:
    drained = asyncio.create_task(child.stdin.drain())
    both: set[asyncio.Future[None] | asyncio.Future[bytes]] = {drained, reply}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if not drained.done():
        drained.cancel()
    # A broken pipe is told better by the reply, or by its absence.
    await asyncio.gather(drained, return_exceptions=True)


async def _in_time(awaitable: Awaitable[T]) -> T:
    async with asyncio.timeout(STALL_TIMEOUT_S):
        return await awaitable
