"""The `watch` stream: a snapshot, then every change, until either side closes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from lib.errors import NotFound
from lib.gate.jobs import Jobs
from lib.model import JsonValue
from lib.protocol.messages import WATCH_PING_S, JobStatus, WatchMessage, WatchRequest

_BATCH_EVENTS = 200


class Watch:
    """One portal's view of the jobs, and how far it has got."""

    def __init__(self, jobs: Jobs, request: WatchRequest) -> None:
        self._jobs = jobs
        self._sent: dict[str, JobStatus] = {}
        self._have = dict(request.have)
        self._asked = (True, "")

    async def messages(self) -> AsyncIterator[WatchMessage]:
        """Endless. Pings when nothing happened for `WATCH_PING_S`."""
        changed = asyncio.Event()
        stop = self._jobs.listen(changed.set)
        try:
            self._asked = self._jobs.asked
            yield self._message("snapshot", jobs=self._news())
            while True:
                async for message in self._event_messages():
                    yield message
                quiet = await self._wait(changed)
                news = self._news()
                asked = self._jobs.asked
                if news or asked != self._asked:
                    self._asked = asked
                    yield self._message("jobs", jobs=news)
                elif quiet:
                    yield self._message("ping")
        finally:
            stop()

    async def _wait(self, changed: asyncio.Event) -> bool:
        """Until something may be new; True when time ran out."""
        try:
            await asyncio.wait_for(changed.wait(), WATCH_PING_S)
        except asyncio.TimeoutError:
            return True
        changed.clear()
        return False

    def _news(self) -> list[JobStatus]:
        """Jobs whose status differs from what was sent last."""
        now = self._jobs.all()
        news = [status for status in now if self._sent.get(status.id) != status]
        self._sent = {status.id: status for status in now}
        return news

    async def _event_messages(self) -> AsyncIterator[WatchMessage]:
        for status in list(self._sent.values()):
            while (first := max(self._have.get(status.id, 0), 0)) < status.events:
                events = await self._read(status.id, first)
                if not events:
                    break
                self._have[status.id] = first + len(events)
                yield self._message("events", id=status.id, first=first, events=events)

    async def _read(self, job_id: str, first: int) -> list[dict[str, JsonValue]]:
        with self._jobs.loops.item(job_id), contextlib.suppress(NotFound):
            return await asyncio.to_thread(
                lambda: self._jobs.events(job_id).read(first, _BATCH_EVENTS)
            )
        return []

    def _message(
        self,
        kind: str,
        *,
        jobs: list[JobStatus] | None = None,
        id: str = "",
        first: int = 0,
        events: list[dict[str, JsonValue]] | None = None,
    ) -> WatchMessage:
        asked_ok, reason = self._asked
        return WatchMessage(
            kind, time.time(), jobs or [], id, first, [*(events or [])], asked_ok, reason
        )
