"""A reconciler over a real store and a gate in memory, quick enough for tests."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lib.model import ClusterId, Run, RunId, Session, SessionId
from lib.reconciler import cluster, connections, runs, submit
from lib.reconciler.interfaces import Link
from lib.reconciler.reconciler import Reconciler
from lib.results.folder import ResultFolder
from lib.store import Store
from tests.fakes.gate import MemoryGate, MemoryLink, MemoryRoutes
from tests.fakes.stores import new_store
from tests.fakes.things import ALICE, BOB, FIRE, HERE, introduce


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the reconciler try again after moments instead of seconds."""
    monkeypatch.setattr(cluster, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(cluster, "_LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(cluster, "_SUBMIT_EVERY_S", 0.02)
    monkeypatch.setattr(submit, "_LONGEST_PAUSE_S", 0.03)
    monkeypatch.setattr(runs, "_LONGEST_PAUSE_S", 0.03)
    monkeypatch.setattr(connections, "_LONGEST_PAUSE_S", 0.05)


async def until(
    condition: Callable[[], bool | Awaitable[bool]],
    what: str | Callable[[], str] = "",
    timeout_s: float = 300.0,
) -> None:
    """Wait until it holds; fail with `what`, asked then, when it does not."""
    deadline = time.monotonic() + timeout_s
    while True:
        held = condition()
        if inspect.isawaitable(held):
            held = await held
        if held:
            return
        if time.monotonic() > deadline:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"it never happened: {said or condition}")
        await asyncio.sleep(0.01)


class ReconcilerHarness:
    """One portal's store, results and reconciler, and the gate that it asks."""

    def __init__(
        self,
        home: Path,
        gate: MemoryGate | None = None,
        other_links: Mapping[ClusterId, Link] | None = None,
    ) -> None:
        self.home = home
        self.gate = gate or MemoryGate()
        self.store = new_store(home / "portal.sqlite")
        for user in (ALICE, BOB):
            introduce(self.store, user)
        self.results = ResultFolder(home / "results")
        self.link = MemoryLink(self.gate, home)
        self.links: dict[ClusterId, Link] = {HERE: self.link, **(other_links or {})}
        self.routes = MemoryRoutes()
        self.reconciler = self._reconciler()

    def _reconciler(self) -> Reconciler:
        return Reconciler(
            self.links,
            self.store,
            self.results,
            self.routes,
            {FIRE.id: FIRE},
            "http://localhost:8501",
        )

    async def restart(self, *, forget_forwards: bool = False) -> None:
        """A new portal process on the same store; masters and forwards live on."""
        await self.reconciler.close()
        self.store.close()
        self.store = Store(self.home / "portal.sqlite")
        if forget_forwards:
            await self.link.disconnect()
        self.routes = MemoryRoutes()
        self.reconciler = self._reconciler()
        self.reconciler.start()

    def wake(self) -> None:
        self.reconciler.wake(HERE)

    def session(self, session_id: SessionId) -> Session:
        return self.store.work.session(session_id)

    def run(self, run_id: RunId) -> Run:
        return self.store.work.run(run_id)

    async def session_is(self, session_id: SessionId, state: Any) -> Session:
        await until(
            lambda: self.session(session_id).state is state,
            lambda: f"{state}; it is {self.session(session_id)}",
        )
        return self.session(session_id)

    async def run_is(self, run_id: RunId, state: Any) -> Run:
        await until(
            lambda: self.run(run_id).state is state, lambda: f"{state}; it is {self.run(run_id)}"
        )
        return self.run(run_id)

    async def connected(self) -> None:
        await until(lambda: self.reconciler.health(HERE).reachable, "reachable")

    async def quiet(self, seconds: float = 0.2) -> None:
        """Time in which something wrong could happen."""
        await asyncio.sleep(seconds)


@asynccontextmanager
async def running_reconciler(
    home: Path, *, start: bool = True, other_links: Mapping[ClusterId, Link] | None = None
) -> AsyncIterator[ReconcilerHarness]:
    """A reconciler that runs until the end of the block."""
    it = ReconcilerHarness(home, other_links=other_links)
    if start:
        it.reconciler.start()
    try:
        yield it
    finally:
        await it.reconciler.close()
        it.store.close()
