"""A small working gate that can also do what the real one never does.

It speaks `lib/protocol` over asyncssh inside the test's own event loop, with a real
key and a real host key, to the stock `ssh`. Faults are switched on by its fields.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh

from lib.errors import InvalidInput, NotFound, Refused, SceneBridgeError
from lib.model import Isolation, JobState
from lib.protocol.codec import decode, encode, error_line, reply_line
from lib.protocol.messages import (
    COMMAND,
    MAX_REQUEST_BYTES,
    REQUESTS,
    VERSION,
    CancelReply,
    GateInfo,
    GetReply,
    JobKind,
    JobStatus,
    LogReply,
    PutReply,
    SubmitReply,
    Verb,
    WatchMessage,
)


class SmallGate:
    """Jobs in a dict, artifacts as bytes, endpoints as addresses."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.jobs: dict[str, JobStatus] = {}
        self.artifact = b"artifact"
        self.stored: dict[str, bytes] = {}
        #: Symbolic name -> (host, port) that a forward is let through to.
        self.endpoints: dict[str, tuple[str, int]] = {}
        self.port = 0
        self.connections = 0
        self.commands: list[str] = []
        self.reply_instead: bytes | None = None
        self.hang: set[Verb] = set()
        self.announce: Callable[[int], int] = lambda size: size
        self.cut_get_after: int | None = None
        self.refuse_put = False
        #: What it offers beside what `offer` says.
        self.offers: dict[str, Any] = {}
        self.scheduler_silent = ""
        self.watch_lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.watching = 0
        self._links: set[asyncssh.SSHServerConnection] = set()
        self._server: asyncssh.SSHAcceptor | None = None

    async def start(self, *, port: int = 0, new_host_key: bool = False) -> None:
        """Make the keys on the first start; listen on loopback."""
        self.home.mkdir(parents=True, exist_ok=True)
        for name in ("portal", "host"):
            path = self.home / name
            if not path.exists() or (name == "host" and new_host_key):
                key = asyncssh.generate_private_key("ssh-ed25519")
                path.touch(0o600)
                key.write_private_key(str(path))
                key.write_public_key(str(path.with_suffix(".pub")))
        self._server = await asyncssh.listen(
            "127.0.0.1",
            port,
            server_factory=lambda: _Server(self),
            server_host_keys=[str(self.home / "host")],
            authorized_client_keys=str(self.home / "portal.pub"),
            process_factory=self._handle,
            encoding=None,
            allow_scp=False,
            agent_forwarding=False,
            window=2 * MAX_REQUEST_BYTES,
        )
        self.port = self._server.get_port()

    @property
    def host_key(self) -> str:
        return (self.home / "host.pub").read_text()

    @property
    def key(self) -> Path:
        return self.home / "portal"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for link in list(self._links):
                link.abort()
                await link.wait_closed()
            await self._server.wait_closed()
            self._server = None

    async def _handle(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        command = process.command or ""
        self.commands.append(command)
        try:
            name = command.removeprefix(f"{COMMAND} ")
            await self._verb(Verb(name), process)
            process.exit(0)
        except SceneBridgeError as exc:
            process.stdout.write(error_line(exc))
            process.exit(0)
        except ValueError:
            process.exit(1)
        except (ConnectionError, asyncssh.Error):
            pass

    async def _verb(self, verb: Verb, process: asyncssh.SSHServerProcess[bytes]) -> None:
        request = decode(REQUESTS[verb], await process.stdin.readline())
        if verb in self.hang:
            await process.wait_closed()
            return
        if self.reply_instead is not None:
            process.stdout.write(self.reply_instead)
            return
        await getattr(self, f"_{verb}")(request, process)
        await process.stdout.drain()

    async def _info(self, request: Any, process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stdout.write(reply_line(replace(self.offer(), **self.offers)))

    def offer(self) -> GateInfo:
        return GateInfo(
            protocol=VERSION,
            gate_version="0",
            cluster="small",
            scheduler="none",
            runtime="none",
            isolation=Isolation.NONE,
            modules=[],
            presets=[],
            data_paths=[],
            https_hosts=[],
            max_live=4,
            live=len(self.jobs),
            keep_s=60,
            time=time.time(),
        )

    async def _submit(self, r: Any, process: asyncssh.SSHServerProcess[bytes]) -> None:
        if r.module != "active-fire":
            raise Refused("This cluster does not offer that module.")
        known = r.id in self.jobs
        status = JobStatus(r.id, JobKind.SESSION, "1", JobState.QUEUED, owner=r.owner)
        self.jobs.setdefault(r.id, status)
        process.stdout.write(reply_line(SubmitReply(self.jobs[r.id], created=not known)))

    async def _cancel(self, r: Any, process: asyncssh.SSHServerProcess[bytes]) -> None:
        if r.id not in self.jobs:
            raise NotFound("There is no such job.")
        process.stdout.write(reply_line(CancelReply(self.jobs[r.id])))

    async def _log(self, r: Any, process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stdout.write(reply_line(LogReply("x" * r.max_bytes, truncated=True)))

    async def _get(self, r: Any, process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stdout.write(reply_line(GetReply(self.announce(len(self.artifact)))))
        cut = self.cut_get_after
        process.stdout.write(self.artifact if cut is None else self.artifact[:cut])
        await process.stdout.drain()

    async def _put(self, r: Any, process: asyncssh.SSHServerProcess[bytes]) -> None:
        if self.refuse_put:
            raise Refused("The quota is used up.")
        data = await process.stdin.readexactly(r.size)
        if hashlib.sha256(data).hexdigest() != r.sha256:
            raise InvalidInput("The bytes are not those announced.")
        self.stored[f"{r.scene}/{r.asset}"] = data
        process.stdout.write(reply_line(PutReply(stored=True)))

    async def _watch(self, r: Any, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self.watching += 1
        try:
            silent, jobs = self.scheduler_silent, list(self.jobs.values())
            snapshot = WatchMessage(
                "snapshot", time.time(), jobs=jobs, asked_ok=not silent, reason=silent
            )
            process.stdout.write(encode(snapshot))
            closed = asyncio.ensure_future(process.wait_closed())
            while True:
                line = asyncio.ensure_future(self.watch_lines.get())
                await asyncio.wait({line, closed}, return_when=asyncio.FIRST_COMPLETED)
                if closed.done() or line.result() is None:
                    line.cancel()
                    closed.cancel()
                    return
                process.stdout.write(line.result() or b"")
        finally:
            self.watching -= 1


class _Server(asyncssh.SSHServer):
    def __init__(self, gate: SmallGate) -> None:
        self._gate = gate

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self._gate.connections += 1
        self._gate._links.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gate._links.discard(self._conn)

    def connection_requested(self, host: str, port: int, orig_host: str, orig_port: int) -> Any:
        if (host, port) == (host, 1) and host in self._gate.endpoints:
            return self._conn.forward_connection(*self._gate.endpoints[host])
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "not live")


def ping() -> bytes:
    return encode(WatchMessage("ping", time.time()))


def rubbish() -> bytes:
    return json.dumps({"kind": 7}).encode() + b"\n"
