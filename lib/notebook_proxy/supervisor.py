"""Supervisor of the notebooks' process, in the portal: started, watched, told what to do."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import socket
import sys
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from lib.backoff import Backoff
from lib.config.settings import PROJECT
from lib.errors import ProtocolError, SceneBridgeError, Unavailable, from_code
from lib.http.listeners import listen
from lib.loops import Loops
from lib.model import SessionId, json_number, json_object, json_text
from lib.notebook_proxy import messages
from lib.notebook_proxy.messages import Message, Open, Start

if TYPE_CHECKING:
    from pathlib import Path

    from lib.model import Endpoint, JsonValue, UserId

log = logging.getLogger(__name__)

START_S = 30.0
CALL_S = 15.0
#: The process is asked so often whether it still answers, and ended when it does not.
PROBE_EVERY_S = 5.0
_STOP_S = 6.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
#: How long somebody who opens a notebook waits for a process that is being started again.
_PATIENCE_S = 5.0
_REASONS_KEPT = 1000


class NotebookProcess:
    """Keeps one process of `lib.notebook_proxy.main` while it is started.

    It listens on sockets of ours, so requests wait while it is started again, and it is told
    then of everything that was open. It ends with us, even when we are killed: its end of the
    control socket tells it. Belongs to one event loop. Implements
    `lib.reconciler.interfaces.NotebookRoutes`.
    """

    def __init__(self, start: Start, data: Path, port: int) -> None:
        """
        Args:
            port: on loopback, for notebooks with host names; not used with a port each.
        """
        self._start = start
        self._data = data
        self._port = port
        self._listeners: list[socket.socket] = []
        self._open: dict[SessionId, Open] = {}
        self._closed: OrderedDict[SessionId, str] = OrderedDict()
        self._idle_at: dict[SessionId, float] = {}
        self._channel: _Channel | None = None
        self._up = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._loops = Loops("The portal", log)
        self._backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        self._asides: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int | None:
        """The process, while it answers."""
        return self._channel.pid if self._channel is not None else None

    async def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            Conflict: the port is in use.
            Unavailable: it did not start; its log in the data folder says why.
        """
        if self._start.notebooks == "host":
            self._listeners = listen(self._port)
        keeping = self._loops.add("kept the notebooks' process", late_after_s=math.inf)
        self._keeping = asyncio.create_task(keeping.run(self._keep_one))
        try:
            await self._wait_until_up(START_S)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """End it; visitors see their connections end."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
            self._keeping = None
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    # --- what the portal asks ------------------------------------------------------------

    async def open(self, session: SessionId, socket: Path, endpoint: Endpoint) -> None:
        """Prove that the notebook answers, then let visitors in. Idempotent.

        Raises:
            Unavailable: it does not answer (yet), or the process is being started again.
            ProtocolError: what answers is not the notebook.
        """
        before = self._open.get(session)
        wanted = Open(session, str(socket), endpoint, before.port if before else 0)
        answer = await self._call("open", **wanted.values())
        self._open[session] = replace(wanted, port=int(json_number(answer["port"])))
        self._closed.pop(session, None)

    async def close(self, session: SessionId, reason: str = "") -> None:
        """Let nobody in any more and cut what is open; `reason` is what visitors read."""
        self._open.pop(session, None)
        self._idle_at.pop(session, None)
        self._closed[session] = reason
        while len(self._closed) > _REASONS_KEPT:
            self._closed.popitem(last=False)
        with suppress(Unavailable):  # then it is being started again, and will be told
            await self._call("close", session=session, reason=reason)

    async def keep(self, session: SessionId) -> None:
        """Tell the notebook that somebody works there: its idle time starts again.

        Raises:
            Conflict: it is not open.
            Unavailable: it does not answer, or the process is being started again.
        """
        await self._call("keep", session=session)

    def idle(self, session: SessionId, at: float | None) -> None:
        """When that notebook is ended because nobody works in it, once that is near; its page
        says so. Unix seconds, None: nobody ends it."""
        if self._idle_at.get(session) == at:
            return
        if at is None:
            del self._idle_at[session]
        else:
            self._idle_at[session] = at
        self._tell("idle", session=session, at=at)

    def sign_out(self, login: str) -> None:
        """End at once what is open under that sign-in; the access check refuses the rest."""
        self._tell("sign_out", login=login)

    def _tell(self, do: str, **values: JsonValue) -> None:
        """Without waiting for the answer."""
        task = asyncio.create_task(self._call_in_vain(do, **values))
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    async def _call_in_vain(self, do: str, **values: JsonValue) -> None:
        with suppress(SceneBridgeError):  # a process that is started again is told what it needs
            await self._call(do, **values)

    async def entry_url(
        self, session: SessionId, user: UserId, login: str, onward: str = "/"
    ) -> str:
        """See `NotebookProxy.entry_url`.

        Raises:
            Conflict: the notebook is not open (setting ``port``).
            Unavailable: the process is being started again.
        """
        await self._wait_until_up(_PATIENCE_S)
        answer = await self._call("ticket", session=session, user=user, login=login, onward=onward)
        return str(answer["url"])

    async def probe(self) -> dict[str, int]:
        """How many notebooks and requests are open. Raises Unavailable."""
        counts = await self._call("probe")
        return {name: int(json_number(count)) for name, count in counts.items()}

    async def _call(self, do: str, **values: JsonValue) -> Message:
        if self._channel is None:
            raise Unavailable("Notebooks cannot be reached for a moment. They are tried again.")
        return await self._channel.call(do, CALL_S, **values)

    async def _wait_until_up(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._up.wait(), seconds)
        except TimeoutError as exc:
            raise Unavailable(
                "The program that leads to the notebooks does not start; notebooks.log in the "
                "data folder says why."
            ) from exc

    # --- keeping it alive ----------------------------------------------------------------

    async def _keep_one(self) -> None:
        """One process from its start to its end, and a pause before the next."""
        began = time.monotonic()
        try:
            await self._run()
        except (OSError, SceneBridgeError, TimeoutError) as exc:
            log.warning("the notebooks' process: %s", exc)
        except Exception as exc:
            self._loops.note("the notebooks' process", exc)
        log.warning("the notebooks' process has ended and is started again")
        await asyncio.sleep(self._backoff.next_s(held_s=time.monotonic() - began))

    async def _run(self) -> None:
        """From the start of one process to its end."""
        channel = await _Channel.to_new_process(self._data, self._listeners)
        try:
            await channel.call("start", START_S, start=asdict(self._start))
            await self._restore(channel)
            self._channel = channel
            self._up.set()
            while not channel.ended.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(channel.ended.wait(), PROBE_EVERY_S)
                    return
                await channel.call("probe", CALL_S)
        finally:
            self._channel = None
            self._up.clear()
            await channel.aclose()

    async def _restore(self, channel: _Channel) -> None:
        if not self._open and not self._closed:
            return
        known = [entry.values() for entry in self._open.values()]
        answer = await channel.call(
            "restore",
            CALL_S,
            open=known,
            closed={str(s): reason for s, reason in self._closed.items()},
            idle={str(s): at for s, at in self._idle_at.items()},
        )
        for name, port in json_object(answer["ports"]).items():
            session = SessionId(name)
            if session in self._open:
                self._open[session] = replace(self._open[session], port=int(json_number(port)))


class _Channel:
    """One process and the conversation with it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.pid = process.pid
        self.ended = asyncio.Event()
        self._process = process
        self._writer = writer
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._reading = asyncio.create_task(self._read(reader))

    @classmethod
    async def to_new_process(cls, data: Path, listeners: list[socket.socket]) -> _Channel:
        ours, theirs = socket.socketpair()
        handed = [theirs.fileno(), *(listener.fileno() for listener in listeners)]
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "lib.notebook_proxy.main"),
                *("--control", str(handed[0])),
                *("--listen", ",".join(map(str, handed[1:]))),
                *("--data", str(data)),
                cwd=PROJECT,
                env={**os.environ, "PYTHONPATH": str(PROJECT)},
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=handed,
                start_new_session=True,  # Ctrl-C is for the portal; this one ends after it
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=messages.LINE_BYTES)
        return cls(process, reader, writer)

    async def call(self, do: str, timeout_s: float, **values: JsonValue) -> Message:
        """Ask and wait for the answer.

        Raises:
            Unavailable: the process has ended, or does not answer in time.
            SceneBridgeError: what it answered.
        """
        if self.ended.is_set():
            raise _gone()
        number = next(self._numbers)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._writer.write(messages.encode_line({"n": number, "do": do, **values}))
            return await asyncio.wait_for(answer, timeout_s)
        except TimeoutError as exc:
            raise Unavailable("The notebooks' process does not answer.") from exc
        finally:
            self._waiting.pop(number, None)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        loops = Loops("The portal", log)
        try:
            while True:
                try:
                    message = await messages.read(reader)
                except ProtocolError as exc:
                    loops.note("an answer of the notebooks' process", exc)
                    continue
                if message is None:
                    return
                with loops.item("an answer of the notebooks' process"):
                    self._take(message)
        finally:
            self.ended.set()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(_gone())

    def _take(self, message: Message) -> None:
        answer = self._waiting.get(int(json_number(message.get("n", 0))))
        if answer is None or answer.done():
            return
        error = message.get("error")
        if error is not None:
            said = json_object(error)
            answer.set_exception(from_code(json_text(said["code"]), json_text(said["message"])))
        else:
            answer.set_result(json_object(message["ok"]))

    async def aclose(self) -> None:
        """Let it end by itself, and make sure that it does."""
        self._writer.close()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        finally:
            if self._process.returncode is None:
                self._process.kill()
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


def _gone() -> Unavailable:
    return Unavailable("Notebooks cannot be reached for a moment. They are tried again.")
