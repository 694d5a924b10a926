"""Under which names and addresses the nodes of jobs can be reached."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable

from lib.errors import Unavailable
from lib.jobs.schedulers.slurm import parsing

_KNOWN_FOR_S = 600.0
_AGAIN_AFTER_S = 15.0
_PATIENCE_S = 0.5


class Nodes:
    """Asked in `query`, off the event loop; a name server that hangs delays nothing for long.

    Args:
        show: the answer of `scontrol -o show node`, for NodeAddr and NodeHostName.
    """

    def __init__(self, show: Callable[[str], Awaitable[str]]) -> None:
        self._show = show
        self._known: dict[str, frozenset[str]] = {}
        self._until: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    def addresses(self, node: str) -> frozenset[str] | None:
        """Lower-case names and addresses of a node; None while they are not known."""
        return self._known.get(node)

    async def learn(self, nodes: Iterable[str]) -> None:
        """Look up those that are new or old; waits a moment for the new ones only."""
        now = time.monotonic()
        for node in nodes:
            if node and node not in self._asking and self._until.get(node, 0.0) <= now:
                task = asyncio.ensure_future(self._ask(node))
                self._asking[node] = task
        new = [task for node, task in self._asking.items() if node not in self._known]
        if new:
            await asyncio.wait(new, timeout=_PATIENCE_S)

    async def _ask(self, node: str) -> None:
        try:
            await self._look_up(node)
        finally:
            self._asking.pop(node, None)

    async def _look_up(self, node: str) -> None:
        self._until[node] = time.monotonic() + _AGAIN_AFTER_S
        names = {node}
        try:
            said = parsing.fields(await self._show(node))
            names |= {said.get("NodeAddr", node), said.get("NodeHostName", node)}
        except Unavailable:
            return  # asked again with a later query
        found = [await _resolved(name) for name in sorted(names)]
        addresses = {name.lower() for name in names}.union(*found)
        if any(found):
            self._known[node] = frozenset(addresses)
            self._until[node] = time.monotonic() + _KNOWN_FOR_S


async def _resolved(name: str) -> set[str]:
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {str(entry[4][0]) for entry in found}
